"""Metadata binds the tenant that the contract says, over the real wire."""

import itertools

import pytest

import tenantd

from support import contract

pytestmark = pytest.mark.server
number = itertools.count()


def ask(case):
    return {
        "job_metadata": case.get("job", ""),
        "room_metadata": case.get("room", ""),
        "tenant": case.get("explicit", ""),
    }


CASES = contract("tenants.json")["cases"]


@pytest.mark.parametrize("case", [c for c in CASES if "ok" in c], ids=str)
def test_metadata_binds_the_tenant(client, case):
    grant = client.acquire(f"tenant-{next(number)}", activate=True, **ask(case))
    assert grant.tenant == case["ok"]
    assert client.release(grant.session_id) == "success"


@pytest.mark.parametrize("case", [c for c in CASES if "reject" in c], ids=str)
def test_a_bad_tenant_is_refused_and_changes_nothing(server, client, case):
    before = server.snapshot()
    with pytest.raises(tenantd.REASONS[case["reject"]]) as caught:
        client.acquire(f"tenant-{next(number)}", activate=True, **ask(case))
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert caught.value.disposition == "final"
    after = server.snapshot()
    assert after.active_sessions == before.active_sessions
    assert after.sessions_by_tenant == before.sessions_by_tenant
    # Idle tenants may be dropped meanwhile; none may be added.
    assert after.tenants_in_memory <= before.tenants_in_memory


def test_malformed_tenants_leave_ten_healthy_sessions_alone(server, client):
    ids = [f"healthy-{i}" for i in range(10)]
    for session_id in ids:
        client.acquire(session_id, tenant="healthy", activate=True)
    for i in range(50):
        with pytest.raises(tenantd.TenantMalformed):
            client.acquire(f"bad-{i}", job_metadata='{"tenant": 5}', activate=True)
    assert server.live("healthy") == 10
    for session_id in ids:
        assert client.renew(session_id).tenant == "healthy"
        assert client.release(session_id) == "success"
