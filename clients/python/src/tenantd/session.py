"""What the sync and the async session share: state, and which outcome a block has."""

from __future__ import annotations

import asyncio
import logging
import re
from types import TracebackType
from typing import Any

from tenantd import context, link, notices, tracing, _wire
from tenantd.config import Grant, Providers, SessionConfig
from tenantd.v1.session_service_pb2 import AcquireSessionRequest

log = logging.getLogger("tenantd")

NOTHING = SessionConfig(version="", providers=Providers({}), labels={}, tenant_known=False)


class SessionState:
    """A session's facts. Made by `client.session(...)`."""

    def __init__(self, request: AcquireSessionRequest, retry_for: float) -> None:
        request.activate = True
        self._request = request
        self._retry_for = retry_for
        self._grant: Grant | None = None
        self._config = NOTHING
        self._bound: Any = None
        self._traced: Any = None
        self._over = False
        self._in_block = False
        self._callbacks: list[link.Subscriber] = []
        self.failed_open = False
        """True when the sidecar could not be asked and `fail_open` let it run: no
        slot is held, and `providers` is empty."""
        self.revoked: notices.Revoked | None = None
        """Set once the slot is gone: stop the session."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r}, tenant={self.tenant!r})"

    @property
    def session_id(self) -> str:
        """The session's id: the one given, or one made here."""
        return self._request.session_id

    @property
    def tenant(self) -> str:
        """The tenant that the sidecar bound it to."""
        return self._grant.tenant if self._grant else self._request.tenant

    @property
    def agent_name(self) -> str:
        """Named agent class; empty when none was given."""
        return self._request.agent_name

    @property
    def config(self) -> SessionConfig:
        """What it runs on, as of the acquire or the last `refresh()`."""
        return self._config

    @property
    def providers(self) -> Providers:
        """Its tenant's providers by slot, for example `s.providers.llm.kwargs`."""
        return self._config.providers

    @property
    def labels(self) -> dict[str, str]:
        """Its tenant's labels."""
        return dict(self._config.labels)

    def _granted(self, grant: Grant, to: link.Link) -> None:
        self._grant, self._config = grant, grant.config
        to.hold(self.session_id, link.Held(self._request, grant.tenant, self._told))
        self._bind()

    def _let_through(self, error: Exception) -> None:
        self.failed_open = True
        log.error(
            "session %s runs WITHOUT a slot, a cap and a config: fail_open, and %s",
            self.session_id,
            str(error).splitlines()[0],
        )
        if self.tenant:
            self._bind()

    def _bind(self) -> None:
        binding = context.Binding(self.tenant, self.session_id, self.agent_name)
        self._bound = context.bind(binding)
        self._traced = tracing.attach(binding)

    def _unbind(self) -> None:
        bound, self._bound = self._bound, None
        if bound is not None and context.unbind(bound):
            tracing.detach(self._traced)

    def on_notice(self, callback: link.Subscriber) -> None:
        """Has `callback` called with this session's notices (`Revoked`,
        `ConfigChanged`), on a thread of its own: keep it short."""
        self._callbacks.append(callback)
        if self.revoked is not None:
            callback(self.revoked)

    def _told(self, notice: notices.Notice) -> None:
        if isinstance(notice, notices.Revoked):
            self.revoked = notice
        for callback in list(self._callbacks):
            callback(notice)


def outcome_of(error: type[BaseException] | None) -> _wire.Outcome:
    """How a block that ended with `error` ends its session."""
    if error is None:
        return "success"
    # Asked to stop is nobody's failure: it must not open a tenant's breaker.
    stopped = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
    return "cancelled" if issubclass(error, stopped) else "failure"


def kind_of(error: type[BaseException]) -> str:
    """The error's class as a failure's kind. Not its text, which may hold a key."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", error.__name__)[:64]


Raised = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
