//! How a client chooses among the endpoints of a backend.

use http::{HeaderName, header};
use std::sync::Arc;

/// How the endpoint of a request or connection is chosen, among those that outlier detection leaves in rotation. Each choice is in
/// proportion to the endpoints' weights.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum LoadBalancer {
    /// Of two drawn at random, the one with the lower product of latency (peak-EWMA) and requests in flight.
    #[default]
    PeakEwma,
    /// Of two drawn at random, the one with fewer requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// All that a client sends goes to the same endpoint.
    SourceHash(HashSource),
    /// Requests with the same key go to the same endpoint, whichever client sends them.
    RequestHash(RequestHash),
}

/// Who counts as one client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HashSource {
    /// A pod, as `sessionAffinity: ClientIP` of a Service asks.
    Ip,
    /// All pods of one SPIFFE identity.
    Identity,
}

/// A consistent hash over what requests say.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RequestHash {
    pub key: HashKey,
    /// Bounded load, in percent: an endpoint that has more requests in flight than so much of its share takes no more keys than its own.
    /// From [`BALANCE_FACTOR_MIN`] to [`BALANCE_FACTOR_MAX`]; `None`: no bound.
    pub balance_factor: Option<u32>,
}

/// The least [`RequestHash::balance_factor`]: with less, the shares would not hold all requests.
pub const BALANCE_FACTOR_MIN: u32 = 100;
/// The largest: more is as good as no bound.
pub const BALANCE_FACTOR_MAX: u32 = 10_000;

/// What of a request is its key. A request without it is balanced by peak-EWMA.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum HashKey {
    /// The values of a header field.
    Header(HashHeader),
    /// The value of a cookie.
    Cookie(CookieName),
}

/// The name of a header field by which requests may be hashed: one that reaches the far application as it was sent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HashHeader(HeaderName);

/// The text is no header field by which requests can be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHashHeader {
    #[error("is no header name")]
    Name,
    #[error("is a header that is not sent on as it is, so that there is nothing to hash")]
    NotSentOn,
}

/// Fields that each hop writes anew (RFC 9110 §7.6.1), and `Host`, which is no field in HTTP/2.
const NOT_SENT_ON: [HeaderName; 7] = [
    header::HOST,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
];
/// What the names of Remora's own fields begin with; an application's are removed.
const RESERVED: &str = "x-remora-";

/// Whether a field reaches the far application as it was sent.
pub(crate) fn is_sent_on(name: &HeaderName) -> bool {
    let kept = ["keep-alive", "proxy-connection"].contains(&name.as_str());
    !kept && !NOT_SENT_ON.contains(name) && !name.as_str().starts_with(RESERVED)
}

impl HashHeader {
    /// Reads one, in any case.
    pub fn parse(text: &str) -> Result<Self, InvalidHashHeader> {
        let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| InvalidHashHeader::Name)?;
        if !is_sent_on(&name) {
            return Err(InvalidHashHeader::NotSentOn);
        }
        Ok(Self(name))
    }

    /// In lower case.
    pub fn name(&self) -> &HeaderName {
        &self.0
    }
}

/// The name of a cookie (RFC 6265 §4.1.1): a token, whose case counts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CookieName(Arc<str>);

/// The text is no name of a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no name of a cookie of at most {COOKIE_NAME_BYTES_MAX} letters, digits and !#$%&'*+-.^_`|~")]
pub struct InvalidCookieName;

/// The longest name of a cookie.
const COOKIE_NAME_BYTES_MAX: usize = 256;

impl CookieName {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, InvalidCookieName> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let whole = !text.is_empty() && text.len() <= COOKIE_NAME_BYTES_MAX && text.bytes().all(token);
        if whole { Ok(Self(text.into())) } else { Err(InvalidCookieName) }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_by_what_reaches_the_application() {
        assert_eq!(HashHeader::parse("X-User").unwrap().name().as_str(), "x-user");
        for (text, wrong) in [
            ("", InvalidHashHeader::Name),
            (":path", InvalidHashHeader::Name),
            ("a b", InvalidHashHeader::Name),
            ("Host", InvalidHashHeader::NotSentOn),
            ("Keep-Alive", InvalidHashHeader::NotSentOn),
            ("upgrade", InvalidHashHeader::NotSentOn),
            ("X-Remora-Client-Id", InvalidHashHeader::NotSentOn),
        ] {
            assert_eq!(HashHeader::parse(text), Err(wrong), "{text}");
        }
        assert_eq!(CookieName::parse("Session_id").unwrap().as_str(), "Session_id");
        for text in ["", "a=b", "a;b", "a b", "é", &"a".repeat(257)] {
            assert_eq!(CookieName::parse(text), Err(InvalidCookieName), "{text}");
        }
    }
}
