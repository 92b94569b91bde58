//! One row per input of reliability.md §2a, each cut at every byte.

use super::{Refusal as R, *};

fn outcome(mut guard: Guard, pieces: &[&[u8]]) -> Result<State, R> {
    for piece in pieces {
        guard.feed(piece)?;
    }
    Ok(guard.state)
}

/// Whole, cut at every place, and byte by byte: always the same.
fn check(guard: impl Fn() -> Guard, bytes: &[u8], expected: Result<State, R>) {
    let text = || String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    assert_eq!(outcome(guard(), &[bytes]), expected, "whole: {:?}", text());
    for at in 0..bytes.len().min(400) {
        let (a, b) = bytes.split_at(at);
        assert_eq!(outcome(guard(), &[a, b]), expected, "cut at {at}: {:?}", text());
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(outcome(guard(), &single), expected, "byte by byte: {:?}", text());
}

const NEXT: Result<State, R> = Ok(State::Start { skipped: false });

fn get(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}").into_bytes()
}

#[test]
fn what_is_unambiguous_passes() {
    let long = format!("x: {}\r\n", "v".repeat(60_000));
    for request in [
        get(""),
        [get(""), get("X: y\r\n"), post("content-length: 3\r\n", "abc"), get("")].concat(),
        post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        post("transfer-encoding:\t CHUNKED \r\n", "3\r\nabc\r\n0a;x=\"y\"\r\n0123456789\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\n", "0\r\nGrpc-Status: 0\r\n\r\n"),
        [b"\r\n".to_vec(), get("")].concat(),
        b"OPTIONS * HTTP/1.1\r\nHost: a:80\r\n\r\n".to_vec(),
        b"GET http://A:80/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        get("empty:\r\nutf8: ü\r\n"),
        b"GET /{\"x\"}?`y` HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /\xc3\xbc?q HTTP/1.1\r\nHost: [fe80::1]:8080\r\n\r\n".to_vec(),
    ] {
        check(Guard::requests, &request, NEXT);
    }
    assert_eq!(outcome(Guard::requests(), &[&get(&long)]), NEXT);
}

#[test]
fn every_ambiguous_request_is_refused() {
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n").into_bytes();
    let table: Vec<(Vec<u8>, R)> = vec![
        (post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", ""), R::TwoLengths),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", ""), R::TwoLengths),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", ""), R::TransferEncoding),
        (post("Transfer-Encoding: chunked, identity\r\n", ""), R::TransferEncoding),
        (post("Transfer-Encoding: xchunked\r\n", ""), R::TransferEncoding),
        (post("Transfer-Encoding: gzip, chunked\r\n", ""), R::TransferEncoding),
        (post("Transfer-Encoding: chunked;x\r\n", ""), R::TransferEncoding),
        (post("Transfer-Encoding:\r\n", ""), R::TransferEncoding),
        (post("Transfer-Encoding: \x0bchunked\r\n", ""), R::ControlCharacter),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), R::TransferEncodingInOldVersion),
        (post("Content-Length: 3\r\nContent-Length: 4\r\n", ""), R::ContentLength),
        (post("Content-Length: 5, 5\r\n", ""), R::ContentLength),
        (post("Content-Length: +5\r\n", ""), R::ContentLength),
        (post("Content-Length: -1\r\n", ""), R::ContentLength),
        (post("Content-Length:\r\n", ""), R::ContentLength),
        (post("Content-Length: 12345678901234567890\r\n", ""), R::ContentLength),
        (post("Content-Length: 9999999999999999999\r\n", ""), R::ContentLength),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n".to_vec(), R::BareLf),
        (get("x: y\nz: w\r\n"), R::BareLf),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n".to_vec(), R::BareLf),
        (get("x: y\rz: w\r\n"), R::BareCr),
        (get("x: y\0\r\n"), R::ControlCharacter),
        (get("x: y\r\n folded\r\n"), R::Fold),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_vec(), R::Fold),
        (get("x : y\r\n"), R::FieldName),
        (get(": y\r\n"), R::FieldName),
        (get("no colon\r\n"), R::FieldName),
        (get("Host: b\r\n"), R::Host),
        (get("Host: a\r\n"), R::Host),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), R::Host),
        (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".to_vec(), R::Host),
        (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".to_vec(), R::Host),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_vec(), R::Host),
        (b"GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n".to_vec(), R::Host),
        (b"GET / HTTP/1.1\r\nHost: a:99999999\r\n\r\n".to_vec(), R::Host),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), R::HostMismatch),
        (line("GET  / HTTP/1.1"), R::RequestLine),
        (line("GET\t/ HTTP/1.1"), R::RequestLine),
        (line(" GET / HTTP/1.1"), R::RequestLine),
        (line("GET /a b HTTP/1.1"), R::RequestLine),
        (line("GET /"), R::RequestLine),
        (line("GE(T / HTTP/1.1"), R::RequestLine),
        (line("GET / HTTP/2.0"), R::Version),
        (line("GET / http/1.1"), R::Version),
        (line("GET /#x HTTP/1.1"), R::Target),
        (line("GET /<x> HTTP/1.1"), R::Target),
        (line("GET /`x` HTTP/1.1"), R::Target),
        (line("GET /?x=\"y\" HTTP/1.1"), R::Target),
        (line("GET http://a/?x#y HTTP/1.1"), R::Target),
        (b"GET /\xf8 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), R::Target),
        (line("GET x HTTP/1.1"), R::Target),
        (line("GET * HTTP/1.1"), R::Target),
        (line("GET a:80 HTTP/1.1"), R::Target),
        (line("GET http://u@a/ HTTP/1.1"), R::Target),
        (line("CONNECT / HTTP/1.1"), R::Target),
        (line("CONNECT a HTTP/1.1"), R::Target),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), R::RequestLine),
    ];
    for (bytes, refusal) in table {
        check(Guard::requests, &bytes, Err(refusal));
        let behind = [get(""), bytes].concat();
        check(Guard::requests, &behind, Err(refusal));
    }
}

#[test]
fn chunk_framing_is_exact() {
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    for (body, refusal) in [
        ("3\nabc\r\n0\r\n\r\n", R::BareLf),
        ("0x3\r\nabc\r\n", R::ChunkSize),
        ("-3\r\nabc\r\n", R::ChunkSize),
        ("+3\r\nabc\r\n", R::ChunkSize),
        (" 3\r\nabc\r\n", R::ChunkSize),
        ("3 \r\nabc\r\n", R::ChunkSize),
        ("\r\nabc\r\n", R::ChunkSize),
        ("fffffffffffffffff\r\n", R::ChunkSize),
        ("3;a\rb\r\nabc\r\n", R::BareCr),
        ("3;a\nabc\r\n", R::BareLf),
        ("3;\0\r\nabc\r\n", R::ControlCharacter),
        ("3\r\nabcd\r\n", R::ChunkEnd),
        ("3\r\nabc0\r\n\r\n", R::ChunkEnd),
        ("3\r\nabc\n0\r\n\r\n", R::ChunkEnd),
        ("0\r\nContent-Length: 5\r\n\r\n", R::ForbiddenTrailer),
        ("0\r\nhost: b\r\n\r\n", R::ForbiddenTrailer),
        ("0\r\nX_Remora-client_id: me\r\n\r\n", R::ForbiddenTrailer),
        ("0\r\nx: y\n\r\n", R::BareLf),
        ("0\r\n x\r\n\r\n", R::Fold),
    ] {
        check(Guard::requests, &chunked(body), Err(refusal));
    }
}

#[test]
fn everything_is_bounded() {
    let big = |n: usize| "x".repeat(n);
    let many = "a: b\r\n".repeat(HEAD_FIELDS_MAX);
    let extensions = format!("1;{}\r\nx\r\n", big(1000)).repeat(20);
    for (bytes, refusal) in [
        (format!("GET /{}", big(LINE_BYTES_MAX)), R::LineTooLong),
        (format!("GET / HTTP/1.1\r\nx: {}", big(HEAD_BYTES_MAX)), R::HeadTooLarge),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), R::TooManyFields),
        (format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{extensions}"), R::ChunkExtensions),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: {}",
                big(TRAILER_BYTES_MAX)
            ),
            R::TrailersTooLarge,
        ),
    ] {
        assert_eq!(outcome(Guard::requests(), &[bytes.as_bytes()]), Err(refusal));
        let pieces: Vec<&[u8]> = bytes.as_bytes().chunks(7).collect();
        assert_eq!(outcome(Guard::requests(), &pieces), Err(refusal));
    }
    assert_eq!(R::LineTooLong.status(), 414);
    assert_eq!(R::TooManyFields.status(), 431);
    assert_eq!(R::Version.status(), 505);
    assert_eq!(R::TwoLengths.status(), 400);
}

#[test]
fn after_an_upgrade_nothing_is_judged() {
    let mut guard = Guard::requests();
    guard.feed(&get("Upgrade: websocket\r\n")).unwrap();
    guard.opaque();
    assert_eq!(guard.feed(b"\0\n\0"), Ok(()));
}

#[test]
fn noise_is_judged_the_same_however_it_is_cut() {
    let mut rng = fastrand::Rng::with_seed(5);
    let words: [&[u8]; 16] = [
        b"GET / HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"\r\n",
        b"\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"3\r\n",
        b"abc",
        b"0\r\n",
        b"\r\n\r\n",
        b"\0",
        b"x: y\r\n",
        b" ",
        b"3\r\nabc\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\n",
        b"\r",
    ];
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..rng.usize(..12)).flat_map(|_| words[rng.usize(..words.len())]).copied().collect();
        let whole = outcome(Guard::requests(), &[&bytes]);
        let mut rest = &bytes[..];
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rng.usize(1..=rest.len()));
            pieces.push(piece);
            rest = more;
        }
        assert_eq!(outcome(Guard::requests(), &pieces), whole, "{:?}", String::from_utf8_lossy(&bytes));
    }
}
