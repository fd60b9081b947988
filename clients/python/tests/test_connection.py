"""How a process shows who it is: tokens, certificates, and the lease token of a session."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

import tenantd
from tenantd import lease
from tenantd.connection import connection
from tenantd.testing import Sidecar
from tenantd.v1.watch_service_pb2 import ListSessionsRequest
from tenantd.v1.watch_service_pb2_grpc import WatchServiceStub

from support import REPO, BINARY, contract, until

TLS = REPO / "tests/contract/tls"
TOKEN = "tnd_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
SHARED = "tnd_shared-0123456789abcdef0123456789abcdef"


def hashed(token):
    """As an operator makes it."""
    made = subprocess.run(
        [BINARY, "token", "hash"], input=token, capture_output=True, text=True, check=True
    )
    return made.stdout.strip()


def config(token=TOKEN):
    return {
        "lease": {"grace": "1s"},
        "listen": {
            "tls": {
                "cert_file": str(TLS / "server.pem"),
                "key_file": str(TLS / "server.key"),
                "client_ca_file": str(TLS / "ca.pem"),
                "client_cert": "optional",
            }
        },
        "identities": [
            {"name": "by-token", "roles": ["agent"], "tenants": ["acme"], "tokens": [hashed(token)]},
            {"name": "shared", "roles": ["agent"], "tenants": ["*"], "shared": True,
             "tokens": [hashed(SHARED)]},
            {"name": "by-cert", "roles": ["agent"], "tenants": ["acme"],
             "uris": ["spiffe://example.org/acme/agent"]},
        ],
    }


@pytest.fixture
def guarded(monkeypatch):
    """A sidecar with identities, on its socket and on TLS."""
    if not BINARY.exists():
        pytest.skip(f"no binary at {BINARY}: cargo build, or set TENANTD_BIN")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Sidecar(config(), binary=BINARY, listen=[f"127.0.0.1:{port}"]) as sidecar:
        sidecar.tls = f"https://localhost:{port}"
        yield sidecar


def test_settings_come_from_arguments_then_the_environment_and_must_fit_together():
    env = {"TENANTD_ADDRESS": "https://h:1", "TENANTD_TOKEN_FILE": "/t", "TENANTD_CA_FILE": "/ca",
           "TENANTD_CERT_FILE": "/c", "TENANTD_KEY_FILE": "/k"}
    made = connection(env=env)
    assert (made.address, made.token_file, made.ca_file) == ("https://h:1", "/t", "/ca")
    assert (made.cert_file, made.key_file) == ("/c", "/k")
    # What is given stands alone: a token beside another's file would be a guess.
    made = connection("unix:/s", token="x", env=env)
    assert (made.address, made.token, made.token_file) == ("unix:/s", "x", "")
    assert "x" not in repr(made).replace("unix", "")
    wrong = [
        ({"TENANTD_TOKEN": "x", "TENANTD_TOKEN_FILE": "/t"}, "set one"),
        ({"TENANTD_CERT_FILE": "/c"}, "go together"),
        ({"TENANTD_ADDRESS": "http://10.0.0.7:1", "TENANTD_TOKEN": "x"}, "not in clear"),
        ({"TENANTD_ADDRESS": "sidecar:1", "TENANTD_TOKEN_FILE": "/t"}, "not in clear"),
    ]
    for env, says in wrong:
        with pytest.raises(ValueError, match=says):
            connection(env=env)
    for address in ("127.0.0.1:1", "localhost:1", "[::1]:1", "https://h:1", "unix:/s"):
        assert connection(address, token="x", env={}).token == "x"


def test_the_lease_token_is_the_same_in_every_language(monkeypatch):
    for case in contract("lease_token.json")["cases"]:
        monkeypatch.setenv(lease.KEY, case["key"])
        assert lease.lease_token(case["session_id"]) == case["token"]
    monkeypatch.delenv(lease.KEY)
    made = lease.lease_token("s")
    assert made == lease.lease_token("s") != lease.lease_token("t")
    assert len(os.environ[lease.KEY]) == 64, "child processes have it"


@pytest.mark.server
def test_a_token_is_shown_with_every_kind_of_call(guarded):
    with tenantd.Client(guarded.address, token=TOKEN) as client:
        with client.session(tenant="acme") as session:
            session.publish("turn_started")
            session.refresh()
            until("it is attached", lambda: client._linked()._live[session.session_id].attached)
        with pytest.raises(tenantd.NotPermitted):
            client.acquire("s", tenant="globex")
        watch = WatchServiceStub(client.channel)
        with pytest.raises(Exception, match="needs the role viewer"):
            watch.ListSessions(ListSessionsRequest())
    with tenantd.connect_sync(guarded.address, token="tnd_wrong") as client:
        with pytest.raises(tenantd.NotPermitted):
            client.acquire("s", tenant="acme")


@pytest.mark.server
async def test_a_token_is_shown_with_every_kind_of_call_of_asyncio(guarded):
    async with tenantd.AsyncClient(guarded.address, token=TOKEN) as client:
        async with client.session(tenant="acme") as session:
            await session.publish("turn_started")
            await session.refresh()
            await session.fail(slot="llm", kind="timeout")
        with pytest.raises(tenantd.NotPermitted):
            await client.acquire("s", tenant="globex")
    async with tenantd.AsyncClient(guarded.address, token_file="/nonexistent") as client:
        with pytest.raises(tenantd.SidecarUnavailable, match="the token cannot be read"):
            await client.acquire("s", tenant="acme")


@pytest.mark.server
def test_a_rotated_token_file_is_read_again(guarded, tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with tenantd.Client(guarded.address, token_file=file) as client:
        client.acquire("s", tenant="acme", activate=True)
        new = TOKEN[::-1].replace("dnt_", "") + "rotated"
        guarded.reload(config(new))
        with pytest.raises(tenantd.NotPermitted):
            client.renew("s")
        (tmp_path / "new").write_text(new)
        (tmp_path / "new").rename(file)
        client.renew("s")


@pytest.mark.server
def test_over_tls_the_certificate_is_who_one_is(guarded, tmp_path):
    ca = TLS / "ca.pem"
    cert, key = tmp_path / "c.pem", tmp_path / "c.key"

    def show(name):
        for file, suffix in ((cert, "pem"), (key, "key")):
            shutil.copy(TLS / f"{name}.{suffix}", tmp_path / "new")
            (tmp_path / "new").rename(file)

    show("other")
    with tenantd.Client(guarded.tls, ca_file=ca, cert_file=cert, key_file=key) as client:
        with pytest.raises(tenantd.NotPermitted, match="no identity names"):
            client.acquire("s", tenant="acme")
        # Rotated: the next call shows the new one.
        show("agent")
        with client.session(tenant="acme") as session:
            session.publish("turn_started")
            until("it is attached", lambda: client._linked()._live[session.session_id].attached)
    with tenantd.Client(guarded.tls, ca_file=ca, token=TOKEN) as client:
        client.acquire("t", tenant="acme")
    with tenantd.Client(guarded.tls, ca_file=ca) as client:
        with pytest.raises(tenantd.NotPermitted, match="no credential"):
            client.acquire("u", tenant="acme")
    with tenantd.Client(guarded.tls, ca_file=TLS / "foreign.pem", token=TOKEN) as client:
        with pytest.raises(tenantd.SidecarUnavailable):
            client.acquire("v", tenant="acme")
    with tenantd.Client(guarded.tls, ca_file="/nonexistent", token=TOKEN) as client:
        with pytest.raises(tenantd.SidecarUnavailable, match="cannot be read"):
            client.acquire("w", tenant="acme")
    live = {s.session_id for s in _live(guarded)}
    assert live == {"t"}


@pytest.mark.server
async def test_asyncio_over_tls(guarded):
    files = {"ca_file": TLS / "ca.pem", "cert_file": TLS / "agent.pem",
             "key_file": TLS / "agent.key"}
    async with tenantd.connect(guarded.tls, **files) as client:
        async with client.session(tenant="acme") as session:
            await session.publish("turn_started")


OTHER = """
import sys, tenantd
with tenantd.Client(sys.argv[1], token=sys.argv[2]) as client:
    try:
        {step}
    except tenantd.TenantdError as error:
        print(type(error).__name__)
    else:
        print("done")
"""


@pytest.mark.server
def test_where_an_identity_is_shared_a_session_is_of_the_processes_that_have_its_key(
    guarded, monkeypatch
):
    monkeypatch.delenv(lease.KEY, raising=False)

    def other(step, **env):
        made = subprocess.run(
            [sys.executable, "-c", OTHER.format(step=step), guarded.address, SHARED],
            capture_output=True, text=True, check=True, env={**os.environ, **env},
        )
        return made.stdout.strip()

    with tenantd.Client(guarded.address, token=SHARED) as client:
        assert client.acquire("s", tenant="acme").created
        assert not client.acquire("s", tenant="acme").created, "a retry"
        stranger = {lease.KEY: "of-another-process-that-has-the-token"}
        steps = {
            "client.release('s')": "SessionUnknown",
            "client.renew('s')": "SessionUnknown",
            "client.get_config('s')": "SessionUnknown",
            "client.report_failure('s', end_session=True)": "SessionUnknown",
            "client.publish('s', 'x')": "SessionUnknown",
            "client.acquire('s', tenant='acme')": "SessionConflict",
        }
        for step, says in steps.items():
            assert other(step, **stranger) == says, step
        # A child goes on with it, as LiveKit's job process does.
        assert other("client.acquire('s', tenant='acme', activate=True)") == "done"
        assert other("client.get_config('s'); client.publish('s', 'x')") == "done"
        assert other("client.release('s')") == "done"
        with client.session(tenant="acme") as session:
            until("it is attached", lambda: client._linked()._live[session.session_id].attached)
            session.refresh()
        with pytest.raises(tenantd.SessionEnded):
            client.release("s")


def _live(sidecar):
    with tenantd.Client(sidecar.address) as client:
        return WatchServiceStub(client.channel).ListSessions(ListSessionsRequest()).sessions
