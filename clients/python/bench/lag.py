"""CPU that watching an event loop for blocks costs: `python bench/lag.py [ROUNDS]`.

Rounds with and without the monitor, in turn, in one process: 100 sessions whose tasks
wake 50 times a second, about what voice calls do. Prints the share of one CPU that the
monitor adds, which must stay under 1%.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

from tenantd import context
from tenantd.lag import THRESHOLD, LoopMonitor

SESSIONS, EVERY, SECONDS = 100, 0.02, 2.0


async def call(monitor: LoopMonitor | None, i: int, until: float) -> None:
    with context.bound(f"tenant-{i % 10}", f"session-{i}"):
        if monitor:
            monitor.enter()
        while time.monotonic() < until:
            await asyncio.sleep(EVERY)
        if monitor:
            monitor.leave()


async def turn(watched: bool) -> float:
    """Share of one CPU."""
    loop = asyncio.get_running_loop()
    monitor = LoopMonitor(loop, THRESHOLD, lambda *_: None) if watched else None
    until, before = time.monotonic() + SECONDS, time.process_time()
    await asyncio.gather(*(call(monitor, i, until) for i in range(SESSIONS)))
    return (time.process_time() - before) / SECONDS


def main(rounds: int) -> int:
    asyncio.run(turn(True))  # Warm.
    off, on = [], []
    for i in range(rounds):
        for watched in (False, True) if i % 2 else (True, False):
            (on if watched else off).append(asyncio.run(turn(watched)))
    added = [b - a for a, b in zip(off, on)]
    print(f"without {statistics.median(off):.2%} of a CPU, with {statistics.median(on):.2%}")
    print(f"added {statistics.median(added):+.2%} (median of {rounds} pairs)")
    return 0 if statistics.median(added) < 0.01 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 10))
