//! What requests and answers are made of: legal, each of them, and each of them met somewhere.

use super::script::Field;

pub const METHODS: [&str; 12] =
    ["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "x-Odd~Method!"];

/// Paths, as they are written in a request.
pub const PATHS: [&str; 14] = [
    "/",
    "/a/b?c=d",
    "/?",
    "/a?",
    "/?a=b&&c",
    "//double//slash/",
    "/%7Euser/%2e%2e/x",
    "/a;b=c,d:@!$&'()*+~_.-",
    "/a/../b/./c",
    "/caf%C3%A9",
    "/{curly}|pipe^",
    "/a?b=c?d/e:f@g",
    "/a?b[]=1&c=%00",
    "/+",
];

/// `Host` of requests that say where they go.
pub const HOSTS: [&str; 6] = ["api:80", "api:80", "API:80", "api.test:80", "api", "Api.Test.svc.cluster.local:80"];

/// `Host` of requests that go where their connection goes.
pub const ANY_HOSTS: [&str; 7] =
    ["", "example.com", "Example.COM.", "x_y:8080", "[::1]:80", "192.0.2.1", "a-b.c:65535"];

/// Fields that end where the message does. Values begin behind the colon.
pub const END_TO_END: [(&str, &str); 26] = [
    ("X-Odd-CaSe", " Value"),
    ("x-empty", ""),
    ("X-Empty-With-Space", " "),
    ("X-Obs-Text", " caf\u{e9} \u{ff}\u{80}"),
    ("X-Tab", " a\tb"),
    ("X-No-Space", "value"),
    ("X-Wide", "   inner   space \t "),
    ("!#$%&'*+-.^_`|~9", " every token character"),
    ("Accept", " text/html, */*;q=0.1"),
    ("X-Repeated", " one"),
    ("X-Between", " between"),
    ("X-Repeated", " two"),
    ("X-Repeated", ""),
    ("Via", " 1.0 fred, 1.1 p.example.net"),
    ("Forwarded", " for=192.0.2.43"),
    ("X-Forwarded-For", " 192.0.2.43"),
    ("Authorization", " Basic eDp5"),
    ("User_Agent", " underscore"),
    ("Cache-Control", " no-cache"),
    ("Content-Type", " application/json; charset=\"utf-8\""),
    ("Content-Encoding", " gzip"),
    ("X-Quoted", " \"a, b\\\"c\""),
    ("X-Comma", " ,,a,,"),
    ("Priority", " u=1, i"),
    ("Traceparent", " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("Date", " Tue, 15 Nov 1994 08:12:31 GMT"),
];

/// Fields of requests only.
pub const OF_REQUESTS: [(&str, &str); 6] = [
    ("Range", " bytes=0-1,5-"),
    ("If-None-Match", " W/\"x\", \"y\""),
    ("Max-Forwards", " 3"),
    ("Proxy-Authorization", " Basic eDp5"),
    ("Origin", " null"),
    ("Sec-WebSocket-Key", " x"),
];

/// Fields of one hop, and whatever a `Connection` line names.
pub const HOP: [&[(&str, &str)]; 7] = [
    &[("Connection", " x-private"), ("X-Private", " 1")],
    &[("Connection", " keep-alive, x-private"), ("Connection", " X-Other"), ("x-private", " 1"), ("x-other", " 2")],
    &[("Keep-Alive", " timeout=5")],
    &[("Proxy-Connection", " keep-alive")],
    &[("TE", " gzip;q=0.5, trailers"), ("Connection", " TE")],
    &[("TE", " trailers")],
    &[("Upgrade", " foo/2")],
];

/// Fields of answers only.
pub const OF_ANSWERS: [(&str, &str); 10] = [
    ("Server", " origin/1.0 (test)"),
    ("Set-Cookie", " a=1; Path=/"),
    ("Set-Cookie", " b=2; HttpOnly"),
    ("ETag", " W/\"x\""),
    ("Location", " /a b"),
    ("WWW-Authenticate", " Basic realm=\"x\", Digest realm=\"y\""),
    ("Retry-After", " 1"),
    ("Vary", " *"),
    ("Alt-Svc", " clear"),
    ("Accept-Ranges", " bytes"),
];

/// Names that only proxies may write.
pub const RESERVED: [(&str, &str); 3] =
    [("X-Remora-Client-Id", " spiffe://spoofed"), ("x_remora_anything", " 1"), ("x-remora-http", " 1.0")];

pub const STATUSES: [u16; 28] = [
    200, 200, 200, 201, 202, 203, 204, 205, 206, 226, 299, 300, 304, 307, 400, 401, 404, 405, 413, 418, 426, 451, 499,
    500, 503, 504, 599, 999,
];

/// Reason phrases; `None` is the registered one.
pub const REASONS: [Option<&str>; 6] =
    [None, None, Some(" "), Some(""), Some(" Odd  Phrase, (really)"), Some(" caf\u{e9}")];

/// Codes of RST_STREAM and GOAWAY (RFC 9113 §7), and one of nobody's.
pub const CODES: [u32; 10] = [0, 1, 2, 3, 7, 8, 9, 11, 13, 0xbeef];

/// These fields, as a script has them.
pub fn owned(fields: &[(&str, &str)]) -> Vec<Field> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
