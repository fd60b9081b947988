"""What a session's admission costs an agent process, beside OpenRTC's in-process path:
`TENANTD_BIN=target/release/tenantd python bench/openrtc_path.py [ROUNDS]`.

OpenRTC decides within the process: breaker and cap filters on the job request, the
tenant's providers from a mapping, contextvars, metrics, the outcome. It counts for one
process, best effort, and forgets with it. tenantd does the same for every process of a
machine, strictly, and pays a round trip. Rounds in turn, in one process; CPU of this
process, and of the sidecar beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from openrtc.core.circuit_breaker import TenantCircuitBreaker
from openrtc.core.tenant_config import TenantConfigResolver, resolve_tenant_providers
from openrtc.observability import session_context as openrtc_context
from openrtc.observability.metrics import RuntimeMetricsStore
from openrtc.routing import request_filter

import tenantd
from tenantd.testing import Sidecar

SESSIONS, AT_ONCE, TENANTS = 2000, 32, 10
KEY = "sk-0123456789abcdef0123456789abcdef0123456789abcdef"
REPO = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("TENANTD_BIN") or REPO / "target/release/tenantd")


class Request:
    """What OpenRTC's filters look at."""

    def __init__(self, metadata: str) -> None:
        self.job = SimpleNamespace(metadata=metadata)
        self.room = SimpleNamespace(metadata="", name="room")

    async def accept(self) -> None: ...

    async def reject(self) -> None:
        raise AssertionError("no cap is reached here")


class OpenRtc:
    """Its own parts, put together as its pool does."""

    def __init__(self) -> None:
        tenants = [f"tenant-{i}" for i in range(TENANTS)]
        slots = {slot: f"{slot}/model" for slot in ("stt", "llm", "tts")}
        self.resolver = TenantConfigResolver({tenant: slots for tenant in tenants})
        self.metrics, self.breaker = RuntimeMetricsStore(), TenantCircuitBreaker()
        caps = request_filter._build_per_tenant_backpressure_filter(
            caps={tenant: 1000 for tenant in tenants},
            active_counts=self.metrics.active_by_tenant,
            base_filter=None,
        )
        self.admit = request_filter._build_tenant_circuit_filter(
            should_reject=self.breaker.should_reject, base_filter=caps
        )
        self.agent = SimpleNamespace(stt=None, llm=None, tts=None)

    async def session(self, i: int) -> None:
        tenant = f"tenant-{i % TENANTS}"
        await self.admit(Request(json.dumps({"tenant": tenant})))
        assert all(resolve_tenant_providers(self.agent, self.resolver.resolve(tenant)))
        tokens = [
            (openrtc_context.reset_session_id, openrtc_context.set_session_id(f"session-{i}")),
            (openrtc_context.reset_agent_name, openrtc_context.set_agent_name("support")),
            (openrtc_context.reset_tenant_id, openrtc_context.set_tenant_id(tenant)),
        ]
        self.metrics.record_session_started("support", tenant)
        await asyncio.sleep(0)
        self.metrics.record_session_finished("support", tenant)
        self.breaker.record_outcome(tenant, success=True)
        for reset, token in reversed(tokens):
            reset(token)
        if i % 100 == 0:
            self.metrics.drain_stream_events()  # As its sink does now and then.


class Tenantd:
    def __init__(self, client: tenantd.AsyncClient) -> None:
        self.client = client

    async def session(self, i: int) -> None:
        metadata = json.dumps({"tenant": f"tenant-{i % TENANTS}"})
        async with self.client.session(job_metadata=metadata, agent_name="support") as session:
            assert session.providers.llm.model
            await asyncio.sleep(0)


async def turn(path: OpenRtc | Tenantd) -> float:
    """CPU of this process, in microseconds a session."""
    numbers = iter(range(SESSIONS))

    async def worker() -> None:
        for i in numbers:
            await path.session(i)

    before = time.process_time()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return (time.process_time() - before) / SESSIONS * 1e6


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(address: str, pid: int, rounds: int) -> None:
    async with tenantd.connect(address) as client:
        paths = {"OpenRTC in process": OpenRtc(), "tenantd": Tenantd(client)}
        for path in paths.values():
            await turn(path)  # Warm.
        found: dict[str, list[float]] = {name: [] for name in paths}
        before = cpu_of(pid)
        for i in range(rounds):
            for name in sorted(paths, reverse=bool(i % 2)):
                found[name].append(await turn(paths[name]))
        sidecar = (cpu_of(pid) - before) / (SESSIONS * rounds) * 1e6
    for name, times in found.items():
        print(f"{name}: {statistics.median(times):.0f} us of CPU a session in the agent process")
    print(f"and {sidecar:.0f} us in the sidecar (median of {rounds} rounds of {SESSIONS} sessions)")


def main(rounds: int) -> None:
    provider = {"provider": "p", "model": "m", "credential": "env:BENCH_KEY"}
    tenant = {"providers": dict.fromkeys(("stt", "llm", "tts"), provider)}
    config = {"tenants": {f"tenant-{i}": tenant for i in range(TENANTS)}}
    with Sidecar(config, binary=BINARY, environment={"BENCH_KEY": KEY}) as sidecar:
        asyncio.run(measure(sidecar.address, sidecar.process.pid, rounds))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5)
