"""Bounded queues from the link's thread to who iterates over notices."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque

from tenantd.notices import Notice

log = logging.getLogger("tenantd")

NOTICES_AT_MOST = 1_000
"""Notices that wait for a slow reader; the oldest are dropped, and the log says so."""


class _Mailbox:
    """What both kinds share."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._waiting: deque[Notice] = deque()
        self._closed = False

    def put(self, notice: Notice) -> None:
        """From any thread; never waits."""
        with self._lock:
            if len(self._waiting) == NOTICES_AT_MOST:
                dropped = self._waiting.popleft()
                log.warning("nobody reads the notices: %s is dropped", type(dropped).__name__)
            self._waiting.append(notice)
            self._wake()

    def close(self) -> None:
        """`get` gives what waits, then None."""
        with self._lock:
            self._closed = True
            self._wake()

    def _wake(self) -> None:
        raise NotImplementedError


class AsyncMailbox(_Mailbox):
    """Read on the event loop where it was made."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    async def get(self) -> Notice | None:
        """The next one; None when closed."""
        while True:
            with self._lock:
                self._woken.clear()
                if self._waiting:
                    return self._waiting.popleft()
                if self._closed:
                    return None
            await self._woken.wait()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._woken.set)
        except RuntimeError:
            pass  # The loop is closed, and its reader gone.


class SyncMailbox(_Mailbox):
    """Read on any thread."""

    def get(self) -> Notice | None:
        """The next one; None when closed."""
        with self._lock:
            while not self._waiting:
                if self._closed:
                    return None
                self._lock.wait()
            return self._waiting.popleft()

    def _wake(self) -> None:
        self._lock.notify()
