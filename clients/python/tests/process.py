"""A second agent process for the tests. Reads TENANTD_ADDRESS.

process.py burst           as clients/node/tests/burst.mjs: TENANT, COUNT, START_AT, PREFIX
process.py acquire ID JOB  acquires once and prints the lease
process.py hold TENANT N   holds N sessions by a KeepAlive stream until killed
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter

import tenantd


async def burst(address: str, tenant: str, count: int, start_at: float, prefix: str) -> dict:
    """Acquires `count` sessions at the same instant, `start_at` in Unix seconds."""
    granted, reasons = [], Counter()

    async with tenantd.AsyncClient(address, deadline=10) as client:
        await client.channel.channel_ready()

        async def one(i: int) -> None:
            await asyncio.sleep(start_at - time.time())
            try:
                grant = await client.acquire(f"{prefix}-{i}", tenant=tenant, activate=True)
                granted.append(grant.session_id)
            except tenantd.TenantdError as error:
                reasons[error.reason or type(error).__name__] += 1

        await asyncio.gather(*(one(i) for i in range(count)))
    return {
        "granted": len(granted),
        "refused": reasons.total(),
        "reasons": reasons,
        "sessions": granted,
    }


async def acquire(session_id: str, job_metadata: str) -> dict:
    async with tenantd.AsyncClient() as client:
        grant = await client.acquire(session_id, job_metadata=job_metadata, activate=True)
        return {
            "tenant": grant.tenant,
            "acquired": grant.session.acquire_time.ToJsonString(),
            "version": grant.config.version,
            "created": grant.created,
        }


async def hold(tenant: str, count: int) -> None:
    worker = tenantd.worker_id()
    async with tenantd.AsyncClient(worker=worker) as client:
        for i in range(count):
            await client.session(f"{worker}-{i}", tenant=tenant).open()
        print(worker, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["burst"]:
            env = os.environ
            start_at = int(env["START_AT"]) / 1000
            print(
                json.dumps(
                    asyncio.run(
                        burst(
                            tenantd.default_address(),
                            env["TENANT"],
                            int(env["COUNT"]),
                            start_at,
                            env["PREFIX"],
                        )
                    )
                )
            )
        case ["acquire", session_id, job]:
            print(json.dumps(asyncio.run(acquire(session_id, job))))
        case ["hold", tenant, count]:
            asyncio.run(hold(tenant, int(count)))
        case _:
            sys.exit(__doc__)
