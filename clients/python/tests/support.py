"""What the tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from tenantd import Client
from tenantd.v1.watch_service_pb2 import (
    GetSnapshotRequest,
    GetSnapshotResponse,
    ListSessionsRequest,
)
from tenantd.v1.watch_service_pb2_grpc import WatchServiceStub

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


@dataclass
class Server:
    """A running sidecar."""

    process: subprocess.Popen[bytes]
    path: Path
    log: Path

    @property
    def address(self) -> str:
        return f"unix:{self.path}"

    def logs(self) -> str:
        return self.log.read_text(errors="replace")

    def snapshot(self) -> GetSnapshotResponse:
        with Client(self.address) as client:
            return WatchServiceStub(client.channel).GetSnapshot(GetSnapshotRequest(), timeout=2)

    def live(self, tenant: str) -> int:
        return self.snapshot().sessions_by_tenant.get(tenant, 0)


def start(directory: Path, config: str = CONFIG) -> Server:
    """Starts a sidecar in `directory` and waits until its health says serving."""
    directory.chmod(0o700)
    file, path, log = directory / "tenantd.toml", directory / "t.sock", directory / "log"
    file.touch(mode=0o600)
    file.write_text(config)
    env = {**os.environ, "DEMO_KEY": "sk-demo-0123456789", "TENANTD_LOG": "trace"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [BINARY, "serve", "--config", file, "--listen", f"unix:{path}"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
        )
    server = Server(process, path, log)
    try:
        until("the sidecar serves", lambda: _serving(server))
    except BaseException:
        process.kill()
        process.wait()
        print(server.logs()[-4000:])
        raise
    return server


def stop(server: Server) -> None:
    """Ends a sidecar as an operator would, and checks that it ended well."""
    if server.process.poll() is None:
        _release_all(server)
    server.process.send_signal(signal.SIGTERM)
    try:
        code = server.process.wait(10)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
        raise AssertionError(f"no end after SIGTERM\n{server.logs()[-4000:]}") from None
    assert code == 0, server.logs()[-4000:]


def _release_all(server: Server) -> None:
    # A failed test leaves sessions behind, and the drain would wait for them.
    with Client(server.address) as client:
        live = WatchServiceStub(client.channel).ListSessions(ListSessionsRequest(), timeout=2)
        for session in live.sessions:
            client.release(session.session_id, "cancelled")


def _serving(server: Server) -> bool:
    code = server.process.poll()
    assert code is None, f"the sidecar ended with {code}\n{server.logs()[-4000:]}"
    if not server.path.exists():
        return False
    with Client(server.address) as client:
        check = client.channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            # HealthCheckResponse{status: SERVING} is field 1, varint 1.
            return check(b"", timeout=1) == b"\x08\x01"
        except grpc.RpcError:
            return False
