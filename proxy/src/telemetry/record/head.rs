//! What is kept of a request's head: its method, path, authority and fields, as far as they find room, without secrets and without the
//! query, which often has some.
//!
//! Written when a request begins, into room that is there already; read when somebody asks for records that ended.

use crate::limits;
use http::{HeaderName, HeaderValue};

/// Bytes that are kept of one head.
pub(super) const BYTES: usize = 376;
/// The field that says who asked for what was refused.
const PEER: &str = ":peer";
/// What stands for a value that is not kept.
const REDACTED: &[u8] = b"[redacted]";

/// See the module.
#[derive(Debug)]
pub(super) struct Head {
    len: usize,
    bytes: [u8; BYTES],
}

impl Head {
    pub(super) const fn empty() -> Self {
        Self { len: 0, bytes: [0; BYTES] }
    }

    /// Nothing: what has no head.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Behind the head of what was refused: who asked for it, whom its series does not tell.
    pub(super) fn note_peer(&mut self, peer: &str) {
        if self.len == 0 {
            self.part(b"", 0);
            self.part(b"", 0);
        }
        self.field(PEER, peer.as_bytes());
    }

    /// What is kept of `request`.
    pub(super) fn write<B>(&mut self, request: &http::Request<B>) {
        self.target(request);
        self.fields(request);
    }

    /// The same of one that was refused, with who asked for it.
    pub(super) fn write_refused<B>(&mut self, request: &http::Request<B>, peer: &str) {
        self.target(request);
        self.note_peer(peer);
        self.fields(request);
    }

    fn target<B>(&mut self, request: &http::Request<B>) {
        self.len = 0;
        self.part(request.method().as_str().as_bytes(), 24);
        self.part(request.uri().path().as_bytes(), limits::RECORD_PATH_BYTES);
    }

    fn fields<B>(&mut self, request: &http::Request<B>) {
        if let Some(authority) = request.uri().authority() {
            self.field(":authority", authority.as_str().as_bytes());
        }
        for (name, value) in request.headers() {
            self.field(name.as_str(), shown(name, value));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Its bytes by eight; the last of them may go beyond its end.
    pub(super) fn eights(&self) -> &[[u8; 8]] {
        let (eights, _) = self.bytes.as_chunks();
        &eights[..self.len.div_ceil(8).min(eights.len())]
    }

    #[cfg(test)]
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn field(&mut self, name: &str, value: &[u8]) {
        // A name without its value, or a part of a name, would be worse than none.
        let most = if name == PEER { limits::RECORD_PATH_BYTES } else { limits::RECORD_VALUE_BYTES };
        let value = &value[..value.len().min(most)];
        if name.len() <= usize::from(u8::MAX) && self.len + name.len() + value.len() + 2 <= BYTES {
            self.part(name.as_bytes(), name.len());
            self.part(value, most);
        }
    }

    /// One length and so many bytes, at most `max` (below 256), which there is room for.
    fn part(&mut self, bytes: &[u8], max: usize) {
        let bytes = &bytes[..bytes.len().min(max)];
        let Some(room) = self.bytes.get_mut(self.len..=self.len + bytes.len()) else { return };
        room[0] = bytes.len() as u8;
        room[1..].copy_from_slice(bytes);
        self.len += 1 + bytes.len();
    }
}

fn shown<'a>(name: &HeaderName, value: &'a HeaderValue) -> &'a [u8] {
    if value.is_sensitive() || is_secret(name.as_str()) { REDACTED } else { value.as_bytes() }
}

/// Whether the values of a field are, or may well be, credentials: by the last word of its name.
fn is_secret(name: &str) -> bool {
    let last = name.rsplit_once('-').map_or(name, |(_, last)| last);
    matches!(
        last,
        "authorization"
            | "cookie"
            | "token"
            | "key"
            | "apikey"
            | "secret"
            | "password"
            | "signature"
            | "assertion"
            | "cert"
    )
}

/// What was kept of a head, to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Empty for a byte connection.
    pub method: String,
    /// Without its query.
    pub path: String,
    /// Names and values as far as there was room for them.
    pub fields: Vec<(String, String)>,
}

impl Told {
    /// What [`Head`] wrote.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut parts = Parts(bytes).map(|part| String::from_utf8_lossy(part).into_owned());
        let (method, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let mut fields = Vec::new();
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            fields.push((name, value));
        }
        Self { method, path, fields }
    }

    /// Who asked for it, where its series does not tell.
    pub(crate) fn peer(&self) -> Option<&str> {
        self.field(PEER)
    }

    /// The trace that it belongs to, if it says so (W3C Trace Context §3.2).
    pub(crate) fn trace(&self) -> Option<&str> {
        let id = self.field("traceparent")?.split('-').nth(1)?;
        let valid = id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (valid && id.bytes().any(|byte| byte != b'0')).then_some(id)
    }

    /// The first value of the field `name`, in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first()?;
        let (part, rest) = rest.split_at_checked(usize::from(*len))?;
        self.0 = rest;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn told(request: &Request<()>) -> Told {
        let mut head = Head::empty();
        head.write(request);
        Told::of(head.as_bytes())
    }

    #[test]
    fn a_head_is_kept_without_its_query_and_its_secrets() {
        let request = Request::get("http://api.shop/orders/7?token=abc")
            .header("user-agent", "curl/8")
            .header("authorization", "Bearer abc")
            .header("x-session-token", "abc")
            .header("cookie", "a=abc");
        let told = told(&request.body(()).unwrap());
        assert_eq!((told.method.as_str(), told.path.as_str()), ("GET", "/orders/7"));
        assert_eq!((told.field("user-agent"), told.field(":authority")), (Some("curl/8"), Some("api.shop")));
        for secret in ["authorization", "x-session-token", "cookie"] {
            assert_eq!(told.field(secret), Some("[redacted]"));
        }
        assert!(!format!("{told:?}").contains("abc"));
    }

    #[test]
    fn credentials_are_told_by_the_last_word_of_a_fields_name() {
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "apikey",
            "private-token",
            "x-amz-security-token",
            "x-forwarded-client-cert",
            "x-goog-iap-jwt-assertion",
            "sec-websocket-key",
            "x-hub-signature",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["host", "user-agent", "accept", "traceparent", "date", "content-type", "x-request-id", "via"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn what_finds_no_room_is_left_out_and_what_is_there_is_whole() {
        let mut request = Request::get(format!("/{}", "p".repeat(4000)));
        for number in 0..40 {
            request = request.header(format!("x-field-{number}"), "v".repeat(number * 30));
        }
        let told = told(&request.body(()).unwrap());
        assert_eq!(told.path.len(), limits::RECORD_PATH_BYTES);
        assert!(told.fields.len() >= 3 && told.fields.len() < 40, "{}", told.fields.len());
        for (name, value) in &told.fields {
            let number: usize = name.trim_start_matches("x-field-").parse().unwrap();
            assert_eq!(value.len(), (number * 30).min(limits::RECORD_VALUE_BYTES), "{name}");
        }
    }

    #[test]
    fn what_was_cut_off_is_read_as_far_as_it_goes() {
        let mut head = Head::empty();
        head.write(&Request::get("/a").header("x", "y").body(()).unwrap());
        for len in 0..head.as_bytes().len() {
            let told = Told::of(&head.as_bytes()[..len]);
            assert!(told.fields.is_empty() && "GET".starts_with(&told.method), "{told:?}");
        }
    }
}
