"""Errors of the sidecar, one class per reason.

A refusal names its reason, says in `disposition` what to do next and in
`retry_after` when. The list of reasons is `tenantd.v1.Reason`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol, TypeVar, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from tenantd import _status_pb2

DOMAIN = "tenantd.dev"


class TenantdError(Exception):
    """A call that the sidecar refused or could not answer."""

    REASON: ClassVar[str] = ""
    HINT: ClassVar[str] = ""
    """What a developer or operator can do about it."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        tenant: str = "",
        session_id: str = "",
        disposition: str = "",
        retry_after: float | None = None,
        limit: int | None = None,
        current: int | None = None,
        outcome: str = "",
        fields: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        """What is wrong, for people."""
        self.reason = reason or self.REASON
        """Stable name, for example `TENANT_AT_CAP`; empty when not one of ours."""
        self.code = code
        """gRPC status code."""
        self.tenant = tenant
        """The tenant concerned; empty when none is bound."""
        self.session_id = session_id
        """The session concerned; empty when there is none."""
        self.disposition = disposition
        """`retry_elsewhere`, `retry_later`, `final`, or empty when not said."""
        self.retry_after = retry_after
        """Seconds until a retry may succeed; None when not known."""
        self.limit = limit
        """The limit met, for example the cap; None when there is none."""
        self.current = current
        """The figure that met the limit; None when there is none."""
        self.outcome = outcome
        """How an ended session ended, for example `success`; else empty."""
        self.fields = fields
        """Wrong request fields, as pairs of field and description."""

    def __str__(self) -> str:
        text = f"{self.reason}: {self.message}" if self.reason else self.message
        if self.retry_after is not None:
            text += f" (retry after {self.retry_after:g} s)"
        return f"{text}\n  {self.HINT}" if self.HINT else text

    @property
    def retryable(self) -> bool:
        """True when the same call may succeed here later or on another machine."""
        return self.disposition in ("retry_later", "retry_elsewhere")


class SidecarUnavailable(TenantdError):
    """No connection to the sidecar, one that broke, or no answer within the deadline.

    Nothing is known about what the call did: retry it with the same session id.
    """

    HINT = (
        "Is `tenantd serve` running, and TENANTD_ADDRESS the same on both "
        "sides? `tenantd healthcheck` tells."
    )


class TenantMalformed(TenantdError):
    """The tenant id breaks the rule."""

    REASON = "TENANT_MALFORMED"
    HINT = (
        'Dispatch with metadata {"tenant": "<1-128 of A-Z a-z 0-9 _ ->"}, or '
        "with none for `default`."
    )


class TenantConflict(TenantdError):
    """The explicit tenant differs from the one in the metadata."""

    REASON = "TENANT_CONFLICT"
    HINT = "Leave `tenant` out, or make it agree with the metadata."


class InvalidField(TenantdError):
    """A request field is out of its bounds; `fields` names it."""

    REASON = "INVALID_FIELD"


class NotPermitted(TenantdError):
    """The caller may not do this."""

    REASON = "NOT_PERMITTED"


class Draining(TenantdError):
    """The sidecar is draining and takes no new session."""

    REASON = "DRAINING"
    HINT = "Reject the job so that another machine takes it; this one is about to stop."


class TenantSuspended(TenantdError):
    """An operator suspended the tenant."""

    REASON = "TENANT_SUSPENDED"
    HINT = (
        "An operator did this: `tenantd tenants NAME` says who and why, "
        "`tenantd resume NAME` ends it."
    )


class CircuitOpen(TenantdError):
    """The tenant's circuit breaker admits no session now."""

    REASON = "CIRCUIT_OPEN"
    HINT = (
        "Too many sessions of this tenant failed: look at its provider and "
        "key; `tenantd breaker` shows and resets."
    )


class TenantAtCap(TenantdError):
    """The tenant has as many live sessions as its cap allows."""

    REASON = "TENANT_AT_CAP"
    HINT = (
        "Release sessions (`tenantd sessions` lists them), or raise the cap: "
        "`tenantd cap TENANT N`."
    )


class AgentAtCap(TenantdError):
    """The agent has as many live sessions as its cap allows."""

    REASON = "AGENT_AT_CAP"


class MachineAtCap(TenantdError):
    """The machine has as many live sessions as its cap allows."""

    REASON = "MACHINE_AT_CAP"


class ConfigUnavailable(TenantdError):
    """The tenant's config or one of its credentials could not be resolved."""

    REASON = "CONFIG_UNAVAILABLE"
    HINT = "A credential or the tenant's entry could not be read: see the sidecar's log."


class TenantUnknown(TenantdError):
    """The tenant has no config entry, and unknown tenants are refused."""

    REASON = "TENANT_UNKNOWN"
    HINT = 'Add the tenant to the config, or set unknown_tenants = "accept".'


class SessionConflict(TenantdError):
    """The session id belongs to a session of another tenant."""

    REASON = "SESSION_CONFLICT"
    HINT = "Session ids are unique over tenants: use the dispatcher's job id."


class SessionEnded(TenantdError):
    """The session has ended; `outcome` says how."""

    REASON = "SESSION_ENDED"
    HINT = "Use a new session id for a new session."


class SessionUnknown(TenantdError):
    """No session of this id is known."""

    REASON = "SESSION_UNKNOWN"
    HINT = "It was never acquired here, or ended long ago."


class LimitReached(TenantdError):
    """A bounded table of the sidecar is full."""

    REASON = "LIMIT_REACHED"


class ReloadFailed(TenantdError):
    """The config file could not be reloaded; the running config is kept."""

    REASON = "RELOAD_FAILED"


class Undecided(TenantdError):
    """The sidecar could not decide: a fault, not a refusal."""

    REASON = "UNDECIDED"


class AuditUnavailable(TenantdError):
    """An admin call could not be recorded, so nothing was done."""

    REASON = "AUDIT_UNAVAILABLE"


class RateLimited(TenantdError):
    """The tenant asks for too many new sessions in a second; `retry_after` says when."""

    REASON = "RATE_LIMITED"


class Overloaded(TenantdError):
    """Too many acquires wait for their configs; another machine may have room."""

    REASON = "OVERLOADED"


AtCap = (TenantAtCap, AgentAtCap, MachineAtCap)
"""The refusals that a slot freed ends."""

REASONS: dict[str, type[TenantdError]] = {
    cls.REASON: cls for cls in TenantdError.__subclasses__() if cls.REASON
}
"""Exception class by reason."""


def refusal(reason: str, message: str, session_id: str) -> TenantdError:
    """The typed error for a refusal inside a reply, where no status says more."""
    return REASONS.get(reason, TenantdError)(message, reason=reason, session_id=session_id)


class _RpcFailure(Protocol):
    """What the errors of sync and async gRPC calls have in common."""

    def code(self) -> Any: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Any: ...


def from_rpc_error(failure: grpc.RpcError) -> TenantdError:
    """The typed error for a failed gRPC call, sync or async."""
    # The stubs do not say that every failed call has these.
    error = cast(_RpcFailure, failure)
    code: grpc.StatusCode = error.code()
    message = error.details() or code.name
    info, retry, bad_request = _details(error.trailing_metadata() or ())
    if info is None or info.domain != DOMAIN:
        return (SidecarUnavailable if code in _NO_ANSWER else TenantdError)(message, code=code)
    metadata = info.metadata
    return REASONS.get(info.reason, TenantdError)(
        message,
        reason=info.reason,
        code=code,
        tenant=metadata.get("tenant", ""),
        session_id=metadata.get("sessionId", ""),
        disposition=metadata.get("disposition", ""),
        retry_after=None if retry is None else retry.retry_delay.ToNanoseconds() / 1e9,
        limit=_number(metadata.get("limit")),
        current=_number(metadata.get("current")),
        outcome=metadata.get("outcome", ""),
        fields=tuple((v.field, v.description) for v in bad_request.field_violations)
        if bad_request
        else (),
    )


_NO_ANSWER = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # What gRPC makes of a connection that breaks in the middle of a call, of a TLS alert for
    # one, and of an answer that it cannot read.
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
"""Without our details only the transport fails."""


def _details(metadata: Iterable[tuple[str, Any]]) -> tuple[Any, Any, Any]:
    """ErrorInfo, RetryInfo and BadRequest from trailing metadata, where there."""
    status = _status_pb2.Status()
    for key, value in metadata:
        if key == "grpc-status-details-bin":
            try:
                status.ParseFromString(value)
            except DecodeError:
                pass
    return (
        _unpack(status.details, _status_pb2.ErrorInfo),
        _unpack(status.details, _status_pb2.RetryInfo),
        _unpack(status.details, _status_pb2.BadRequest),
    )


_M = TypeVar("_M", bound=Message)


def _unpack(details: Iterable[AnyMessage], kind: type[_M]) -> _M | None:
    for detail in details:
        if detail.TypeName() == f"google.rpc.{kind.DESCRIPTOR.name}":
            message = kind()
            try:
                message.ParseFromString(detail.value)
            except DecodeError:
                return None
            return message
    return None


def _number(text: str | None) -> int | None:
    # isdecimal: a later server may say more than a plain number.
    return int(text) if text is not None and text.isdecimal() else None
