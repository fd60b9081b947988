"""A session's life, as a client sees it."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import grpc
import pytest

import tenantd
from tenantd.v1 import event_pb2
from tenantd.v1.session_pb2 import SESSION_STATE_ACTIVE, SESSION_STATE_PENDING
from tenantd.v1.session_service_pb2 import AcquireSessionRequest, ReleaseSessionRequest
from tenantd.v1.session_service_pb2_grpc import SessionServiceStub
from tenantd.v1.watch_service_pb2 import WatchSessionsRequest
from tenantd.v1.watch_service_pb2_grpc import WatchServiceStub

from support import until

pytestmark = pytest.mark.server

PROCESS = os.path.join(os.path.dirname(__file__), "process.py")


def test_a_grant_carries_the_tenants_config(client):
    grant = client.acquire("cfg", job_metadata='{"tenant": "acme"}', agent_name="receptionist")
    llm = grant.config.providers["llm"]
    assert (llm.provider, llm.model, llm.api_key) == ("openai", "gpt-4o", "sk-acme-0123456789")
    assert grant.config.labels == {"plan": "gold"} and grant.config.tenant_known
    assert grant.created and grant.session.state == SESSION_STATE_PENDING
    assert client.renew("cfg").state == SESSION_STATE_ACTIVE
    assert client.get_config("cfg") == grant.config
    assert client.release("cfg") == "success"


def test_a_tenant_without_an_entry_runs_on_the_defaults(client):
    grant = client.acquire("dflt", tenant="nobody-knows", activate=True)
    llm = grant.config.providers["llm"]
    assert (llm.model, llm.api_key) == ("gpt-4o-mini", "sk-demo-0123456789")
    assert llm.params == {"temperature": 0.4} and not grant.config.tenant_known
    client.release("dflt")


def test_what_one_session_does_with_its_config_changes_no_others(client):
    for n in range(3):
        grant = client.acquire(f"own-{n}", tenant="nobody-knows", activate=True)
        llm = grant.config.providers.llm
        assert llm.params == {"temperature": 0.4}, n
        assert llm.credentials == {"api_key": "sk-demo-0123456789"} and not grant.config.labels
        llm.params["temperature"] = n
        llm.credentials["api_key"] = "mine"
        grant.config.labels["mine"] = "yes"
        assert grant.config.providers["llm"] is llm and llm.params == {"temperature": n}
        client.release(f"own-{n}")


def test_the_cap_refuses_with_its_figures(client):
    for i in range(2):
        client.acquire(f"cap-{i}", tenant="acme", activate=True)
    with pytest.raises(tenantd.TenantAtCap) as caught:
        client.acquire("cap-2", tenant="acme", activate=True)
    error = caught.value
    assert (error.tenant, error.limit, error.current) == ("acme", 2, 2)
    assert error.disposition == "retry_elsewhere" and error.code.name == "RESOURCE_EXHAUSTED"
    for i in range(2):
        client.release(f"cap-{i}")


def test_a_second_release_says_how_the_first_ended_it(client):
    client.acquire("twice", tenant="acme", activate=True)
    assert client.release("twice", "cancelled") == "cancelled"
    with pytest.raises(tenantd.SessionEnded) as caught:
        client.release("twice", "success")
    assert caught.value.outcome == "cancelled"
    with pytest.raises(tenantd.SessionEnded):
        client.renew("twice")


def test_a_session_that_nobody_acquired_is_unknown(client):
    for call in (client.renew, client.release, client.report_failure, client.get_config):
        with pytest.raises(tenantd.SessionUnknown):
            call("never-acquired")
    with pytest.raises(tenantd.SessionUnknown):
        client.publish("never-acquired", "turn_started")


def test_a_reported_failure_is_not_booked_as_success(client):
    client.acquire("fails", tenant="acme", activate=True)
    assert client.report_failure("fails", slot="llm", kind="timeout")
    assert not client.report_failure("fails", slot="llm", kind="timeout")
    assert client.release("fails", "success") == "failure"


def test_an_id_of_another_tenants_session_is_a_conflict(client):
    client.acquire("mine", tenant="acme", activate=True)
    with pytest.raises(tenantd.SessionConflict):
        client.acquire("mine", tenant="globex", activate=True)
    client.release("mine")


def test_a_wrong_field_is_named(client):
    with pytest.raises(tenantd.InvalidField) as caught:
        client.acquire("has space", tenant="acme")
    assert [field for field, _ in caught.value.fields] == ["session_id"]


def test_one_id_from_two_processes_is_one_lease(server):
    env = {**os.environ, "TENANTD_ADDRESS": server.address}
    command = [sys.executable, PROCESS, "acquire", "shared", '{"tenant": "acme"}']
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE) for _ in range(2)]
    first, second = (json.loads(p.communicate(timeout=20)[0]) for p in both)
    assert {first.pop("created"), second.pop("created")} == {True, False}
    assert first == second and server.live("acme") == 1
    with tenantd.Client(server.address) as client:
        client.release("shared")


def test_stock_sync_grpc_needs_no_channel_options(server):
    with grpc.insecure_channel(f"unix:{server.path}") as channel:
        stub = SessionServiceStub(channel)
        reply = stub.AcquireSession(
            AcquireSessionRequest(session_id="s1", activate=True), timeout=2
        )
        assert reply.session.tenant == "default"
        stub.ReleaseSession(ReleaseSessionRequest(session_id="s1", outcome="OUTCOME_SUCCESS"))


async def test_stock_async_grpc_needs_no_channel_options(server):
    async with grpc.aio.insecure_channel(f"unix:{server.path}") as channel:
        stub = SessionServiceStub(channel)
        request = AcquireSessionRequest(session_id="s2", activate=True)
        reply = await stub.AcquireSession(request, timeout=2)
        assert reply.session.tenant == "default"
        await stub.ReleaseSession(ReleaseSessionRequest(session_id="s2", outcome="OUTCOME_SUCCESS"))


def test_a_killed_process_gives_its_slots_back_within_the_grace(server):
    env = {**os.environ, "TENANTD_ADDRESS": server.address}
    command = [sys.executable, PROCESS, "hold", "killed", "3"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        worker = process.stdout.readline().strip()
        assert server.live("killed") == 3
        process.send_signal(signal.SIGKILL)
    until("the slots are free", lambda: server.live("killed") == 0, deadline=5)
    with tenantd.Client(server.address) as client, pytest.raises(tenantd.SessionEnded) as caught:
        client.renew(f"{worker}-0")
    assert caught.value.outcome == "lost"


async def test_a_watcher_sees_a_session_come_and_go_with_its_tenant(aclient):
    watch = WatchServiceStub(aclient.channel).WatchSessions(
        WatchSessionsRequest(tenants=["acme"]), timeout=10
    )
    while (await watch.read()).WhichOneof("item") != "snapshot_end":
        pass
    await aclient.acquire("other", tenant="globex", activate=True)
    await aclient.acquire("seen", tenant="acme", activate=True)
    await aclient.publish("seen", "turn_started", {"turn": 1})
    await aclient.release("seen")
    await aclient.release("other")
    events = []
    while not events or events[-1].kind != event_pb2.EVENT_KIND_SESSION_ENDED:
        item = await watch.read()
        if item.WhichOneof("item") == "event":
            events.append(item.event)
    watch.cancel()
    assert {(e.tenant, e.session_id) for e in events} == {("acme", "seen")}
    kinds = [event_pb2.EventKind.Name(e.kind).removeprefix("EVENT_KIND_") for e in events]
    kinds = [kind for kind in kinds if kind != "SESSION_ACTIVATED"]
    assert kinds == ["SESSION_ACQUIRED", "AGENT_EVENT", "SESSION_ENDED"]
    assert events[-2].agent_event.name == "turn_started"
