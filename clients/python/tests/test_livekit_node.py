"""Unmodified @livekit/agents workers in Node, against the stand-in dispatcher."""

import asyncio
import json
import shutil
import sys

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")

import support

sys.path.insert(0, str(support.REPO / "examples/python"))

from stand_in.run import Stage

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        not shutil.which("node") or not (support.REPO / "examples/node/node_modules").exists(),
        reason="scripts/node-env.sh has not run",
    ),
]
LOOPS = ["asyncio"]  # The worker has a loop of its own.
CONFIG = {
    # A job process takes a second and more to start, and they start one after the other.
    "lease": {"pending": "60s", "grace": "1s"},
    "tenants": {"acme": {"cap": 3}, "globex": {}, "broken": {}},
}
HASTY = {**CONFIG, "lease": {"pending": "3s", "grace": "1s"}}


def stage(config=CONFIG, **kwargs):
    return Stage("livekit_agent.mjs", config, binary=support.BINARY, **kwargs)


def metadata(tenant, **more):
    return json.dumps({"tenant": tenant, **more})


async def test_twelve_jobs_at_once_at_cap_three_give_exactly_three():
    async with stage() as s:
        answers = await asyncio.gather(*(s.livekit.dispatch(metadata("acme")) for _ in range(12)))
        accepted = [answer.job_id for answer in answers if answer.available]
        assert len(accepted) == 3
        assert (await s.livekit.dispatch(metadata("globex"))).available  # A sibling goes on.
        await s.until(lambda: s.provider.keys.count("sk-acme") == 3)
        assert s.sidecar.live("acme") == 3 and s.provider.keys.count("sk-globex") <= 1
        for job in accepted:
            await s.livekit.terminate(job)
        await s.until(lambda: set(accepted) <= s.ended.keys())
        assert {s.ended[job] for job in accepted} == {"cancelled"} and s.sidecar.live("acme") == 0
        assert "sk-acme" not in s.worker_log()


async def test_refusals_and_a_sidecar_that_is_away_reject_the_job():
    async with stage() as s:
        for bad in (metadata(5), metadata("a b"), metadata("x" * 129)):
            assert not (await s.livekit.dispatch(bad)).available
        assert "TENANT_MALFORMED" in s.worker_log()
        s.sidecar.process.kill()
        assert not (await s.livekit.dispatch(metadata("acme"))).available
        s.sidecar.process.wait()
        await asyncio.to_thread(s.sidecar.start)
        assert (await s.livekit.dispatch(metadata("acme"))).available


async def test_an_entry_that_throws_is_a_failure_and_one_that_ends_a_success():
    async with stage(env={"HANG_UP": "1"}) as s:
        crashed = (await s.livekit.dispatch(metadata("globex", crash=True))).job_id
        well = (await s.livekit.dispatch(metadata("globex"))).job_id
        await s.until(lambda: {crashed, well} <= s.ended.keys())
        assert (s.ended[crashed], s.ended[well]) == ("failure", "success")


async def test_a_provider_that_fails_in_mid_call_is_booked_as_failure_of_its_slot():
    async with stage() as s:
        s.provider.refused.add("sk-broken")
        job = (await s.livekit.dispatch(metadata("broken"))).job_id
        await s.until(lambda: job in s.failures)
        slot, kind = s.failures[job]
        assert slot == "llm" and kind.startswith("API")
        await s.livekit.terminate(job)
        await s.until(lambda: job in s.ended)
        assert s.ended[job] == "failure"
        assert "sk-broken" not in s.sidecar.logs()


async def test_an_assignment_that_never_comes_frees_the_slot():
    async with stage(HASTY) as s:
        s.livekit.assign = False
        job = (await s.livekit.dispatch(metadata("acme"))).job_id
        assert s.sidecar.live("acme") == 1
        await s.until(lambda: job in s.ended)
        assert s.sidecar.live("acme") == 0


async def test_a_revoked_job_is_shut_down_and_a_killed_worker_loses_no_slot():
    async with stage() as s:
        first, second = [(await s.livekit.dispatch(metadata("acme"))).job_id for _ in range(2)]
        await s.until(lambda: s.provider.keys.count("sk-acme") == 2)
        s.sidecar.revoke(first, "fraud")
        await s.until(lambda: "tenantd: session revoked" in s.worker_log() or first in s.ended)
        await s.until(lambda: first in s.ended)
        assert s.ended[first] == "revoked"
        s.worker.kill()
        await s.until(lambda: second in s.ended)
        assert s.sidecar.live("acme") == 0
