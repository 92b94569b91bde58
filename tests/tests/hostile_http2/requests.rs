//! Requests that HTTP/2 does not allow (RFC 9113 §8), and those that only look like it.

use super::scene;
use anyhow::ensure;
use remora_runtime::tls::Alpn;
use remora_tests::wire::{
    Line, Recorder, Road,
    http2::{END_STREAM, Outcome, block, frame, headers, hello, kind, outcome},
};

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The stream is reset or answered with an error, or the connection ends; the application sees nothing.
    Refused,
    /// Exactly one request arrives, with this body.
    Passed(&'static [u8]),
}

use Fate::{Passed, Refused};

/// Fields in which `~` is the row's target and `^` the authority, the DATA frames behind them, and trailers.
type Row = (&'static str, Vec<(&'static str, &'static str)>, &'static [&'static [u8]], Fate);

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "~"), (":authority", "^")];

/// A GET with more fields.
fn get(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&GET[..], more].concat()
}

/// A GET with another value for one of its fields.
fn but(name: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    GET.iter().map(|(field, old)| (*field, if *field == name { value } else { *old })).collect()
}

/// A GET without one of its fields.
fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    GET.iter().filter(|(field, _)| *field != name).copied().collect()
}

fn pseudo() -> Vec<Row> {
    vec![
        ("no method", without(":method"), &[], Refused),
        ("no scheme", without(":scheme"), &[], Refused),
        ("no path", without(":path"), &[], Refused),
        ("no authority", without(":authority"), &[], Refused),
        ("two methods", get(&[(":method", "GET")]), &[], Refused),
        ("two paths", get(&[(":path", "~")]), &[], Refused),
        ("two authorities", get(&[(":authority", "^")]), &[], Refused),
        ("a pseudo field behind a field", [&[("x", "y")][..], &GET].concat(), &[], Refused),
        ("an unknown pseudo field", get(&[(":x", "y")]), &[], Refused),
        ("a status", get(&[(":status", "200")]), &[], Refused),
        ("an empty path", but(":path", ""), &[], Refused),
        ("a path that is not absolute", but(":path", "x~"), &[], Refused),
        ("a space in the path", but(":path", "~ HTTP/1.1\r\nx: y"), &[], Refused),
        ("a CR LF in the path", but(":path", "~\r\nx: y"), &[], Refused),
        ("a NUL in the path", but(":path", "~\0"), &[], Refused),
        ("a star for a GET", but(":path", "*"), &[], Refused),
        ("a space in the method", but(":method", "GET /smuggled HTTP/1.1\r\nx:"), &[], Refused),
        ("an empty method", but(":method", ""), &[], Refused),
        ("an empty authority", but(":authority", ""), &[], Refused),
        ("an authority with a user name", but(":authority", "a@^"), &[], Refused),
        ("an authority with a path", but(":authority", "^/x"), &[], Refused),
        ("a CR LF in the authority", but(":authority", "^\r\nx: y"), &[], Refused),
        ("a scheme that is none", but(":scheme", "h t"), &[], Refused),
        ("a host that is not the authority", get(&[("host", "evil")]), &[], Refused),
        ("two hosts", get(&[("host", "^"), ("host", "^")]), &[], Refused),
    ]
}

fn fields() -> Vec<Row> {
    vec![
        ("a name in capitals", get(&[("X", "y")]), &[], Refused),
        ("an empty name", get(&[("", "y")]), &[], Refused),
        ("a space in a name", get(&[("x y", "z")]), &[], Refused),
        ("a colon in a name", get(&[("x:y", "z")]), &[], Refused),
        ("a CR LF in a name", get(&[("x\r\ny", "z")]), &[], Refused),
        ("a CR LF in a value", get(&[("x", "y\r\nz: w")]), &[], Refused),
        ("an LF in a value", get(&[("x", "y\nz: w")]), &[], Refused),
        ("a CR in a value", get(&[("x", "y\rz")]), &[], Refused),
        ("a NUL in a value", get(&[("x", "y\0z")]), &[], Refused),
        ("connection", get(&[("connection", "close")]), &[], Refused),
        ("keep-alive", get(&[("keep-alive", "1")]), &[], Refused),
        ("proxy-connection", get(&[("proxy-connection", "x")]), &[], Refused),
        ("transfer-encoding", get(&[("transfer-encoding", "chunked")]), &[b"0\r\n\r\n"], Refused),
        ("upgrade", get(&[("upgrade", "x")]), &[], Refused),
        ("a te that is not trailers", get(&[("te", "gzip")]), &[], Refused),
        ("a length and no body", get(&[("content-length", "5")]), &[], Refused),
        ("a body shorter than its length", get(&[("content-length", "9")]), &[b"hello"], Refused),
        ("a body longer than its length", get(&[("content-length", "1")]), &[b"hello"], Refused),
        ("two lengths that differ", get(&[("content-length", "5"), ("content-length", "6")]), &[b"hello"], Refused),
        ("a length that is none", get(&[("content-length", "x")]), &[b"hello"], Refused),
        ("a list of lengths", get(&[("content-length", "5, 5")]), &[b"hello"], Refused),
        ("a signed length", get(&[("content-length", "+5")]), &[b"hello"], Refused),
        ("nothing but a GET", get(&[]), &[], Passed(b"")),
        ("a body", get(&[]), &[b"hel", b"lo"], Passed(b"hello")),
        ("a body of its length", get(&[("content-length", "5")]), &[b"hello"], Passed(b"hello")),
        ("te: trailers", get(&[("te", "trailers")]), &[], Passed(b"")),
        ("a host like the authority", get(&[("host", "^")]), &[], Passed(b"")),
        ("a reserved name, spoofed", get(&[("x-remora-client-id", "spiffe://evil")]), &[], Passed(b"")),
        ("a reserved name with underscores", get(&[("x_remora_client_id", "spiffe://evil")]), &[], Passed(b"")),
        ("a hop count that is none", get(&[("x-remora-hops", "-1")]), &[], Passed(b"")),
        ("bytes above ASCII", get(&[("x", "caf\u{e9}")]), &[], Passed(b"")),
        ("cookies in crumbs", get(&[("cookie", "a=b"), ("cookie", "c=d")]), &[], Passed(b"")),
    ]
}

type Fields<'a> = &'a [(&'a str, &'a str)];

/// A line, an authority, and the application behind them.
type Way<'a> = (Line, &'static str, &'a Recorder);

fn run(
    rows: &[Row],
    target: &str,
    way: impl Fn() -> anyhow::Result<(Line, &'static str)>,
    app: &Recorder,
    more: &[(&str, &str)],
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, (name, fields, data, fate)) in rows.iter().enumerate() {
        let target = format!("{target}/{number}");
        let checked =
            way().and_then(|(line, authority)| check((line, authority, app), &target, fields, data, *fate, more));
        if let Err(error) = checked {
            wrong.push(format!("{name} ({target}): {error:#}"));
        }
    }
    wrong
}

fn check(
    (mut line, authority, app): Way<'_>,
    target: &str,
    fields: &[(&str, &str)],
    data: &[&[u8]],
    fate: Fate,
    more: &[(&str, &str)],
) -> anyhow::Result<()> {
    let fill = |text: &str| text.replace('~', target).replace('^', authority);
    let filled: Vec<(String, String)> =
        fields.iter().chain(more).map(|(name, value)| (fill(name), fill(value))).collect();
    let fields: Vec<(&str, &str)> = filled.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let end = |last: bool| if last { END_STREAM } else { 0 };
    let mut bytes = [hello(), headers(1, end(data.is_empty()), &block(&fields))].concat();
    for (number, piece) in data.iter().enumerate() {
        bytes.extend(frame(kind::DATA, end(number + 1 == data.len()), 1, piece));
    }
    line.send(&bytes);
    let outcome = outcome(&mut line, 1);
    let seen = app.requests(target);
    match (fate, outcome) {
        (Refused, Outcome::Answered(status)) => ensure!(status >= 400, "answered {status}"),
        (Refused, Outcome::Silent) => anyhow::bail!("nothing happens"),
        (Refused, _) => {}
        (Passed(body), outcome) => {
            ensure!(outcome == Outcome::Answered(200), "{outcome:?}");
            ensure!(seen.len() == 1 && seen[0].body == body, "the application saw {seen:?}");
            let foreign = ["x_remora_client_id", "x-remora-hops", "x-remora-http"];
            ensure!(!seen[0].fields.iter().any(|(name, _)| foreign.contains(&name.as_str())), "{:?}", seen[0].fields);
            ensure!(!seen[0].values("x-remora-client-id").concat().contains("evil"), "{:?}", seen[0].fields);
        }
    }
    ensure!(fate != Refused || seen.is_empty(), "the application saw {seen:?}");
    Ok(())
}

#[test]
fn requests_that_http2_does_not_allow_reach_nobody() -> anyhow::Result<()> {
    let scene = scene()?;
    let rows = [pseudo(), fields()].concat();
    let mut wrong = Vec::new();
    for road in Road::ALL {
        wrong.extend(run(&rows, &format!("/{road:?}"), || scene.line2(road), scene.end2(road), &[]));
    }
    ensure!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    scene.close(|target| Road::ALL.iter().any(|road| target.starts_with(&format!("/{road:?}/"))))
}

/// A peer may ask our inbound to write HTTP/1 for an application: nothing that HTTP/2 carries may become a line of it.
#[test]
fn nothing_smuggled_in_http2_is_written_as_http1() -> anyhow::Result<()> {
    let scene = scene()?;
    let dial = || Ok((scene.mallory.dial(&scene.api, Alpn::MeshHttp, scene.app.address.port())?, "api:80"));
    let rows = [pseudo(), fields()].concat();
    let mut wrong = Vec::new();
    // HTTP/1.0 has no body of unknown length; our own proxies never ask for one.
    let old: Vec<Row> = rows.iter().filter(|row| row.0 != "a body").cloned().collect();
    for (number, version) in ["1.1", "1.0", "9.9\u{e9}", ""].into_iter().enumerate() {
        let (target, rows) = (format!("/{number}"), if version == "1.0" { &old } else { &rows });
        wrong.extend(run(rows, &target, dial, &scene.app, &[("x-remora-http", version)]));
    }
    ensure!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    scene.close(|target| target.matches('/').count() == 2)
}

#[test]
fn header_lists_are_bounded_in_bytes_and_fields() -> anyhow::Result<()> {
    let scene = scene()?;
    let (large, name) = ("x".repeat(1 << 10), "y".repeat(70 << 10));
    let many: Vec<(&str, &str)> = vec![("x", "y"); 101];
    let rows: [(&str, Vec<(&str, &str)>); 4] = [
        ("a field of 70 KiB", vec![("x", &name)]),
        ("a name of 70 KiB", vec![(&name, "x")]),
        ("fields of 70 KiB", vec![("x", &large); 70]),
        ("101 fields", many),
    ];
    for road in Road::ALL {
        for (name, more) in &rows {
            let (mut line, authority) = scene.line2(road)?;
            let mut fields =
                vec![(":method", "GET"), (":scheme", "http"), (":path", "/large"), (":authority", authority)];
            fields.extend(more);
            line.send(&[hello(), headers(1, END_STREAM, &block(&fields))].concat());
            let outcome = outcome(&mut line, 1);
            let refused = matches!(outcome, Outcome::Answered(431) | Outcome::Reset(_) | Outcome::Ended(_));
            ensure!(refused, "{name} ({road:?}): {outcome:?}");
        }
    }
    scene.close(|_| false)
}

#[test]
fn trailers_carry_neither_framing_nor_names_of_ours() -> anyhow::Result<()> {
    let scene = scene()?;
    for road in Road::ALL {
        let rows: [(&str, Fields<'_>, bool); 7] = [
            ("/good", &[("x-sum", "1")], true),
            ("/reserved", &[("x-remora-client-id", "spiffe://evil"), ("x-sum", "1")], true),
            ("/framing", &[("content-length", "9"), ("host", "evil"), ("x-sum", "1")], true),
            ("/pseudo", &[(":path", "/smuggled"), ("x-sum", "1")], true),
            ("/capitals", &[("X", "y")], false),
            ("/connection", &[("connection", "close")], false),
            ("/newline", &[("x", "y\r\nz: w")], false),
        ];
        for (name, trailers, passes) in rows {
            let (mut line, authority) = scene.line2(road)?;
            let target = format!("/{road:?}{name}");
            let fields = [(":method", "POST"), (":scheme", "http"), (":path", &target), (":authority", authority)];
            let parts = [hello(), headers(1, 0, &block(&fields)), frame(kind::DATA, 0, 1, b"hello")];
            line.send(&[parts.concat(), headers(1, END_STREAM, &block(trailers))].concat());
            let outcome = outcome(&mut line, 1);
            let seen = scene.end2(road).requests(&target);
            ensure!((outcome == Outcome::Answered(200)) == passes, "{target}: {outcome:?}");
            ensure!(seen.len() == usize::from(passes), "{target}: {seen:?}");
            if let [request] = seen.as_slice() {
                ensure!(request.trailers == [("x-sum".to_owned(), "1".to_owned())], "{target}: {request:?}");
            }
        }
    }
    scene.close(|target| Road::ALL.iter().any(|road| target.starts_with(&format!("/{road:?}/"))))
}

#[test]
fn the_last_stream_of_a_connection_is_answered() -> anyhow::Result<()> {
    const LAST: u32 = 0x7fff_ffff;
    let scene = scene()?;
    for road in Road::ALL {
        let (mut line, authority) = scene.line2(road)?;
        let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/last"), (":authority", authority)];
        line.send(&[hello(), headers(LAST, END_STREAM, &block(&fields))].concat());
        let outcome = outcome(&mut line, LAST);
        ensure!(outcome == Outcome::Answered(200), "{road:?}: {outcome:?}");
    }
    scene.close(|target| target == "/last")
}
