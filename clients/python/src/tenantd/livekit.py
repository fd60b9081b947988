"""LiveKit Agents 1.8 and later: `pip install tenantd[livekit]`.

    server = AgentServer()

    @server.rtc_session(agent_name="receptionist", on_request=tenantd.livekit.on_request())
    async def entrypoint(ctx: JobContext) -> None:
        call = await tenantd.livekit.start(ctx)
        session = AgentSession(llm=openai.LLM(**call.providers.llm.kwargs))
        call.watch(session)
        await session.start(agent=Receptionist(), room=ctx.room)

The request process takes the slot before it accepts the job; the job process gets the
same slot by the job's id, keeps it as long as it lives, and gives it back when the job
shuts down.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from tenantd import notices
from tenantd._wire import Outcome
from tenantd.aio import AsyncClient, AsyncSession
from tenantd.config import Grant
from tenantd.errors import TenantdError
from tenantd.info import SessionInfo, SessionObserver, info_of, outcome_of, tell
from tenantd.session import kind_of

try:
    from livekit.agents import AgentSession, JobContext, JobRequest
    from livekit.agents.voice.events import CloseEvent, ErrorEvent
except ImportError as error:  # pragma: no cover
    raise ImportError("tenantd.livekit needs livekit-agents: pip install tenantd[livekit]") from error

log = logging.getLogger("tenantd")

SLOTS = {"llm_error": "llm", "stt_error": "stt", "tts_error": "tts",
         "realtime_model_error": "realtime", "interruption_detection_error": "interruption"}
"""Provider slot by type of LiveKit's error."""

CANCELLED = ("parent process shutdown",)
"""Shutdown reasons of LiveKit that say nothing about how the call went."""

_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = (
    weakref.WeakKeyDictionary()
)


def default_client() -> AsyncClient:
    """The running loop's own client, made at the first use; `TENANTD_ADDRESS` says where
    to."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        _clients[loop] = AsyncClient()
    return _clients[loop]


class TenantRequest:
    """A `JobRequest` that is accepted only with a slot of its tenant."""

    def __init__(self, request: JobRequest, asked: AsyncClient) -> None:
        self._request, self._client = request, asked
        self.grant: Grant | None = None
        """The slot, once accepted."""
        self.refused: TenantdError | None = None
        """Why the sidecar refused, where it did."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    async def accept(self, **kwargs: Any) -> bool:
        """Takes a slot and accepts the job, with the arguments of `JobRequest.accept`.

        False when the sidecar refused: the job is rejected then, for good where the
        refusal is final, else so that another worker may take it. When accepting
        fails, or the assignment does not come in time, the slot is given back.
        """
        request = self._request
        job = request.job
        try:
            self.grant = await self._client.acquire(
                request.id,
                job_metadata=job.metadata,
                room_metadata=job.room.metadata,
                agent_name=job.agent_name,
            )
        except TenantdError as error:
            self.refused = error
            if not (self._client.fail_open and not error.reason):
                log.warning("job %s is rejected: %s", request.id, error)
                await request.reject(terminate=error.disposition == "final")
                return False
            log.error("job %s is accepted WITHOUT a slot: fail_open, and %s", request.id, error)
        except BaseException:
            self._give_back()
            raise
        self._decided()
        try:
            await request.accept(**kwargs)
        except BaseException:
            self._give_back()
            raise
        return True

    async def reject(self, **kwargs: Any) -> None:
        """Rejects the job, as `JobRequest.reject`."""
        await self._request.reject(**kwargs)

    def _decided(self) -> None:
        """It may run; LiveKit is told next."""

    def _give_back(self) -> None:
        # By the link: at once, and again where the sidecar is away or this task is cancelled.
        self.grant = None
        self._client.give_back(self._request.id)


Handler = Callable[[Any], Awaitable[Any]]


def on_request(
    handler: Handler | None = None, *, client: AsyncClient | None = None
) -> Callable[[JobRequest], Coroutine[Any, Any, None]]:
    """LiveKit's request function: no job without a slot.

    `handler` decides which jobs are wanted and calls `accept` or `reject` of the
    `TenantRequest` that it gets; by default all are accepted. Without a sidecar jobs are
    rejected, for another worker to take; with a `client` of `fail_open` they are accepted.
    """

    async def request_fnc(request: JobRequest) -> None:
        asked = TenantRequest(request, client or default_client())
        await (asked.accept() if handler is None else handler(asked))

    return request_fnc


class Call(AsyncSession):
    """The session of a LiveKit job. Made by `start`."""

    info: SessionInfo
    """As OpenRTC's and voicegateway's observers read it."""

    def __init__(self, asked: AsyncClient, request: Any) -> None:
        super().__init__(asked, request, 0.0)
        self._observers: list[SessionObserver] = []
        self._failed = self._finished = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def watch(self, session: AgentSession[Any]) -> None:
        """Reports what goes wrong in `session`: its unrecoverable errors, and a close
        because of one, with the provider slot. At most once. Call it before
        `session.start`. Observers are told that it is live."""
        session.on("error", self._on_error)
        session.on("close", self._on_close)
        for observer in self._observers:
            if (bound := getattr(observer, "on_session_bound", None)) is not None:
                bound(self.info)
            self._soon(tell(observer, "on_session_start", self.info, session))

    def failed(self, slot: str, kind: str) -> None:
        """Reports a failure, from code that cannot wait. Further ones are not sent."""
        if not self._failed:
            self._failed = True
            self._soon(self._report(slot, kind))

    async def finish(self, outcome: Outcome, *, kind: str = "", error: Any = None) -> None:
        """Ends it, once, and tells observers; `failure` where one was reported."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._finished:
            return
        self._finished = True
        if self.revoked is not None:
            outcome = "cancelled"
        elif self._failed and outcome == "success":
            outcome = "failure"
        await self.end(outcome, kind=kind)
        end = outcome_of(self.info, outcome, error)
        for observer in self._observers:
            await tell(observer, "on_session_end", self.info, end)

    def _on_error(self, event: ErrorEvent) -> None:
        if not getattr(event.error, "recoverable", False):
            self._blame(event.error)

    def _on_close(self, event: CloseEvent) -> None:
        if event.error is not None:
            self._blame(event.error)

    def _blame(self, error: Any) -> None:
        # The class alone: an error's text may quote a key.
        cause = getattr(error, "error", error)
        self.failed(SLOTS.get(getattr(error, "type", ""), ""), kind_of(type(cause)))

    async def _report(self, slot: str, kind: str) -> None:
        try:
            await self.fail(slot=slot, kind=kind)
        except TenantdError as error:
            log.warning("the failure of session %s was not booked: %s", self.session_id, error)

    def _soon(self, step: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(step)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def start(
    ctx: JobContext,
    *,
    client: AsyncClient | None = None,
    observers: Iterable[SessionObserver] = (),
    stop_when_revoked: bool = True,
) -> Call:
    """The job's slot, for an entrypoint; binds the tenant to the job's tasks and logs.

    Raises a `TenantdError` when there is none, and the job fails. Nothing else is
    needed: the job's shutdown releases it, as `failure` when the entrypoint raised or
    `Call.watch` saw one, as `cancelled` when LiveKit stopped the job. `observers` are
    told as OpenRTC tells them. `stop_when_revoked`: the job shuts down when the slot is
    taken away.
    """
    job = ctx.job
    call = prepare(ctx, client or default_client(), observers)
    await call.open()
    tie(ctx, call, stop_when_revoked)
    tags = {"tenant": call.tenant, "session_id": job.id, "agent_name": job.agent_name}
    ctx.log_context_fields = {**ctx.log_context_fields, **tags}
    return call


def prepare(
    ctx: JobContext, asked: AsyncClient, observers: Iterable[SessionObserver]
) -> Call:
    """A job's call, not yet open."""
    job = ctx.job
    request = asked.session(
        job.id,
        job_metadata=job.metadata,
        room_metadata=job.room.metadata,
        agent_name=job.agent_name,
    )._request
    call = Call(asked, request)
    call._observers = list(observers)
    return call


def tie(ctx: JobContext, call: Call, stop_when_revoked: bool) -> None:
    """Ties an open call to its job. Not its logs: LiveKit puts a job's fields on all of
    the process's records, and OpenRTC has many jobs in one process."""
    job = ctx.job
    call.info = info_of(
        job.id,
        call.tenant,
        agent_name=job.agent_name,
        room_name=job.room.name,
        job_metadata=job.metadata,
        room_metadata=job.room.metadata,
    )

    async def released(reason: str) -> None:
        if reason == "job crashed":
            await call.finish("failure", kind="job_crashed")
        else:
            await call.finish("cancelled" if reason in CANCELLED else "success")

    ctx.add_shutdown_callback(released)
    if stop_when_revoked:
        loop = asyncio.get_running_loop()

        def told(notice: notices.Notice) -> None:
            if isinstance(notice, notices.Revoked):
                reason = f"tenantd: session {notice.cause}"
                try:
                    loop.call_soon_threadsafe(ctx.shutdown, reason)
                except RuntimeError:
                    pass  # The job is over.

        call.on_notice(told)
