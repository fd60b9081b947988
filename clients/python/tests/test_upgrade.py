"""A new sidecar in the place of the old one, under load: nobody is refused."""

from __future__ import annotations

import asyncio
import os
import subprocess

import support
import tenantd
from support import soon
from tenantd.testing import Sidecar

CONFIG = support.CONFIG.replace('grace = "1s"', 'grace = "30s"')


def take_over(server: Sidecar) -> None:
    """Starts another one in its place; the one before ends by itself."""
    before = server.process
    arguments = [argument for argument in before.args if argument != "--take-over"]
    with server.log.open("ab") as output:
        server._process = subprocess.Popen(
            [*arguments, "--take-over"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "XDG_STATE_HOME": str(server.folder), **server._environment},
        )
    assert before.wait(60) == 0


async def test_upgrades_under_load_refuse_nobody_and_lose_no_session():
    with support.start(CONFIG) as server:
        async with tenantd.connect(server.address) as td:
            done, stop = 0, False

            async def come_and_go(name: int) -> None:
                nonlocal done
                while not stop:
                    async with td.session(tenant="burst"):
                        done += 1
                        await asyncio.sleep(0)

            async with td.session("long", tenant="canary") as long:
                tasks = [asyncio.create_task(come_and_go(name)) for name in range(6)]
                for _ in range(4):
                    before = done
                    await soon(
                        "sessions go on",
                        lambda before=before: done > before + 10 or any(t.done() for t in tasks),
                        30.0,
                    )
                    await asyncio.to_thread(take_over, server)
                stop = True
                # Raises what any of them was refused with.
                await asyncio.gather(*tasks)
                assert long.revoked is None
                # Its slot was kept: the tenant's only one.
                assert server.live("canary") == 1
            await soon("all ended", lambda: server.live("burst") == server.live("canary") == 0)
