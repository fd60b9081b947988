"""Calls of the async client go over one stream; what it cannot do is a call of its own."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

import tenantd
from tenantd.testing import FakeSidecar
from tenantd.v1.session_service_pb2 import WorkResponse
from tenantd.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    add_SessionServiceServicer_to_server,
)


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
                yield WorkResponse(id=request.id, error=b"\xff\xff")

    server = grpc.aio.server()
    address = f"unix:{tmp_path}/garbled.sock"
    add_SessionServiceServicer_to_server(Garbled(), server)
    server.add_insecure_port(address)
    await server.start()
    async with tenantd.connect(address) as td:
        for _ in range(2):
            with pytest.raises(tenantd.SidecarUnavailable):
                await td.renew("x")
    assert opened == [1]
    await server.stop(0)
