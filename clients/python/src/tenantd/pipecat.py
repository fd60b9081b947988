"""Pipecat 1.x: `pip install tenantd[pipecat]`.

    async def bot(runner_args: RunnerArguments) -> None:
        async with tenantd.connect() as td:
            async with tenantd.pipecat.session(td, runner_args) as s:
                llm = OpenAILLMService(**s.providers.llm.credentials)
                worker = PipelineWorker(Pipeline([..., llm, ...]))
                tenantd.pipecat.watch(s, worker)
                await WorkerRunner().run(worker)
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from tenantd import notices
from tenantd.aio import AsyncClient, AsyncSession
from tenantd.errors import TenantdError
from tenantd.session import kind_of

try:
    from pipecat.frames.frames import ErrorFrame
    from pipecat.services.llm_service import LLMService
    from pipecat.services.stt_service import STTService
    from pipecat.services.tts_service import TTSService
except ImportError as error:  # pragma: no cover
    raise ImportError("tenantd.pipecat needs pipecat-ai: pip install tenantd[pipecat]") from error

log = logging.getLogger("tenantd")

SERVICES: tuple[tuple[str, type], ...] = (
    ("llm", LLMService), ("stt", STTService), ("tts", TTSService)
)
"""Provider slot by Pipecat's service class."""


def session(
    td: AsyncClient, runner_args: Any, *, agent_name: str = "", retry_for: float = 0.0
) -> AsyncSession:
    """A bot's session, as `AsyncClient.session`: the runner's session id, and the request
    body (`{"tenant": ...}`) as job metadata."""
    body = runner_args.body
    return td.session(
        getattr(runner_args, "session_id", None) or "",
        job_metadata=body if isinstance(body, str) else json.dumps(body or {}),
        agent_name=agent_name,
        retry_for=retry_for,
    )


def watch(s: AsyncSession, worker: Any, *, stop_when_revoked: bool = True) -> None:
    """Reports the first error of a pipeline, with the provider slot of the service that
    had it. `worker`: a `PipelineWorker`. `stop_when_revoked`: the pipeline is cancelled
    when the slot is taken away."""
    seen = False

    @worker.event_handler("on_pipeline_error")  # type: ignore[untyped-decorator]
    async def failed(_worker: Any, frame: ErrorFrame) -> None:
        nonlocal seen
        if seen:
            return
        seen = True
        # Not the frame's text: it is a provider's.
        exception = frame.exception
        kind = kind_of(type(exception)) if exception else str(frame.category or "pipeline_error")
        try:
            await s.fail(slot=slot_of(frame.processor), kind=kind)
        except TenantdError as error:
            log.warning("the failure of session %s was not booked: %s", s.session_id, error)

    if stop_when_revoked:
        loop = asyncio.get_running_loop()
        stopping: set[asyncio.Task[Any]] = set()

        def stop(cause: str) -> None:
            task = loop.create_task(worker.cancel(reason=f"tenantd: session {cause}"))
            stopping.add(task)
            task.add_done_callback(stopping.discard)

        def told(notice: notices.Notice) -> None:
            if isinstance(notice, notices.Revoked):
                try:
                    loop.call_soon_threadsafe(stop, notice.cause)
                except RuntimeError:
                    pass  # The bot is over.

        s.on_notice(told)


def slot_of(processor: Any) -> str:
    """The provider slot of a Pipecat service; empty for other processors."""
    return next((slot for slot, kind in SERVICES if isinstance(processor, kind)), "")
