"""`session(...)`: a slot for one block, with the tenant bound."""

import asyncio
import logging
import threading
import time

import pytest

import support
import tenantd
from support import soon
from tenantd import logs, mailbox
from tenantd.context import current_agent_name, current_session_id, current_tenant_id
from tenantd.v1.admin_service_pb2 import (
    ResumeTenantRequest,
    RevokeSessionRequest,
    SuspendTenantRequest,
)
from tenantd.v1.admin_service_pb2_grpc import AdminServiceStub
from tenantd.v1.watch_service_pb2 import WatchSessionsRequest
from tenantd.v1.watch_service_pb2_grpc import WatchServiceStub

pytestmark = pytest.mark.server


def outcome(server, session_id):
    with tenantd.Client(server.address) as client, pytest.raises(tenantd.SessionEnded) as caught:
        client.renew(session_id)
    return caught.value.outcome


async def test_a_block_has_its_tenants_providers_and_ends_as_success(server):
    async with tenantd.connect(server.address) as td:
        async with td.session(job_metadata='{"tenant": "acme"}', agent_name="a") as s:
            assert s.providers.llm.kwargs == {"model": "gpt-4o", "api_key": "sk-acme-0123456789"}
            assert "sk-acme" not in repr(s.providers)
            assert (current_tenant_id(), current_session_id()) == ("acme", s.session_id)
            assert current_agent_name() == "a" and server.live("acme") == 1
            with pytest.raises(AttributeError, match="it has: llm"):
                _ = s.providers.tts
        assert current_tenant_id() is None
    assert outcome(server, s.session_id) == "success"


def test_the_sync_twin_does_the_same(server):
    with tenantd.connect_sync(server.address) as td:
        with td.session("sync-ok", tenant="acme") as s:
            assert s.providers.llm.model == "gpt-4o" and current_tenant_id() == "acme"
        with pytest.raises(KeyError), td.session("sync-bad", tenant="acme"):
            raise KeyError("sk-secret")
    assert outcome(server, "sync-ok") == "success"
    assert outcome(server, "sync-bad") == "failure"
    assert "sk-secret" not in server.logs()


async def test_a_block_that_raises_is_a_failure_and_a_cancelled_one_is_not(server):
    async with tenantd.connect(server.address) as td:
        with pytest.raises(ZeroDivisionError):
            async with td.session("raises", tenant="acme"):
                _ = 1 / 0
        started = asyncio.Event()

        async def call():
            async with td.session("stopped", tenant="acme"):
                started.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(call())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert outcome(server, "raises") == "failure"
    assert outcome(server, "stopped") == "cancelled"


async def test_a_cancelled_acquire_leaks_no_slot(server):
    async with tenantd.connect(server.address) as td:

        async def call(i):
            async with td.session(f"cut-{i}", tenant="cut"):
                await asyncio.Event().wait()

        for i in range(20):
            task = asyncio.create_task(call(i))
            for _ in range(i):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await soon("no slot is left", lambda: server.live("cut") == 0)


async def test_fifty_live_sessions_come_back_after_a_killed_sidecar():
    config = support.CONFIG.replace("cap = 10\n[defaults.providers", "cap = 50\n[defaults.providers")
    with support.start(config) as server:
        async with tenantd.connect(server.address) as td:
            blocks = [td.session(f"r-{i}", tenant="many") for i in range(50)]
            for block in blocks:
                await block.__aenter__()
            server.kill()
            await asyncio.to_thread(server.start)
            await soon("all are back", lambda: server.live("many") == 50)
            with pytest.raises(tenantd.TenantAtCap):
                async with td.session("one-over", tenant="many"):
                    pass
            for block in reversed(blocks):
                await block.__aexit__(None, None, None)
            assert server.live("many") == 0


async def revoke(td, session_id):
    request = RevokeSessionRequest(session_id=session_id, note="fraud")
    await AdminServiceStub(td.channel).RevokeSession(request)


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "at once"])
async def test_a_revoked_session_is_told_once_and_is_no_error_at_its_end(server, attached):
    session_id = f"rv-{attached}"
    async with tenantd.connect(server.address) as td:
        told, own = [], []
        td.on_notice(told.append)
        async with td.session(session_id, tenant="acme") as s:
            s.on_notice(own.append)
            if attached:
                await soon("it is attached", lambda: td._link._live[session_id].attached)
            await revoke(td, session_id)
            await soon("it is told", lambda: s.revoked)
            assert (s.revoked.cause, s.revoked.tenant) == ("revoked", "acme")
            assert s.revoked.note in ("fraud", "")
        async with td.session(f"{session_id}-next", tenant="acme") as s:
            # What is told in order after it has passed everything before it.
            await revoke(td, f"{session_id}-next")
            await soon("the next is told", lambda: s.revoked)
        assert [n.session_id for n in told] == [session_id, f"{session_id}-next"]
        assert [n.session_id for n in own] == [session_id]
    assert outcome(server, session_id) == "revoked"


async def test_a_suspended_tenants_sessions_are_told_and_a_siblings_are_not(fresh_server):
    async with tenantd.connect(fresh_server.address) as td:
        notices, sibling = [], []
        async with td.session("own", tenant="acme") as s, td.session("other") as other:
            s.on_notice(notices.append)
            other.on_notice(sibling.append)
            await soon("attached", lambda: td._link._live["own"].attached)
            admin = AdminServiceStub(td.channel)
            await admin.SuspendTenant(SuspendTenantRequest(tenant="acme", note="key leaked"))
            await soon("it is told", lambda: notices)
            assert notices == [tenantd.Suspended("acme", ("own",), "key leaked")]
            await admin.ResumeTenant(ResumeTenantRequest(tenant="acme"))
            await soon("the end is told", lambda: len(notices) == 2)
            assert notices[1] == tenantd.Resumed("acme", ("own",))
            assert sibling == []


async def test_notices_can_be_iterated_over_and_end_with_the_client(server):
    async with tenantd.connect(server.address) as td:
        notices = td.notices()
        async with td.session("it", tenant="acme"):
            await revoke(td, "it")
            notice = await asyncio.wait_for(anext(notices), 10)
            assert (type(notice), notice.session_id) == (tenantd.Revoked, "it")
    assert [n async for n in notices] == []


def test_the_sync_iterator_ends_with_the_client(server):
    with tenantd.connect_sync(server.address) as td:
        notices = td.notices()
        with td.session("its", tenant="acme"):
            AdminServiceStub(td.channel).RevokeSession(RevokeSessionRequest(session_id="its"))
            assert next(notices).session_id == "its"
    assert list(notices) == []


def test_a_reader_that_sleeps_loses_the_oldest_and_the_log_says_so(caplog):
    box = mailbox.SyncMailbox()
    for i in range(mailbox.NOTICES_AT_MOST + 5):
        box.put(tenantd.SidecarDraining(i))
    assert box.get().deadline == 5
    assert len([r for r in caplog.records if "is dropped" in r.message]) == 5


async def test_who_blocks_the_loop_is_told_with_the_tenant(server, caplog):
    async with tenantd.connect(server.address) as td:
        async with td.session("slow", tenant="acme"), td.session("idle", tenant="slow-sibling"):
            await soon("the stream is open", lambda: td._link.connected.is_set())
        watch = WatchServiceStub(td.channel).WatchSessions(
            WatchSessionsRequest(tenants=["acme"]), timeout=20
        )
        while (await watch.read()).WhichOneof("item") != "snapshot_end":
            pass

        async def call():
            async with td.session("blocker", tenant="acme"):
                await asyncio.sleep(0.1)
                time.sleep(0.4)
                await asyncio.sleep(0.1)

        async with td.session("sibling", tenant="slow-sibling"):
            await asyncio.create_task(call())
        while (event := (await watch.read()).event).WhichOneof("detail") != "worker_slow":
            pass
        assert event.session_id == "blocker" and event.tenant == "acme"
    assert [r.session_id for r in caplog.records if "blocked" in r.message] == ["blocker"]


async def test_without_a_sidecar_it_is_refused_unless_asked_to_fail_open(tmp_path, caplog):
    nowhere = f"unix:{tmp_path}/no.sock"
    async with tenantd.connect(nowhere) as td:
        with pytest.raises(tenantd.SidecarUnavailable, match="tenantd serve"):
            async with td.session(tenant="acme"):
                pytest.fail("ran without a slot")
    async with tenantd.connect(nowhere, fail_open=True) as td:
        async with td.session(tenant="acme") as s:
            assert s.failed_open and current_tenant_id() == "acme" and not s.providers
    assert any("WITHOUT a slot" in r.getMessage() for r in caplog.records)


async def test_fail_open_never_overrules_a_refusal(server):
    async with tenantd.connect(server.address, fail_open=True) as td:
        with pytest.raises(tenantd.TenantMalformed):
            async with td.session(tenant="no good"):
                pytest.fail("ran")


def test_log_records_carry_the_session(server):
    logger = logging.getLogger("app")
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(handler.format(record))
    logger.addHandler(handler)
    logs.install(json=True, logger=logger)
    with tenantd.connect_sync(server.address) as td, td.session("lg", tenant="acme"):
        logger.warning("hello")
        tenantd.context.bind_threads()
        thread = threading.Thread(target=logger.warning, args=("from a thread",))
        thread.start()
        thread.join()
    logger.warning("outside")
    logger.removeHandler(handler)
    assert '"tenant": "acme", "session_id": "lg"' in lines[0] and "acme" in lines[1]
    assert "acme" not in lines[2]
