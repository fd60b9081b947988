"""Client of tenantd, the multi-tenant sidecar for AI agents.

`AsyncClient` and `Client` take and give back session slots; the generated stubs
of the whole API are in `tenantd.v1`. Importing opens no connection.
"""

from tenantd.address import InvalidAddress, default_address
from tenantd.aio import AsyncClient
from tenantd.client import Client
from tenantd.config import Grant, Provider, SessionConfig
from tenantd.errors import (
    REASONS,
    AgentAtCap,
    CircuitOpen,
    ConfigUnavailable,
    Draining,
    InvalidField,
    LimitReached,
    MachineAtCap,
    NotPermitted,
    ReloadFailed,
    SessionConflict,
    SessionEnded,
    SessionUnknown,
    SidecarUnavailable,
    TenantAtCap,
    TenantConflict,
    TenantdError,
    TenantMalformed,
    TenantSuspended,
    TenantUnknown,
    Undecided,
)
from tenantd.keepalive import KeepAlive
from tenantd.worker import worker_id

__all__ = [
    "REASONS",
    "AgentAtCap",
    "AsyncClient",
    "CircuitOpen",
    "Client",
    "ConfigUnavailable",
    "Draining",
    "Grant",
    "InvalidAddress",
    "InvalidField",
    "KeepAlive",
    "LimitReached",
    "MachineAtCap",
    "NotPermitted",
    "Provider",
    "ReloadFailed",
    "SessionConfig",
    "SessionConflict",
    "SessionEnded",
    "SessionUnknown",
    "SidecarUnavailable",
    "TenantAtCap",
    "TenantConflict",
    "TenantMalformed",
    "TenantSuspended",
    "TenantUnknown",
    "TenantdError",
    "Undecided",
    "default_address",
    "worker_id",
]
