"""Fixtures: sidecars run as real processes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tenantd import AsyncClient, Client

import support


@pytest.fixture(scope="session")
def server():
    """One sidecar for all tests that do not change it for others."""
    yield from _run()


@pytest.fixture
def fresh_server():
    """A sidecar for one test alone."""
    yield from _run()


def _run():
    if not support.BINARY.exists():
        pytest.skip(f"no binary at {support.BINARY}: cargo build, or set TENANTD_BIN")
    # Not pytest's tmp_path: a socket's path may have only 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="td-"))
    try:
        server = support.start(directory)
        try:
            yield server
        finally:
            support.stop(server)
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def client(server):
    with Client(server.address) as client:
        yield client


@pytest.fixture
async def aclient(server):
    async with AsyncClient(server.address) as client:
        yield client
