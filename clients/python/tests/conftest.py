"""Fixtures: sidecars run as real processes."""

from __future__ import annotations

import asyncio

import pytest

from tenantd import AsyncClient, Client

import support


try:
    import uvloop
except ImportError:
    LOOPS = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(config, item):
    """Each async test runs on asyncio and on uvloop, where its module does not say."""
    only = getattr(item.getparent(pytest.Module).module, "LOOPS", LOOPS)
    return {name: factory for name, factory in LOOPS.items() if name in only}


@pytest.fixture
def server(request):
    """One sidecar for all tests that do not change it for others. Each kind of loop has
    its own: the same tests use the same session ids."""
    loop = "uvloop" if "[uvloop" in request.node.name else "asyncio"
    return request.getfixturevalue(f"_{loop}_server")


@pytest.fixture(scope="session")
def _asyncio_server():
    yield from _run()


@pytest.fixture(scope="session")
def _uvloop_server():
    yield from _run()


@pytest.fixture
def fresh_server():
    """A sidecar for one test alone."""
    yield from _run()


def _run():
    if not support.BINARY.exists():
        pytest.skip(f"no binary at {support.BINARY}: cargo build, or set TENANTD_BIN")
    with support.start() as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.address) as client:
        yield client


@pytest.fixture
async def aclient(server):
    async with AsyncClient(server.address) as client:
        yield client
