"""Client of tenantd, the multi-tenant sidecar for AI agents.

`async with tenantd.connect() as td: async with td.session(...) as s:` is all that most
agents need; `connect_sync()` is the same for threads. The generated stubs of the
whole API are in `tenantd.v1`. Importing opens no connection.
"""

from __future__ import annotations

import os

from tenantd.address import InvalidAddress, default_address
from tenantd.aio import AsyncClient, AsyncSession
from tenantd.client import Client, Session
from tenantd.config import Grant, Provider, Providers, SessionConfig
from tenantd.errors import (
    REASONS,
    AgentAtCap,
    AuditUnavailable,
    CircuitOpen,
    ConfigUnavailable,
    Draining,
    InvalidField,
    LimitReached,
    MachineAtCap,
    NotPermitted,
    Overloaded,
    RateLimited,
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
from tenantd.lag import THRESHOLD
from tenantd.notices import (
    ConfigChanged,
    Notice,
    Resumed,
    Revoked,
    SidecarDraining,
    Suspended,
)
from tenantd.worker import worker_id

__all__ = [
    "AgentAtCap",
    "AsyncClient",
    "AsyncSession",
    "AuditUnavailable",
    "CircuitOpen",
    "Client",
    "ConfigChanged",
    "ConfigUnavailable",
    "Draining",
    "Grant",
    "InvalidAddress",
    "InvalidField",
    "LimitReached",
    "MachineAtCap",
    "NotPermitted",
    "Overloaded",
    "RateLimited",
    "Notice",
    "Provider",
    "Providers",
    "REASONS",
    "ReloadFailed",
    "Resumed",
    "Revoked",
    "Session",
    "SessionConfig",
    "SessionConflict",
    "SessionEnded",
    "SessionUnknown",
    "SidecarDraining",
    "SidecarUnavailable",
    "Suspended",
    "TenantAtCap",
    "TenantConflict",
    "TenantMalformed",
    "TenantSuspended",
    "TenantUnknown",
    "TenantdError",
    "Undecided",
    "connect",
    "connect_sync",
    "default_address",
    "worker_id",
]


def connect(
    address: str | None = None,
    *,
    deadline: float = 2.0,
    fail_open: bool = False,
    slow_threshold: float | None = THRESHOLD,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
) -> AsyncClient:
    """The sidecar, for asyncio: `async with tenantd.connect() as td:`.

    Connects at the first call. Arguments as in `AsyncClient`. All clients of a
    process share one stream that keeps their sessions.
    """
    return AsyncClient(
        address,
        deadline=deadline,
        fail_open=fail_open,
        slow_threshold=slow_threshold,
        token=token,
        token_file=token_file,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )


def connect_sync(
    address: str | None = None,
    *,
    deadline: float = 2.0,
    fail_open: bool = False,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
) -> Client:
    """The sidecar, for threads: `with tenantd.connect_sync() as td:`."""
    return Client(
        address,
        deadline=deadline,
        fail_open=fail_open,
        token=token,
        token_file=token_file,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )
