"""The sidecar's decisions, as the fake makes them: no I/O, `now` in seconds passed in.

The same rules as the sidecar's own, for one process and a handful of sessions. The
contract suite holds both to the same cases.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CODES: dict[str, tuple[str, str]] = {
    "TENANT_MALFORMED": ("INVALID_ARGUMENT", "final"),
    "TENANT_CONFLICT": ("INVALID_ARGUMENT", "final"),
    "INVALID_FIELD": ("INVALID_ARGUMENT", "final"),
    "DRAINING": ("FAILED_PRECONDITION", "retry_elsewhere"),
    "TENANT_SUSPENDED": ("FAILED_PRECONDITION", "final"),
    "CIRCUIT_OPEN": ("FAILED_PRECONDITION", "retry_later"),
    "TENANT_AT_CAP": ("RESOURCE_EXHAUSTED", "retry_elsewhere"),
    "AGENT_AT_CAP": ("RESOURCE_EXHAUSTED", "retry_elsewhere"),
    "MACHINE_AT_CAP": ("RESOURCE_EXHAUSTED", "retry_elsewhere"),
    "CONFIG_UNAVAILABLE": ("FAILED_PRECONDITION", "retry_later"),
    "TENANT_UNKNOWN": ("NOT_FOUND", "final"),
    "SESSION_CONFLICT": ("FAILED_PRECONDITION", "final"),
    "SESSION_ENDED": ("FAILED_PRECONDITION", "final"),
    "SESSION_UNKNOWN": ("NOT_FOUND", "final"),
}
"""gRPC code and disposition by reason."""

TENANT = re.compile(r"[A-Za-z0-9_-]{1,128}")
SESSION_ID = re.compile(r"[\x21-\x7e]{1,128}")
SPACE = " \t\n\r\x0b\x0c"


class Refused(Exception):
    """A refusal, by reason."""

    def __init__(self, reason: str, message: str, **about: Any) -> None:
        super().__init__(message)
        self.reason, self.message, self.about = reason, message, about


@dataclass
class Lease:
    """A live session."""

    session_id: str
    tenant: str
    agent: str
    worker: str
    acquired: float
    ttl: float
    deadline: float
    active: bool
    period: int
    probe: bool
    grace: bool = False
    held: bool = False
    failed: bool = False
    sampled: bool = False
    healthy_at: float | None = None


@dataclass
class Breaker:
    """One tenant's circuit breaker."""

    state: str = "closed"
    period: int = 0
    until: float = 0.0
    openings: int = 0
    live: int = 0
    healthy: int = 0
    samples: list[tuple[float, bool]] = field(default_factory=list)

    def enter(self, state: str) -> None:
        """A new period: outcomes of sessions from before do not count in it."""
        self.state, self.period = state, self.period + 1
        self.live = self.healthy = 0
        self.samples.clear()


def bind(job: str, room: str, explicit: str) -> str:
    """The tenant of a session: the job's metadata over the room's, or the explicit one."""
    claimed = None
    for text in (room, job):
        try:
            read = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(read, dict) and "tenant" in read:
            claimed = (read["tenant"],)
    value = claimed[0] if claimed else None
    if value is not None and not isinstance(value, str):
        raise Refused("TENANT_MALFORMED", f"the tenant must be a string, got {type(value).__name__}")
    found = tenant_id(value) if value else ""
    if not explicit:
        return found or "default"
    named = tenant_id(explicit)
    if found and found != named:
        raise Refused("TENANT_CONFLICT", f"tenant {named} was given, the metadata says {found}")
    return named


def tenant_id(text: str) -> str:
    """The id, trimmed and checked."""
    trimmed = text.strip(SPACE)
    if not TENANT.fullmatch(trimmed):
        shown = ascii(text[:40])
        raise Refused("TENANT_MALFORMED", f"must be 1-128 of A-Z a-z 0-9 _ -, got {shown}")
    return trimmed


def seconds(value: Any, default: float) -> float:
    """A duration of the config, for example `"1h 30m"`."""
    if value is None:
        return default
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    parts = re.findall(r"([\d.]+)\s*(ms|s|m|h|d)", str(value))
    if not parts:
        raise ValueError(f"not a duration: {value!r}; write it like \"30s\"")
    return sum(float(number) * units[unit] for number, unit in parts)


class Rules:
    """All that the fake knows."""

    def __init__(self, config: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.config = config
        self._environment = environment
        self.leases: dict[str, Lease] = {}
        self.ended: dict[str, str] = {}
        self.breakers: dict[str, Breaker] = {}
        self.suspended: dict[str, str] = {}
        self.draining = False

    # -- config

    def entry(self, tenant: str, key: str) -> Any:
        """A tenant's setting, else the default's."""
        own = self.config.get("tenants", {}).get(tenant, {})
        return own.get(key, self.config.get("defaults", {}).get(key))

    def setting(self, tenant: str, table: str, key: str, default: float) -> float:
        """A number or duration of a tenant's `lease` or `breaker` table."""
        own = self.config.get("tenants", {}).get(tenant, {}).get(table, {})
        shared = self.config if table == "lease" else self.config.get("defaults", {})
        value = own.get(key, shared.get(table, {}).get(key))
        return seconds(value, default) if isinstance(value, str) else float(
            default if value is None else value
        )

    def providers(self, tenant: str) -> dict[str, Any]:
        """By slot, credentials resolved."""
        own = self.config.get("tenants", {}).get(tenant, {}).get("providers", {})
        slots = {**self.config.get("defaults", {}).get("providers", {}), **own}
        return {slot: self._provider(tenant, p) for slot, p in slots.items() if p != "none"}

    def version(self, tenant: str) -> str:
        """Changes when the tenant's config does."""
        about = [self.providers(tenant), self.entry(tenant, "labels")]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    def _provider(self, tenant: str, provider: Mapping[str, Any]) -> dict[str, Any]:
        named = dict(provider.get("credentials", {}))
        if "credential" in provider:
            named["api_key"] = provider["credential"]
        resolved = {name: self._credential(tenant, ref) for name, ref in named.items()}
        return {**provider, "credentials": resolved, "credential": None}

    def _credential(self, tenant: str, reference: str) -> str:
        try:
            if reference.startswith("env:"):
                return self._environment.get(reference[4:]) or os.environ[reference[4:]]
            if reference.startswith("file:"):
                return Path(reference[5:]).read_text(encoding="utf-8").strip()
        except (KeyError, OSError):
            raise Refused(
                "CONFIG_UNAVAILABLE", f"{reference} of tenant {tenant} cannot be read", tenant=tenant
            ) from None
        return reference

    # -- sessions

    def acquire(self, request: Any, now: float) -> tuple[Lease, bool]:
        """The lease, and whether it is new."""
        self.advance(now)
        tenant = bind(request.job_metadata, request.room_metadata, request.tenant)
        about = {"tenant": tenant, "sessionId": request.session_id}
        if not SESSION_ID.fullmatch(request.session_id):
            raise Refused("INVALID_FIELD", "must be 1-128 printable ASCII", field="session_id")
        lease = self.leases.get(request.session_id)
        if lease is not None:
            if lease.tenant != tenant:
                raise Refused("SESSION_CONFLICT", "the id belongs to another tenant", **about)
            if request.activate or request.worker != lease.worker or not request.worker:
                self.renew(lease.session_id, request.worker, now)
            return lease, False
        if request.session_id in self.ended:
            raise self._ended(request.session_id)
        known = tenant in self.config.get("tenants", {})
        if not known and self.config.get("unknown_tenants") == "reject":
            raise Refused("TENANT_UNKNOWN", f"tenant {tenant} has no entry", **about)
        breaker = self._admit(tenant, request.agent_name, about, now)
        self.providers(tenant)
        ttl = self._ttl(tenant, request)
        pending = self.setting(tenant, "lease", "pending", 15.0)
        probe = breaker.state == "half_open"
        breaker.live += probe
        lease = self.leases[request.session_id] = Lease(
            session_id=request.session_id,
            tenant=tenant,
            agent=request.agent_name,
            worker=request.worker,
            acquired=now,
            ttl=ttl,
            deadline=now + (ttl if request.activate else pending),
            active=request.activate,
            period=breaker.period,
            probe=probe,
        )
        self._watch_probe(lease, now)
        return lease, True

    def renew(self, session_id: str, worker: str, now: float, *, held: bool = False) -> Lease:
        """A sign of life."""
        self.advance(now)
        lease = self.find(session_id)
        if worker:
            lease.held = held or (lease.held and lease.worker == worker)
            lease.worker = worker
        lease.deadline, lease.grace = now + lease.ttl, False
        if not lease.active:
            lease.active = True
            self._watch_probe(lease, now)
        return lease

    def release(self, session_id: str, outcome: str, now: float) -> str:
        """The outcome booked."""
        self.advance(now)
        lease = self.find(session_id)
        return self._end(lease, "failure" if lease.failed else outcome, now)

    def report(self, session_id: str, end: bool, now: float) -> tuple[Lease, bool]:
        """A failure of a live session; whether the breaker counted it."""
        self.advance(now)
        lease = self.find(session_id)
        lease.failed = True
        counted = self._sample(lease, False, now)
        if end:
            self._end(lease, "failure", now)
        return lease, counted

    def revoke(self, session_id: str, now: float) -> Lease:
        """By an operator."""
        self.advance(now)
        lease = self.find(session_id)
        self._end(lease, "revoked", now)
        return lease

    def worker_gone(self, worker: str, now: float) -> None:
        """Its sessions wait for it, for the grace."""
        for lease in self.leases.values():
            if lease.worker == worker and lease.active and worker:
                grace = self.setting(lease.tenant, "lease", "grace", 10.0)
                lease.held, lease.grace = False, True
                lease.deadline = min(lease.deadline, now + grace)

    def live(self, tenant: str, now: float) -> int:
        """A tenant's live sessions."""
        self.advance(now)
        return sum(lease.tenant == tenant for lease in self.leases.values())

    def find(self, session_id: str) -> Lease:
        """A live session."""
        if session_id in self.leases:
            return self.leases[session_id]
        if session_id in self.ended:
            raise self._ended(session_id)
        raise Refused("SESSION_UNKNOWN", "no session of this id", sessionId=session_id)

    def advance(self, now: float) -> None:
        """Lets time pass."""
        for tenant, breaker in self.breakers.items():
            if breaker.state == "open" and breaker.until <= now:
                breaker.enter("half_open")
            if not self._enabled(tenant) and breaker.state != "closed":
                breaker.enter("closed")
        for lease in list(self.leases.values()):
            if lease.held and lease.deadline <= now:
                lease.deadline = now + lease.ttl
            if lease.healthy_at is not None and lease.healthy_at <= min(now, lease.deadline):
                lease.healthy_at = None
                if lease.active and not lease.failed:
                    self._sample(lease, True, now)
            if lease.deadline <= now:
                self._end(lease, "lost", now)

    def open_breaker(self, tenant: str, now: float) -> None:
        """Opens it, by hand or by its samples."""
        breaker = self.breakers.setdefault(tenant, Breaker())
        cooldown = self.setting(tenant, "breaker", "cooldown", 30.0) * 2**breaker.openings
        breaker.until = now + min(cooldown, self.setting(tenant, "breaker", "cooldown_max", 300.0))
        breaker.openings += 1
        breaker.enter("open")

    # -- inside

    def _admit(self, tenant: str, agent: str, about: dict[str, str], now: float) -> Breaker:
        if self.draining:
            raise Refused("DRAINING", "the sidecar is draining", **about)
        if tenant in self.suspended:
            note = self.suspended[tenant] or "no reason given"
            raise Refused("TENANT_SUSPENDED", f"tenant {tenant} is suspended: {note}", **about)
        breaker = self.breakers.setdefault(tenant, Breaker())
        probes = self.setting(tenant, "breaker", "probes", 3)
        wait = None
        if breaker.state == "open":
            wait = breaker.until - now
        elif breaker.state == "half_open" and breaker.live >= probes:
            wait = self.setting(tenant, "breaker", "probe_healthy_after", 10.0)
        if wait is not None:
            text = f"the circuit breaker of tenant {tenant} does not admit sessions now"
            raise Refused("CIRCUIT_OPEN", text, retry_after=wait, **about)
        everyone = list(self.leases.values())
        agents = self.config.get("agents", {})
        for reason, cap, live in (
            ("TENANT_AT_CAP", self.entry(tenant, "cap"), [x for x in everyone if x.tenant == tenant]),
            ("AGENT_AT_CAP", agents.get(agent, {}).get("cap"),
             [x for x in everyone if x.agent == agent]),
            ("MACHINE_AT_CAP", self.config.get("limits", {}).get("max_sessions", 10_000), everyone),
        ):
            if cap is not None and len(live) >= cap:
                text = f"at its cap: {len(live)} of {cap} sessions are live"
                raise Refused(reason, text, limit=cap, current=len(live), **about)
        return breaker

    def _ttl(self, tenant: str, request: Any) -> float:
        if not request.HasField("ttl"):
            return self.setting(tenant, "lease", "ttl", 60.0)
        wish: float = request.ttl.ToNanoseconds() / 1e9
        least = self.setting(tenant, "lease", "ttl_min", 5.0)
        most = self.setting(tenant, "lease", "ttl_max", 86400.0)
        if not least <= wish <= most:
            raise Refused("INVALID_FIELD", f"must be {least:g}s to {most:g}s", field="ttl")
        return wish

    def _watch_probe(self, lease: Lease, now: float) -> None:
        if lease.probe and lease.active:
            lease.healthy_at = now + self.setting(
                lease.tenant, "breaker", "probe_healthy_after", 10.0
            )

    def _ended(self, session_id: str) -> Refused:
        outcome = self.ended[session_id]
        text = f"the session has ended as {outcome}"
        return Refused("SESSION_ENDED", text, sessionId=session_id, outcome=outcome)

    def _end(self, lease: Lease, outcome: str, now: float) -> str:
        del self.leases[lease.session_id]
        self.ended[lease.session_id] = outcome
        breaker = self.breakers.setdefault(lease.tenant, Breaker())
        if outcome in ("success", "failure"):
            self._sample(lease, outcome == "success", now)
        if lease.period == breaker.period and breaker.state == "half_open":
            breaker.live -= 1
        return outcome

    def _enabled(self, tenant: str) -> bool:
        own = self.config.get("tenants", {}).get(tenant, {}).get("breaker", {})
        shared = self.config.get("defaults", {}).get("breaker", {})
        return bool(own.get("enabled", shared.get("enabled", True)))

    def _sample(self, lease: Lease, good: bool, now: float) -> bool:
        breaker = self.breakers.setdefault(lease.tenant, Breaker())
        if lease.sampled or lease.period != breaker.period or not self._enabled(lease.tenant):
            return False
        lease.sampled = True
        tenant = lease.tenant
        if breaker.state == "half_open":
            if not good:
                self.open_breaker(tenant, now)
                return True
            breaker.healthy += 1
            if breaker.healthy >= self.setting(tenant, "breaker", "probes", 3):
                breaker.openings = 0
                breaker.enter("closed")
            return True
        window = self.setting(tenant, "breaker", "window", 60.0)
        breaker.samples.append((now, good))
        breaker.samples[:] = [s for s in breaker.samples if s[0] > now - window]
        bad = sum(not ok for _, ok in breaker.samples)
        enough = len(breaker.samples) >= self.setting(tenant, "breaker", "min_samples", 5)
        ratio = self.setting(tenant, "breaker", "failure_ratio", 0.5)
        if enough and bad / len(breaker.samples) > ratio:
            self.open_breaker(tenant, now)
        return True
