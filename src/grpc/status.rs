//! Refusals on the wire: the only file that names gRPC status codes.
#![deny(clippy::wildcard_enum_match_arm)]

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::domain::reject::{Reason, Rejection};

/// `google.rpc.ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "tenantd.dev";

/// The gRPC code of a reason. UNAVAILABLE is kept for "could not decide",
/// since retry policies re-send it unasked and fail-open rules key on it.
#[must_use]
pub const fn code(reason: Reason) -> Code {
    match reason {
        Reason::TenantMalformed | Reason::TenantConflict | Reason::InvalidField => {
            Code::InvalidArgument
        }
        Reason::NotPermitted => Code::PermissionDenied,
        Reason::Draining
        | Reason::TenantSuspended
        | Reason::CircuitOpen
        | Reason::ConfigUnavailable
        | Reason::SessionConflict
        | Reason::SessionEnded
        | Reason::ReloadFailed
        | Reason::AuditUnavailable => Code::FailedPrecondition,
        Reason::TenantAtCap
        | Reason::AgentAtCap
        | Reason::MachineAtCap
        | Reason::LimitReached
        | Reason::RateLimited
        | Reason::Overloaded => Code::ResourceExhausted,
        Reason::TenantUnknown | Reason::SessionUnknown => Code::NotFound,
        Reason::Undecided => Code::Unavailable,
    }
}

/// A refusal as a status with rich details.
#[must_use]
pub fn status(refused: Rejection) -> Status {
    let mut metadata =
        HashMap::from([("disposition".to_owned(), refused.reason.disposition().name().to_owned())]);
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            metadata.insert(key.to_owned(), value);
        }
    };
    put("tenant", refused.tenant.as_ref().map(ToString::to_string));
    put("limit", refused.limit.map(|n| n.to_string()));
    put("current", refused.current.map(|n| n.to_string()));
    put("outcome", refused.outcome.map(|o| o.name().to_owned()));
    let mut details = ErrorDetails::with_error_info(refused.reason.name(), DOMAIN, metadata);
    if let Some(after) = refused.retry_after {
        details.set_retry_info(Some(after));
    }
    if let Some(field) = &refused.field {
        details.add_bad_request_violation(field, &refused.message);
    }
    Status::with_error_details(code(refused.reason), refused.message, details)
}

/// Refusals that the transport makes by itself (a message over the bound, bytes
/// that are no such message) as `INVALID_FIELD` of the whole message; any other
/// status as it is. The texts are tonic's, for which it has no type.
#[must_use]
pub fn explained(said: Status) -> Status {
    let message = said.message();
    let problem = if said.code() == Code::OutOfRange && message.contains("message length too large")
    {
        let figures: Vec<&str> =
            message.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
        match figures.as_slice() {
            [got, max, ..] => {
                format!("must be at most {max} bytes (limits.message_bytes), got {got}")
            }
            _ => "is larger than limits.message_bytes".to_owned(),
        }
    } else if said.code() == Code::Internal && message.contains("failed to decode Protobuf") {
        "is not a protobuf message of the type that this method takes".to_owned()
    } else {
        return said;
    };
    status(Rejection::field("message", problem))
}

/// The caller's own deadline passed before there was an answer.
#[must_use]
pub fn timed_out() -> Status {
    Status::new(Code::DeadlineExceeded, "the deadline of the call passed")
}

/// The call broke off; nobody can tell how far it came.
#[must_use]
pub fn interrupted() -> http::Response<tonic::body::Body> {
    Status::new(Code::Internal, "the call was interrupted").into_http()
}

/// The request is no call.
#[must_use]
pub fn not_grpc() -> http::Response<tonic::body::Body> {
    let mut answer = http::Response::new(tonic::body::Body::empty());
    *answer.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
    answer
}

/// As [`explained`], for answers that never reached a service of ours.
#[must_use]
pub fn explain<B>(answer: http::Response<B>) -> http::Response<B> {
    let Some(said) = Status::from_header_map(answer.headers()) else { return answer };
    if said.code() == Code::Ok || !said.details().is_empty() {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    // On failure the headers stay as they are: the bare status is still right.
    let _ = explained(said).add_header(&mut parts.headers);
    http::Response::from_parts(parts, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::v1;

    #[test]
    fn every_reason_has_the_code_name_number_and_disposition_of_the_contract() {
        let contract: Vec<serde_json::Value> =
            serde_json::from_str(include_str!("../../tests/contract/reasons.json")).unwrap();
        assert_eq!(contract.len(), Reason::ALL.len());
        for (reason, want) in Reason::ALL.into_iter().zip(contract) {
            assert_eq!(reason.name(), want["reason"]);
            let on_wire = v1::Reason::from_str_name(&format!("REASON_{}", reason.name())).unwrap();
            assert_eq!(on_wire as i64, want["number"].as_i64().unwrap(), "{}", reason.name());
            assert_eq!(reason.disposition().name(), want["disposition"], "{}", reason.name());
            let named = format!("{:?}", code(reason));
            let want = want["code"].as_str().unwrap().replace('_', "");
            assert!(named.eq_ignore_ascii_case(&want), "{}: {named}", reason.name());
        }
    }
}
