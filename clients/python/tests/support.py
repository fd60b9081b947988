"""What the tests share."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tenantd.testing import Sidecar

REPO = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("TENANTD_BIN") or REPO / "target/debug/tenantd")
CANARY = "sk-canary-5f1d0c7be2"

CONFIG = """
[lease]
pending = "15s"
grace = "1s"
ttl = "60s"
[defaults]
cap = 10
[defaults.providers.llm]
provider = "openai"
model = "gpt-4o-mini"
credential = "env:DEMO_KEY"
params = { temperature = 0.4 }
[defaults.breaker]
min_samples = 5
failure_ratio = 0.5
window = "60s"
cooldown = "30s"
probes = 3
probe_healthy_after = "10s"
[agents.receptionist]
cap = 50
[tenants.acme]
cap = 2
labels = { plan = "gold" }
[tenants.acme.providers.llm]
provider = "openai"
model = "gpt-4o"
credential = "sk-acme-0123456789"
[tenants.burst]
cap = 10
[tenants.canary]
cap = 1
[tenants.canary.providers.llm]
provider = "openai"
model = "gpt-4o"
credential = "sk-canary-5f1d0c7be2"
"""

T = TypeVar("T")


def contract(name: str) -> Any:
    """A file of the cases that all languages share."""
    return json.loads((REPO / "tests/contract" / name).read_text())


def until(what: str, probe: Callable[[], T | None], deadline: float = 10.0) -> T:
    """Polls `probe` until it gives a true value; fails after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        if result := probe():
            return result
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        time.sleep(0.02)


async def soon(what: str, probe: Callable[[], Any], deadline: float = 10.0) -> Any:
    """As `until`, while the event loop goes on."""
    end = time.monotonic() + deadline
    while not (result := probe()):
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        await asyncio.sleep(0.02)
    return result


def start(config: str = CONFIG) -> Sidecar:
    """Starts a sidecar of its own."""
    environment = {"DEMO_KEY": "sk-demo-0123456789"}
    return Sidecar(config, binary=BINARY, environment=environment, log="trace").start()
