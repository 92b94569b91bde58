//! Cross-origin requests of browsers, as a route allows them (Gateway API: HTTPCORSFilter; Fetch §3.3).

use http::{HeaderName, Method};
use std::{fmt, sync::Arc};

/// What a route allows scripts of other origins.
#[derive(Clone, PartialEq, Debug)]
pub struct Cors {
    pub origins: Origins,
    /// Whether requests may have cookies and the like.
    pub credentials: bool,
    pub methods: Allowed<Method>,
    /// Fields of requests.
    pub headers: Allowed<HeaderName>,
    /// Fields of answers that scripts may read.
    pub expose: Allowed<HeaderName>,
    /// How long a browser may remember the answer to its question, in seconds.
    pub max_age: u32,
}

/// All, or these; none of them: none beyond what Fetch always allows.
#[derive(Clone, PartialEq, Debug)]
pub enum Allowed<T> {
    Any,
    These(Vec<T>),
}

/// Whose scripts.
#[derive(Clone, PartialEq, Debug)]
pub enum Origins {
    Any,
    These(Vec<OriginPattern>),
}

impl Origins {
    /// Whether scripts of `origin`, as a request's `Origin` field names it, are meant. `null` is only where all are.
    pub fn contain(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(patterns) => {
                Origin::parse(origin).is_some_and(|origin| patterns.iter().any(|pattern| pattern.matches(&origin)))
            }
        }
    }
}

/// An origin, or those of all hosts whose names end so: `https://shop.example`, `https://*.shop.example:8443`, `http://*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginPattern {
    text: Arc<str>,
    tls: bool,
    port: u16,
    /// Lower case; what follows the `*`, where one stands before.
    host: Box<str>,
    wild: bool,
}

/// Why a text is no [`OriginPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no origin like https://shop.example:8443, https://*.example or http://*")]
pub struct InvalidOrigin;

impl OriginPattern {
    /// Reads `SCHEME://HOST[:PORT]`; the scheme is http or https, the host may be `*` or begin with `*.`.
    pub fn parse(text: &str) -> Result<Self, InvalidOrigin> {
        let Origin { tls, host, port } = Origin::parse(text).ok_or(InvalidOrigin)?;
        let (wild, host) = host.strip_prefix('*').map_or((false, host), |rest| (true, rest));
        let name = if wild && !host.is_empty() { host.strip_prefix('.').ok_or(InvalidOrigin)? } else { host };
        let label = |label: &str| !label.is_empty() && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        let whole = wild && host.is_empty() || name.split('.').all(label);
        if !whole || text.len() > 253 {
            return Err(InvalidOrigin);
        }
        Ok(Self { text: text.into(), tls, port, host: host.to_ascii_lowercase().into(), wild })
    }

    /// The text it was made from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn matches(&self, origin: &Origin<'_>) -> bool {
        let (host, end) = (origin.host.as_bytes(), self.host.as_bytes());
        let named = match host.len().checked_sub(end.len()) {
            // A star stands for at least one byte.
            Some(0) => !self.wild && host.eq_ignore_ascii_case(end),
            Some(before) => self.wild && host[before..].eq_ignore_ascii_case(end),
            None => false,
        };
        named && (self.tls, self.port) == (origin.tls, origin.port)
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An origin in pieces (RFC 6454 §6).
struct Origin<'a> {
    tls: bool,
    host: &'a str,
    port: u16,
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let digits = port.bytes().all(|c| c.is_ascii_digit());
                (host, port.parse().ok().filter(|port| digits && *port > 0)?)
            }
            _ => (rest, if tls { 443 } else { 80 }),
        };
        (!host.is_empty()).then_some(Self { tls, host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, origin: &str) -> bool {
        Origins::These(vec![OriginPattern::parse(pattern).expect(pattern)]).contain(origin)
    }

    #[test]
    fn an_origin_is_scheme_host_and_port_and_a_star_stands_for_any_labels() {
        for (pattern, origin, allowed) in [
            ("https://foo.com", "https://foo.com", true),
            ("https://foo.com", "https://foo.com:443", true),
            ("https://foo.com:443", "https://foo.com", true),
            ("https://Foo.com", "https://fOO.com", true),
            ("https://foo.com", "http://foo.com", false),
            ("https://foo.com", "https://foo.com:8443", false),
            ("https://foo.com", "https://foo.com.evil.com", false),
            ("https://foo.com", "https://evilfoo.com", false),
            ("https://*.foo.com", "https://a.foo.com", true),
            ("https://*.foo.com", "https://a.b.foo.com", true),
            ("https://*.foo.com", "https://foo.com", false),
            ("https://*.foo.com", "https://.foo.com", false),
            ("https://*.foo.com", "https://afoo.com", false),
            ("https://*.foo.com:8443", "https://a.foo.com", false),
            ("http://*", "http://anything", true),
            ("http://*", "https://anything", false),
            ("http://*:8080", "http://anything:8080", true),
            ("http://*", "null", false),
            ("https://foo.com", "https://foo.com/", false),
            ("https://foo.com", "HTTPS://foo.com", false),
            ("https://10.0.0.1:1", "https://10.0.0.1:1", true),
            ("http://*", "http://[fd00::1]:80", true),
        ] {
            assert_eq!(allows(pattern, origin), allowed, "{pattern} {origin}");
        }
        assert!(Origins::Any.contain("null") && !Origins::These(Vec::new()).contain("https://foo.com"));
    }

    #[test]
    fn what_is_no_origin_is_told() {
        let long = format!("https://{}", "a".repeat(246));
        for wrong in [
            "",
            "*",
            "foo.com",
            "ftp://foo.com",
            "https://",
            "https://*foo.com",
            "https://a.*.com",
            "https://foo.com/a",
            "https://foo.com:0",
            "https://foo.com:70000",
            "https://foo.com:+1",
            "https://foo..com",
            "https://*.",
            "https://foo_bar",
            &long,
        ] {
            assert_eq!(OriginPattern::parse(wrong), Err(InvalidOrigin), "{wrong}");
        }
    }
}
