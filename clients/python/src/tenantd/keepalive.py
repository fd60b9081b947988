"""The stream by which the sidecar knows that this process is alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import grpc.aio

from tenantd.errors import from_rpc_error
from tenantd.v1.session_service_pb2 import KeepAliveRequest, KeepAliveResponse

if TYPE_CHECKING:
    from tenantd.v1.session_service_pb2_grpc import SessionServiceAsyncStub

_ATTACH_AT_MOST = 1_000


class KeepAlive:
    """`async with client.keep_alive() as alive:` holds the stream open.

    Iterate over it for what the sidecar says: `attached`, `revoked`, `draining`,
    `config_changed`. It does not open again by itself: when it breaks, iteration
    raises `SidecarUnavailable`, and the sessions have a short grace (10 s) to
    attach to another one.
    """

    def __init__(self, stub: SessionServiceAsyncStub, worker: str) -> None:
        self._stub = stub
        self._worker = worker
        self._requests: asyncio.Queue[KeepAliveRequest | None] = asyncio.Queue()
        self._call: grpc.aio.StreamStreamCall[KeepAliveRequest, KeepAliveResponse] | None = None

    def __repr__(self) -> str:
        return f"KeepAlive(worker={self._worker!r})"

    async def __aenter__(self) -> KeepAlive:
        self._requests.put_nowait(KeepAliveRequest(worker=self._worker))
        self._call = self._stub.KeepAlive(self._outgoing())
        try:
            # The answer to the first request: from here on the stream counts.
            await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        self._requests.put_nowait(None)
        if self._call is not None:
            self._call.cancel()

    def attach(self, session_ids: Sequence[str]) -> None:
        """Says that this process runs these sessions; an `attached` answers."""
        for start in range(0, len(session_ids), _ATTACH_AT_MOST):
            ids = session_ids[start : start + _ATTACH_AT_MOST]
            self._requests.put_nowait(KeepAliveRequest(attach_session_ids=ids))

    async def __aiter__(self) -> AsyncIterator[KeepAliveResponse]:
        if self._call is None:
            raise RuntimeError("enter the stream with `async with` first")
        try:
            # gRPC does not let a call be read and iterated over, both.
            while isinstance(message := await self._call.read(), KeepAliveResponse):
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def _outgoing(self) -> AsyncIterator[KeepAliveRequest]:
        while (request := await self._requests.get()) is not None:
            yield request
