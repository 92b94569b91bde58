//! Fuzz target of the admin port's heads. In: two lines, `Host` and `Origin`. Out: nothing, or a panic.

use super::origin::check;
use axum::http::{HeaderMap, HeaderValue, header};
use std::net::IpAddr;

/// Whoever is let in named an address or `localhost`, and comes from there.
pub fn admin_origins(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [header::HOST, header::ORIGIN] {
        if let Some(value) = lines.next().and_then(|line| HeaderValue::from_bytes(line).ok()) {
            headers.insert(name, value);
        }
    }
    if check(&headers).is_err() {
        return;
    }
    let host = headers[header::HOST].to_str().expect("a name that is let in is text");
    let name = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    assert!(name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok(), "{host:?}");
    if let Some(origin) = headers.get(header::ORIGIN) {
        assert_eq!(origin.as_bytes(), format!("http://{host}").as_bytes());
    }
}
