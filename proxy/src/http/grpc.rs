//! What gRPC says in header fields: that it is spoken, how long the caller waits, how a call ended (gRPC over HTTP/2).

use crate::telemetry::Reason;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use std::time::Duration;

/// Whether it is a gRPC request or response.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.iter().find(|(name, _)| *name == CONTENT_TYPE);
    kind.is_some_and(|(_, value)| value.as_bytes().starts_with(b"application/grpc"))
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
    let micros = left.as_micros();
    let text =
        if micros < 100_000_000 { format!("{micros}u") } else { format!("{}m", left.as_millis().min(99_999_999)) };
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert("grpc-timeout", value);
    }
}

/// Whether a gRPC status says that the server, not the caller, failed.
pub(crate) fn failed(headers: &HeaderMap) -> bool {
    headers
        .get("grpc-status")
        .is_some_and(|status| matches!(status.as_bytes(), b"2" | b"4" | b"12" | b"13" | b"14" | b"15"))
}

/// What ends a gRPC response that failed for `reason`.
pub(crate) fn trailers(reason: Reason) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from(u16::from(reason.grpc_code())));
    trailers.insert("grpc-message", HeaderValue::from_static(reason.as_str()));
    trailers
}
