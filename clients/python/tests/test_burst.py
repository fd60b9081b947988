"""The cap holds whatever the concurrency, over processes and languages."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

import process
from support import REPO

pytestmark = pytest.mark.server

NODE_HALF = REPO / "clients/node/tests/burst.mjs"
# Time for the other process to start and connect, on a busy machine.
LEAD = 1.2


def other_half():
    if NODE_HALF.exists() and (node := shutil.which("node")):
        return [node, str(NODE_HALF)]
    return [sys.executable, process.__file__, "burst"]


async def test_200_acquires_at_once_in_two_processes_grant_exactly_the_cap(server, aclient):
    for turn in range(5):  # On each kind of event loop.
        start_at = time.time() + LEAD
        env = {
            **os.environ,
            "TENANTD_ADDRESS": server.address,
            "TENANT": "burst",
            "COUNT": "100",
            "START_AT": str(round(start_at * 1000)),
            "PREFIX": f"other-{turn}",
        }
        # Not by uvloop: its children run gRPC's fork handlers, which may crash them.
        child = subprocess.Popen(other_half(), env=env, stdout=subprocess.PIPE)
        mine, (output, _) = await asyncio.gather(
            process.burst(server.address, "burst", 100, start_at, f"mine-{turn}"),
            asyncio.to_thread(child.communicate),
        )
        assert child.returncode == 0
        other = json.loads(output)
        assert mine["granted"] + other["granted"] == 10, (turn, mine, other)
        assert mine["refused"] + other["refused"] == 190
        assert {*mine["reasons"], *other["reasons"]} == {"TENANT_AT_CAP"}
        assert server.live("burst") == 10
        for session_id in mine["sessions"] + other["sessions"]:
            await aclient.release(session_id)
        assert server.live("burst") == 0
