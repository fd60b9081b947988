"""CPU of this process for a call by the client, against the bare generated stub:
`python bench/calls.py [ROUNDS]`. The sidecar is `BENCH_TENANTD`, else `target/release/tenantd`.

Rounds in turn in one process, over one sidecar: acquire and release of a new session by the
stub, by the client with calls of their own, and by the client as it is, over one stream. As
many callers at a time as are named. Prints CPU by call, and the ratios to the stub's, which are
to be at most 1.1 for calls of their own and 0.75 over the stream.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio

from tenantd import AsyncClient
from tenantd.v1 import session_pb2
from tenantd.v1 import session_service_pb2 as wire
from tenantd.v1.session_service_pb2_grpc import SessionServiceStub

ROOT = Path(__file__).resolve().parents[3]
PAIRS = int(os.environ.get("BENCH_PAIRS", "400"))
IDS = itertools.count()
Pair = Callable[[], Awaitable[None]]


async def measured(pair: Pair, callers: int) -> float:
    """Microseconds of CPU by call."""

    async def caller() -> None:
        for _ in range(PAIRS // callers):
            await pair()

    before = time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return (time.process_time() - before) / (PAIRS // callers * callers * 2) * 1e6


async def compare(address: str, rounds: int) -> list[dict[str, object]]:
    channel = grpc.aio.insecure_channel(address, [("grpc.default_authority", "localhost")])
    stub = SessionServiceStub(channel)
    alone, streamed = AsyncClient(address, worker="b-1"), AsyncClient(address, worker="b-2")

    async def bare() -> None:
        session = f"bare-{next(IDS)}"
        await stub.AcquireSession(
            wire.AcquireSessionRequest(
                session_id=session, tenant="acme", agent_name="support", worker="b-0", activate=True
            ),
            timeout=2.0,
        )
        await stub.ReleaseSession(
            wire.ReleaseSessionRequest(session_id=session, outcome=session_pb2.OUTCOME_SUCCESS),
            timeout=2.0,
        )

    def helper(client: AsyncClient) -> Pair:
        async def pair() -> None:
            grant = await client.acquire(
                f"helper-{next(IDS)}", tenant="acme", agent_name="support", activate=True
            )
            await client.release(grant.session_id)

        return pair

    pairs = {"stub": bare, "client, calls": helper(alone), "client, stream": helper(streamed)}
    await helper(alone)()
    assert alone._work is not None
    await alone._work.close()  # Each call is one of its own from here on.
    rows: list[dict[str, object]] = []
    for callers in (1, 16):
        taken: dict[str, list[float]] = {name: [] for name in pairs}
        for turn in range(rounds + 1):
            order = list(pairs)
            for name in order[turn % 3 :] + order[: turn % 3]:
                cpu = await measured(pairs[name], callers)
                if turn:  # The first is for warming.
                    taken[name].append(cpu)
        for name, of in taken.items():
            ratios = [a / b for a, b in zip(of, taken["stub"])]
            rows.append({
                "language": "python",
                "callers": callers,
                "how": name,
                "cpu_us": statistics.median(of),
                "to_stub": statistics.median(ratios),
                "rounds": rounds,
            })
    await alone.close()
    await streamed.close()
    await channel.close()
    return rows


def main(rounds: int) -> int:
    binary = os.environ.get("BENCH_TENANTD", str(ROOT / "target/release/tenantd"))
    with tempfile.TemporaryDirectory() as folder:
        socket, config = f"{folder}/s.sock", f"{folder}/bench.toml"
        Path(config).write_text((ROOT / "benches/load/bench.toml").read_text())
        address = f"unix:{socket}"
        env = {**os.environ, "BENCH_KEY": "sk-" + 48 * "0", "XDG_STATE_HOME": folder}
        command = [binary, "serve", "--config", config, "--listen", address]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, env=env, **quiet) as sidecar:  # type: ignore[call-overload]
            try:
                until = time.monotonic() + 30
                while not os.path.exists(socket):
                    if time.monotonic() > until or sidecar.poll() is not None:
                        raise RuntimeError(f"{binary} does not serve")
                    time.sleep(0.02)
                rows = asyncio.run(compare(address, rounds))
            finally:
                sidecar.terminate()
    for row in rows:
        print(
            f"python {row['callers']:>2} at a time  {row['how']:<16}"
            f" {row['cpu_us']:>6.0f} us of CPU a call, {row['to_stub']:.2f} of the stub's"
        )
    if path := os.environ.get("BENCH_CLIENTS_JSON"):
        Path(path).write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 9))
