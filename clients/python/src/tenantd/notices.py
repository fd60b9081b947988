"""What the sidecar tells a process about its sessions."""

from __future__ import annotations

from dataclasses import dataclass

from tenantd.v1 import session_pb2
from tenantd.v1.session_service_pb2 import KeepAliveResponse


@dataclass(frozen=True)
class Revoked:
    """A session's slot is gone: stop the session."""

    session_id: str
    """Which session."""
    tenant: str
    """Its tenant."""
    cause: str
    """`revoked` (by an operator), `drain_deadline`, or, where it ended while this
    process was cut off, its outcome (`lost`, `revoked`) or the reason that it was
    refused for when asked for again, for example `TENANT_AT_CAP`."""
    note: str = ""
    """The operator's words; may be empty."""


@dataclass(frozen=True)
class SidecarDraining:
    """The sidecar takes no new sessions and stops soon."""

    deadline: float
    """How long live sessions may still run, in seconds."""


@dataclass(frozen=True)
class ConfigChanged:
    """A tenant's config changed: `session.refresh()` gets the new one."""

    tenant: str
    """Whose config."""
    version: str
    """The new version; opaque. Empty: the tenant's entry was removed, and new sessions of
    it are refused."""
    session_ids: tuple[str, ...]
    """Live sessions of this process that it concerns."""


@dataclass(frozen=True)
class Suspended:
    """An operator suspended a tenant: its sessions may go on, new ones are refused."""

    tenant: str
    """Whom."""
    session_ids: tuple[str, ...]
    """Live sessions of this process that it concerns."""
    note: str = ""
    """The operator's words; may be empty."""


@dataclass(frozen=True)
class Resumed:
    """A suspended tenant takes new sessions again."""

    tenant: str
    """Whom."""
    session_ids: tuple[str, ...]
    """Live sessions of this process that it concerns."""
    note: str = ""
    """The operator's words; may be empty."""


Notice = Revoked | SidecarDraining | ConfigChanged | Suspended | Resumed
"""Any of them."""


def from_response(message: KeepAliveResponse) -> Notice | None:
    """The notice in a message of the stream; None where it carries none."""
    match message.WhichOneof("message"):
        case "revoked":
            said = message.revoked
            cause = session_pb2.EndCause.Name(said.cause).removeprefix("END_CAUSE_").lower()
            return Revoked(said.session_id, said.tenant, cause, said.note)
        case "draining":
            return SidecarDraining(message.draining.deadline.ToNanoseconds() / 1e9)
        case "config_changed":
            change = message.config_changed
            return ConfigChanged(change.tenant, change.version, tuple(change.session_ids))
        case "suspended":
            stop = message.suspended
            return Suspended(stop.tenant, tuple(stop.session_ids), stop.note)
        case "resumed":
            again = message.resumed
            return Resumed(again.tenant, tuple(again.session_ids), again.note)
    return None
