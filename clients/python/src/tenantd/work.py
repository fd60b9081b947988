"""The calls of an async client over one stream, which costs a part of a call of its own.

Whatever it cannot do is done by a call of its own: `ask` gives None then.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import itertools
import math
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message

from tenantd import _status_pb2
from tenantd.errors import NotPermitted, from_rpc_error
from tenantd.v1 import session_service_pb2 as wire

CALLS: dict[type[Message], str] = {
    wire.AcquireSessionRequest: "acquire_session",
    wire.RenewSessionRequest: "renew_session",
    wire.ReleaseSessionRequest: "release_session",
    wire.ReportFailureRequest: "report_failure",
    wire.GetSessionConfigRequest: "get_session_config",
}
"""What can go over the stream, by its name there."""

TOGETHER = 100
"""Most calls in one message: as many as the sidecar takes."""
TOGETHER_BYTES = 65_536
"""Bytes of them beyond which the next one gets a message of its own: metadata is long."""

CODES = {code.value[0]: code for code in grpc.StatusCode}


class _Failure(grpc.RpcError):
    """As gRPC raises it, for one call over the stream."""

    def __init__(self, code: grpc.StatusCode, details: str, status: bytes = b"") -> None:
        super().__init__(details)
        self._code, self._details, self._status = code, details, status

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return (("grpc-status-details-bin", self._status),) if self._status else ()


class _Opened:
    """One opening of the stream."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.reader: asyncio.Task[None] | None = None
        self.over = False
        self.waiting: dict[int, tuple[str, asyncio.Future[Any], float]] = {}
        # Of the one whose deadline is next, or was when this was set: not one for each
        # call, most of which would be cancelled.
        self._timer: asyncio.TimerHandle | None = None
        # What the next message asks for, and those that are full.
        self._next = wire.WorkRequest()
        self._bytes = 0
        self._full: collections.deque[wire.WorkRequest] = collections.deque()
        self._leaves = False
        self._wake: asyncio.Future[None] | None = None

    def put(self, number: int, call: str, request: Message, timeout: Duration) -> None:
        """Asks: together with whatever else is asked before the stream is written."""
        size, have = request.ByteSize(), len(self._next.calls)
        if have >= TOGETHER or (have and self._bytes + size > TOGETHER_BYTES):
            self._full.append(self._next)
            self._next, self._bytes = wire.WorkRequest(), 0
        self._bytes += size
        made = self._next.calls.add(id=number, timeout=timeout)
        getattr(made, call).CopyFrom(request)
        self._awake()

    def expect(self, number: int, call: str, until: float) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self.loop.create_future()
        self.waiting[number] = (call, answer, until)
        if self._timer is None or self._timer.when() > until:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(until, self._expire)
        return answer

    def _expire(self) -> None:
        now, until, self._timer = self.loop.time(), math.inf, None
        for _, answer, due in self.waiting.values():
            if answer.done():
                continue
            if due > now:
                until = min(until, due)
            else:
                late = _Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
                answer.set_exception(late)
        if until < math.inf:
            self._timer = self.loop.call_at(until, self._expire)

    def end(self) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()

    def leave(self) -> None:
        self._leaves = True
        self._awake()

    def _awake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # No generator: gRPC may still wait in one when it is thrown away, which asyncio reports.
    def __aiter__(self) -> AsyncIterator[wire.WorkRequest]:
        return self

    async def __anext__(self) -> wire.WorkRequest:
        while True:
            if self._full:
                return self._full.popleft()
            if self._next.calls:
                made, self._next, self._bytes = self._next, wire.WorkRequest(), 0
                return made
            if self._leaves:
                raise StopAsyncIteration
            self._wake = self.loop.create_future()
            await self._wake


class AsyncWork:
    """One client's stream. It opens with the first call, on the event loop of then."""

    def __init__(self, open_stream: Callable[[Any], Any]) -> None:
        self._open_stream = open_stream
        self._opened: _Opened | None = None
        self._ids = itertools.count(1)
        self._unsupported = False
        self._timeout = (0.0, Duration())

    async def ask(self, request: Message, timeout: float) -> Any:
        """The answer, or None where it is to be asked by a call of its own."""
        call = CALLS.get(type(request))
        if call is None or self._unsupported or _traced():
            return None
        opened = self._opened
        if opened is None or opened.over:
            opened = self._open()
        number = next(self._ids)
        answer = opened.expect(number, call, opened.loop.time() + timeout)
        opened.put(number, call, request, self._duration(timeout))
        try:
            return await answer
        finally:
            opened.waiting.pop(number, None)

    def _open(self) -> _Opened:
        opened = self._opened = _Opened(asyncio.get_running_loop())
        # In no session's context: it reads the answers of all of them.
        opened.reader = contextvars.Context().run(
            lambda: asyncio.create_task(self._read(opened), name="tenantd-work")
        )
        return opened

    def _duration(self, timeout: float) -> Duration:
        # Nearly always the same.
        if self._timeout[0] != timeout:
            made = Duration()
            made.FromNanoseconds(round(timeout * 1e9))
            self._timeout = (timeout, made)
        return self._timeout[1]

    async def close(self) -> None:
        """Ends the stream; what is under way is asked by calls of their own."""
        self._unsupported = True
        opened, self._opened = self._opened, None
        if opened is not None and opened.reader is not None:
            opened.reader.cancel()
            await asyncio.wait([opened.reader])

    def leave(self) -> None:
        """Opens another stream for what comes; what is under way is still answered."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.leave()

    async def _read(self, opened: _Opened) -> None:
        # A stream that ends well has answered what it read.
        error: grpc.RpcError | None = None
        try:
            async for response in self._open_stream(opened):
                for answer in response.answers:
                    self._answered(opened, answer)
        except grpc.aio.AioRpcError as failed:
            error = failed
            self._unsupported |= failed.code() == grpc.StatusCode.UNIMPLEMENTED
        except OSError:
            pass  # A token that cannot be read: the call of its own says so.
        except asyncio.CancelledError:
            error = _Failure(grpc.StatusCode.CANCELLED, "the client was closed")
            raise
        finally:
            opened.end()
            for call, answer, _ in opened.waiting.values():
                if answer.done():
                    continue
                # It may have been done, and a second one is refused: its caller is to decide.
                if call == "release_session" and error and not self._unsupported:
                    answer.set_exception(error)
                else:
                    answer.set_result(None)

    def _answered(self, opened: _Opened, response: wire.WorkAnswer) -> None:
        asked = opened.waiting.get(response.id)
        if asked is None or asked[1].done():
            return
        call, answer, _ = asked
        kind = response.WhichOneof("answer")
        if kind == call:
            answer.set_result(getattr(response, call))
        elif kind == "error":
            try:
                status = _status_pb2.Status.FromString(response.error)
            except DecodeError:
                # It was decided, and nobody knows what.
                unread = _Failure(grpc.StatusCode.INTERNAL, "the answer cannot be read")
                answer.set_exception(unread)
                return
            code = CODES.get(status.code, grpc.StatusCode.UNKNOWN)
            failure = _Failure(code, status.message, response.error)
            if isinstance(from_rpc_error(failure), NotPermitted):
                # A call of its own shows the token of now; the stream, that of when it opened.
                if self._opened is opened:
                    self.leave()
                answer.set_result(None)
            else:
                answer.set_exception(failure)
        else:
            answer.set_result(None)


def _traced() -> bool:
    """Within a span: instrumentation of gRPC knows calls, and no messages of a stream."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None or (span := trace.get_current_span()) is trace.INVALID_SPAN:
        return False
    return bool(span.get_span_context().is_valid)
