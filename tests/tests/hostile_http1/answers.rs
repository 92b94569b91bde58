//! Answers that can be read in two ways, or never end.

use super::scene;
use anyhow::ensure;
use remora_tests::wire::{Ending, Reply, Road, Scene, http1};
use std::time::Instant;

/// What a client gets of an application's bytes.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// This status and body, whole.
    Whole(u16, &'static [u8]),
    /// A 502 of the proxy's own.
    BadGateway,
    /// An answer that visibly does not end, or a 502.
    Broken,
}

use Told::{BadGateway, Broken, Whole};

type Answer = (&'static str, Reply, Told);

/// A 200 with these field lines and this body.
pub(super) fn ok(fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}").into_bytes()
}

/// Answers that mean one thing.
fn good() -> Vec<Answer> {
    let bytes = |text: &str| Reply::Bytes(text.as_bytes().to_vec());
    let field = |field: &str| Reply::Bytes(ok(&format!("{field}\r\nContent-Length: 2\r\n"), "ok"));
    let second = String::from_utf8_lossy(&ok("Content-Length: 4\r\n", "evil")).into_owned();
    vec![
        ("a length", Reply::Bytes(ok("Content-Length: 2\r\n", "ok")), Whole(200, b"ok")),
        (
            "chunks",
            Reply::Bytes(ok("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")),
            Whole(200, b"ok"),
        ),
        ("a body that its connection ends", Reply::Close(b"HTTP/1.0 200 OK\r\n\r\nok".to_vec()), Whole(200, b"ok")),
        ("a 204", bytes("HTTP/1.1 204 No Content\r\n\r\n"), Whole(204, b"")),
        (
            "a 304 with the length of what it stands for",
            bytes("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"),
            Whole(304, b""),
        ),
        (
            "an interim answer first",
            bytes(&format!(
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{}",
                String::from_utf8_lossy(&ok("Content-Length: 2\r\n", "ok"))
            )),
            Whole(200, b"ok"),
        ),
        ("two lengths that agree", field("Content-Length: 2"), Whole(200, b"ok")),
        ("a reserved name, spoofed", field("X-Remora-Error: denied"), Whole(200, b"ok")),
        ("a reserved name with underscores", field("x_remora_error: denied"), Whole(200, b"ok")),
        ("fields of one hop", field("Connection: x-one\r\nX-One: 1\r\nKeep-Alive: 1"), Whole(200, b"ok")),
        (
            "trailers that frame and are reserved",
            Reply::Bytes(ok(
                "Transfer-Encoding: chunked\r\n",
                "2\r\nok\r\n0\r\nContent-Length: 9\r\nX-Remora-Error: denied\r\n\r\n",
            )),
            Whole(200, b"ok"),
        ),
        (
            "a second answer behind the first",
            Reply::Bytes(ok("Content-Length: 2\r\n", &format!("ok{second}"))),
            Whole(200, b"ok"),
        ),
        ("a second answer behind a 204", bytes(&format!("HTTP/1.1 204 No Content\r\n\r\n{second}")), Whole(204, b"")),
        (
            "a second answer behind chunks",
            Reply::Bytes(ok("Transfer-Encoding: chunked\r\n", &format!("2\r\nok\r\n0\r\n\r\n{second}"))),
            Whole(200, b"ok"),
        ),
    ]
}

/// Heads that are none.
fn bad_heads() -> Vec<Answer> {
    let bytes = |text: &str| Reply::Bytes(text.as_bytes().to_vec());
    let field = |field: &str| Reply::Bytes(ok(&format!("{field}\r\nContent-Length: 2\r\n"), "ok"));
    vec![
        (
            "content-length, then transfer-encoding",
            Reply::Bytes(ok("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n")),
            BadGateway,
        ),
        (
            "transfer-encoding, then content-length",
            Reply::Bytes(ok("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", "2\r\nok\r\n0\r\n\r\n")),
            BadGateway,
        ),
        (
            "an old version with transfer-encoding",
            bytes("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            BadGateway,
        ),
        (
            "two codings",
            Reply::Close(ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n")),
            BadGateway,
        ),
        (
            "chunked is not alone",
            Reply::Close(ok("Transfer-Encoding: gzip, chunked\r\n", "2\r\nok\r\n0\r\n\r\n")),
            BadGateway,
        ),
        ("an unknown coding", Reply::Close(ok("Transfer-Encoding: xchunked\r\n", "ok")), BadGateway),
        ("two lengths that differ", field("Content-Length: 3"), BadGateway),
        ("a list of lengths", Reply::Bytes(ok("Content-Length: 2, 2\r\n", "ok")), BadGateway),
        ("a length with a sign", Reply::Bytes(ok("Content-Length: +2\r\n", "ok")), BadGateway),
        ("a negative length", Reply::Bytes(ok("Content-Length: -2\r\n", "ok")), BadGateway),
        ("a length beyond 64 bits", Reply::Bytes(ok("Content-Length: 18446744073709551618\r\n", "ok")), BadGateway),
        ("a NUL in a value", field("X: a\0b"), BadGateway),
        ("a bare CR in a value", field("X: a\rb"), BadGateway),
        ("a folded line", field("X: a\r\n b"), BadGateway),
        ("space before a colon", field("X : y"), BadGateway),
        ("no colon", field("X"), BadGateway),
        ("a name that is no token", field("X(y): z"), BadGateway),
        ("no status line", Reply::Close(b"hello\r\n\r\n".to_vec()), BadGateway),
        ("a status of two digits", bytes("HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"), BadGateway),
        ("a status of four digits", bytes("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"), BadGateway),
        ("a status below 100", bytes("HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"), BadGateway),
        ("another version", bytes("HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"), BadGateway),
        (
            "a switch that nobody asked for",
            bytes("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
            BadGateway,
        ),
    ]
}

/// Too much, too little.
fn bad_bodies() -> Vec<Answer> {
    let coded = |body: &str| Reply::Close(ok("Transfer-Encoding: chunked\r\n", body));
    let long = |count: usize| format!("X: {}\r\n", "x".repeat(count));
    vec![
        ("nothing", Reply::Close(Vec::new()), BadGateway),
        ("a reset", Reply::Reset(Vec::new()), BadGateway),
        ("half a head", Reply::Close(b"HTTP/1.1 200 OK\r\nX: ".to_vec()), BadGateway),
        ("a field of 300 KiB", Reply::Bytes(ok(&long(300 << 10), "")), BadGateway),
        ("101 fields", Reply::Bytes(ok(&format!("{}Content-Length: 0\r\n", long(1).repeat(100)), "")), BadGateway),
        ("a head without end", Reply::Flood(b"HTTP/1.1 200 OK\r\n".to_vec(), long(100).into_bytes()), BadGateway),
        (
            "interim answers without end",
            Reply::Flood(Vec::new(), b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec()),
            BadGateway,
        ),
        ("half a body", Reply::Close(ok("Content-Length: 100\r\n", "half")), Broken),
        ("half a body and a reset", Reply::Reset(ok("Content-Length: 100\r\n", "half")), Broken),
        ("chunks without an end", coded("2\r\nok\r\n"), Broken),
        ("half a chunk", coded("5\r\nok"), Broken),
        ("a chunk size with a prefix", coded("0x2\r\nok\r\n0\r\n\r\n"), Broken),
        ("a negative chunk size", coded("-2\r\nok\r\n0\r\n\r\n"), Broken),
        ("a chunk size beyond 64 bits", coded("10000000000000002\r\nok\r\n0\r\n\r\n"), Broken),
        ("a chunk longer than its size", coded("1\r\nok\r\n0\r\n\r\n"), Broken),
        ("a bare LF in an extension", coded("2;x\nok\r\n0\r\n\r\n"), Broken),
        ("extensions of 20 KiB", coded(&format!("2;{}\r\nok\r\n0\r\n\r\n", "x".repeat(20 << 10))), Broken),
        ("trailers of 80 KiB", coded(&format!("2\r\nok\r\n0\r\n{}\r\n", long(80 << 10))), Broken),
    ]
}

/// Asks, checks what is told, and asks for something else: nobody may get what is left of this answer.
fn ask(scene: &Scene, road: Road, target: &str, reply: &Reply, told: Told) -> anyhow::Result<()> {
    scene.end(road).reply(target, reply.clone());
    let failures = || {
        anyhow::Ok(scene.web.metric("remora_failures_total", &[])? + scene.api.metric("remora_failures_total", &[])?)
    };
    let (before, began) = (failures()?, Instant::now());
    let ask = |target: &str| {
        let mut line = scene.line(road)?;
        line.send(
            format!("GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", road.authority()).as_bytes(),
        );
        anyhow::Ok(line.hear_all())
    };
    let heard = ask(target)?;
    ensure!(heard.ending != Ending::Silent, "silent after {:?} and {} bytes", began.elapsed(), heard.bytes.len());
    let answers = http1::responses(&heard.bytes);
    match (told, &answers) {
        (Whole(status, body), Ok(answers)) => {
            let [answer] = answers.as_slice() else { anyhow::bail!("answered {answers:?}") };
            ensure!((answer.status(), &*answer.body) == (status, body), "answered {answer:?}");
            let foreign = ["x-remora-error", "x_remora_error", "x-one", "keep-alive"];
            let all = || answer.fields.iter().chain(&answer.trailers);
            ensure!(!all().any(|(name, _)| foreign.contains(&name.as_str())), "answered {answer:?}");
            ensure!(!answer.trailers.iter().any(|(name, _)| name == "content-length"), "answered {answer:?}");
        }
        (Broken, Ok(answers)) if answers.is_empty() => ensure!(failures()? > before, "no counter moved"),
        (BadGateway | Broken, Ok(answers)) => {
            let [answer] = answers.as_slice() else { anyhow::bail!("answered {answers:?}") };
            ensure!(answer.status() == 502, "answered {answer:?}");
            ensure!(answer.values("x-remora-error").len() == 1, "answered {answer:?}");
            ensure!(failures()? > before, "no counter moved");
        }
        (Broken, Err(_)) => ensure!(failures()? > before, "no counter moved"),
        (_, Err(why)) => anyhow::bail!("{why}"),
    }
    for _ in 0..2 {
        let next = ask(&format!("{target}/next"))?;
        let answers = http1::responses(&next.bytes).map_err(anyhow::Error::msg)?;
        ensure!(answers.len() == 1 && answers[0].body == b"ok", "the next request is answered {answers:?}");
    }
    ensure!(scene.end(road).requests(target).len() == 1 || !matches!(told, Whole(..)), "asked more than once");
    Ok(())
}

#[test]
fn an_answer_has_one_meaning_or_becomes_a_502() -> anyhow::Result<()> {
    let scene = scene(&[])?;
    let (rows, mut wrong) = ([good(), bad_heads(), bad_bodies()].concat(), Vec::new());
    for road in [Road::Mesh, Road::Outside, Road::Peer] {
        for (number, (name, reply, told)) in rows.iter().enumerate() {
            let target = format!("/{road:?}/answer/{number}");
            if let Err(error) = ask(&scene, road, &target, reply, *told) {
                wrong.push(format!("{name} ({road:?}, {told:?}): {error:#}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 3 * rows.len(), wrong.join("\n"));
    scene.close(|target| target.contains("/answer/"))
}
