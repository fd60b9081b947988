"""Refusals become typed errors."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

import tenantd
from tenantd import _status_pb2
from tenantd.errors import from_rpc_error
from tenantd.v1 import reason_pb2

from support import contract

REASONS = contract("reasons.json")


class Failure(grpc.RpcError):
    def __init__(self, code, *details, raw=None):
        status = _status_pb2.Status(message="no")
        for detail in details:
            name = f"type.googleapis.com/google.rpc.{detail.DESCRIPTOR.name}"
            status.details.add(type_url=name, value=detail.SerializeToString())
        self._code, self._raw = code, status.SerializeToString() if raw is None else raw

    def code(self):
        return self._code

    def details(self):
        return "no"

    def trailing_metadata(self):
        return (("grpc-status-details-bin", self._raw),)


@pytest.mark.parametrize("reason", REASONS, ids=lambda r: r["reason"])
def test_every_reason_has_a_class_and_the_number_of_the_enum(reason):
    name = reason["reason"]
    assert reason_pb2.Reason.Value(f"REASON_{name}") == reason["number"]
    info = _status_pb2.ErrorInfo(reason=name, domain="tenantd.dev")
    error = from_rpc_error(Failure(grpc.StatusCode[reason["code"]], info))
    assert type(error) is tenantd.REASONS[name]
    assert type(error) is getattr(tenantd, "".join(w.title() for w in name.split("_")))
    assert (error.reason, error.code.name) == (name, reason["code"])


def test_no_reason_is_missing_in_the_contract():
    known = {v.name.removeprefix("REASON_") for v in reason_pb2.Reason.DESCRIPTOR.values}
    assert {r["reason"] for r in REASONS} == known - {"UNSPECIFIED"} == set(tenantd.REASONS)


def test_an_error_carries_what_the_details_say():
    info = _status_pb2.ErrorInfo(
        reason="TENANT_AT_CAP",
        domain="tenantd.dev",
        metadata={
            "tenant": "acme",
            "sessionId": "s",
            "disposition": "retry_elsewhere",
            "limit": "2",
            "current": "3",
        },
    )
    retry = _status_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    error = from_rpc_error(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, info, retry))
    assert isinstance(error, tenantd.TenantAtCap) and error.retryable
    assert (error.tenant, error.session_id, error.limit, error.current) == ("acme", "s", 2, 3)
    assert error.retry_after == 1.5
    assert str(error).startswith("TENANT_AT_CAP: no (retry after 1.5 s)\n")
    assert "tenantd cap" in str(error)


def test_a_wrong_field_is_named():
    info = _status_pb2.ErrorInfo(reason="INVALID_FIELD", domain="tenantd.dev")
    bad = _status_pb2.BadRequest()
    bad.field_violations.add(field="ttl", description="too long")
    error = from_rpc_error(Failure(grpc.StatusCode.INVALID_ARGUMENT, info, bad))
    assert error.fields == (("ttl", "too long"),)


def test_a_reason_of_a_later_server_is_still_a_tenantd_error():
    info = _status_pb2.ErrorInfo(reason="BRAND_NEW", domain="tenantd.dev")
    error = from_rpc_error(Failure(grpc.StatusCode.FAILED_PRECONDITION, info))
    assert type(error) is tenantd.TenantdError and error.reason == "BRAND_NEW"


def test_reasons_of_another_domain_are_not_taken_for_ours():
    info = _status_pb2.ErrorInfo(reason="DRAINING", domain="example.com")
    error = from_rpc_error(Failure(grpc.StatusCode.UNAVAILABLE, info))
    assert type(error) is tenantd.SidecarUnavailable and error.reason == ""


def test_broken_details_do_not_hide_the_status():
    error = from_rpc_error(Failure(grpc.StatusCode.INTERNAL, raw=b"\xff\xff"))
    assert type(error) is tenantd.SidecarUnavailable and error.code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"])
def test_a_connection_that_breaks_in_a_call_leaves_it_undecided(code):
    error = from_rpc_error(Failure(grpc.StatusCode[code]))
    assert type(error) is tenantd.SidecarUnavailable
    other = from_rpc_error(Failure(grpc.StatusCode.UNAUTHENTICATED))
    assert type(other) is tenantd.TenantdError


async def test_no_sidecar_is_a_prompt_typed_error(tmp_path):
    address = f"unix:{tmp_path}/none.sock"
    with tenantd.Client(address) as client, pytest.raises(tenantd.SidecarUnavailable):
        client.acquire("x")
    async with tenantd.AsyncClient(address) as client:
        with pytest.raises(tenantd.SidecarUnavailable):
            await client.acquire("x")
