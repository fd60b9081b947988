"""What the sync and the async client share: channel options and requests."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Literal

from google.protobuf.duration_pb2 import Duration

from tenantd.lease import lease_token
from tenantd.v1 import event_pb2, session_pb2
from tenantd.v1.session_service_pb2 import (
    AcquireSessionRequest,
    GetSessionConfigRequest,
    KeepAliveRequest,
    PublishedEvent,
    PublishEventsRequest,
    ReleaseSessionRequest,
    RenewSessionRequest,
    ReportFailureRequest,
)

Outcome = Literal["success", "failure", "cancelled"]
Severity = Literal["debug", "info", "warning", "error"]

DEADLINE = 2.0
"""Longest wait for one call, in seconds."""
RETRY_FOR = 1.0
"""How long an acquire that got no decision is tried again, in seconds."""


def channel_options(target: str) -> list[tuple[str, Any]]:
    """Options for a channel to `target`."""
    options: list[tuple[str, Any]] = [
        # A restarted sidecar is back in a moment; gRPC would wait up to 2 min.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # The sidecar is on this machine: never by way of a proxy.
        ("grpc.enable_http_proxy", 0),
    ]
    if target.startswith("unix:"):
        # gRPC would send the percent-encoded path, which HTTP/2 servers refuse.
        options.append(("grpc.default_authority", "localhost"))
    return options


def acquire(
    session_id: str,
    job_metadata: str,
    room_metadata: str,
    tenant: str,
    agent_name: str,
    worker: str,
    ttl: float | None,
    activate: bool,
) -> AcquireSessionRequest:
    # Made here, so that a lost reply can be asked for again.
    session_id = session_id or f"s-{uuid.uuid4().hex}"
    return AcquireSessionRequest(
        session_id=session_id,
        lease_token=lease_token(session_id),
        job_metadata=job_metadata,
        room_metadata=room_metadata,
        tenant=tenant,
        agent_name=agent_name,
        worker=worker,
        ttl=_duration(ttl),
        activate=activate,
    )


def renew(session_id: str, worker: str, ttl: float | None) -> RenewSessionRequest:
    return RenewSessionRequest(
        session_id=session_id,
        lease_token=lease_token(session_id),
        worker=worker,
        ttl=_duration(ttl),
    )


def release(
    session_id: str, outcome: Outcome, slot: str, kind: str, message: str
) -> ReleaseSessionRequest:
    return ReleaseSessionRequest(
        session_id=session_id,
        lease_token=lease_token(session_id),
        outcome=outcome_value(outcome),
        failure=_failure(slot, kind, message) if slot or kind or message else None,
    )


def report_failure(
    session_id: str, slot: str, kind: str, message: str, end_session: bool
) -> ReportFailureRequest:
    return ReportFailureRequest(
        session_id=session_id,
        lease_token=lease_token(session_id),
        failure=_failure(slot, kind, message),
        end_session=end_session,
    )


def get_config(session_id: str) -> GetSessionConfigRequest:
    return GetSessionConfigRequest(session_id=session_id, lease_token=lease_token(session_id))


def attach(session_ids: list[str]) -> KeepAliveRequest:
    tokens = {session_id: lease_token(session_id) for session_id in session_ids}
    return KeepAliveRequest(attach_session_ids=session_ids, lease_tokens=tokens)


def blocked(seconds: float, session_id: str) -> KeepAliveRequest:
    request = KeepAliveRequest(loop_blocked_session_id=session_id)
    if session_id:
        request.lease_tokens[session_id] = lease_token(session_id)
    request.loop_blocked.FromNanoseconds(round(seconds * 1e9))
    return request


def publish(
    session_id: str, name: str, attributes: Mapping[str, Any] | None, severity: Severity
) -> PublishEventsRequest:
    event = event_pb2.AgentEvent(
        name=name, severity=event_pb2.Severity.Value(f"SEVERITY_{severity.upper()}")
    )
    if attributes:
        event.attributes.update(dict(attributes))
    published = PublishedEvent(
        session_id=session_id, lease_token=lease_token(session_id), event=event
    )
    return PublishEventsRequest(events=[published])


_OUTCOMES: dict[session_pb2.Outcome.ValueType, str] = {
    value: name.removeprefix("OUTCOME_").lower() for name, value in session_pb2.Outcome.items()
}
_VALUES = {name: value for value, name in _OUTCOMES.items()}


def outcome_name(outcome: session_pb2.Outcome.ValueType) -> str:
    """For example `success`."""
    return _OUTCOMES.get(outcome, "unspecified")


def outcome_value(name: str) -> session_pb2.Outcome.ValueType:
    """The other way round. Raises `ValueError` where it is none."""
    if name not in _VALUES:
        raise ValueError(f"outcome must be success, failure or cancelled, got {name!r}")
    return _VALUES[name]


def _failure(slot: str, kind: str, message: str) -> session_pb2.Failure:
    return session_pb2.Failure(slot=slot, kind=kind, message=message)


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
