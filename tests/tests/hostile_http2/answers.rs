//! Applications that answer in HTTP/2 what it does not allow.

use super::scene;
use anyhow::ensure;
use remora_tests::{
    local::Proxy,
    wire::{
        Line, Scene,
        http2::{ACK, END_HEADERS, END_STREAM, Outcome, block, frame, headers, hello, kind, outcome, settings},
        servers::fine,
    },
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

/// What an application without manners says on a stream.
type Script = fn(u32) -> Vec<u8>;

/// A head with these fields, then "ok".
fn said(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    [headers(stream, 0, &block(fields)), frame(kind::DATA, END_STREAM, stream, b"ok")].concat()
}

/// Answers that nobody may get whole.
const BAD: [(&str, Script); 24] = [
    ("no status", |s| said(s, &[("x", "y")])),
    ("two statuses", |s| said(s, &[(":status", "200"), (":status", "200")])),
    ("a status that is none", |s| said(s, &[(":status", "2x0")])),
    ("a status below 100", |s| said(s, &[(":status", "099")])),
    ("a switch of protocols", |s| said(s, &[(":status", "101")])),
    ("a name in capitals", |s| said(s, &[(":status", "200"), ("X", "y")])),
    ("a CR LF in a value", |s| said(s, &[(":status", "200"), ("x", "y\r\nset-cookie: a=b")])),
    ("a NUL in a value", |s| said(s, &[(":status", "200"), ("x", "y\0")])),
    ("connection", |s| said(s, &[(":status", "200"), ("connection", "close")])),
    ("transfer-encoding", |s| said(s, &[(":status", "200"), ("transfer-encoding", "chunked")])),
    ("a body shorter than its length", |s| said(s, &[(":status", "200"), ("content-length", "9")])),
    ("a body longer than its length", |s| said(s, &[(":status", "200"), ("content-length", "1")])),
    ("two lengths that differ", |s| said(s, &[(":status", "200"), ("content-length", "2"), ("content-length", "3")])),
    ("a list of lengths", |s| said(s, &[(":status", "200"), ("content-length", "2, 2")])),
    ("data first", |s| frame(kind::DATA, END_STREAM, s, b"ok")),
    ("a reset", |s| frame(kind::RST_STREAM, 0, s, &8_u32.to_be_bytes())),
    ("a reset in the body", |s| {
        [headers(s, 0, &[0x88]), frame(kind::DATA, 0, s, b"o"), frame(kind::RST_STREAM, 0, s, &2_u32.to_be_bytes())]
            .concat()
    }),
    ("a push", |s| [frame(kind::PUSH_PROMISE, END_HEADERS, s, &[0, 0, 0, 2, 0x82]), fine(s)].concat()),
    ("fields of 300 KiB", |s| {
        said(s, &[&[(":status", "200")][..], &vec![("x", "y".repeat(1024).leak() as &str); 300]].concat())
    }),
    ("an index of nothing", |s| frame(kind::HEADERS, END_HEADERS | END_STREAM, s, &[0xfe])),
    ("a frame larger than allowed", |s| [headers(s, 0, &[0x88]), frame(kind::DATA, 0, s, &[0; 16_385])].concat()),
    ("an answer to another stream", |s| fine(s + 2)),
    ("a window that grows too large", |s| {
        [headers(s, 0, &[0x88]), frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])].concat()
    }),
    ("nonsense", |_| b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
];

/// What does not belong there and is left out.
const MENDED: [(&str, Script); 2] = [
    ("a path", |s| said(s, &[(":status", "200"), (":path", "/")])),
    ("trailers that are none", |s| {
        [headers(s, 0, &[0x88]), headers(s, END_STREAM, &block(&[(":status", "200")]))].concat()
    }),
];

/// What a server says of a request that it has not looked at (RFC 9113 §6.8, §8.7).
const NOT_PROCESSED: [(&str, Script, &str); 2] = [
    ("a refused stream", |s| frame(kind::RST_STREAM, 0, s, &7_u32.to_be_bytes()), "refused_stream"),
    ("a goodbye that leaves the request out", |_| frame(kind::GOAWAY, 0, 0, &[0; 8]), "draining"),
];

/// Too much of what is allowed: none of it may cost memory or anybody else's time.
const MUCH: [(&str, Script); 6] = [
    ("pings", |s| [frame(kind::PING, 0, 0, &[0; 8]).repeat(50_000), fine(s)].concat()),
    ("settings", |s| [settings(&[(4, 65_535)]).repeat(50_000), fine(s)].concat()),
    ("acknowledged pings", |s| [frame(kind::PING, ACK, 0, &[0; 8]).repeat(50_000), fine(s)].concat()),
    ("interim answers", |s| [headers(s, 0, &block(&[(":status", "103")])).repeat(50_000), fine(s)].concat()),
    ("continuations", |s| {
        [frame(kind::HEADERS, 0, s, &[0x88]), frame(kind::CONTINUATION, 0, s, &[]).repeat(50_000)].concat()
    }),
    ("empty data", |s| [headers(s, 0, &[0x88]), frame(kind::DATA, 0, s, &[]).repeat(50_000), fine(s)].concat()),
];

fn ask(scene: &Scene, authority: &str) -> anyhow::Result<Outcome> {
    let mut line = Line::plain(scene.web.outbound)?;
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/puppet"), (":authority", authority)];
    line.send(&[hello(), headers(1, END_STREAM, &block(&fields))].concat());
    Ok(outcome(&mut line, 1))
}

fn failures(scene: &Scene) -> anyhow::Result<f64> {
    Ok(scene.web.metric("remora_failures_total", &[])? + scene.api.metric("remora_failures_total", &[])?)
}

#[test]
fn answers_that_http2_does_not_allow_become_a_502_or_a_reset() -> anyhow::Result<()> {
    let scene = scene()?;
    let mut wrong = Vec::new();
    for (puppet, authority) in scene.puppets.iter().zip(["puppet:80", "far-puppet:80"]) {
        for (name, script) in MENDED {
            puppet.say(script);
            ensure!(ask(&scene, authority)? == Outcome::Answered(200), "{name} ({authority})");
        }
        for (name, script) in BAD {
            puppet.say(script);
            let before = failures(&scene)?;
            let outcome = ask(&scene, authority)?;
            if !matches!(outcome, Outcome::Answered(502) | Outcome::Reset(_)) {
                wrong.push(format!("{name} ({authority}): {outcome:?}"));
            } else if failures(&scene)? <= before {
                wrong.push(format!("{name} ({authority}): no counter moved"));
            }
            puppet.say(fine);
            let next = ask(&scene, authority)?;
            if next != Outcome::Answered(200) {
                wrong.push(format!("the next answer after {name} ({authority}): {next:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    scene.close(|_| false)
}

/// What the client may do with it is what the server's client might: repeat it.
const REFUSED_STREAM: u32 = 7;

/// Tries of a request, the first included, where no route says otherwise.
const TRIES: usize = 3;

#[test]
fn a_post_that_the_server_has_not_looked_at_is_sent_again_within_its_attempts() -> anyhow::Result<()> {
    let scene = scene()?;
    for (puppet, authority) in scene.puppets.iter().zip(["puppet:80", "far-puppet:80"]) {
        for (name, script, reason) in NOT_PROCESSED {
            // It refuses so many, and takes the next.
            for refuses in 1..=TRIES {
                let asked = Arc::<AtomicUsize>::default();
                let count = asked.clone();
                puppet.say(move |stream| match count.fetch_add(1, SeqCst) < refuses {
                    true => script(stream),
                    false => fine(stream),
                });
                let (outcome, tried) = (ask(&scene, authority)?, (refuses + 1).min(TRIES));
                let expected = if refuses < TRIES { Outcome::Answered(200) } else { Outcome::Reset(REFUSED_STREAM) };
                ensure!(outcome == expected, "{name} ({authority}), {refuses} times: {outcome:?}");
                ensure!(asked.load(SeqCst) == tried, "{name} ({authority}), {refuses} times: {asked:?} tries");
            }
            let label = format!("reason=\"{reason}\"");
            let counted = |proxy: &Proxy| proxy.metric("remora_failures_total", &[&label]);
            ensure!(counted(&scene.web)? + counted(&scene.api)? > 0.0, "{name} ({authority}): no {reason} was counted");
        }
        puppet.say(fine);
    }
    scene.close(|_| false)
}

#[test]
fn answers_without_end_cost_no_memory() -> anyhow::Result<()> {
    let scene = scene()?;
    let mut wrong = Vec::new();
    for (puppet, authority) in scene.puppets.iter().zip(["puppet:80", "far-puppet:80"]) {
        for (name, script) in MUCH {
            let before = scene.web.program.resident_bytes()? + scene.api.program.resident_bytes()?;
            puppet.say(script);
            let outcome = ask(&scene, authority)?;
            let after = scene.web.program.resident_bytes()? + scene.api.program.resident_bytes()?;
            if outcome == Outcome::Silent || after > before + (16 << 20) {
                wrong.push(format!("{name} ({authority}): {outcome:?}, {before} -> {after} bytes"));
            }
            puppet.say(fine);
            let next = ask(&scene, authority)?;
            if next != Outcome::Answered(200) {
                wrong.push(format!("the next answer after {name} ({authority}): {next:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    scene.close(|_| false)
}
