"""The async client. The sync one is made out of it: `scripts/gen-sync.py`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from tenantd import _wire, link
from tenantd._effects import AsyncEffects
from tenantd.config import Grant, SessionConfig, to_config
from tenantd.connection import Stamp, connection
from tenantd.errors import (
    AtCap,
    SessionEnded,
    SessionUnknown,
    SidecarUnavailable,
    TenantdError,
    Undecided,
    from_rpc_error,
    refusal,
)
from tenantd.known import Known
from tenantd.lag import THRESHOLD
from tenantd.mailbox import AsyncMailbox
from tenantd.notices import Notice
from tenantd.session import SessionState, kind_of, outcome_of
from tenantd.v1 import session_pb2
from tenantd.v1.session_service_pb2_grpc import SessionServiceStub

if TYPE_CHECKING:
    from tenantd.v1.session_service_pb2_grpc import SessionServiceAsyncStub

_T = TypeVar("_T")


class AsyncClient(AsyncEffects):
    """Asks the sidecar for sessions, for asyncio.

    `address` is where the sidecar listens, by default `default_address()`;
    `worker` names this process (see `worker_id`), empty: `session` names it itself,
    the other calls name none; `deadline` bounds each call, in seconds. The channel
    opens at the first call and belongs to the event loop that runs then.

    `fail_open`: sessions run without slot and config while the sidecar cannot be
    asked, each with an error in the log; by default they are refused with
    `SidecarUnavailable`. A refusal is never overruled. `slow_threshold`: shortest
    block of the event loop that is told, in seconds; None: not measured.

    `token_file` (read again when it changes) or `token` is shown with each call; `ca_file`
    says who signs the sidecar's certificate at an `https://` address (default: the usual
    authorities), `cert_file` and `key_file` are this process's own. What is not given is
    read from `TENANTD_TOKEN_FILE`, `TENANTD_TOKEN`, `TENANTD_CA_FILE`, `TENANTD_CERT_FILE`
    and `TENANTD_KEY_FILE`.

    Every call raises a `TenantdError`: the class of the refusal's reason, or
    `SidecarUnavailable` when there was no connection or no answer in time.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        worker: str = "",
        deadline: float = _wire.DEADLINE,
        fail_open: bool = False,
        slow_threshold: float | None = THRESHOLD,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._connection = connection(
            address,
            token=token,
            token_file=token_file,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
        )
        self.address = self._connection.address
        self.worker = worker
        self.deadline = deadline
        self.fail_open = fail_open
        self._channel: grpc.aio.Channel | None = None
        # The one before the certificates changed: its calls go on to their ends.
        self._former: grpc.aio.Channel | None = None
        self._stamp: Stamp = ()
        # Making one costs as much as a call.
        self._stubs: tuple[grpc.aio.Channel, SessionServiceAsyncStub] | None = None
        self._link: link.Link | None = None
        self._readers: list[AsyncNotices] = []
        self._slow_threshold = slow_threshold
        self._known = Known()

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r}, worker={self.worker!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel, and ends what iterates over `notices`. Sessions that still
        run are not released: they end as lost after the grace."""
        for reader in list(self._readers):
            reader.close()
        shared, self._link = self._link, None
        if shared is not None:
            await self._off_loop(link.unshare, shared)
        await self._end_stream()
        channels = (self._former, self._channel)
        self._former = self._channel = None
        for channel in channels:
            if channel is not None:
                await channel.close()

    @property
    def channel(self) -> grpc.aio.Channel:
        """The gRPC channel, for the generated stubs of `tenantd.v1`."""
        stamp = self._connection.stamp()
        if self._channel is None or stamp != self._stamp:
            try:
                made = self._connection.aio_channel()
            except OSError as error:
                raise SidecarUnavailable(f"a certificate cannot be read: {error}") from error
            self._former, self._channel, self._stamp = self._channel, made, stamp
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
        known = self._known.ask(request)
        reply = await self._call(self._stub.AcquireSession, request)
        return self._known.grant(reply, known)

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
        request = _wire.get_config(session_id)
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
        except OSError as error:
            raise SidecarUnavailable(f"the token cannot be read: {error}") from error

    def session(
        self,
        session_id: str = "",
        *,
        job_metadata: str = "",
        room_metadata: str = "",
        tenant: str = "",
        agent_name: str = "",
        ttl: float | None = None,
        retry_for: float = 0.0,
    ) -> AsyncSession:
        """A session for one block: `async with td.session(...) as s:`.

        Acquires, binds the tenant to the running context, keeps the slot as long as
        this process lives, and releases: `success`, `failure` when the block raises,
        `cancelled` when it is cancelled. Arguments as in `acquire`. `retry_for`: how
        long refusals that say `retry_later` are tried again, in seconds, at the
        times that they name.
        """
        request = _wire.acquire(
            session_id, job_metadata, room_metadata, tenant, agent_name, "", ttl, True
        )
        return AsyncSession(self, request, retry_for)

    def give_back(self, session_id: str) -> None:
        """Releases a slot that nobody will use, as cancelled: at once and without waiting,
        and again while the sidecar is away."""
        self._linked().owe(_wire.release(session_id, "cancelled", "", "", ""))

    def on_notice(self, callback: link.Subscriber) -> Callable[[], None]:
        """Has `callback` called with every notice (`Revoked`, `SidecarDraining`,
        `ConfigChanged`) of this process, on a thread of its own. Gives the function
        that ends it."""
        return self._linked().subscribe(callback)

    def notices(self) -> AsyncNotices:
        """Every notice of this process from now on: `async for notice in td.notices():`.

        Ends when the client closes, or by its own `close()`. At most 1,000 wait for a
        slow reader; then the oldest are dropped, which the log says.
        """
        reader = AsyncNotices(self._linked(), self._readers)
        self._readers.append(reader)
        return reader

    @property
    def _stub(self) -> SessionServiceAsyncStub:
        channel = self.channel
        if self._stubs is None or self._stubs[0] is not channel:
            self._stubs = (channel, SessionServiceStub(channel))
        return self._stubs[1]

    def _linked(self) -> link.Link:
        if self._link is None:
            self._link = link.Link(self._connection, self.worker) if self.worker else (
                link.shared(self._connection)
            )
        return self._link

    async def _acquired(self, session: AsyncSession) -> Grant:
        """Acquires, and asks again where that is safe and may help."""
        start = time.monotonic()
        wait = 0.05
        while True:
            to = self._linked()
            to.start()
            session._request.worker = to.worker
            owing = to.owes
            try:
                known = self._known.ask(session._request)
                reply = await self._call(self._stub.AcquireSession, session._request)
                return self._known.grant(reply, known)
            except TenantdError as error:
                spent = time.monotonic() - start
                if isinstance(error, SidecarUnavailable | Undecided):
                    # Safe: the same session id gets the same slot.
                    pause, limit = error.retry_after or wait, min(self.deadline, _wire.RETRY_FOR)
                elif isinstance(error, AtCap) and (owing or to.owes):
                    # The slot that is missing may be our own, its release not heard yet.
                    to.pay()
                    pause, limit = wait, max(
                        min(self.deadline, _wire.RETRY_FOR), session._retry_for
                    )
                elif error.disposition == "retry_later" or error.retry_after is not None:
                    pause, limit = error.retry_after or wait, session._retry_for
                else:
                    raise
                if spent + pause > limit:
                    raise
            await self._sleep(pause * random.uniform(1.0, 1.1))
            wait = min(wait * 2, 1.0)

    async def _call(self, method: Callable[..., Awaitable[_T]], request: Message) -> _T:
        try:
            answer: _T | None = await self._streamed(request)
            if answer is not None:
                return answer
            return await method(request, timeout=self.deadline)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        except OSError as error:
            raise SidecarUnavailable(f"the token cannot be read: {error}") from error


class AsyncSession(AsyncEffects, SessionState):
    """A session of one block. Made by `AsyncClient.session`."""

    def __init__(self, client: AsyncClient, request: Any, retry_for: float) -> None:
        super().__init__(request, retry_for)
        self._client = client

    async def __aenter__(self) -> AsyncSession:
        self._in_block = True
        return await self.open()

    async def open(self) -> AsyncSession:
        """Acquires it and binds the running context, for code that has no block and
        calls `end` instead."""
        client = self._client
        try:
            grant = await self._uncut(client._acquired(self))
        except (SidecarUnavailable, Undecided) as error:
            # It may have been decided, and the answer lost.
            client.give_back(self.session_id)
            if not client.fail_open:
                raise
            self._let_through(error)
        except TenantdError:
            raise
        except BaseException:
            # Stopped in the middle: the slot may be taken, and nobody would free it.
            client.give_back(self.session_id)
            raise
        else:
            self._granted(grant, client._linked())
        self._watch(client, client._slow_threshold, client._linked().blocked)
        return self

    def adopt(self, grant: Grant) -> AsyncSession:
        """As `open`, for a slot that this process has from `acquire`, of this id."""
        client = self._client
        self._granted(grant, client._linked())
        self._watch(client, client._slow_threshold, client._linked().blocked)
        return self

    async def __aexit__(
        self,
        error: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._unwatch()
        try:
            if not self._over and not self.failed_open:
                kind = kind_of(error) if error and outcome_of(error) == "failure" else ""
                await self._uncut(self._end(outcome_of(error), kind=kind))
        finally:
            self._unbind()

    async def refresh(self) -> SessionConfig:
        """Gets the tenant's config of now, for example after `ConfigChanged`."""
        self._config = await self._client.get_config(self.session_id)
        return self._config

    async def fail(self, *, slot: str = "", kind: str = "", message: str = "") -> bool:
        """Reports that the session failed, for example of its `llm` slot; it goes on,
        and ends as `failure`. Whether the tenant's circuit breaker counted it."""
        if self.failed_open:
            return False
        return await self._client.report_failure(
            self.session_id, slot=slot, kind=kind, message=message
        )

    async def publish(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        severity: _wire.Severity = "info",
    ) -> None:
        """Logs an event of the session, for example `turn_started`."""
        if not self.failed_open:
            await self._client.publish(self.session_id, name, attributes, severity=severity)

    async def end(self, outcome: _wire.Outcome, *, slot: str = "", kind: str = "") -> None:
        """Releases it before the end of the block, or without one, with an outcome of
        your own."""
        self._unwatch()
        if not self._in_block:
            self._unbind()
        if not self._over and not self.failed_open:
            await self._uncut(self._end(outcome, slot=slot, kind=kind))

    async def _end(self, outcome: _wire.Outcome, *, slot: str = "", kind: str = "") -> bool:
        self._over = True
        to = self._client._linked()
        to.let_go(self.session_id)
        try:
            await self._client.release(self.session_id, outcome, slot=slot, kind=kind)
        except (SessionEnded, SessionUnknown):
            pass  # Revoked, or reported with its end: nothing is left to free.
        except TenantdError:
            to.owe(_wire.release(self.session_id, outcome, slot, kind, ""))
            return False
        return True


class AsyncNotices:
    """Iterates over notices. Made by `AsyncClient.notices`."""

    def __init__(self, to: link.Link, readers: list[AsyncNotices]) -> None:
        self._box = AsyncMailbox()
        self._unsubscribe = to.subscribe(self._box.put)
        self._readers = readers

    def __aiter__(self) -> AsyncNotices:
        return self

    async def __anext__(self) -> Notice:
        notice = await self._box.get()
        if notice is None:
            raise StopAsyncIteration
        return notice

    def close(self) -> None:
        """Ends the iteration after what waits already."""
        self._unsubscribe()
        self._box.close()
        if self in self._readers:
            self._readers.remove(self)
