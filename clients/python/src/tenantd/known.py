"""The last config of each tenant, so that the sidecar need not send it again, nor the
keys in it."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict

from tenantd.config import Grant, SessionConfig, to_grant
from tenantd.v1.session_service_pb2 import AcquireSessionRequest, AcquireSessionResponse

MOST = 1_000
"""Tenants remembered; the one that was asked for least recently is forgotten first."""
MOST_METADATA = 65_536
"""Longest metadata that is looked into for a tenant."""


class Known:
    """The last config of each tenant, in memory alone."""

    def __init__(self) -> None:
        self._configs: OrderedDict[str, SessionConfig] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, request: AcquireSessionRequest) -> SessionConfig | None:
        """Names in a request the config that is held, if one is."""
        tenant = request.tenant or _tenant_in(request)
        with self._lock:
            config = self._configs.get(tenant)
        request.known_config_version = config.version if config else ""
        return config

    def grant(self, reply: AcquireSessionResponse, asked: SessionConfig | None) -> Grant:
        """The grant in a reply. `asked`: what the request named."""
        if reply.config_unchanged and asked is not None:
            grant = Grant(reply.session, _copy(asked), reply.created)
        else:
            grant = to_grant(reply)
            # A stale one is nobody's to hold on to.
            if grant.config.stale:
                return grant
            # The one that is kept is never handed out.
            asked = grant.config
            grant = Grant(reply.session, _copy(asked), reply.created)
        with self._lock:
            self._configs[grant.tenant] = asked
            self._configs.move_to_end(grant.tenant)
            if len(self._configs) > MOST:
                self._configs.popitem(last=False)
        return grant


def _tenant_in(request: AcquireSessionRequest) -> str:
    """A guess: the sidecar binds the tenant. A wrong one costs a config sent again."""
    for metadata in (request.job_metadata, request.room_metadata):
        if not metadata or len(metadata) > MOST_METADATA:
            continue
        try:
            tenant = json.loads(metadata)["tenant"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if isinstance(tenant, str) and tenant:
            return tenant.strip()
    return "default"


def _copy(config: SessionConfig) -> SessionConfig:
    """Of its own: what one session does with it changes no other's."""
    return SessionConfig(
        config.version,
        config.providers._copied(),
        dict(config.labels),
        config.tenant_known,
        config.stale,
    )
