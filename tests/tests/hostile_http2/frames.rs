//! Frames that break the rules of the connection (RFC 9113 §4 to §6, RFC 7541): the connection ends with its reason.

use super::scene;
use anyhow::ensure;
use remora_tests::{
    patience::until,
    wire::{
        Road,
        http2::{ACK, END_HEADERS, END_STREAM, Outcome, block, frame, headers, hello, kind, outcome, settings},
    },
};

/// RFC 9113 §7.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

/// What is sent behind the hello, and with which codes the connection or the stream may end. None: it just must not be
/// answered with a 200.
type Row = (&'static str, Vec<u8>, &'static [u32]);

fn get(stream: u32, flags: u8, authority: &str) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/frames"), (":authority", authority)];
    headers(stream, flags, &block(&fields))
}

fn rows(authority: &str) -> Vec<Row> {
    let get = |stream, flags| get(stream, flags, authority);
    let fields = block(&[(":method", "GET"), (":scheme", "http"), (":path", "/frames"), (":authority", authority)]);
    let update = |by: u32, stream| frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let raw = |block: &[u8]| frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, block);
    vec![
        ("a frame larger than allowed", frame(kind::DATA, 0, 1, &[0; 16_385]), &[FRAME_SIZE_ERROR]),
        ("headers on stream 0", frame(kind::HEADERS, END_HEADERS, 0, &fields), &[PROTOCOL_ERROR]),
        ("headers on an even stream", get(2, END_STREAM), &[PROTOCOL_ERROR]),
        (
            "a stream below one that was used",
            [get(5, 0), get(3, END_STREAM)].concat(),
            &[PROTOCOL_ERROR, STREAM_CLOSED],
        ),
        ("data on stream 0", frame(kind::DATA, 0, 0, b"x"), &[PROTOCOL_ERROR]),
        ("data on an idle stream", frame(kind::DATA, 0, 1, b"x"), &[PROTOCOL_ERROR]),
        (
            "data behind the end",
            [get(1, END_STREAM), frame(kind::DATA, 0, 1, b"x")].concat(),
            &[STREAM_CLOSED, PROTOCOL_ERROR],
        ),
        ("padding longer than its frame", [get(1, 0), frame(kind::DATA, 8, 1, &[9, 0])].concat(), &[PROTOCOL_ERROR]),
        ("a continuation of nothing", frame(kind::CONTINUATION, END_HEADERS, 1, &fields), &[PROTOCOL_ERROR]),
        (
            "a frame between headers and their continuation",
            [frame(kind::HEADERS, 0, 1, &fields), frame(kind::PING, 0, 0, &[0; 8])].concat(),
            &[PROTOCOL_ERROR],
        ),
        (
            "a continuation on another stream",
            [frame(kind::HEADERS, 0, 1, &fields), frame(kind::CONTINUATION, END_HEADERS, 3, &[])].concat(),
            &[PROTOCOL_ERROR],
        ),
        ("settings on a stream", frame(kind::SETTINGS, 0, 1, &[]), &[PROTOCOL_ERROR]),
        ("settings of a wrong length", frame(kind::SETTINGS, 0, 0, &[0; 5]), &[FRAME_SIZE_ERROR]),
        ("an acknowledgement with settings", frame(kind::SETTINGS, ACK, 0, &[0; 6]), &[FRAME_SIZE_ERROR]),
        ("push that is neither on nor off", settings(&[(2, 2)]), &[PROTOCOL_ERROR]),
        ("a window beyond 31 bits", settings(&[(4, 0x8000_0000)]), &[FLOW_CONTROL_ERROR]),
        ("a frame size below the least", settings(&[(5, 16_383)]), &[PROTOCOL_ERROR]),
        ("a frame size above the most", settings(&[(5, 0x0100_0000)]), &[PROTOCOL_ERROR]),
        ("a ping of seven bytes", frame(kind::PING, 0, 0, &[0; 7]), &[FRAME_SIZE_ERROR]),
        ("a ping on a stream", frame(kind::PING, 0, 1, &[0; 8]), &[PROTOCOL_ERROR]),
        ("a window that grows by nothing", update(0, 0), &[PROTOCOL_ERROR]),
        ("a window that grows too large", update(0x7fff_ffff, 0), &[FLOW_CONTROL_ERROR]),
        ("a stream's window that grows too large", [get(1, 0), update(0x7fff_ffff, 1)].concat(), &[FLOW_CONTROL_ERROR]),
        ("a window update of three bytes", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]), &[FRAME_SIZE_ERROR]),
        ("a reset of an idle stream", frame(kind::RST_STREAM, 0, 1, &[0; 4]), &[PROTOCOL_ERROR]),
        ("a reset of stream 0", frame(kind::RST_STREAM, 0, 0, &[0; 4]), &[PROTOCOL_ERROR]),
        ("a reset of three bytes", [get(1, 0), frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat(), &[FRAME_SIZE_ERROR]),
        ("a push from a client", frame(kind::PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), &[PROTOCOL_ERROR]),
        (
            "a stream that depends on itself",
            [get(1, 0), frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0])].concat(),
            &[PROTOCOL_ERROR],
        ),
        ("a priority of four bytes", [get(1, 0), frame(kind::PRIORITY, 0, 1, &[0; 4])].concat(), &[FRAME_SIZE_ERROR]),
        ("a goodbye on a stream", frame(kind::GOAWAY, 0, 1, &[0; 8]), &[PROTOCOL_ERROR]),
        ("an index of 0", raw(&[0x80]), &[COMPRESSION_ERROR]),
        ("an index of nothing", raw(&[0xfe]), &[COMPRESSION_ERROR]),
        ("an index beyond 64 bits", raw(&[[0xff; 12].as_slice(), &[1]].concat()), &[COMPRESSION_ERROR]),
        ("a table larger than allowed", raw(&[0x3f, 0xe2, 0x1f, 0x82]), &[COMPRESSION_ERROR]),
        ("a string longer than its block", raw(&[0, 0x7f, 0xff, 0x0f, b'x']), &[COMPRESSION_ERROR]),
        ("a code that ends strings", raw(&[0, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), &[COMPRESSION_ERROR]),
    ]
}

#[test]
fn a_connection_that_breaks_the_rules_ends_with_its_reason() -> anyhow::Result<()> {
    let scene = scene()?;
    let mut wrong = Vec::new();
    for road in [Road::Mesh, Road::Peer] {
        let broken = || scene.first(road).metric("remora_requests_refused_total", &[]);
        for (name, bytes, codes) in rows("api2:80") {
            let (before, (mut line, _)) = (broken()?, scene.line2(road)?);
            line.send(&[hello(), bytes].concat());
            let outcome = outcome(&mut line, 1);
            let code = match outcome {
                Outcome::Reset(code) | Outcome::Ended(Some(code)) => Some(code),
                _ => None,
            };
            // A more general code than the exact one may be said (RFC 9113 §7).
            if code.is_none_or(|code| code != PROTOCOL_ERROR && !codes.contains(&code)) {
                wrong.push(format!("{name} ({road:?}): {outcome:?}, not {codes:?}"));
            } else if matches!(outcome, Outcome::Ended(_)) {
                until(&format!("{name} ({road:?}) is counted"), || Ok((broken()? > before).then_some(())))?;
            }
        }
    }
    ensure!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    scene.close(|target| target == "/frames")
}

#[test]
fn a_preface_that_is_almost_one_is_refused() -> anyhow::Result<()> {
    let scene = scene()?;
    for preface in
        ["PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n", "PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        for road in [Road::Mesh, Road::Peer] {
            let mut line = if road == Road::Peer { scene.line2(road)?.0 } else { scene.line(road)? };
            line.send(preface.as_bytes());
            line.end();
            let heard = line.hear_all();
            ensure!(heard.ending != remora_tests::wire::Ending::Silent, "{preface:?} ({road:?}): {heard:?}");
            ensure!(!heard.text().contains(" 200"), "{preface:?} ({road:?}): {heard:?}");
        }
    }
    scene.close(|_| false)
}
