"""A session as observers of OpenRTC and voicegateway know it.

The same names as `openrtc.SessionInfo` and `SessionOutcome`, so that an observer
written for OpenRTC, such as voicegateway's, works on a tenantd session, with or
without OpenRTC. `metadata["tenant"]` is always the tenant that the sidecar bound.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

log = logging.getLogger("tenantd")

OBSERVER_TIMEOUT = 5.0
"""Longest wait for one call of an observer, in seconds; then it is logged and left."""


class SessionStatus(Enum):
    """How an observed session ended."""

    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class SessionInfo:
    """Who a session is, for its whole life."""

    agent_name: str
    """Named agent class; empty when the session has none."""
    room_name: str
    """Room; empty where there is none."""
    job_id: str
    """The session's id."""
    metadata: Mapping[str, str]
    """Room metadata, then job metadata over it, then `tenant`: the bound one."""
    started_at: float
    """Unix time, in seconds."""
    tenant: str
    """The bound tenant."""
    deployment_version: str | None = None
    """Version of the worker, where the caller gives one."""


@dataclass(frozen=True)
class SessionOutcome:
    """How a session ended."""

    status: SessionStatus
    """The outcome."""
    error: BaseException | None
    """What ended it, where an exception did."""
    ended_at: float
    """Unix time, in seconds."""
    duration_seconds: float
    """Since `started_at`."""


class SessionObserver(Protocol):
    """What OpenRTC calls a `SessionObserver`."""

    async def on_session_start(self, info: Any, session: Any) -> None:
        """The framework's session is live."""

    async def on_session_end(self, info: Any, outcome: Any) -> None:
        """It is over; may come without a start."""


def info_of(
    session_id: str,
    tenant: str,
    *,
    agent_name: str = "",
    room_name: str = "",
    job_metadata: str = "",
    room_metadata: str = "",
    deployment_version: str | None = None,
) -> SessionInfo:
    """The info of a session that starts now."""
    metadata = {**_object(room_metadata), **_object(job_metadata), "tenant": tenant}
    return SessionInfo(
        agent_name=agent_name,
        room_name=room_name,
        job_id=session_id,
        metadata=metadata,
        started_at=time.time(),
        tenant=tenant,
        deployment_version=deployment_version,
    )


def outcome_of(info: SessionInfo, outcome: str, error: BaseException | None = None) -> SessionOutcome:
    """The end, now, of a session with that outcome (`success`, `failure`, ...)."""
    status = {"success": SessionStatus.SUCCESS, "failure": SessionStatus.FAILED}
    now = time.time()
    return SessionOutcome(
        status=status.get(outcome, SessionStatus.CANCELLED),
        error=error,
        ended_at=now,
        duration_seconds=max(now - info.started_at, 0.0),
    )


async def tell(observer: SessionObserver, what: str, info: SessionInfo, about: Any) -> None:
    """Calls `observer.on_session_start` or `on_session_end`. What it raises is logged:
    an observer must not end a call."""
    try:
        await asyncio.wait_for(getattr(observer, what)(info, about), OBSERVER_TIMEOUT)
    except Exception:
        log.warning("%s of %s failed", what, type(observer).__name__, exc_info=True)


def _object(text: str) -> dict[str, str]:
    try:
        read = json.loads(text)
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in read.items()} if isinstance(read, dict) else {}
