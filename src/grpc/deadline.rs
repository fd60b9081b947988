//! How long a caller waits for an answer, by the `grpc-timeout` that its deadline is
//! sent as (the gRPC over HTTP/2 protocol: up to 8 digits and a unit).

use std::time::Duration;

use http::HeaderMap;
use tonic::metadata::MetadataMap;

/// The part of a deadline that a source may take; the rest is for the way back, so
/// that the caller gets a refusal that says what is wrong instead of its own timeout.
const SHARE: f64 = 0.8;

/// How long sources may be waited for; none for a caller without a deadline.
pub fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let timeout = metadata.get("grpc-timeout")?.to_str().ok()?;
    parse(timeout).map(share)
}

/// The part of a caller's deadline that sources may take.
pub fn share(timeout: Duration) -> Duration {
    timeout.mul_f64(SHARE)
}

/// How long a caller waits for the answer to begin, as tonic's own server has it: a
/// stream that is open goes on. None where it is not valid: the caller watches its
/// own clock all the same.
pub fn of(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get("grpc-timeout")?.to_str().ok()?)
}

fn parse(timeout: &str) -> Option<Duration> {
    let (digits, unit) = timeout.split_at_checked(timeout.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_as_the_protocol_writes_it() {
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse("1999982u"), Some(Duration::from_micros(1_999_982)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "S", "2", "2s", "-1S", "123456789S", "1.5S", "٣S", "2é"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
