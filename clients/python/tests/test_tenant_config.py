"""The examples of an operator's own TenantConfigService, in Python and in Node, behind a
real sidecar."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tenantd
from support import BINARY, REPO, until
from tenantd.testing import Sidecar

LOOPS = ["asyncio"]
SERVICES = {
    "python": [sys.executable, str(REPO / "examples/python/tenant_config.py")],
    "node": ["node", str(REPO / "examples/node/tenant_config.mjs")],
}


@pytest.mark.parametrize("language", SERVICES)
def test_a_tenant_of_the_operators_own_service_runs_on_what_it_says(tmp_path, language):
    socket = tmp_path / "config.sock"
    command = [*SERVICES[language], f"unix:{socket}"]
    source = f'[[sources]]\nkind = "grpc"\nurl = "unix:{socket}"\nnegative_ttl = "0s"\n'
    service = subprocess.Popen(command, cwd=REPO)
    try:
        until("the service listens", socket.exists)
        with (
            Sidecar(source, binary=BINARY, environment={"ACME_KEY": "sk-acme"}) as sidecar,
            tenantd.connect_sync(sidecar.address) as td,
        ):
            with td.session("s1", tenant="acme") as session:
                assert session.providers.llm.provider == "openai"
                assert session.providers.llm.api_key == "sk-acme"
                assert session.config.tenant_known
            with td.session("s2", tenant="globex") as session:
                assert not session.config.tenant_known
    finally:
        service.kill()
        service.wait()
