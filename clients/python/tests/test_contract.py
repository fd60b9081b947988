"""The fake answers as the sidecar does: each case runs on both."""

import contextvars
import json
import time

import pytest

import tenantd
from tenantd.testing import FakeSidecar, Sidecar

import support

LLM = {"provider": "openai", "model": "gpt-4o", "credential": "env:KEY"}
CONFIG = {
    "lease": {"pending": "15s", "ttl": "60s", "grace": "1s"},
    "defaults": {
        "cap": 3,
        "labels": {"plan": "basic"},
        "providers": {
            "llm": {**LLM, "params": {"temperature": 0.5, "max_tokens": 100}},
            "tts": {"provider": "cartesia", "credentials": {"token": "t-1"}},
        },
        "breaker": {
            "min_samples": 2, "failure_ratio": 0.5, "cooldown": "300ms", "probes": 1,
            "probe_healthy_after": "30s",
        },
    },
    "agents": {"desk": {"cap": 1}},
    "tenants": {
        "acme": {
            "cap": 2,
            "labels": {"plan": "gold"},
            "providers": {"llm": {**LLM, "model": "own"}, "tts": "none"},
        },
        "keyless": {"providers": {"llm": {**LLM, "credential": "env:NOT_THERE"}}},
    },
}
KINDS = {"real": Sidecar, "fake": FakeSidecar}


@pytest.fixture(params=KINDS)
def sidecar(request):
    more = {}
    if request.param == "real":
        if not support.BINARY.exists():
            pytest.skip(f"no binary at {support.BINARY}: cargo build, or set TENANTD_BIN")
        more = {"binary": support.BINARY}
    with KINDS[request.param](CONFIG, environment={"KEY": "sk-1"}, **more) as sidecar:
        yield sidecar


@pytest.fixture
def td(sidecar):
    with tenantd.connect_sync(sidecar.address) as td:
        yield td


def pass_time(sidecar, seconds):
    if isinstance(sidecar, FakeSidecar):
        sidecar.advance(seconds)
    else:
        end = time.monotonic() + seconds
        support.until("time passes", lambda: time.monotonic() > end, seconds + 5)


def test_every_case_of_binding_a_tenant(td):
    for i, case in enumerate(support.contract("tenants.json")["cases"]):
        ask = {
            "job_metadata": case.get("job", ""),
            "room_metadata": case.get("room", ""),
            "tenant": case.get("explicit", ""),
        }
        if "ok" in case:
            assert td.acquire(f"t-{i}", **ask).tenant == case["ok"], case
            td.release(f"t-{i}")
        else:
            with pytest.raises(tenantd.REASONS[case["reject"]]) as caught:
                td.acquire(f"t-{i}", **ask)
            assert caught.value.disposition == "final"


def test_config_is_the_tenants_over_the_defaults(td):
    own, other = td.acquire("own", tenant="acme"), td.acquire("other", tenant="who")
    assert dict(own.config.providers) == {
        "llm": tenantd.Provider("openai", "own", "", {"api_key": "sk-1"}, {})
    }
    assert own.config.labels == {"plan": "gold"} and own.config.tenant_known
    assert other.config.providers.llm.params == {"temperature": 0.5, "max_tokens": 100}
    assert other.config.providers.tts.credentials == {"token": "t-1"}
    assert other.config.labels == {"plan": "basic"} and not other.config.tenant_known
    with pytest.raises(tenantd.ConfigUnavailable) as caught:
        td.acquire("none", tenant="keyless")
    assert (caught.value.tenant, caught.value.disposition) == ("keyless", "retry_later")


def test_caps_of_tenant_and_agent(sidecar, td):
    for i in range(2):
        td.acquire(f"a-{i}", tenant="acme")
    with pytest.raises(tenantd.TenantAtCap) as caught:
        td.acquire("a-2", tenant="acme")
    assert (caught.value.limit, caught.value.current, caught.value.tenant) == (2, 2, "acme")
    assert caught.value.disposition == "retry_elsewhere" and sidecar.live("acme") == 2
    td.acquire("b", tenant="b", agent_name="desk")
    with pytest.raises(tenantd.AgentAtCap):
        td.acquire("c", tenant="c", agent_name="desk")
    td.release("a-0")
    assert td.acquire("a-2", tenant="acme").created


def test_acquire_is_idempotent_and_an_ended_id_stays_ended(td):
    first = td.acquire("same", tenant="acme")
    again = td.acquire("same", tenant="acme", activate=True)
    assert (first.created, again.created) == (True, False)
    assert first.config == again.config
    assert first.session.state == 1 and again.session.state == 2
    with pytest.raises(tenantd.SessionConflict):
        td.acquire("same", tenant="other")
    assert td.release("same", "cancelled") == "cancelled"
    for call in (td.release, td.renew, lambda s: td.acquire(s, tenant="acme")):
        with pytest.raises(tenantd.SessionEnded) as caught:
            call("same")
        assert caught.value.outcome == "cancelled"
    with pytest.raises(tenantd.SessionUnknown):
        td.renew("never")
    with pytest.raises(tenantd.InvalidField) as caught:
        td.acquire("a b", tenant="acme")
    assert [field for field, _ in caught.value.fields] == ["session_id"]


def test_a_reported_failure_counts_once_and_is_not_booked_as_success(td):
    td.acquire("f", tenant="acme", activate=True)
    assert [td.report_failure("f", slot="llm"), td.report_failure("f", slot="llm")] == [True, False]
    assert td.release("f", "success") == "failure"


def test_the_breaker_opens_probes_and_recovers_and_leaves_siblings_alone(sidecar, td):
    def call(session_id, outcome):
        td.acquire(session_id, tenant="bad", activate=True)
        td.release(session_id, outcome)

    call("1", "failure")
    call("2", "failure")
    with pytest.raises(tenantd.CircuitOpen) as caught:
        call("3", "success")
    assert 0 < caught.value.retry_after <= 0.3 and caught.value.disposition == "retry_later"
    td.acquire("sibling", tenant="good")
    pass_time(sidecar, 0.4)
    td.acquire("probe", tenant="bad", activate=True)
    with pytest.raises(tenantd.CircuitOpen):
        call("4", "success")
    td.release("probe", "cancelled")
    call("5", "success")
    call("6", "success")
    call("7", "failure")
    call("8", "success")


def test_a_failed_probe_doubles_the_cooldown(sidecar, td):
    sidecar.open_breaker("bad")
    pass_time(sidecar, 0.4)
    td.acquire("probe", tenant="bad", activate=True)
    td.release("probe", "failure")
    with pytest.raises(tenantd.CircuitOpen) as caught:
        td.acquire("next", tenant="bad")
    assert 0.3 < caught.value.retry_after <= 0.6


def test_operators_suspend_revoke_and_drain(sidecar, td):
    sidecar.suspend("acme", "unpaid")
    with pytest.raises(tenantd.TenantSuspended, match="unpaid"):
        td.acquire("s", tenant="acme")
    sidecar.resume("acme")
    notices = td.notices()
    with td.session("gone", tenant="acme") as s:
        sidecar.revoke("gone", "fraud")
        assert next(notices).cause == "revoked" and s.revoked
    assert sidecar.live("acme") == 0
    with td.session("last", tenant="acme"):
        sidecar.drain()
        assert isinstance(next(notices), tenantd.SidecarDraining)
        with pytest.raises(tenantd.Draining) as caught:
            td.acquire("late", tenant="acme")
        assert caught.value.disposition == "retry_elsewhere"


def test_a_rotated_key_reaches_a_live_session(sidecar, td):
    notices = td.notices()
    rotated = json.loads(json.dumps(CONFIG).replace("env:KEY", "sk-2"))
    with td.session("live", tenant="acme") as s, td.session("sibling", tenant="quiet"):
        support.until("both are attached", lambda: all(
            held.attached for held in td._link._live.values()
        ))
        sidecar.reload(rotated)
        changed = {notice.tenant: notice for notice in (next(notices), next(notices))}
        assert changed["acme"].session_ids == ("live",)
        assert s.providers.llm.api_key == "sk-1"
        s.refresh()
        assert s.providers.llm.api_key == "sk-2"
        assert s.config.version == changed["acme"].version


def test_a_config_that_is_held_is_not_sent_again_and_a_rotated_key_is(sidecar, td, monkeypatch):
    replies, grant = [], td._known.grant
    monkeypatch.setattr(td._known, "grant", lambda *a: (replies.append(a[0]), grant(*a))[1])
    with td.session("one", tenant="acme") as one:
        one.providers.llm.params["mine"] = True
    with td.session("two", job_metadata='{"tenant": " acme "}') as two:
        assert two.providers.llm.api_key == "sk-1"
        assert "mine" not in two.providers.llm.params, "each session has its own"
    assert [reply.config_unchanged for reply in replies] == [False, True]
    assert not replies[1].HasField("config")
    sidecar.reload(json.loads(json.dumps(CONFIG).replace("env:KEY", "sk-2")))
    with td.session("three", tenant="acme") as three:
        assert three.providers.llm.api_key == "sk-2"
    assert not replies[2].config_unchanged


def test_a_process_that_goes_gives_its_slots_back_after_the_grace(sidecar):
    with tenantd.connect_sync(sidecar.address) as td:
        # In a context of its own: nothing ends the binding.
        contextvars.copy_context().run(td.session("lost", tenant="acme").open)
        support.until("it is attached", lambda: td._link._live["lost"].attached)
    assert sidecar.live("acme") == 1
    pass_time(sidecar, 1.1)
    support.until("the slot is free", lambda: sidecar.live("acme") == 0)
    with tenantd.Client(sidecar.address) as other, pytest.raises(tenantd.SessionEnded) as caught:
        other.renew("lost")
    assert caught.value.outcome == "lost"


def test_events_of_a_session_are_taken_and_of_strangers_are_not(sidecar, td):
    with td.session("ev", tenant="acme") as s:
        s.publish("turn_started", {"turn": 1})
        with pytest.raises(tenantd.SessionUnknown):
            td.publish("never", "turn_started")
    if isinstance(sidecar, FakeSidecar):
        assert sidecar.events == [("ev", "turn_started", {"turn": 1.0})]


def test_pending_sessions_end_when_nobody_runs_them():
    with FakeSidecar(CONFIG, environment={"KEY": "k"}) as fake, tenantd.Client(fake.address) as td:
        td.acquire("pending", tenant="acme")
        td.acquire("active", tenant="acme", activate=True)
        fake.advance(16)
        assert fake.live("acme") == 1
        fake.advance(50)
        assert fake.live("acme") == 0
