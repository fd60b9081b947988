"""Unmodified LiveKit workers, in processes of their own, against a stand-in dispatcher."""

import asyncio
import json
import sqlite3
import sys

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")
pytest.importorskip("livekit.plugins.openai", reason="livekit-plugins-openai is not installed")

import support

sys.path.insert(0, str(support.REPO / "examples/python"))

from stand_in.run import Stage

pytestmark = pytest.mark.server
CONFIG = {
    "lease": {"pending": "10s", "grace": "1s"},
    "tenants": {"acme": {"cap": 2}, "globex": {}, "broken": {}},
}
SCRIPT = "livekit_agent.py"
LOOPS = ["asyncio"]  # The worker has a loop of its own.


def stage(script=SCRIPT, config=CONFIG, **kwargs):
    return Stage(script, config, binary=support.BINARY, **kwargs)


def metadata(tenant, **more):
    return json.dumps({"tenant": tenant, **more})


async def test_a_job_takes_its_slot_before_it_is_accepted_and_gives_it_back_at_its_end():
    async with stage() as s:
        job = (await s.livekit.dispatch(metadata("acme"))).job_id
        await s.until(lambda: s.provider.keys)
        assert s.provider.keys == ["sk-acme"] and s.provider.models == ["model-of-acme"]
        assert s.sidecar.live("acme") == 1
        await s.livekit.terminate(job)
        await s.until(lambda: job in s.ended)
        assert s.ended[job] == "cancelled" and s.sidecar.live("acme") == 0
    assert '"tenant": "acme"' in s.said and "sk-acme" not in s.said


async def test_refusals_are_rejected_for_good_only_where_they_are_final():
    async with stage() as s:
        for bad in (metadata(5), metadata("a b"), metadata("x" * 129), metadata([1])):
            answer = await s.livekit.dispatch(bad)
            assert (answer.available, answer.terminate) == (False, True)
        jobs = [(await s.livekit.dispatch(metadata("acme"))).job_id for _ in range(2)]
        over = await s.livekit.dispatch(metadata("acme"))
        assert (over.available, over.terminate) == (False, False)
        assert (await s.livekit.dispatch(metadata("globex"))).available
        await s.until(lambda: s.provider.keys.count("sk-acme") == 2)
        for job in jobs:
            await s.livekit.terminate(job)
        await s.until(lambda: s.sidecar.live("acme") == 0)
        s.sidecar.process.kill()
        lost = await s.livekit.dispatch(metadata("acme"))
        assert (lost.available, lost.terminate) == (False, False)
        s.sidecar.process.wait()
        await asyncio.to_thread(s.sidecar.start)


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


async def test_an_entrypoint_that_raises_is_a_failure_and_one_that_ends_a_success():
    async with stage(env={"HANG_UP": "1"}) as s:
        crashed = (await s.livekit.dispatch(metadata("globex", crash=True))).job_id
        well = (await s.livekit.dispatch(metadata("globex"))).job_id
        await s.until(lambda: {crashed, well} <= s.ended.keys())
        assert (s.ended[crashed], s.ended[well]) == ("failure", "success")


async def test_an_assignment_that_never_comes_gives_the_slot_back():
    async with stage() as s:
        s.livekit.assign = False
        job = (await s.livekit.dispatch(metadata("acme"))).job_id
        assert s.sidecar.live("acme") == 1
        # LiveKit waits 7.5 s for it; the lease alone would hold 10 s.
        await s.until(lambda: job in s.ended, within=9.5)
        assert s.ended[job] == "cancelled"


async def test_a_revoked_job_is_shut_down():
    async with stage() as s:
        job = (await s.livekit.dispatch(metadata("acme"))).job_id
        await s.until(lambda: s.provider.keys)
        s.sidecar.revoke(job, "fraud")
        await s.until(lambda: 2 in s.livekit.updates.get(job, []) or 3 in s.livekit.updates.get(job, []))
        await s.until(lambda: job in s.ended)
        assert s.ended[job] == "revoked"


async def test_a_worker_that_is_killed_loses_no_slot_for_longer_than_the_grace():
    async with stage() as s:
        job = (await s.livekit.dispatch(metadata("acme"))).job_id
        await s.until(lambda: s.provider.keys)
        s.worker.kill()
        await s.until(lambda: job in s.ended)
        assert s.ended[job] in ("lost", "cancelled") and s.sidecar.live("acme") == 0


async def test_voicegateways_rows_carry_the_tenant(tmp_path):
    pytest.importorskip("voicegateway", reason="voicegateway is not installed")
    db = tmp_path / "costs.db"
    env = {"VOICEGW_DB": str(db), "HANG_UP": "1"}
    async with stage("voicegateway_costs.py", env=env) as s:
        for tenant in ("acme", "globex"):
            job = (await s.livekit.dispatch(metadata(tenant), agent_name="desk")).job_id
            await s.until(lambda: job in s.ended)
            # The job ends after its observers.
            await s.until(lambda: s.livekit.updates[job][-1] in (2, 3))
    with sqlite3.connect(db) as rows:
        found = rows.execute("select tenant_id, agent_id, input_units from requests").fetchall()
        assert sorted(found) == [("acme", "desk", 10.0), ("globex", "desk", 10.0)]
