"""Finds the session that blocks an event loop.

A timer in the loop says that the loop turns. A thread that sees it late asks which
task is running and whose session that task belongs to. With no session live on a
loop nothing runs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

from tenantd import context
from tenantd.context import Binding

log = logging.getLogger("tenantd")

THRESHOLD = 0.05
"""Shortest block that is told, in seconds."""

Report = Callable[[float, str], None]
"""Called with seconds and session id (empty: not known)."""


class LoopMonitor:
    """Watches one event loop while sessions are live on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threshold: float, report: Report) -> None:
        if not threshold > 0:
            raise ValueError("the threshold must be above 0 seconds; None switches it off")
        self._loop = loop
        self._threshold = threshold
        self._every = max(threshold / 2, 0.005)
        self._report = report
        self._users = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0
        self._seen: Counter[Binding] = Counter()
        self._stop = threading.Event()
        self._owners: weakref.WeakKeyDictionary[asyncio.Task[Any], Binding] = (
            weakref.WeakKeyDictionary()
        )
        self._before: Any = None
        self._factory: Any = None

    def enter(self) -> None:
        """A session started on the loop. Call it there."""
        self._users += 1
        task = asyncio.current_task()
        binding = context.current()
        if task is not None and binding is not None:
            self._owners[task] = binding
        if self._users == 1:
            self._follow_tasks()
            self._stop = threading.Event()
            self._last = time.monotonic()
            self._timer = self._loop.call_later(self._every, self._tick)
            threading.Thread(
                target=self._watch, args=(self._stop,), name="tenantd-lag", daemon=True
            ).start()

    def leave(self) -> None:
        """A session ended on the loop. Call it there."""
        task = asyncio.current_task()
        if task is not None:
            self._owners.pop(task, None)
        self._users -= 1
        if self._users == 0:
            self._measure(time.monotonic())
            self._stop.set()
            if self._timer is not None:
                self._timer.cancel()
            # Somebody else's factory on top of ours stays.
            if self._factory is not None and self._loop.get_task_factory() is self._factory:
                self._loop.set_task_factory(self._before)
                self._factory = None

    def _follow_tasks(self) -> None:
        # Python 3.12 tells a task's context; before, it must be noted when the task is made.
        if hasattr(asyncio.Task, "get_context") or self._factory is not None:
            return
        before = self._before = self._loop.get_task_factory()

        def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
            made: Any = asyncio.Task(coro, loop=loop, **kwargs) if before is None else (
                before(loop, coro, **kwargs)
            )
            own = kwargs.get("context")
            binding = context.current() if own is None else own.run(context.current)
            if binding is not None:
                self._owners[made] = binding
            return made

        self._factory = factory
        self._loop.set_task_factory(factory)

    def _tick(self) -> None:
        now = time.monotonic()
        self._measure(now)
        self._last = now
        self._timer = self._loop.call_later(self._every, self._tick)

    def _measure(self, now: float) -> None:
        lag = now - self._last - self._every
        # Within the tick's distance nobody can say whether the block is short or long.
        if lag >= self._threshold:
            seen, self._seen = self._seen, Counter()
            who = seen.most_common(1)
            binding = who[0][0] if who else None
            tags = {t: getattr(binding, t) if binding else None for t in
                    ("tenant", "session_id", "agent_name")}
            log.warning(
                "the event loop was blocked for %.0f ms by %s",
                lag * 1000,
                f"session {binding.session_id} of tenant {binding.tenant}" if binding
                else "code outside every session",
                extra=tags,
            )
            self._report(lag, binding.session_id if binding else "")
        elif self._seen:
            self._seen = Counter()

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(self._every):
            if time.monotonic() - self._last > 2 * self._every:
                binding = self._running()
                if binding is not None:
                    self._seen[binding] += 1

    def _running(self) -> Binding | None:
        try:
            task = asyncio.current_task(self._loop)
        except RuntimeError:
            return None
        if task is None:
            return None
        get_context = getattr(task, "get_context", None)
        if get_context is not None:
            found: Binding | None = get_context().get(context._current)
            return found
        return self._owners.get(task)
