"""OpenRTC 0.20 and later, by its public hooks: `pip install tenantd[openrtc]`.

    tenancy = tenantd.openrtc.Tenancy(providers)
    pool = AgentPool(agents={"receptionist": Receptionist}, **tenancy.hooks)

with `providers(call)` making the provider objects of one call, for example
`{"llm": openai.LLM(**call.providers.llm.kwargs)}`.

Leave `max_sessions_per_tenant` and `enable_tenant_circuit_breaker` of the pool off:
the sidecar's are exact, and hold over all workers of the machine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tenantd._wire import Outcome
from tenantd.aio import AsyncClient
from tenantd.client import Client
from tenantd.errors import SidecarUnavailable
from tenantd.livekit import Call, Handler, TenantRequest, prepare, tie
from tenantd.session import kind_of

try:
    from livekit.agents import JobContext, JobRequest, get_job_context
    from openrtc import SessionInfo, SessionOutcome, SessionStatus
except ImportError as error:  # pragma: no cover
    raise ImportError("tenantd.openrtc needs openrtc: pip install tenantd[openrtc]") from error

ENTRYPOINT = "job_user_entrypoint"
"""LiveKit's name for the task of an entrypoint that has a process of its own: its end is
not the call's."""

NO_LIMIT = 2**31
"""More failed calls in a row than a worker lives to see."""

MakeProviders = Callable[[Call], Mapping[str, Any]]
"""Makes a call's provider objects, by `stt`, `llm`, `tts`. What it leaves out falls back
to the agent's own."""


class Tenancy:
    """tenantd for one `AgentPool`.

    `providers` makes a call's provider objects out of its tenant's config. `handler`
    decides which jobs are wanted, as in `tenantd.livekit.on_request`. `address` as in
    `tenantd.connect`. Works in both isolation modes; in `process` isolation `providers`
    must be a function of a module.
    """

    def __init__(
        self,
        providers: MakeProviders | None = None,
        *,
        handler: Handler | None = None,
        address: str | None = None,
        fail_open: bool = False,
    ) -> None:
        self._providers = providers
        self._handler = handler
        self._address = address
        self._fail_open = fail_open
        self._client: AsyncClient | None = None
        self._accepted: dict[str, TenantRequest] = {}
        self._jobs: dict[str, _Job] = {}
        self._last: set[asyncio.Future[None]] = set()

    def __getstate__(self) -> dict[str, Any]:
        # For a job process: it has a client and calls of its own.
        state = self.__dict__.copy()
        state.update(_client=None, _accepted={}, _jobs={}, _last=set(), _handler=None)
        return state

    @property
    def hooks(self) -> dict[str, Any]:
        """`AgentPool(..., **tenancy.hooks)`: `request_fnc`, `tenant_config`, `observers`,
        and `consecutive_failure_limit`: OpenRTC would close the worker, with every
        tenant's calls, after five failed or terminated calls of one of them.

        To add observers of your own: `pool.add_observer(...)`.
        """
        return {
            "consecutive_failure_limit": NO_LIMIT,
            "request_fnc": self.request_fnc,
            "tenant_config": _Source(self),
            "observers": [self],
        }

    @property
    def calls(self) -> Mapping[str, Call]:
        """Live calls of this process, by job id."""
        return {job_id: job.call for job_id, job in self._jobs.items()}

    async def request_fnc(self, request: JobRequest) -> None:
        """Accepts a job only with a slot of its tenant."""
        asked = _Request(self, request)
        await (asked.accept() if self._handler is None else self._handler(asked))

    async def on_session_start(self, info: SessionInfo, session: Any) -> None:
        """OpenRTC: the session is live."""
        if (job := self._jobs.get(info.job_id)) is not None:
            job.call.watch(session)

    async def on_session_end(self, info: SessionInfo, outcome: SessionOutcome) -> None:
        """OpenRTC: the session is over, or, in `process` isolation, its entrypoint."""
        job = self._jobs.get(info.job_id)
        if job is None:
            return
        if outcome.status is SessionStatus.SUCCESS:
            job.well = True  # The job's end releases it.
        elif outcome.status is SessionStatus.FAILED:
            kind = kind_of(type(outcome.error)) if outcome.error else ""
            await job.call.finish("failure", kind=kind, error=outcome.error)
        else:
            await job.call.finish("cancelled", error=outcome.error)

    def client(self) -> AsyncClient:
        """This process's client."""
        if self._client is None:
            self._client = AsyncClient(self._address, fail_open=self._fail_open)
        return self._client

    def enter(self) -> Mapping[str, Any]:
        """The provider objects of the job that runs now.

        OpenRTC asks while it builds the session, in the job's own task, and cannot wait:
        the slot is there already, or, in a job process, is asked for by a blocking call
        (no other call runs in that process).
        """
        ctx = get_job_context()
        known = self._jobs.get(ctx.job.id)
        if known is not None:
            return known.providers
        call = prepare(ctx, self.client(), ())
        accepted = self._accepted.pop(ctx.job.id, None)
        if accepted is not None and accepted.grant is not None:
            call.adopt(accepted.grant)
        elif accepted is not None and accepted.refused is not None:
            call._let_through(accepted.refused)
        else:
            self._confirm(ctx, call)
        tie(ctx, call, stop_when_revoked=True)
        job = self._jobs[ctx.job.id] = _Job(call)
        task = asyncio.current_task()
        if task is not None and (accepted is not None or task.get_name() != ENTRYPOINT):
            # Coroutine isolation: the task is the whole call. Where OpenRTC fails before
            # its observers hear of the session, this is all that releases it.
            task.add_done_callback(lambda done: self._over(ctx.job.id, job, done))
        else:
            ctx.add_shutdown_callback(self._forget(ctx.job.id))
        if self._providers is not None:
            job.providers = dict(self._providers(call))
        return job.providers

    def _confirm(self, ctx: JobContext, call: Call) -> None:
        job = ctx.job
        with Client(self._address) as blocking:
            try:
                grant = blocking.acquire(
                    job.id,
                    job_metadata=job.metadata,
                    room_metadata=job.room.metadata,
                    agent_name=job.agent_name,
                    activate=True,
                )
            except SidecarUnavailable as error:
                if not self._fail_open:
                    raise
                call._let_through(error)
            else:
                call.adopt(grant)

    def _over(self, job_id: str, job: _Job, task: asyncio.Task[Any]) -> None:
        self._jobs.pop(job_id, None)
        well: Outcome = "success" if job.well else "failure"
        kind = "" if job.well else "job_crashed"
        step = job.call.finish("cancelled" if task.cancelled() else well, kind=kind)
        last = asyncio.ensure_future(step)
        self._last.add(last)
        last.add_done_callback(self._last.discard)

    def _forget(self, job_id: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def forget() -> None:
            self._jobs.pop(job_id, None)

        return forget


@dataclass
class _Job:
    call: Call
    providers: dict[str, Any] = field(default_factory=dict)
    well: bool = False
    """OpenRTC says that the session ended well."""


class _Request(TenantRequest):
    def __init__(self, tenancy: Tenancy, request: JobRequest) -> None:
        super().__init__(request, tenancy.client())
        self._tenancy = tenancy

    async def accept(self, **kwargs: Any) -> bool:
        accepted = self._tenancy._accepted
        try:
            if await super().accept(**kwargs):
                return True
        except BaseException:
            accepted.pop(self._request.id, None)
            raise
        return False

    def _decided(self) -> None:
        self._tenancy._accepted[self._request.id] = self
        if self.grant is not None:
            bind_metadata(self._request.job, self.grant.tenant)


class _ReadThrough(Mapping[str, Any]):
    """Stands for a mapping that is asked for anew each time."""

    def __init__(self, tenancy: Tenancy) -> None:
        self._tenancy = tenancy

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Live(_ReadThrough):
    """The providers of the call that asks."""

    def __getitem__(self, slot: str) -> Any:
        return self._tenancy.enter()[slot]


class _Source(_ReadThrough):
    """OpenRTC's `tenant_config`. OpenRTC keeps for ever what it gives for a tenant, so it
    gives the same reading object for every one: whose providers it reads is decided by
    the slot of the call that asks, not by the name that OpenRTC found."""

    def __getitem__(self, tenant: str) -> Mapping[str, Any]:
        return _Live(self._tenancy)


def bind_metadata(job: Any, tenant: str) -> None:
    """Makes OpenRTC read the tenant that the sidecar bound, out of the job's metadata.

    OpenRTC turns every value into text (`null` becomes the tenant `None`), so its reading
    can differ from the rule of the sidecar.
    """
    for holder in (job, job.room):
        try:
            read = json.loads(holder.metadata)
        except ValueError:
            continue
        if isinstance(read, dict):
            if "tenant" in read and read["tenant"] != tenant:
                holder.metadata = json.dumps({**read, "tenant": tenant})
            if "tenant" in read:
                return
