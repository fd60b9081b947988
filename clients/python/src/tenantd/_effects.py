"""What the async and the sync client do differently, beside awaiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from tenantd.lag import LoopMonitor, Report
from tenantd.v1.session_service_pb2_grpc import SessionServiceStub
from tenantd.work import AsyncWork

_T = TypeVar("_T")


class AsyncEffects:
    """Waiting, for asyncio."""

    _monitor: LoopMonitor | None = None
    _watched: LoopMonitor | None = None

    _work: AsyncWork | None = None
    _worked: Any = None
    channel: Any
    deadline: float

    async def _streamed(self, request: Message) -> Any:
        """The answer to a call over the stream; None: it is to be asked by itself."""
        channel = self.channel
        if self._work is None:
            self._work = AsyncWork(lambda said: SessionServiceStub(self.channel).Work(said))
        elif self._worked is not channel:
            self._work.leave()
        self._worked = channel
        return await self._work.ask(request, self.deadline)

    async def _end_stream(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            await work.close()

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _off_loop(self, step: Callable[..., None], *args: Any) -> None:
        await asyncio.to_thread(step, *args)

    async def _uncut(self, step: Awaitable[_T]) -> _T:
        """Runs a step to its end though the task is cancelled: a slot taken is known,
        and a slot to be freed is freed. The calls' deadlines bound how long."""
        task = asyncio.ensure_future(step)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # Seen: the cancellation is what is told.
            raise

    def _watch(self, client: AsyncEffects, threshold: float | None, report: Report) -> None:
        if threshold is None:
            return
        if client._monitor is None:
            client._monitor = LoopMonitor(asyncio.get_running_loop(), threshold, report)
        self._watched = client._monitor
        self._watched.enter()

    def _unwatch(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.leave()


class SyncEffects:
    """Waiting, for threads. Threads do not block each other: nothing is watched."""

    def _streamed(self, request: Message) -> Any:
        """Threads share no stream: each call is one of its own."""
        return None

    def _end_stream(self) -> None:
        """Nothing."""

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _off_loop(self, step: Callable[..., None], *args: Any) -> None:
        step(*args)

    def _uncut(self, step: Any) -> Any:
        return step

    def _watch(self, client: SyncEffects, threshold: float | None, report: Report) -> None:
        """Nothing."""

    def _unwatch(self) -> None:
        """Nothing."""
