"""The async client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from tenantd import _wire
from tenantd.address import default_address, grpc_target, normalise
from tenantd.config import Grant, SessionConfig, to_config, to_grant
from tenantd.errors import from_rpc_error, refusal
from tenantd.keepalive import KeepAlive
from tenantd.v1 import session_pb2
from tenantd.v1.session_service_pb2 import GetSessionConfigRequest
from tenantd.v1.session_service_pb2_grpc import SessionServiceStub

if TYPE_CHECKING:
    from tenantd.v1.session_service_pb2_grpc import SessionServiceAsyncStub

_T = TypeVar("_T")


class AsyncClient:
    """Asks the sidecar for sessions, for asyncio.

    `address` is where the sidecar listens, by default `default_address()`;
    `worker` names this process (see `worker_id`), empty: none; `deadline` bounds
    each call, in seconds. The channel opens at the first call and
    belongs to the event loop that runs then.

    Every call raises a `TenantdError`: the class of the refusal's reason, or
    `SidecarUnavailable` when there was no connection or no answer in time.
    """

    def __init__(
        self, address: str | None = None, *, worker: str = "", deadline: float = _wire.DEADLINE
    ) -> None:
        self.address = default_address() if address is None else normalise(address)
        self.worker = worker
        self.deadline = deadline
        self._channel: grpc.aio.Channel | None = None

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r}, worker={self.worker!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel. Sessions are not released."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    @property
    def channel(self) -> grpc.aio.Channel:
        """The gRPC channel, for the generated stubs of `tenantd.v1`."""
        if self._channel is None:
            target = grpc_target(self.address)
            self._channel = grpc.aio.insecure_channel(target, options=_wire.channel_options(target))
        return self._channel

    async def acquire(
        self,
        session_id: str = "",
        *,
        job_metadata: str = "",
        room_metadata: str = "",
        tenant: str = "",
        agent_name: str = "",
        ttl: float | None = None,
        activate: bool = False,
    ) -> Grant:
        """Takes a slot for a session. The same `session_id` gets the same slot.

        Give the dispatcher's `job_metadata` and `room_metadata` as received, or
        the `tenant`. `ttl`: how long one renewal carries the session, in
        seconds; None: the tenant's default (60 s). `activate`: this process runs
        the session itself; else it must show a sign of life within the pending
        time (15 s).
        """
        request = _wire.acquire(
            session_id,
            job_metadata,
            room_metadata,
            tenant,
            agent_name,
            self.worker,
            ttl,
            activate,
        )
        return to_grant(await self._call(self._stub.AcquireSession, request))

    async def renew(self, session_id: str, *, ttl: float | None = None) -> session_pb2.Session:
        """Carries a session on by its TTL. `ttl`: a new one, in seconds."""
        request = _wire.renew(session_id, self.worker, ttl)
        return (await self._call(self._stub.RenewSession, request)).session

    async def release(
        self,
        session_id: str,
        outcome: _wire.Outcome = "success",
        *,
        slot: str = "",
        kind: str = "",
        message: str = "",
    ) -> str:
        """Ends a session and returns the outcome booked.

        `slot`, `kind` and `message` say what failed, with outcome `failure`. A
        second release raises `SessionEnded` with the first one's outcome.
        """
        request = _wire.release(session_id, outcome, slot, kind, message)
        reply = await self._call(self._stub.ReleaseSession, request)
        return _wire.outcome_name(reply.outcome)

    async def report_failure(
        self,
        session_id: str,
        *,
        slot: str = "",
        kind: str = "",
        message: str = "",
        end_session: bool = False,
    ) -> bool:
        """Marks a live session as failed, for example of its `llm` slot.

        Returns whether the tenant's circuit breaker counted it. The session goes
        on unless `end_session`.
        """
        request = _wire.report_failure(session_id, slot, kind, message, end_session)
        return (await self._call(self._stub.ReportFailure, request)).counted

    async def get_config(self, session_id: str) -> SessionConfig:
        """The current config of a live session."""
        request = GetSessionConfigRequest(session_id=session_id)
        return to_config((await self._call(self._stub.GetSessionConfig, request)).config)

    async def publish(
        self,
        session_id: str,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        severity: _wire.Severity = "info",
    ) -> None:
        """Logs an event of the session, for example `turn_started`.

        `attributes` may take 4,096 bytes and must not hold secrets.
        """
        request = _wire.publish(session_id, name, attributes, severity)
        try:
            async for reply in self._stub.PublishEvents(iter([request]), timeout=self.deadline):
                for refused in reply.refused:
                    raise refusal(refused.reason, refused.message, session_id)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    def keep_alive(self) -> KeepAlive:
        """A stream that keeps this process's sessions alive while it is open.

        Needs a client with a `worker`.
        """
        if not self.worker:
            raise ValueError("keep_alive needs a client with a worker")
        return KeepAlive(self._stub, self.worker)

    @property
    def _stub(self) -> SessionServiceAsyncStub:
        return SessionServiceStub(self.channel)

    async def _call(self, method: Callable[..., Awaitable[_T]], request: Message) -> _T:
        try:
            return await method(request, timeout=self.deadline)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
