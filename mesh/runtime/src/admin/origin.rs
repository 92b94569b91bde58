//! Keeps foreign web pages out. A browser on the same machine reaches the admin port from the loopback address, so being
//! local is not enough: a name under foreign control may be pointed at it (DNS rebinding), and any page may send it a
//! POST. In: the head of a request. Out: nothing, or why it is refused. What is open to all stays open.

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use std::net::IpAddr;

/// What anybody may see: scrapers and probes call it by any name.
const OPEN: [&str; 3] = ["/live", "/ready", "/metrics"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the Host header must be an IP address or localhost, because a name may be a rebound one")]
    Host,
    #[error("a page of another origin may not send this")]
    Origin,
}

impl Refusal {
    fn reason(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Origin => "origin",
        }
    }
}

/// Refuses what a foreign page may have sent.
pub(super) async fn no_foreign_pages(request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            super::refused(refusal.reason(), &request);
            (StatusCode::FORBIDDEN, format!("{refusal}\n")).into_response()
        }
    }
}

pub(super) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).ok_or(Refusal::Host)?;
    if !names_an_address(host) {
        return Err(Refusal::Host);
    }
    match headers.get(header::ORIGIN) {
        Some(origin) if origin.as_bytes().strip_prefix(b"http://") != Some(host.as_bytes()) => Err(Refusal::Origin),
        _ => Ok(()),
    }
}

/// Whether a Host header is an IP address or `localhost`, with or without a port.
fn names_an_address(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    !host.contains('@') && (name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn verdict(headers: &[(&'static str, &'static str)]) -> Result<(), Refusal> {
        check(
            &headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect(),
        )
    }

    #[test]
    fn the_host_must_not_be_a_name() {
        for host in ["127.0.0.1", "127.0.0.1:4191", "localhost:4191", "LOCALHOST", "[::1]:4191", "10.1.2.3:80"] {
            assert_eq!(verdict(&[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:4191", "127.0.0.1.evil.example", "a@127.0.0.1", "", "[::1"]
        {
            assert_eq!(verdict(&[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(verdict(&[]), Err(Refusal::Host));
    }

    #[test]
    fn foreign_origins_are_refused() {
        let check = |origin| verdict(&[("host", "127.0.0.1:4191"), ("origin", origin)]);
        assert_eq!(check("http://127.0.0.1:4191"), Ok(()));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080", "https://127.0.0.1:4191"] {
            assert_eq!(check(origin), Err(Refusal::Origin), "{origin}");
        }
    }
}
