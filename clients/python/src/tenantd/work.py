"""The calls of an async client over one stream, which costs a part of a call of its own.

Whatever it cannot do is done by a call of its own: `ask` gives None then.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
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


@dataclass
class _Opened:
    """One opening of the stream."""

    requests: asyncio.Queue[wire.WorkRequest | None] = field(default_factory=asyncio.Queue)
    waiting: dict[int, tuple[str, asyncio.Future[Any]]] = field(default_factory=dict)
    reader: asyncio.Task[None] | None = None
    over: bool = False

    # No generator: gRPC may still wait in one when it is thrown away, which asyncio reports.
    def __aiter__(self) -> AsyncIterator[wire.WorkRequest]:
        return self

    async def __anext__(self) -> wire.WorkRequest:
        if (request := await self.requests.get()) is None:
            raise StopAsyncIteration
        return request


class AsyncWork:
    """One client's stream. It opens with the first call, on the event loop of then."""

    def __init__(self, open_stream: Callable[[Any], Any]) -> None:
        self._open_stream = open_stream
        self._opened: _Opened | None = None
        self._ids = itertools.count(1)
        self._unsupported = False

    async def ask(self, request: Message, timeout: float) -> Any:
        """The answer, or None where it is to be asked by a call of its own."""
        call = CALLS.get(type(request))
        if call is None or self._unsupported or _traced():
            return None
        opened = self._opened
        if opened is None or opened.over:
            opened = self._opened = _Opened()
            # In no session's context: it reads the answers of all of them.
            opened.reader = contextvars.Context().run(
                lambda: asyncio.create_task(self._read(opened), name="tenantd-work")
            )
        number = next(self._ids)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        opened.waiting[number] = (call, answer)
        message = wire.WorkRequest(id=number)
        getattr(message, call).CopyFrom(request)
        message.timeout.FromNanoseconds(round(timeout * 1e9))
        opened.requests.put_nowait(message)
        # Not `wait_for`, which costs half a call.
        late = answer.get_loop().call_later(timeout, _expire, answer)
        try:
            return await answer
        finally:
            late.cancel()
            opened.waiting.pop(number, None)

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
            opened.requests.put_nowait(None)

    async def _read(self, opened: _Opened) -> None:
        # A stream that ends well has answered what it read.
        error: grpc.RpcError | None = None
        try:
            async for response in self._open_stream(opened):
                self._answered(opened, response)
        except grpc.aio.AioRpcError as failed:
            error = failed
            self._unsupported |= failed.code() == grpc.StatusCode.UNIMPLEMENTED
        except OSError:
            pass  # A token that cannot be read: the call of its own says so.
        except asyncio.CancelledError:
            error = _Failure(grpc.StatusCode.CANCELLED, "the client was closed")
            raise
        finally:
            opened.over = True
            for call, answer in opened.waiting.values():
                if answer.done():
                    continue
                # It may have been done, and a second one is refused: its caller is to decide.
                if call == "release_session" and error and not self._unsupported:
                    answer.set_exception(error)
                else:
                    answer.set_result(None)

    def _answered(self, opened: _Opened, response: wire.WorkResponse) -> None:
        call, answer = opened.waiting.get(response.id, ("", None))
        if answer is None or answer.done():
            return
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


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        late = _Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        answer.set_exception(late)


def _traced() -> bool:
    """Within a span: instrumentation of gRPC knows calls, and no messages of a stream."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    return trace is not None and bool(trace.get_current_span().get_span_context().is_valid)
