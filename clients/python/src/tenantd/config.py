"""What a session runs on. Values that may be secret stay out of `repr`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import MessageToDict

from tenantd.v1 import provider_pb2, session_pb2, session_service_pb2


@dataclass(frozen=True)
class Provider:
    """One slot's provider."""

    provider: str
    """Provider name, for example `openai`."""
    model: str = ""
    """Model name; empty when the provider's own default is meant."""
    base_url: str = ""
    """Endpoint; empty when the provider's own default is meant."""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secrets by name, in clear. Keep them out of logs."""
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Free parameters, for example `temperature`. Whole numbers are ints."""

    @property
    def api_key(self) -> str:
        """The credential named `api_key`; empty when there is none."""
        return self.credentials.get("api_key", "")

    @property
    def kwargs(self) -> dict[str, Any]:
        """Arguments for a provider's class: `model`, `base_url`, the credentials by
        their names, and the parameters; what is empty is left out. Holds secrets."""
        named = {"model": self.model, "base_url": self.base_url}
        given = {name: value for name, value in named.items() if value}
        return {**self.params, **given, **self.credentials}


class Providers(Mapping[str, Provider]):
    """Providers by slot: `providers.llm` or `providers["llm"]`."""

    def __init__(self, slots: Mapping[str, Provider]) -> None:
        self._slots = dict(slots)
        self._shared: set[str] = set()

    def __repr__(self) -> str:
        return f"Providers({self._slots!r})"

    def __getitem__(self, slot: str) -> Provider:
        provider = self._slots[slot]
        if slot in self._shared:
            self._shared.discard(slot)
            provider = self._slots[slot] = Provider(
                provider.provider,
                provider.model,
                provider.base_url,
                dict(provider.credentials),
                fresh(dict(provider.params)),
            )
        return provider

    def _copied(self) -> Providers:
        """Those of a config that nobody else is given, copied slot by slot, when one is
        looked at."""
        made = Providers(self._slots)
        made._shared = set(made._slots)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __getattr__(self, slot: str) -> Provider:
        # Not for `_slots` itself, which copy and pickle ask for before it is there.
        if not slot.startswith("_") and slot in self._slots:
            return self[slot]
        have = ", ".join(sorted(self._slots)) if not slot.startswith("_") else ""
        raise AttributeError(f"the tenant has no provider {slot!r}; it has: {have or 'none'}")


@dataclass(frozen=True)
class SessionConfig:
    """Providers, credentials and labels of one tenant."""

    version: str
    """Opaque; compare for equality only."""
    providers: Providers
    """By slot name: `stt`, `llm`, `tts`, ... A slot switched off is absent."""
    labels: Mapping[str, str]
    """Free-form labels of the tenant."""
    tenant_known: bool
    """False when the tenant has no entry and runs on the defaults."""
    stale: bool = False
    """True when a source of the tenant's entry fails, and this is what it said last."""


@dataclass(frozen=True)
class Grant:
    """A slot for one session."""

    session: session_pb2.Session
    """The session and its lease."""
    config: SessionConfig
    """What it runs on."""
    created: bool
    """False when the session was there already."""

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.session.session_id

    @property
    def tenant(self) -> str:
        """The tenant that the session is bound to."""
        return self.session.tenant


def to_config(message: provider_pb2.SessionConfig) -> SessionConfig:
    """The config in a reply."""
    return SessionConfig(
        version=message.version,
        providers=Providers({
            slot: Provider(
                provider=p.provider,
                model=p.model,
                base_url=p.base_url,
                credentials={name: c.value for name, c in p.credentials.items()},
                params=_whole(MessageToDict(p.params)),
            )
            for slot, p in message.providers.items()
        }),
        labels=dict(message.labels),
        tenant_known=message.tenant_known,
        stale=message.stale,
    )


def to_grant(reply: session_service_pb2.AcquireSessionResponse) -> Grant:
    """The grant in a reply."""
    return Grant(reply.session, to_config(reply.config), reply.created)


def fresh(value: Any) -> Any:
    """As `copy.deepcopy`, of what JSON can hold: in a tenth of the time."""
    if isinstance(value, dict):
        return {key: fresh(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [fresh(inner) for inner in value]
    return value


def _whole(value: Any) -> Any:
    """JSON has one kind of number, and `max_tokens=100.0` is refused by many."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return value
