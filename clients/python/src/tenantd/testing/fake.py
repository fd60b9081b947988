"""A sidecar inside the test's own process."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio

from tenantd import _status_pb2, _wire
from tenantd.errors import DOMAIN
from tenantd.testing.rules import CODES, Lease, Refused, Rules
from tenantd.v1 import provider_pb2, session_pb2, session_service_pb2 as wire
from tenantd.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    add_SessionServiceServicer_to_server,
)

ENDS_WITHIN = 5.0
"""Longest wait for its thread at the end, in seconds."""


class FakeSidecar:
    """Answers agents as the sidecar does, from a thread of this process.

    For unit tests that must not need a binary: the same address, errors, notices and
    rules (a shared suite of cases holds both to that), and a clock that stands still
    for the rules until `advance` moves it on top of real time. It has no watch and no
    admin service; the methods here stand for them. `config` and `environment` as in
    `Sidecar`, the config as a dict.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._rules = Rules(config or {}, environment or {})
        self._ahead = 0.0
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        """Agents' own events: session id, name, attributes."""
        self.blocked: list[tuple[str, float]] = []
        """Reports of blocked event loops: session id, seconds."""
        self.folder = Path(tempfile.mkdtemp(prefix="td-"))
        """Where the socket is; removed by `stop`."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-tenantd")
        self._server: grpc.aio.Server | None = None
        self._service = _Service(self)

    def __repr__(self) -> str:
        return f"FakeSidecar({self.address!r})"

    def __enter__(self) -> FakeSidecar:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """For `tenantd.connect`, or `TENANTD_ADDRESS`."""
        return f"unix:{self.folder / 't.sock'}"

    def start(self) -> FakeSidecar:
        """Serves from now on."""
        self._thread.start()
        self._on_loop(self._serve)
        return self

    def stop(self) -> None:
        """Serves no longer."""
        self._on_loop(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ENDS_WITHIN)
        self._loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def now(self) -> float:
        """The rules' time, in seconds."""
        return time.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """Lets time pass for deadlines and breakers."""

        async def step() -> None:
            self._ahead += seconds
            self._rules.advance(self.now())

        self._on_loop(step)

    def live(self, tenant: str) -> int:
        """A tenant's live sessions."""

        async def step() -> int:
            return self._rules.live(tenant, self.now())

        count: int = self._on_loop(step)
        return count

    def reload(self, config: Mapping[str, Any]) -> None:
        """Gives it another config, and tells agents whose config changed."""

        async def step() -> None:
            rules = self._rules
            live: dict[str, list[Lease]] = {}
            for lease in rules.leases.values():
                live.setdefault(lease.tenant, []).append(lease)
            before = {tenant: rules.version(tenant) for tenant in live}
            rules.config = config
            for tenant, leases in live.items():
                if (version := rules.version(tenant)) != before[tenant]:
                    self._service.tell_change(tenant, version, leases)

        self._on_loop(step)

    def revoke(self, session_id: str, note: str = "") -> None:
        """Takes a session's slot away."""

        async def step() -> None:
            lease = self._rules.revoke(session_id, self.now())
            cause = session_pb2.END_CAUSE_REVOKED
            gone = wire.SessionRevoked(
                session_id=session_id, tenant=lease.tenant, cause=cause, note=note
            )
            self._service.tell(lease.worker, wire.KeepAliveResponse(revoked=gone))

        self._on_loop(step)

    def suspend(self, tenant: str, note: str = "") -> None:
        """Refuses a tenant's new sessions."""
        self._rules.suspended[tenant] = note

    def resume(self, tenant: str) -> None:
        """Ends a suspension."""
        self._rules.suspended.pop(tenant, None)

    def open_breaker(self, tenant: str) -> None:
        """Opens a tenant's circuit breaker."""

        async def step() -> None:
            self._rules.open_breaker(tenant, self.now())

        self._on_loop(step)

    def drain(self) -> None:
        """Refuses all new sessions."""

        async def step() -> None:
            self._rules.draining = True
            message = wire.KeepAliveResponse(draining=wire.Draining())
            message.draining.deadline.FromSeconds(30)
            for worker in list(self._service.streams):
                self._service.tell(worker, message)

        self._on_loop(step)

    def _on_loop(self, step: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(step(), self._loop).result(ENDS_WITHIN)

    async def _serve(self) -> None:
        self._server = grpc.aio.server()
        add_SessionServiceServicer_to_server(self._service, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def _end(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


class _Service(SessionServiceServicer):
    """The wire around the rules. One loop: every step is atomic."""

    def __init__(self, fake: FakeSidecar) -> None:
        self._fake = fake
        self._rules = fake._rules
        self.streams: dict[str, list[asyncio.Queue[wire.KeepAliveResponse]]] = {}

    async def AcquireSession(self, request: Any, context: Any) -> Any:
        if not request.session_id:
            request.session_id = f"s-{len(self._rules.leases) + len(self._rules.ended)}"
        lease, created = await self._try(
            context, lambda: self._rules.acquire(request, self._fake.now())
        )
        config = self._config(lease.tenant)
        unchanged = bool(config.version) and config.version == request.known_config_version
        return wire.AcquireSessionResponse(
            session=self._session(lease),
            config=None if unchanged else config,
            created=created,
            config_unchanged=unchanged,
        )

    async def RenewSession(self, request: Any, context: Any) -> Any:
        lease = await self._try(
            context, lambda: self._rules.renew(request.session_id, request.worker, self._fake.now())
        )
        return wire.RenewSessionResponse(session=self._session(lease))

    async def ReleaseSession(self, request: Any, context: Any) -> Any:
        outcome = _wire.outcome_name(request.outcome)
        booked = await self._try(
            context, lambda: self._rules.release(request.session_id, outcome, self._fake.now())
        )
        return wire.ReleaseSessionResponse(outcome=_wire.outcome_value(booked))

    async def ReportFailure(self, request: Any, context: Any) -> Any:
        lease, counted = await self._try(
            context,
            lambda: self._rules.report(request.session_id, request.end_session, self._fake.now()),
        )
        return wire.ReportFailureResponse(session=self._session(lease), counted=counted)

    async def GetSessionConfig(self, request: Any, context: Any) -> Any:
        lease = await self._try(context, lambda: self._rules.find(request.session_id))
        return wire.GetSessionConfigResponse(config=self._config(lease.tenant))

    async def Work(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        # Each is decided in one step: none waits, so the order of answers is that of calls.
        methods = {
            "acquire_session": self.AcquireSession,
            "renew_session": self.RenewSession,
            "release_session": self.ReleaseSession,
            "report_failure": self.ReportFailure,
            "get_session_config": self.GetSessionConfig,
        }
        async for request in request_iterator:
            response = wire.WorkResponse()
            for asked in request.calls:
                call = asked.WhichOneof("call")
                answer = response.answers.add(id=asked.id)
                caught = _Caught()
                try:
                    if call is None:
                        missing = Refused("INVALID_FIELD", "call is required", field="call")
                        await _abort(caught, missing)
                    else:
                        said = await methods[call](getattr(asked, call), caught)
                        getattr(answer, call).CopyFrom(said)
                except _Aborted:
                    answer.error = caught.status
            if response.answers:
                yield response

    async def PublishEvents(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async for request in request_iterator:
            reply = wire.PublishEventsResponse()
            for index, published in enumerate(request.events):
                try:
                    self._rules.renew(published.session_id, "", self._fake.now())
                except Refused as refused:
                    reply.refused.add(index=index, reason=refused.reason, message=refused.message)
                    continue
                event = published.event
                self._fake.events.append(
                    (published.session_id, event.name, dict(event.attributes.items()))
                )
                reply.accepted += 1
            yield reply

    async def KeepAlive(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        first = await anext(aiter(request_iterator))
        worker = first.worker
        notices: asyncio.Queue[wire.KeepAliveResponse] = asyncio.Queue()
        self.streams.setdefault(worker, []).append(notices)
        notices.put_nowait(self._attach(worker, first))
        listening = asyncio.ensure_future(self._listen(worker, request_iterator, notices))
        try:
            while not listening.done() or not notices.empty():
                told = asyncio.ensure_future(notices.get())
                await asyncio.wait([told, listening], return_when=asyncio.FIRST_COMPLETED)
                if told.done():
                    yield told.result()
                else:
                    told.cancel()
        finally:
            listening.cancel()
            streams = self.streams[worker]
            streams.remove(notices)
            if not streams:
                del self.streams[worker]
                self._rules.worker_gone(worker, self._fake.now())

    async def _listen(self, worker: str, requests: Any, notices: Any) -> None:
        async for request in requests:
            blocked = request.loop_blocked.ToNanoseconds() / 1e9
            if blocked:
                self._fake.blocked.append((request.loop_blocked_session_id, blocked))
            if request.attach_session_ids:
                notices.put_nowait(self._attach(worker, request))

    def _attach(self, worker: str, request: Any) -> wire.KeepAliveResponse:
        answer = wire.KeepAliveAttached()
        for session_id in request.attach_session_ids:
            try:
                lease = self._rules.renew(session_id, worker, self._fake.now(), held=True)
                answer.sessions.append(self._session(lease))
            except Refused as refused:
                outcome = _wire.outcome_value(refused.about.get("outcome", "unspecified"))
                answer.refused.add(session_id=session_id, reason=refused.reason, outcome=outcome)
        return wire.KeepAliveResponse(attached=answer)

    def tell(self, worker: str, message: wire.KeepAliveResponse) -> None:
        """Sends a notice to a worker's streams."""
        for notices in self.streams.get(worker, []):
            notices.put_nowait(message)

    def tell_change(self, tenant: str, version: str, leases: list[Lease]) -> None:
        """Tells the workers of a tenant that its config changed."""
        for worker in {lease.worker for lease in leases}:
            ids = [lease.session_id for lease in leases if lease.worker == worker]
            change = wire.TenantConfigChanged(tenant=tenant, version=version, session_ids=ids)
            self.tell(worker, wire.KeepAliveResponse(config_changed=change))

    def _session(self, lease: Lease) -> session_pb2.Session:
        state = (
            session_pb2.SESSION_STATE_GRACE if lease.grace
            else session_pb2.SESSION_STATE_ACTIVE if lease.active
            else session_pb2.SESSION_STATE_PENDING
        )
        session = session_pb2.Session(
            session_id=lease.session_id,
            tenant=lease.tenant,
            agent_name=lease.agent,
            worker=lease.worker,
            state=state,
            probe=lease.probe,
            failed=lease.failed,
        )
        wall = time.time() - self._fake.now()
        session.ttl.FromNanoseconds(round(lease.ttl * 1e9))
        session.acquire_time.FromNanoseconds(round((wall + lease.acquired) * 1e9))
        session.expire_time.FromNanoseconds(round((wall + lease.deadline) * 1e9))
        return session

    def _config(self, tenant: str) -> provider_pb2.SessionConfig:
        rules = self._rules
        config = provider_pb2.SessionConfig(
            version=rules.version(tenant),
            labels=rules.entry(tenant, "labels") or {},
            tenant_known=tenant in rules.config.get("tenants", {}),
        )
        for slot, about in rules.providers(tenant).items():
            provider = config.providers[slot]
            provider.provider = about["provider"]
            provider.model = about.get("model", "")
            provider.base_url = about.get("base_url", "")
            for name, value in about["credentials"].items():
                provider.credentials[name].value = value
            if about.get("params"):
                provider.params.update(json.loads(json.dumps(about["params"])))
        return config

    async def _try(self, context: Any, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Refused as refused:
            await _abort(context, refused)


class _Aborted(Exception):
    """One call over a stream was refused."""


class _Caught:
    """Stands in for the context of a call of its own."""

    status = b""

    def set_trailing_metadata(self, metadata: tuple[tuple[str, bytes], ...]) -> None:
        self.status = metadata[0][1]

    async def abort(self, _code: grpc.StatusCode, _message: str) -> NoReturn:
        raise _Aborted


async def _abort(context: Any, refused: Refused) -> NoReturn:
    code, disposition = CODES[refused.reason]
    about = dict(refused.about)
    status = _status_pb2.Status(
        code=grpc.StatusCode[code].value[0], message=refused.message
    )
    retry_after, field = about.pop("retry_after", None), about.pop("field", None)
    info = _status_pb2.ErrorInfo(reason=refused.reason, domain=DOMAIN)
    info.metadata.update({k: str(v) for k, v in about.items()})
    info.metadata["disposition"] = disposition
    details: list[Any] = [info]
    if retry_after is not None:
        retry = _status_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(retry_after * 1e9))
        details.append(retry)
    if field is not None:
        wrong = _status_pb2.BadRequest()
        wrong.field_violations.add(field=field, description=refused.message)
        details.append(wrong)
    for detail in details:
        name = f"type.googleapis.com/google.rpc.{detail.DESCRIPTOR.name}"
        status.details.add(type_url=name, value=detail.SerializeToString())
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(grpc.StatusCode[code], refused.message)
    raise AssertionError("abort returns")
