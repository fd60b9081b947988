"""Unmodified OpenRTC workers against a stand-in dispatcher: its public hooks alone."""

import asyncio
import json
import sys

import pytest

pytest.importorskip("openrtc", reason="openrtc is not installed")
pytest.importorskip("livekit.plugins.openai", reason="livekit-plugins-openai is not installed")

import support

sys.path.insert(0, str(support.REPO / "examples/python"))

from stand_in.run import Stage

pytestmark = pytest.mark.server
LOOPS = ["asyncio"]  # The worker has a loop of its own.
CONFIG = {
    "lease": {"pending": "10s", "grace": "1s"},
    "tenants": {"acme": {"cap": 10}, "globex": {}, "broken": {}},
}


def stage(**kwargs):
    # In `dev` the worker does not hold back by its own load: every job reaches the hook.
    return Stage(
        "openrtc_agents.py", CONFIG, binary=support.BINARY, arguments=("dev",), **kwargs
    )


def metadata(tenant, **more):
    return json.dumps({"tenant": tenant, **more})


async def test_a_burst_of_200_dispatches_at_cap_10_gives_exactly_10():
    async with stage() as s:
        jobs = [await s.livekit.offer(metadata("acme")) for _ in range(200)]
        answers = [await s.livekit.answer(job, within=60) for job in jobs]
        accepted = [a for a in answers if a.available]
        assert len(accepted) == 10 and s.sidecar.live("acme") == 10
        assert not any(a.terminate for a in answers if not a.available)
        assert (await s.livekit.dispatch(metadata("globex"))).available
        await s.until(lambda: s.provider.keys.count("sk-acme") == 10)
        for answer in accepted:
            await s.livekit.terminate(answer.job_id)
        await s.until(lambda: s.sidecar.live("acme") == 0)
        # A watcher is told of what came within a moment together.
        await s.until(lambda: {a.job_id for a in accepted} <= s.ended.keys())
        assert {s.ended[a.job_id] for a in accepted} == {"cancelled"}
        assert (await s.livekit.dispatch(metadata("acme"))).available


async def test_six_malformed_tenants_leave_the_worker_and_ten_healthy_calls_alive():
    async with stage() as s:
        healthy = [(await s.livekit.dispatch(metadata("globex"))).job_id for _ in range(10)]
        await s.until(lambda: s.provider.keys.count("sk-globex") == 10)
        for bad in (5, True, [], {}, "a b", "x" * 129):
            answer = await s.livekit.dispatch(metadata(bad))
            assert (answer.available, answer.terminate) == (False, True)
        for i in range(6):
            s.provider.refused.add("sk-broken")
            await s.livekit.dispatch(metadata("broken"))
        assert (await s.livekit.dispatch(metadata("acme"))).available
        assert s.worker.returncode is None and s.sidecar.live("globex") == 10
        assert not set(healthy) & s.ended.keys()


async def test_a_rotated_key_is_used_by_the_next_session_without_a_restart():
    async with stage() as s:
        await s.livekit.dispatch(metadata("acme"))
        await s.until(lambda: s.provider.keys == ["sk-acme"])
        new = s.configured({**s.keys, "acme": "sk-new"})
        await asyncio.to_thread(s.sidecar.reload, new)
        await s.livekit.dispatch(metadata("acme"))
        await s.until(lambda: s.provider.keys == ["sk-acme", "sk-new"])


async def test_openrtc_runs_on_the_tenant_that_the_sidecar_bound():
    """OpenRTC reads null as the tenant `None`, and empty as nothing."""
    async with stage() as s:
        s.livekit.jobs = {}
        for job, room in (("null", ""), ('"\\u0020acme\\t"', ""), ('""', '{"tenant": "globex"}')):
            text = '{"agent": "receptionist", "tenant": %s}' % job
            assert (await s.livekit.dispatch(text, room_metadata=room)).available
        await s.until(lambda: len(s.provider.keys) == 3)
        assert sorted(s.provider.keys) == ["sk-acme", "sk-shared", "sk-shared"]
    assert "None" not in [line.get("tenant") for line in lines(s.said)]
    assert "No tenant config" not in s.said


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


async def test_a_provider_that_dies_in_mid_call_is_a_failure_and_a_hang_up_a_success():
    async with stage(env={"CALL_SECONDS": "2"}) as s:
        s.provider.refused.add("sk-broken")
        bad = (await s.livekit.dispatch(metadata("broken"))).job_id
        good = (await s.livekit.dispatch(metadata("globex"))).job_id
        await s.until(lambda: {bad, good} <= s.ended.keys())
        assert (s.ended[bad], s.ended[good]) == ("failure", "success")
        assert s.failures[bad][0] == "llm"


async def test_a_call_that_openrtc_cannot_build_gives_its_slot_back_as_failure():
    async with stage(env={"BREAK_PROVIDERS": "1"}) as s:
        job = (await s.livekit.dispatch(metadata("acme"))).job_id
        await s.until(lambda: job in s.ended)
        assert s.ended[job] == "failure" and s.sidecar.live("acme") == 0


async def test_it_works_with_a_process_for_each_call():
    async with stage(env={"ISOLATION": "process", "CALL_SECONDS": "3"}) as s:
        job = (await s.livekit.dispatch(metadata("acme"))).job_id
        await s.until(lambda: s.provider.keys == ["sk-acme"])
        # OpenRTC calls the session ended when its entrypoint returns; the call goes on.
        assert s.sidecar.live("acme") == 1 and job not in s.ended
        await s.until(lambda: job in s.ended)
        assert s.ended[job] == "success"
