"""A real Pipecat pipeline, in this process."""

import asyncio
import json
import sys

import pytest

pytest.importorskip("pipecat", reason="pipecat-ai is not installed")

import support
import tenantd
from support import soon

sys.path.insert(0, str(support.REPO / "examples/python"))

from pipecat.runner.types import RunnerArguments
from stand_in.provider import Provider
from tenantd.testing import FakeSidecar

LOOPS = ["asyncio"]


@pytest.fixture
async def provider():
    provider = Provider()
    await provider.start()
    yield provider
    await provider.stop()


@pytest.fixture
def sidecar(provider, monkeypatch):
    tenants = {
        name: {"cap": 1, "providers": {"llm": {
            "provider": "openai", "model": f"model-of-{name}", "credential": f"sk-{name}",
            "base_url": provider.base_url,
        }}}
        for name in ("acme", "broken")
    }
    with FakeSidecar({"tenants": tenants}) as sidecar:
        monkeypatch.setenv("TENANTD_ADDRESS", sidecar.address)
        yield sidecar


def arguments(tenant, session_id):
    return RunnerArguments(body={"tenant": tenant}, session_id=session_id)


async def test_a_bot_runs_on_its_tenants_provider_and_gives_its_slot_back(sidecar, provider):
    import pipecat_bot

    await asyncio.wait_for(pipecat_bot.bot(arguments("acme", "b1")), 20)
    assert (provider.keys, provider.models) == (["sk-acme"], ["model-of-acme"])
    assert sidecar._rules.ended == {"b1": "success"} and sidecar.live("acme") == 0


async def test_a_pipelines_error_is_a_failure_of_the_services_slot(sidecar, provider, monkeypatch):
    import pipecat_bot

    provider.refused.add("sk-broken")
    reported = []
    fail = tenantd.AsyncSession.fail

    async def seen(session, **about):
        reported.append(about)
        return await fail(session, **about)

    monkeypatch.setattr(tenantd.AsyncSession, "fail", seen)
    await asyncio.wait_for(pipecat_bot.bot(arguments("broken", "b2")), 20)
    assert sidecar._rules.ended == {"b2": "failure"}
    assert [about["slot"] for about in reported] == ["llm"]
    assert "sk-broken" not in json.dumps(reported)


async def test_a_full_tenant_refuses_the_bot(sidecar):
    import pipecat_bot

    async with tenantd.connect() as td, td.session(tenant="acme"):
        with pytest.raises(tenantd.TenantAtCap):
            await pipecat_bot.bot(arguments("acme", "b3"))


async def test_a_revoked_bot_is_cancelled(sidecar, provider):
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.filters.identity_filter import IdentityFilter
    from pipecat.workers.runner import WorkerRunner

    import tenantd.pipecat

    async with tenantd.connect() as td:
        async with tenantd.pipecat.session(td, arguments("acme", "b4")) as s:
            worker = PipelineWorker(Pipeline([IdentityFilter()]))
            tenantd.pipecat.watch(s, worker)
            runner = WorkerRunner(handle_sigint=False)
            await runner.add_workers(worker)
            running = asyncio.create_task(runner.run())
            await soon("it is attached", lambda: td._link._live["b4"].attached)
            sidecar.revoke("b4", "fraud")
            await asyncio.wait_for(running, 10)
            assert s.revoked.note == "fraud"
