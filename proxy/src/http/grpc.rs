//! What gRPC says in header fields: that it is spoken, how long the caller waits, how a call ended (gRPC over HTTP/2).

use crate::telemetry::Reason;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use std::time::Duration;

/// Whether it is a gRPC request or response. `application/grpc-web` is not: it has its trailers in its body.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.iter().find(|(name, _)| *name == CONTENT_TYPE);
    let rest = kind.and_then(|(_, value)| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// The caller's deadline (gRPC over HTTP/2: at most eight digits and a unit). Anything else is none.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Tells the next hop what is left of the deadline.
pub(crate) fn set_timeout(headers: &mut HeaderMap, left: Duration) {
    // Eight digits at most: in the finest unit that has room for it, rounded down.
    let (millis, seconds) = (left.as_millis(), u128::from(left.as_secs()));
    let units = [(left.as_micros(), 'u'), (millis, 'm'), (seconds, 'S'), (seconds / 60, 'M'), (seconds / 3600, 'H')];
    let (value, unit) = units.into_iter().find(|(value, _)| *value < 100_000_000).unwrap_or((99_999_999, 'H'));
    if let Ok(value) = HeaderValue::try_from(format!("{value}{unit}")) {
        headers.insert("grpc-timeout", value);
    }
}

/// Whether a gRPC status says that the server, not the caller, failed.
pub(crate) fn failed(headers: &HeaderMap) -> bool {
    headers
        .get("grpc-status")
        .is_some_and(|status| matches!(status.as_bytes(), b"2" | b"4" | b"12" | b"13" | b"14" | b"15"))
}

/// The status that a response's head or trailers say.
pub(crate) fn status(headers: &HeaderMap) -> Option<u32> {
    let text = headers.get("grpc-status")?.as_bytes();
    let digits = (1..=2).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
}

/// What ends a gRPC response that failed for `reason`.
pub(crate) fn trailers(reason: Reason) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from(u16::from(reason.grpc_code())));
    trailers.insert("grpc-message", HeaderValue::from_static(reason.as_str()));
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_grpc_and_what_only_begins_like_it_is_not() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc ; x=y", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("text/plain", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        }
    }

    #[test]
    fn a_deadline_of_any_length_is_passed_on_and_never_lengthened() {
        for seconds in [0, 1, 99, 100, 99_999, 100_000, 1_000_000, 99_999_999, 100_000_000, 360_000_000_000] {
            let left = Duration::from_secs(seconds) + Duration::from_micros(1);
            let mut headers = HeaderMap::new();
            set_timeout(&mut headers, left);
            let read = timeout(&headers).unwrap();
            let (most, least) = (left, left.mul_f64(0.9999).saturating_sub(Duration::from_micros(1)));
            assert!(read <= most && (read >= least || seconds > 359_999_996_400), "{left:?}: {headers:?}");
        }
    }
}
