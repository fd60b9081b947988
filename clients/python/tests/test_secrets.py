"""A tenant's key is seen by its own sessions and nowhere else."""

import threading

import grpc
import pytest

import tenantd
from tenantd.v1.admin_service_pb2 import ReloadConfigRequest
from tenantd.v1.admin_service_pb2_grpc import AdminServiceStub
from tenantd.v1.watch_service_pb2 import (
    ListSessionsRequest,
    ListTenantsRequest,
    WatchSessionsRequest,
)
from tenantd.v1.watch_service_pb2_grpc import WatchServiceStub

from support import CANARY

pytestmark = pytest.mark.server


def test_a_key_is_in_no_log_event_snapshot_error_or_repr(fresh_server):
    seen = []
    with (
        tenantd.Client(fresh_server.address) as client,
    ):
        stub = WatchServiceStub(client.channel)
        watch = stub.WatchSessions(WatchSessionsRequest())
        watched = threading.Event()

        def collect():
            try:
                for item in watch:
                    seen.append(str(item))
                    watched.set()
            except grpc.RpcError:
                pass  # Cancelled below.

        collector = threading.Thread(target=collect)
        collector.start()
        assert watched.wait(5)

        grant = client.acquire("canary", tenant="canary", activate=True)
        assert grant.config.providers["llm"].api_key == CANARY
        config = client.get_config("canary")
        other = client.acquire("other", tenant="acme", activate=True)
        seen += [repr(other), str(other.config.providers["llm"].credentials)]
        for session in ("canary-2", "has space"):
            with pytest.raises(tenantd.TenantdError) as caught:
                client.acquire(session, tenant="canary", activate=True)
            seen += [str(caught.value), repr(caught.value), repr(vars(caught.value))]
            seen.append(repr(caught.value.__cause__))
        client.report_failure("canary", slot="llm", kind="auth", message="401")
        client.publish("canary", "turn_started")
        seen += [repr(x) for x in (client, grant, config, grant.config.providers)]
        seen.append(str(fresh_server.snapshot()))
        seen.append(str(stub.ListSessions(ListSessionsRequest())))
        seen.append(str(stub.ListTenants(ListTenantsRequest())))
        client.release("canary")
        client.release("other")
        watch.cancel()
        collector.join(5)
    logs = fresh_server.logs()
    assert logs, "trace logs were expected"
    for text in [*seen, logs]:
        assert CANARY not in text


def test_a_broken_config_file_does_not_spill_the_key_next_to_the_fault(fresh_server):
    file = fresh_server.file
    good = file.read_text()
    seen = []
    with tenantd.Client(fresh_server.address) as client:
        for broken in (
            good.replace(f'"{CANARY}"', f'"{CANARY}" oops'),
            good.replace(f'"{CANARY}"', f'["{CANARY}"]'),
            good.replace(f'"{CANARY}"', f'"{CANARY}'),
        ):
            assert broken != good
            file.write_text(broken)
            with pytest.raises(grpc.RpcError) as caught:
                AdminServiceStub(client.channel).ReloadConfig(ReloadConfigRequest(), timeout=5)
            error = tenantd.errors.from_rpc_error(caught.value)
            assert isinstance(error, tenantd.ReloadFailed)
            seen += [str(error), repr(caught.value), str(fresh_server.snapshot())]
    for text in [*seen, fresh_server.logs()]:
        assert CANARY not in text
