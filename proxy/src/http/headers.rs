//! What is taken off and put on a message's head at a proxy. Pure.

use crate::telemetry::Reason;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    uri::Authority,
};
use std::cell::RefCell;

/// What every name that only proxies may write begins with.
pub(crate) const RESERVED_PREFIX: &str = "x-remora-";
/// The caller's SPIFFE ID, for the application.
pub(crate) const CLIENT_ID: HeaderName = HeaderName::from_static("x-remora-client-id");
/// The reason of an answer that a proxy made itself.
pub(crate) const ERROR: HeaderName = HeaderName::from_static("x-remora-error");
/// Between proxies: the form of HTTP/1 to restore ([`super::form`]).
pub(crate) const RESTORE: HeaderName = HeaderName::from_static("x-remora-http");
/// Between proxies: which of the sender's HTTP/2 clients asks, as a number.
pub(crate) const CALLER: HeaderName = HeaderName::from_static("x-remora-caller");
/// Between proxies: the scheme of an upgrade that its client wrote as extended CONNECT ([`super::extended`]).
pub(crate) const EXTENDED: HeaderName = HeaderName::from_static("x-remora-extended-connect");

/// Of an answer: what was done to its request on purpose ([`fault`](super::layer)).
pub(crate) const FAULT: HeaderName = HeaderName::from_static("x-remora-fault");
/// Between proxies: for how many milliseconds all requests of this caller will be refused here, as they are over a rate limit.
pub(crate) const BUSY: HeaderName = HeaderName::from_static("x-remora-busy");

/// Between proxies: what an answer of 426 offers to upgrade to (RFC 9110 §15.5.22), which is a field of one hop.
pub(crate) const OFFERS: HeaderName = HeaderName::from_static("x-remora-upgrade");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Without `Connection` and `TE`, of which more is to say. `HTTP2-Settings` is one without being nominated: its sender may
/// have forgotten that, and no server behind this proxy may answer it.
static HOP_BY_HOP: [HeaderName; 5] = [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS];

/// Whether `name` is reserved, `_` for `-` included (CGI-style servers cannot tell them apart).
pub(crate) fn is_reserved(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() >= RESERVED_PREFIX.len()
        && bytes.iter().zip(RESERVED_PREFIX.bytes()).all(|(byte, wanted)| is_spelling(*byte, wanted))
}

/// Some servers take `_` for `-`.
fn is_spelling(byte: u8, wanted: u8) -> bool {
    byte == wanted || (byte == b'_' && wanted == b'-')
}

/// Takes off every reserved header.
pub(crate) fn strip_reserved(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| is_reserved(name.as_str())).cloned() {
        headers.remove(name);
    }
}

/// Fields that frame, route or authenticate a message, and so have no place behind it (RFC 9110 §6.5.1).
const NO_TRAILERS: [&str; 10] = [
    "content-length",
    "transfer-encoding",
    "host",
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "connection",
    "te",
    "trailer",
];

/// Whether a field of this name, in letters of any case, may stand behind a body.
pub(crate) fn may_be_trailer(name: &[u8]) -> bool {
    let reserved = name.len() >= RESERVED_PREFIX.len()
        && name
            .iter()
            .zip(RESERVED_PREFIX.bytes())
            .all(|(byte, wanted)| is_spelling(byte.to_ascii_lowercase(), wanted));
    !reserved && !NO_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
}

/// Takes off what may not stand behind a body.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    while let Some(name) = trailers.keys().find(|name| !may_be_trailer(name.as_str().as_bytes())).cloned() {
        trailers.remove(name);
    }
}

/// Whether the sender of this message takes no other on its connection (RFC 9112 §9.6).
pub(crate) fn says_close(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|line| nominates(line.as_bytes(), b"close"))
}

/// Whether a field is there. Nearly always a few fields are looked through, which costs less than to hash the name.
fn has(headers: &HeaderMap, wanted: &HeaderName) -> bool {
    headers.keys().any(|name| name == wanted)
}

/// Takes off the headers of one hop (RFC 9110 §7.6.1): those that any `Connection` line names, and the well-known ones.
/// `TE: trailers` stays, for gRPC.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| *name == CONNECTION || *name == TE || HOP_BY_HOP.contains(name)) {
        return;
    }
    if has(headers, &CONNECTION) {
        strip_named(headers);
        headers.remove(CONNECTION);
    }
    while let Some(name) = headers.keys().find_map(|name| HOP_BY_HOP.iter().find(|known| *known == name)) {
        headers.remove(name);
    }
    if has(headers, &TE) {
        let trailers = headers.get_all(TE).iter().any(|line| {
            line.as_bytes().split(|b| *b == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        });
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Takes off what the `Connection` lines name.
fn strip_named(headers: &mut HeaderMap) {
    let words = headers.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    // `close` and `keep-alive` name no field, or one that goes anyway; they are what most lines say.
    let names = words
        .map(<[u8]>::trim_ascii)
        .filter(|word| !word.eq_ignore_ascii_case(b"keep-alive") && !word.eq_ignore_ascii_case(b"close"));
    let names: Vec<HeaderName> = names.filter_map(|word| HeaderName::from_bytes(word).ok()).collect();
    for name in names {
        // Naming an end-to-end header here must not take it away behind a policy's back, nor one of ours: the
        // client's were taken off before.
        if name != HOST && name != http::header::CONTENT_LENGTH && name != TE && !is_reserved(name.as_str()) {
            headers.remove(name);
        }
    }
}

/// The last `Host` of a connection, already parsed: clients rarely change it.
#[derive(Debug, Default)]
pub(crate) struct LastHost(RefCell<Option<(HeaderValue, Authority)>>);

impl LastHost {
    fn parse(&self, value: &HeaderValue) -> Result<Authority, Reason> {
        if let Some((known, authority)) = &*self.0.borrow()
            && known == value
        {
            return Ok(authority.clone());
        }
        let authority = Authority::try_from(value.as_bytes()).map_err(|_| Reason::ProtocolError)?;
        *self.0.borrow_mut() = Some((value.clone(), authority.clone()));
        Ok(authority)
    }
}

/// The request's one authority: absolute form and `Host` must not disagree (RFC 9112 §3.2.2 lets the form win; two
/// readers of one request that choose differently is an attack).
/// HTTP/2 leaves it to us that there is one (RFC 9113 §8.3.1), and that `*` is asked by OPTIONS only.
pub(crate) fn authority<B>(request: &Request<B>, last: &LastHost) -> Result<Option<Authority>, Reason> {
    if request.uri().path() == "*" && request.method() != Method::OPTIONS {
        return Err(Reason::ProtocolError);
    }
    let mut hosts = request.headers().iter().filter(|(name, _)| *name == HOST);
    let host = hosts.next().map(|(_, value)| value);
    if hosts.next().is_some() {
        return Err(Reason::ProtocolError);
    }
    let host = match host {
        Some(value) if !value.is_empty() => Some(last.parse(value)?),
        _ => None,
    };
    let has_user = |authority: &Authority| authority.as_str().contains('@');
    if host.as_ref().is_some_and(has_user) {
        return Err(Reason::ProtocolError);
    }
    let chosen = match (request.uri().authority(), host) {
        (Some(target), Some(host)) if !same_authority(target, &host) => return Err(Reason::ProtocolError),
        (Some(target), _) => Some(target.clone()),
        (None, host) => host,
    };
    match chosen {
        Some(authority) if has_user(&authority) => Err(Reason::ProtocolError),
        None if request.version() == Version::HTTP_2 => Err(Reason::ProtocolError),
        chosen => Ok(chosen),
    }
}

pub(super) fn same_authority(a: &Authority, b: &Authority) -> bool {
    a == b || (a.host().eq_ignore_ascii_case(b.host()) && a.port_u16().unwrap_or(80) == b.port_u16().unwrap_or(80))
}

/// Whether a protocol that `Upgrade` offers is HTTP again: in another version, or inside TLS (RFC 2817). A server that took
/// it would be asked behind the back of every rule about requests; one that does not serves the request as it is, so the offer
/// can be taken off (RFC 9110 §7.8). `h2` is meaningless there (RFC 7540 §3.2).
pub(crate) fn is_http_again(offer: &[u8]) -> bool {
    let name = offer.split(|byte| *byte == b'/').next().unwrap_or_default().trim_ascii();
    [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The protocols that `Upgrade` lines offer, none of which is empty.
pub(crate) fn offers(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.iter().filter(|(name, _)| *name == UPGRADE).map(|(_, value)| value.as_bytes());
    lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).filter(|offer| !offer.is_empty())
}

/// Whether a line of `Connection` names `option`.
pub(super) fn nominates(line: &[u8], option: &[u8]) -> bool {
    line.split(|byte| *byte == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(option))
}

/// Whether the request asks to leave HTTP: `Upgrade` with `Connection: upgrade` on HTTP/1.1, or CONNECT. Offers of HTTP in
/// another guise are taken off before, with `HTTP2-Settings`.
pub(crate) fn asks_to_leave<B>(request: &mut Request<B>) -> bool {
    let connect = request.method() == Method::CONNECT;
    let old = request.version() != Version::HTTP_11;
    let headers = request.headers_mut();
    if !headers.keys().any(|name| *name == UPGRADE || *name == HTTP2_SETTINGS) {
        return connect;
    }
    headers.remove(HTTP2_SETTINGS);
    if offers(headers).any(is_http_again) {
        let left: Vec<&[u8]> = offers(headers).filter(|offer| !is_http_again(offer)).collect();
        let left = HeaderValue::from_bytes(&left.join(&b", "[..])).ok().filter(|left| !left.is_empty());
        headers.remove(UPGRADE);
        headers.extend(left.map(|left| (UPGRADE, left)));
    }
    let named = headers.get_all(CONNECTION).iter().any(|line| nominates(line.as_bytes(), b"upgrade"));
    connect || (!old && named && offers(headers).next().is_some())
}

/// Takes off what a `Connection` line names, but leaves the upgrade itself.
pub(crate) fn strip_for_upgrade(headers: &mut HeaderMap) {
    let upgrade: Vec<HeaderValue> = headers.get_all(UPGRADE).iter().cloned().collect();
    strip_hop_by_hop(headers);
    if !upgrade.is_empty() {
        for value in upgrade {
            headers.append(UPGRADE, value);
        }
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// What a server that demands an upgrade offers (RFC 9110 §15.5.22: 426 says so in `Upgrade`).
pub(crate) fn demanded_upgrade<B>(answer: &Response<B>) -> Option<HeaderValue> {
    if answer.status() != StatusCode::UPGRADE_REQUIRED {
        return None;
    }
    let fields = answer.headers();
    fields.get(OFFERS).cloned().or_else(|| {
        let offered: Vec<&[u8]> = offers(fields).collect();
        HeaderValue::from_bytes(&offered.join(&b", "[..])).ok().filter(|offered| !offered.is_empty())
    })
}

/// Says so to a client over HTTP/1. HTTP/2 has no upgrades.
pub(crate) fn demand_upgrade(fields: &mut HeaderMap, demanded: HeaderValue) {
    fields.insert(UPGRADE, demanded);
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

/// Fields and bytes within bounds, as HTTP/1 writes them. The crumbs of a cookie are one field (RFC 9113 §8.2.3).
pub(crate) fn within_bounds(headers: &HeaderMap) -> bool {
    use crate::limits::{HEADER_BYTES_MAX, HEADER_COUNT_MAX, RESERVED_BYTES_MAX};
    let crumbs = || headers.get_all(COOKIE).iter().count().saturating_sub(1);
    let bytes = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + ": \r\n".len();
    (headers.len() <= HEADER_COUNT_MAX || headers.len() - crumbs() <= HEADER_COUNT_MAX)
        && headers.iter().map(bytes).sum::<usize>() <= HEADER_BYTES_MAX + RESERVED_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of the offers, and whether the request asks to leave.
    fn left(version: Version, fields: &[(&'static str, &'static str)]) -> (String, bool) {
        let mut request = Request::new(());
        *request.version_mut() = version;
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        let leaves = asks_to_leave(&mut request);
        assert!(!request.headers().contains_key(HTTP2_SETTINGS), "{fields:?}");
        let offers = offers(request.headers()).map(|offer| String::from_utf8_lossy(offer).into_owned());
        (offers.collect::<Vec<_>>().join(" "), leaves)
    }

    #[test]
    fn http_in_another_guise_is_no_other_protocol() {
        let connection = ("connection", "Upgrade, HTTP2-Settings");
        for offer in
            ["h2c", "H2C", "h2", " h2c ,", "h2c,h2C", "h2c/1", "HTTP/2.0", "http/3, h2c", "TLS/1.2, HTTP/1.1", "tls"]
        {
            let fields = [connection, ("upgrade", offer), ("http2-settings", "AAMAAABk")];
            assert_eq!(left(Version::HTTP_11, &fields), (String::new(), false), "{offer}");
            assert_eq!(left(Version::HTTP_11, &fields[1..]), (String::new(), false), "{offer}");
        }
        for offer in ["h2c, websocket", "websocket,h2c", "websocket", "websocket, H2C, TLS/1.0"] {
            let fields = [connection, ("upgrade", offer), ("http2-settings", "AAMAAABk"), ("http2-settings", "x")];
            assert_eq!(left(Version::HTTP_11, &fields), ("websocket".to_owned(), true), "{offer}");
            assert!(!left(Version::HTTP_10, &fields).1, "HTTP/1.0 has no upgrades");
            assert!(!left(Version::HTTP_11, &fields[1..]).1, "nobody nominated it");
        }
        let two =
            [("upgrade", "h2c"), ("upgrade", "foo, websocket"), ("connection", "close"), ("connection", "UPGRADE")];
        assert_eq!(left(Version::HTTP_11, &two), ("foo websocket".to_owned(), true));
        // Not HTTP, whatever they begin with.
        for offer in ["h2cx", "httpx/1", "tlsx", "x/h2c"] {
            assert_eq!(left(Version::HTTP_11, &[connection, ("upgrade", offer)]), (offer.to_owned(), true));
        }
        assert!(!left(Version::HTTP_11, &[("connection", "upgrade")]).1 && !left(Version::HTTP_11, &[]).1);
    }

    #[test]
    fn the_crumbs_of_a_cookie_are_one_field() {
        let max = crate::limits::HEADER_COUNT_MAX;
        for (others, crumbs, within) in [(max - 1, 500, true), (max, 0, true), (max, 1, false), (max + 1, 0, false)] {
            let mut fields = HeaderMap::new();
            for at in 0..others {
                fields.append("x", HeaderValue::from(at));
            }
            for at in 0..crumbs {
                fields.append(COOKIE, HeaderValue::from(at));
            }
            assert_eq!(within_bounds(&fields), within, "{others} fields, {crumbs} crumbs");
        }
    }

    #[test]
    fn settings_for_http2_end_at_this_hop_either_way() {
        let mut answer = HeaderMap::new();
        for (name, value) in [("upgrade", "h2,h2c"), ("http2-settings", "x"), ("x-kept", "1")] {
            answer.insert(name, HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut answer);
        assert_eq!(answer.keys().collect::<Vec<_>>(), ["x-kept"]);
    }

    #[test]
    fn no_user_is_named_beside_a_host_in_either_place() {
        for (uri, host) in [("http://a/", "u@a"), ("http://a/", "@a"), ("http://u@a/", "a"), ("/", "u@a")] {
            let request = Request::builder().uri(uri).header(HOST, host).body(()).unwrap();
            assert!(authority(&request, &LastHost::default()).is_err(), "{uri} {host}");
        }
    }
}
