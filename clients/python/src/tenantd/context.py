"""Which session the running code belongs to.

Contextvars: child tasks, `asyncio.to_thread` and `contextvars.copy_context().run`
follow by themselves; `bind_threads()` makes `threading.Thread` and
`ThreadPoolExecutor` follow, too. Outside a session each is None.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Binding:
    """What is bound to the running code."""

    tenant: str
    """The tenant."""
    session_id: str
    """The session."""
    agent_name: str = ""
    """Named agent class; empty when the session has none."""


_current: contextvars.ContextVar[Binding | None] = contextvars.ContextVar("tenantd", default=None)


def current() -> Binding | None:
    """All of it; None outside a session."""
    return _current.get()


def current_tenant_id() -> str | None:
    """The tenant of the running session; None outside one."""
    binding = _current.get()
    return None if binding is None else binding.tenant


def current_session_id() -> str | None:
    """The id of the running session; None outside one."""
    binding = _current.get()
    return None if binding is None else binding.session_id


def current_agent_name() -> str | None:
    """The agent name of the running session; None outside one, or without a name."""
    binding = _current.get()
    return (binding.agent_name or None) if binding else None


def bind(binding: Binding) -> contextvars.Token[Binding | None]:
    """Binds the running context; `unbind` with the token ends it."""
    return _current.set(binding)


def unbind(token: contextvars.Token[Binding | None]) -> bool:
    """Ends a `bind`; False where there is nothing to end.

    In another context than that of the `bind` (a generator closed by the garbage
    collector, a callback) there is nothing to end: that context never had it.
    """
    try:
        _current.reset(token)
    except ValueError:
        return False
    return True


@contextmanager
def bound(tenant: str, session_id: str, agent_name: str = "") -> Iterator[Binding]:
    """Binds a block, for code that runs a session which was acquired elsewhere."""
    binding = Binding(tenant, session_id, agent_name)
    token = bind(binding)
    try:
        yield binding
    finally:
        unbind(token)


def bind_threads() -> None:
    """From now on new threads, and work given to thread pools, follow the session
    of the code that started them. Once per process; a second call does nothing.

    Python itself copies the context only into tasks and `asyncio.to_thread`.
    """
    if getattr(threading.Thread.start, "_tenantd", False):
        return
    start = threading.Thread.start
    submit: Any = concurrent.futures.ThreadPoolExecutor.submit

    @functools.wraps(start)
    def start_in_context(self: threading.Thread) -> None:
        if _current.get() is not None:
            context, run = contextvars.copy_context(), self.run
            self.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(self)

    @functools.wraps(submit)
    def submit_in_context(
        self: concurrent.futures.ThreadPoolExecutor,
        fn: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> concurrent.futures.Future[Any]:
        # Always, not only inside a session: a pool's thread that was started
        # inside one would otherwise lend its tenant to everyone's work.
        context = contextvars.copy_context()
        made: concurrent.futures.Future[Any] = submit(
            self, context.run, functools.partial(fn, *args, **kwargs)
        )
        return made

    start_in_context._tenantd = True  # type: ignore[attr-defined]
    threading.Thread.start = start_in_context  # type: ignore[method-assign]
    concurrent.futures.ThreadPoolExecutor.submit = submit_in_context  # type: ignore
