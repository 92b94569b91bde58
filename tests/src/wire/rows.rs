//! Rows of HTTP/1 requests that can be read in two ways, or are more than a proxy holds, with what must become of each.
//!
//! The tables are data: whoever has a [`Way`] to an application can send them.

use super::{Ending, Line, Recorder, http1};
use anyhow::{Context as _, ensure};

/// A way to an application, through a proxy.
pub trait Way {
    /// A raw connection at its beginning.
    fn line(&self) -> anyhow::Result<Line>;
    /// What requests on it name.
    fn authority(&self) -> &str;
    /// The application at its end.
    fn app(&self) -> &Recorder;
    /// How many requests the proxy at its beginning has refused.
    fn refusals(&self) -> anyhow::Result<f64>;
}

/// What becomes of a row's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The first answer has this status, the connection ends, and the application sees nothing.
    Refused(u16),
    /// The head may have been passed on; the request never becomes whole, and the connection ends.
    Cut,
    /// Exactly one request arrives, with this body, and the connection serves another.
    Passed(&'static [u8]),
    /// The same, and then the connection ends.
    Last(&'static [u8]),
}

use Fate::{Cut, Last, Passed, Refused};

/// Bytes in which `~` is the row's target and `^` the road's authority.
pub type Row = (&'static str, String, Fate);

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: ^\r\n\r\n";

/// A request line, a host, these field lines, and a body.
fn request(method: &str, fields: &str, body: &str) -> String {
    format!("{method} ~ HTTP/1.1\r\nHost: ^\r\n{fields}\r\n{body}")
}

fn post(fields: &str, body: &str) -> String {
    request("POST", fields, body)
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

/// §6.3 of RFC 9112 and its enemies: where a body ends.
pub fn lengths() -> Vec<Row> {
    let both = |fields: &str| post(fields, &format!("0\r\n\r\n{SMUGGLED}"));
    let coding = |value: &str| post(&format!("Transfer-Encoding:{value}\r\n"), "0\r\n\r\n");
    let length = |fields: &str| post(fields, "hello");
    vec![
        (
            "content-length, then transfer-encoding",
            both("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
            Refused(400),
        ),
        (
            "transfer-encoding, then content-length",
            both("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
            Refused(400),
        ),
        (
            "both, and an old version",
            "POST ~ HTTP/1.0\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            Refused(400),
        ),
        (
            "two codings in two lines",
            both("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            Refused(400),
        ),
        (
            "identity in a second line",
            both("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
            Refused(400),
        ),
        ("chunked is not last", coding(" chunked, identity"), Refused(400)),
        ("chunked is not alone", coding(" gzip, chunked"), Refused(400)),
        ("an unknown coding", coding(" xchunked"), Refused(400)),
        ("a coding with a parameter", coding(" chunked;q=1"), Refused(400)),
        ("a coding in quotes", coding(" \"chunked\""), Refused(400)),
        ("a coding after a vertical tab", coding(" \x0bchunked"), Refused(400)),
        ("a coding before a form feed", coding(" chunked\x0c"), Refused(400)),
        ("an empty coding", coding(""), Refused(400)),
        ("a coding on a folded line", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"), Refused(400)),
        ("space before the colon of the coding", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), Refused(400)),
        ("two lengths that differ", length("Content-Length: 5\r\nContent-Length: 0\r\n"), Refused(400)),
        ("a list of lengths", length("Content-Length: 5, 5\r\n"), Refused(400)),
        ("a length with a sign", length("Content-Length: +5\r\n"), Refused(400)),
        ("a negative length", length("Content-Length: -5\r\n"), Refused(400)),
        ("a hexadecimal length", length("Content-Length: 0x5\r\n"), Refused(400)),
        ("a length with a space in it", length("Content-Length: 5 5\r\n"), Refused(400)),
        ("no length where one is named", length("Content-Length: \r\n"), Refused(400)),
        ("a length of twenty digits", length("Content-Length: 00000000000000000005\r\n"), Refused(400)),
        ("a length beyond 63 bits", length("Content-Length: 18446744073709551621\r\n"), Refused(400)),
    ]
}

/// Bodies that end in one place, if in a strange way.
pub fn good_lengths() -> Vec<Row> {
    let coding = |value: &str| post(&format!("Transfer-Encoding:{value}\r\n"), "0\r\n\r\n");
    let length = |fields: &str| post(fields, "hello");
    vec![
        ("two lengths that agree", length("Content-Length: 5\r\nContent-Length: 5\r\n"), Passed(b"hello")),
        ("a coding after a tab", coding("\tchunked"), Passed(b"")),
        ("a coding in capitals", coding(" CHUNKED"), Passed(b"")),
        (
            "a field that only looks like a coding",
            length("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n"),
            Passed(b"hello"),
        ),
        ("no length at all", post("", ""), Passed(b"")),
        ("a body of length 0", post("Content-Length: 0\r\n", ""), Passed(b"")),
        ("a GET with a body", request("GET", "Content-Length: 5\r\n", "hello"), Passed(b"hello")),
        (
            "a GET with chunks",
            request("GET", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            Passed(b"hello"),
        ),
        ("a body that is not waited for", length("Expect: 100-continue\r\nContent-Length: 5\r\n"), Passed(b"hello")),
        (
            "a length that nominates itself",
            length("Connection: content-length\r\nContent-Length: 5\r\n"),
            Passed(b"hello"),
        ),
        (
            "a coding that nominates itself",
            chunked("5\r\nhello\r\n0\r\n\r\n").replace("chunked", "chunked\r\nConnection: transfer-encoding"),
            Passed(b"hello"),
        ),
        (
            "an old version with a length",
            "POST ~ HTTP/1.0\r\nHost: ^\r\nContent-Length: 5\r\n\r\nhello".into(),
            Last(b"hello"),
        ),
    ]
}

/// Lines and fields.
pub fn heads() -> Vec<Row> {
    let line = |line: &str| format!("{line}\r\nHost: ^\r\n\r\n");
    let field = |field: &str| request("GET", &format!("{field}\r\n"), "");
    vec![
        ("a bare LF after the request line", "GET ~ HTTP/1.1\nHost: ^\r\n\r\n".into(), Refused(400)),
        ("a bare LF after a field", request("GET", "X: y\n", ""), Refused(400)),
        ("a bare LF at the end of the head", "GET ~ HTTP/1.1\r\nHost: ^\r\n\n".into(), Refused(400)),
        ("bare LFs only", "GET ~ HTTP/1.1\nHost: ^\n\n".into(), Refused(400)),
        ("a bare CR in a value", field("X: a\rb"), Refused(400)),
        ("a bare CR that hides a field", field("X: a\rContent-Length: 40"), Refused(400)),
        ("a NUL in a value", field("X: a\0b"), Refused(400)),
        ("a control character in a value", field("X: a\x01b"), Refused(400)),
        ("a DEL in a value", field("X: a\x7fb"), Refused(400)),
        ("a folded line", field("X: a\r\n b"), Refused(400)),
        ("a first field that begins with a space", "GET ~ HTTP/1.1\r\n Host: ^\r\n\r\n".into(), Refused(400)),
        ("space before a colon", field("X : y"), Refused(400)),
        ("no name", field(": y"), Refused(400)),
        ("no colon", field("X"), Refused(400)),
        ("a name that is no token", field("X(y): z"), Refused(400)),
        ("two spaces before the target", line("GET  ~ HTTP/1.1"), Refused(400)),
        ("two spaces after the target", line("GET ~  HTTP/1.1"), Refused(400)),
        ("a tab in the request line", line("GET\t~ HTTP/1.1"), Refused(400)),
        ("a space in the target", line("GET ~ x HTTP/1.1"), Refused(400)),
        ("no version", line("GET ~"), Refused(400)),
        ("a space after the version", line("GET ~ HTTP/1.1 "), Refused(400)),
        ("a version that is none", line("GET ~ HTTP/1.2"), Refused(505)),
        ("a version of another major", line("GET ~ HTTP/2.0"), Refused(505)),
        ("a version in small letters", line("GET ~ http/1.1"), Refused(505)),
        ("a fragment", line("GET ~#x HTTP/1.1"), Refused(400)),
        ("a control character in the target", line("GET ~\x01 HTTP/1.1"), Refused(400)),
        ("no host", "GET ~ HTTP/1.1\r\n\r\n".into(), Refused(400)),
        ("two hosts", request("GET", "Host: ^\r\n", ""), Refused(400)),
        ("two hosts that differ", request("GET", "Host: evil\r\n", ""), Refused(400)),
        ("a host with a user name", "GET ~ HTTP/1.1\r\nHost: a@^\r\n\r\n".into(), Refused(400)),
        ("a list of hosts", "GET ~ HTTP/1.1\r\nHost: ^,evil\r\n\r\n".into(), Refused(400)),
        ("a host with a path", "GET ~ HTTP/1.1\r\nHost: ^/x\r\n\r\n".into(), Refused(400)),
        ("a host with a bad port", "GET ~ HTTP/1.1\r\nHost: api:8x\r\n\r\n".into(), Refused(400)),
        ("a target that names another host", line("GET http://evil~ HTTP/1.1"), Refused(400)),
        ("a target with a user name", "GET http://a@^~ HTTP/1.1\r\nHost: ^\r\n\r\n".into(), Refused(400)),
        ("a star for another method", "GET * HTTP/1.1\r\nHost: ^\r\n\r\n".into(), Refused(400)),
        ("a reserved name, spoofed", field("X-Remora-Client-Id: spiffe://evil"), Passed(b"")),
        ("a reserved name with underscores", field("x_remora_client_id: spiffe://evil"), Passed(b"")),
        (
            "a reserved name, nominated",
            field("X-Remora-Hops: 1\r\nConnection: x-remora-client-id, x-remora-hops"),
            Passed(b""),
        ),
        ("a host that is nominated", field("Connection: host"), Passed(b"")),
        (
            "fields of one hop",
            field("Connection: x-one\r\nX-One: 1\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nTE: gzip"),
            Passed(b""),
        ),
        ("an empty line first", format!("\r\n{}", field("X: y")), Passed(b"")),
        ("bytes above ASCII", field("X: caf\u{e9}"), Passed(b"")),
        ("a target in absolute form", line("GET http://^~ HTTP/1.1"), Passed(b"")),
    ]
}

/// What is too much.
pub fn sizes() -> Vec<Row> {
    let field = |count: usize| format!("X: {}\r\n", "x".repeat(count));
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20 << 10));
    let trailer = format!("0\r\n{}\r\n", field(20 << 10));
    vec![
        ("a target of 17 KiB", format!("GET ~?{} HTTP/1.1\r\nHost: ^\r\n\r\n", "x".repeat(17 << 10)), Refused(414)),
        ("a field of 70 KiB", request("GET", &field(70 << 10), ""), Refused(431)),
        ("a field of 1 MiB", request("GET", &field(1 << 20), ""), Refused(431)),
        ("fields of 70 KiB together", request("GET", &field(1 << 10).repeat(70), ""), Refused(431)),
        ("101 fields", request("GET", &field(1).repeat(100), ""), Refused(431)),
        ("a name of 70 KiB", request("GET", &format!("{}: y\r\n", "x".repeat(70 << 10)), ""), Refused(431)),
        ("an extension of 20 KiB", chunked(&extension), Cut),
        ("trailers of 20 KiB", chunked(&trailer), Cut),
        (
            "a target of 15 KiB",
            format!("GET ~ HTTP/1.1\r\nHost: ^\r\nX: {}\r\n\r\n", "x".repeat(15 << 10)),
            Passed(b""),
        ),
    ]
}

/// Chunk by chunk.
pub fn chunks() -> Vec<Row> {
    vec![
        ("a bare LF after a size", chunked("5\nhello\r\n0\r\n\r\n"), Cut),
        ("a bare LF after the data", chunked("5\r\nhello\n0\r\n\r\n"), Cut),
        ("a bare LF after an extension", chunked("5;x\nhello\r\n0\r\n\r\n"), Cut),
        ("a bare LF at the end", chunked("5\r\nhello\r\n0\r\n\n"), Cut),
        ("a bare CR in an extension", chunked("5;\rx\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a size with a prefix", chunked("0x5\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a size with a sign", chunked("+5\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a negative size", chunked("-5\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a size after a space", chunked(" 5\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a size before a space", chunked("5 \r\nhello\r\n0\r\n\r\n"), Cut),
        ("no size", chunked("\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a size beyond 64 bits", chunked("10000000000000005\r\nhello\r\n0\r\n\r\n"), Cut),
        ("data longer than its size", chunked("3\r\nhello\r\n0\r\n\r\n"), Cut),
        ("data without an end", chunked("5\r\nhello0\r\n\r\n"), Cut),
        ("a trailer that frames", chunked("0\r\nContent-Length: 5\r\n\r\n"), Cut),
        ("a trailer that codes", chunked("0\r\nTransfer-Encoding: chunked\r\n\r\n"), Cut),
        ("a trailer that routes", chunked("0\r\nHost: evil\r\n\r\n"), Cut),
        ("a trailer that authorises", chunked("0\r\nAuthorization: Basic eDp5\r\n\r\n"), Cut),
        ("a trailer with a reserved name", chunked("0\r\nX_Remora-Client-Id: spiffe://evil\r\n\r\n"), Cut),
        ("a trailer that is folded", chunked("0\r\nX: a\r\n b\r\n\r\n"), Cut),
        ("plain chunks", chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), Passed(b"hello")),
        ("sizes with zeros and an extension", chunked("0005;a=b\r\nhello\r\n000\r\n\r\n"), Passed(b"hello")),
        ("a trailer of the application's own", chunked("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"), Passed(b"hello")),
    ]
}

/// Sends one row's bytes and checks their fate.
pub fn check(way: &dyn Way, target: &str, bytes: &str, fate: Fate) -> anyhow::Result<()> {
    let fill = |text: &str| text.replace('~', target).replace('^', way.authority());
    let (before, mut line) = (way.refusals()?, way.line()?);
    // Latin 1, so that a test can name bytes above ASCII.
    line.send(&fill(bytes).chars().map(|c| c as u8).collect::<Vec<_>>());
    match fate {
        Refused(status) => {
            let heard = line.hear_all();
            ensure!(matches!(heard.ending, Ending::Closed), "it is {:?} after {}", heard.ending, heard.text());
            let answers = http1::responses(&heard.bytes).map_err(anyhow::Error::msg)?;
            ensure!(answers.len() == 1 && answers[0].status() == status, "answered {answers:?}");
            ensure!(way.app().requests(target).is_empty(), "the application saw it");
            ensure!(way.refusals()? > before, "no counter moved");
        }
        Cut => {
            let heard = line.hear_all();
            ensure!(matches!(heard.ending, Ending::Closed | Ending::Reset), "it is {:?}", heard.ending);
            let answers = http1::responses(&heard.bytes).map_err(anyhow::Error::msg)?;
            ensure!(answers.iter().all(|answer| answer.status() >= 400), "answered {answers:?}");
            ensure!(way.app().requests(target).is_empty(), "the application saw a whole request");
            ensure!(way.refusals()? > before, "no counter moved");
        }
        Passed(body) | Last(body) => {
            arrived(way.app(), &mut line, target, body)?;
            if matches!(fate, Last(_)) {
                let rest = line.hear_all();
                ensure!(rest.ending == Ending::Closed && rest.bytes.is_empty(), "{rest:?}");
                return Ok(());
            }
            let again = format!("{target}/again");
            line.send(fill("GET ~ HTTP/1.1\r\nHost: ^\r\n\r\n").replace(target, &again).as_bytes());
            arrived(way.app(), &mut line, &again, b"").context("the next request")?;
        }
    }
    Ok(())
}

/// One answer came, and the application saw one request with this body.
pub fn arrived(app: &Recorder, line: &mut Line, target: &str, body: &[u8]) -> anyhow::Result<()> {
    let heard = line.hear(|bytes| match http1::response(bytes, "GET", false) {
        http1::Read::Whole(answer) => answer.status() != 100 || http1::responses(bytes).is_ok_and(|all| all.len() > 1),
        http1::Read::Part => false,
        http1::Read::Malformed(_) => true,
    });
    let answers = http1::responses(&heard.bytes).map_err(anyhow::Error::msg)?;
    let last = answers.last().context("no answer")?;
    ensure!(last.status() == 200 && last.body == b"ok", "answered {answers:?}");
    let seen = app.requests(target);
    ensure!(seen.len() == 1, "the application saw {} requests", seen.len());
    ensure!(seen[0].body == body, "the body is {:?}", String::from_utf8_lossy(&seen[0].body));
    let id = seen[0].values("x-remora-client-id");
    ensure!(!id.iter().any(|id| id.contains("evil")), "the application was told {id:?}");
    let foreign = ["x-one", "keep-alive", "proxy-connection", "x_remora_client_id", "x-remora-hops", "x-remora-http"];
    ensure!(!seen[0].fields.iter().any(|(name, _)| foreign.contains(&name.as_str())), "{:?}", seen[0].fields);
    Ok(())
}
