"""What befalls the process: forks, ends, clocks, numbers."""

import asyncio
import os
import subprocess
import sys
import time

import grpc
import pytest


import tenantd
from support import soon, until
from tenantd import link
from tenantd.testing import FakeSidecar
from tenantd.testing.fake import _Service

CAP = {"defaults": {"cap": 2_000}, "lease": {"grace": "1s"}}


@pytest.fixture
def fake():
    with FakeSidecar(CAP) as fake:
        yield fake


class Deaf(_Service):
    """Fails its first releases as a stream does that is cut."""

    failures = 0

    async def ReleaseSession(self, request, context):
        if self.failures:
            self.failures -= 1
            await context.abort(grpc.StatusCode.INTERNAL, "cut")
        return await super().ReleaseSession(request, context)


async def test_a_processs_own_unheard_releases_refuse_it_no_slot():
    fake = FakeSidecar({"defaults": {"cap": 1}})
    fake._service = deaf = Deaf(fake)
    with fake:
        async with tenantd.connect(fake.address) as td:
            async with td.session("first", tenant="acme"):
                deaf.failures = 3
            assert fake.live("acme") == 1
            async with td.session("second", tenant="acme"):
                assert (deaf.failures, fake.live("acme")) == (0, 1)
                # A slot that another one holds is another one's.
                with pytest.raises(tenantd.TenantAtCap):
                    await td.session("third", tenant="acme").open()
        assert fake._rules.ended == {"first": "success", "second": "success"}


def run(code, address, **kwargs):
    env = {**os.environ, "TENANTD_ADDRESS": address, "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=30, **kwargs
    )


def test_a_process_that_just_ends_says_nothing_and_leaves_its_slots_to_the_grace(fake):
    code = """
import tenantd
td = tenantd.connect_sync()
td.session("end", tenant="acme").open()
print("open")
"""
    ended = run(code, fake.address)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "open\n", "")
    fake.advance(1.5)
    assert fake.live("acme") == 0


def test_an_async_process_that_just_ends_says_nothing(fake):
    code = """
import asyncio, tenantd
async def main():
    td = tenantd.connect()
    s = await td.session("end-a", tenant="acme").open()
    asyncio.get_running_loop().call_soon(lambda: None)
asyncio.run(main())
"""
    ended = run(code, fake.address)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_sys_exit_inside_a_block_is_no_failure(fake):
    code = """
import sys, tenantd
with tenantd.connect_sync() as td, td.session("exit", tenant="acme"):
    sys.exit(3)
"""
    assert run(code, fake.address).returncode == 3
    assert fake._rules.ended["exit"] == "cancelled"


FORK = """
import os, sys, time, tenantd
td = tenantd.connect_sync()
parent = td.session("parent", tenant="acme").open()
mine = td._link.worker
while not td._link._live["parent"].attached: time.sleep(0.01)
child = os.fork()
if child == 0:
    assert td._link.worker != mine and td._link.live == 0
    with tenantd.connect_sync() as own, own.session("child", tenant="acme") as s:
        assert tenantd.context.current_session_id() == "child"
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0, "the child failed"
time.sleep(float(sys.argv[1]) if sys.argv[1:] else 0)
assert td.renew("parent").tenant == "acme"
parent.end("success")
td.close()
print("fine")
"""


def test_a_fork_has_a_life_of_its_own_and_takes_nothing_from_its_parent(fake):
    ended = run(FORK, fake.address)
    assert (ended.returncode, ended.stdout) == (0, "fine\n"), ended.stderr
    assert fake._rules.ended == {"child": "success", "parent": "success"}


async def test_a_thousand_sessions_live_by_one_stream(fake):
    async with tenantd.connect(fake.address, deadline=30) as td:
        sessions = [td.session(f"k-{i}", tenant="acme") for i in range(1_000)]
        for start in range(0, 1_000, 100):
            await asyncio.gather(*(s.open() for s in sessions[start : start + 100]))
        held = td._link._live
        await soon("all are attached", lambda: all(h.attached for h in held.values()))
        assert len(held) == 1_000 and len(fake._service.streams) == 1
        assert [len(s) for s in fake._service.streams.values()] == [1]
        fake.advance(3_600)
        assert fake.live("acme") == 1_000
        for start in range(0, 1_000, 100):
            await asyncio.gather(*(s.end("success") for s in sessions[start : start + 100]))
        assert fake.live("acme") == 0


async def test_two_processes_may_run_one_session_and_it_ends_once(server):
    code = """
import sys, tenantd
with tenantd.connect_sync() as td, td.session("two-processes", tenant="acme") as s:
    print(s.tenant, s.providers.llm.model, flush=True)
    sys.stdin.readline()
"""
    env = {**os.environ, "TENANTD_ADDRESS": server.address}
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env=env, stdin=-1, stdout=-1
    )
    assert await other.stdout.readline() == b"acme gpt-4o\n"
    async with tenantd.connect(server.address) as td:
        async with td.session("two-processes", tenant="acme") as s:
            assert s.tenant == "acme" and server.live("acme") == 1
            other.stdin.write(b"\n")
            assert await other.wait() == 0
        with pytest.raises(tenantd.SessionEnded) as caught:
            await td.renew("two-processes")
        assert caught.value.outcome == "success"


@pytest.mark.parametrize("jump", [-86_400, 86_400])
async def test_a_clock_that_jumps_changes_nothing(fake, monkeypatch, caplog, jump):
    async with tenantd.connect(fake.address) as td:
        async with td.session("jump", tenant="acme") as s:
            await soon("it is attached", lambda: td._link._live["jump"].attached)
            real = time.time
            # Of Python alone: gRPC's C core would see no jump, and take the deadline of a
            # call that starts now for long past.
            monkeypatch.setattr(time, "time", lambda: real() + jump)
            await asyncio.sleep(0.2)
            assert s.revoked is None and fake.live("acme") == 1
            monkeypatch.undo()
    assert fake._rules.ended == {"jump": "success"}
    assert not fake.blocked and not [r for r in caplog.records if "blocked" in r.message]


async def test_a_refusal_that_says_when_is_tried_again_then(fake):
    fake.reload({"defaults": {"breaker": {"cooldown": "400ms"}}})
    fake.open_breaker("acme")
    async with tenantd.connect(fake.address) as td:
        with pytest.raises(tenantd.CircuitOpen):
            async with td.session(tenant="acme"):
                pytest.fail("ran")
        start = time.monotonic()
        async with td.session(tenant="acme", retry_for=5) as s:
            assert s.tenant == "acme" and time.monotonic() - start > 0.3
        fake.suspend("acme")
        with pytest.raises(tenantd.TenantSuspended):
            async with td.session(tenant="acme", retry_for=5):
                pytest.fail("a final refusal was tried again")


async def test_a_loop_that_is_blocked_for_seconds_loses_no_session(fake):
    async with tenantd.connect(fake.address) as td:
        async with td.session("blocked", tenant="acme", ttl=5) as s:
            await soon("it is attached", lambda: td._link._live["blocked"].attached)
            fake.advance(4)
            time.sleep(2)
            assert fake.live("acme") == 1 and s.revoked is None
        await soon("it is told", lambda: fake.blocked)
        assert fake.blocked[0][0] == "blocked" and 1.5 < fake.blocked[0][1] < 3


async def test_a_client_with_a_worker_of_its_own_closes_its_stream(fake):
    async with tenantd.AsyncClient(fake.address, worker="w-1") as td:
        async with td.session(tenant="acme"):
            await soon("it is there", lambda: "w-1" in fake._service.streams)
    await soon("it is gone", lambda: "w-1" not in fake._service.streams)
    assert not [x for x in link._links if x.address == td.address]


async def test_spans_and_baggage_carry_the_tenant(fake):
    from opentelemetry import baggage, trace
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("test")
    async with tenantd.connect(fake.address) as td:
        with tracer.start_as_current_span("call") as span:
            async with td.session("traced", tenant="acme", agent_name="desk"):
                assert baggage.get_baggage("tenant") == "acme"
                assert trace.get_current_span() is span
            assert baggage.get_baggage("tenant") is None
    tags = {"tenant": "acme", "session_id": "traced", "agent_name": "desk"}
    assert dict(span.attributes) == tags


async def test_a_failure_that_is_reported_ends_as_failure_and_events_carry_attributes(fake):
    async with tenantd.connect(fake.address) as td:
        async with td.session("f", tenant="acme") as s:
            assert await s.fail(slot="llm", kind="timeout")
            await s.publish("turn_started", {"turn": 1}, severity="debug")
    assert fake._rules.ended == {"f": "failure"}
    assert fake.events == [("f", "turn_started", {"turn": 1.0})]


@pytest.mark.server
def test_slots_of_a_killed_process_come_back_though_its_fork_lives(fresh_server):
    code = FORK.replace('os._exit(0)', 'time.sleep(60)').replace(
        'assert os.waitpid', 'print("ready", flush=True)\nassert os.waitpid'
    )
    env = {**os.environ, "TENANTD_ADDRESS": fresh_server.address}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=-1, text=True, start_new_session=True
    )
    try:
        parent.stdout.readline()
        until("both were there", lambda: fresh_server.live("acme") >= 1)
        parent.kill()
        until("the parent's slot is free", lambda: fresh_server.live("acme") == 0)
    finally:
        os.killpg(parent.pid, 9)
        parent.wait()
