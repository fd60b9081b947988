"""OpenTelemetry tags, where OpenTelemetry is installed; nothing elsewhere."""

from __future__ import annotations

import importlib
from typing import Any

from tenantd.context import Binding

def _installed(module: str) -> Any:
    try:
        return importlib.import_module(f"opentelemetry.{module}")
    except ImportError:
        return None


otel, baggage, trace = _installed("context"), _installed("baggage"), _installed("trace")


def attach(binding: Binding) -> Any:
    """Tags the active span, and the baggage of all that is called from here.

    Gives a token for `detach`. Names are those of the sidecar's own telemetry.
    """
    if otel is None:
        return None
    tags = {"tenant": binding.tenant, "session_id": binding.session_id}
    if binding.agent_name:
        tags["agent_name"] = binding.agent_name
    trace.get_current_span().set_attributes(tags)
    here = otel.get_current()
    for name, value in tags.items():
        here = baggage.set_baggage(name, value, here)
    return otel.attach(here)


def detach(token: Any) -> None:
    """Ends an `attach`."""
    if token is not None:
        otel.detach(token)
