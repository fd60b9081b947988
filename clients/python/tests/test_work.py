"""Calls of the async client go over one stream; what it cannot do is a call of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json

import grpc
import grpc.aio
import pytest

import tenantd
from tenantd.testing import FakeSidecar
from tenantd.v1.session_service_pb2 import (
    ReleaseSessionResponse,
    WorkAnswer,
    WorkResponse,
)
from tenantd.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    add_SessionServiceServicer_to_server,
)


@contextlib.asynccontextmanager
async def serving(tmp_path, servicer):
    """Its address; it ends with the test, however that ends."""
    server = grpc.aio.server()
    address = f"unix:{tmp_path}/stub.sock"
    add_SessionServiceServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


def counting(td, monkeypatch):
    """The methods that are called by themselves."""
    called = []
    stub = type(td)._stub.fget

    class Counted:
        def __init__(self, real):
            self._real = real

        def __getattr__(self, name):
            async def call(*args, **kwargs):
                called.append(name)
                return await getattr(self._real, name)(*args, **kwargs)

            return call

    monkeypatch.setattr(type(td), "_stub", property(lambda self: Counted(stub(self))))
    return called


async def test_calls_go_over_the_stream_with_the_errors_of_their_own(server, monkeypatch):
    async with tenantd.connect(server.address) as td:
        called = counting(td, monkeypatch)
        async with td.session("streamed", tenant="acme") as s:
            assert s.tenant == "acme"
            assert (await td.renew("streamed")).session_id == "streamed"
            assert (await td.get_config("streamed")).version == s.config.version
            with pytest.raises(tenantd.SessionConflict) as caught:
                await td.acquire("streamed", tenant="globex")
            assert caught.value.disposition == "final"
        with pytest.raises(tenantd.SessionEnded) as ended:
            await td.release("streamed")
        assert ended.value.outcome == "success"
        assert called == []


async def test_many_at_once_get_each_its_own_answer(server):
    async with tenantd.connect(server.address) as td:
        ids = [f"many-{n}" for n in range(100)]
        grants = await asyncio.gather(*(td.acquire(i, tenant=f"t{i}") for i in ids))
        assert [(grant.session_id, grant.tenant) for grant in grants] == [
            (i, f"t{i}") for i in ids
        ]
        await asyncio.gather(*(td.release(i) for i in ids))


async def test_an_older_sidecar_is_asked_by_calls_of_their_own(tmp_path, monkeypatch):
    with FakeSidecar({"tenants": {"acme": {}}}) as fake:

        async def unknown(_self, _requests, context):
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
            yield

        monkeypatch.setattr(type(fake._service), "Work", unknown)
        older = grpc.aio.server()
        address = f"unix:{tmp_path}/older.sock"

        class Older(SessionServiceServicer):
            Work = unknown
            AcquireSession = staticmethod(fake._service.AcquireSession)
            ReleaseSession = staticmethod(fake._service.ReleaseSession)

        add_SessionServiceServicer_to_server(Older(), older)
        older.add_insecure_port(address)
        await older.start()
        async with tenantd.connect(address) as td:
            called = counting(td, monkeypatch)
            await asyncio.gather(*(td.acquire(f"s{n}", tenant="acme") for n in range(5)))
            assert await td.release("s0") == "success"
            assert called == ["AcquireSession"] * 5 + ["ReleaseSession"]
        await older.stop(0)


async def test_a_restarted_sidecar_is_asked_over_a_new_stream(fresh_server, monkeypatch):
    async with tenantd.connect(fresh_server.address) as td:
        await td.acquire("before", tenant="acme")
        await asyncio.to_thread(fresh_server.kill)
        await asyncio.to_thread(fresh_server.start)
        async with td.session("after", tenant="acme") as s:
            assert s.tenant == "acme"
        called = counting(td, monkeypatch)
        await td.acquire("again", tenant="acme")
        assert called == []


async def test_an_answer_that_cannot_be_read_fails_its_call_alone(tmp_path):
    opened = []

    class Garbled(SessionServiceServicer):
        async def Work(self, requests, context):
            opened.append(1)
            async for request in requests:
                yield WorkResponse(
                    answers=[WorkAnswer(id=call.id, error=b"\xff\xff") for call in request.calls]
                )

    async with serving(tmp_path, Garbled()) as address, tenantd.connect(address) as td:
        for _ in range(2):
            with pytest.raises(tenantd.SidecarUnavailable):
                await td.renew("x")
    assert opened == [1]


class Counting(SessionServiceServicer):
    """Answers releases, and keeps how many came together."""

    def __init__(self):
        self.together = []

    async def Work(self, requests, context):
        async for request in requests:
            self.together.append(len(request.calls))
            answers = [
                WorkAnswer(id=call.id, release_session=ReleaseSessionResponse(outcome=1))
                for call in request.calls
            ]
            yield WorkResponse(answers=answers)


async def test_calls_asked_at_once_go_together_and_never_more_than_the_sidecar_takes(tmp_path):
    counting = Counting()
    async with serving(tmp_path, counting) as address, tenantd.connect(address) as td:
        # Longer than what else a message may have.
        assert await td.release("long", "failure", message="x" * 70_000) == "success"
        assert await asyncio.gather(*(td.release(f"s{n}") for n in range(250))) == ["success"] * 250
    assert sum(counting.together) == 251
    assert max(counting.together) == 100 and len(counting.together) <= 5
    assert min(counting.together) > 0


async def test_a_hundred_sessions_with_long_metadata_at_once_are_granted(server, monkeypatch):
    async with tenantd.connect(server.address) as td:
        called = counting(td, monkeypatch)
        ids = [f"long-{n}" for n in range(100)]
        metadata = [json.dumps({"tenant": i, "notes": "x" * 60_000}) for i in ids]
        asked = (td.acquire(i, job_metadata=of) for i, of in zip(ids, metadata))
        grants = await asyncio.gather(*asked)
        assert [grant.session_id for grant in grants] == ids
        await asyncio.gather(*(td.release(i) for i in ids))
        assert called == []


async def test_each_call_ends_with_the_deadline_that_it_was_asked_with(tmp_path):
    class Silent(SessionServiceServicer):
        async def Work(self, requests, context):
            async for _ in requests:
                pass
            yield

    async with (
        serving(tmp_path, Silent()) as address,
        tenantd.connect(address, deadline=30.0) as td,
    ):
        patient = asyncio.create_task(td.renew("patient"))
        await asyncio.sleep(0)
        for deadline in (0.2, 0.1):
            td.deadline = deadline
            with pytest.raises(tenantd.SidecarUnavailable, match="Deadline Exceeded"):
                await asyncio.wait_for(td.renew("hasty"), 20)
        assert not patient.done()
        patient.cancel()
