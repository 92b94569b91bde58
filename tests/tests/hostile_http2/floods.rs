//! Frames that each keep the rules and together never end. The attacker reads nothing unless a row says so.

use super::scene;
use anyhow::{Context as _, ensure};
use remora_tests::wire::{
    Road, Scene,
    http2::{ACK, END_HEADERS, END_STREAM, Outcome, block, frame, headers, hello, judge, kind, settings},
};

/// What one connection may make a proxy grow by: of an application, which may have 250 requests under way, and of a
/// peer, which may have 4096.
const GROWTH_BYTES_MAX: [u64; 2] = [16 << 20, 32 << 20];
/// What an attacker sends, if nobody stops it.
const ATTACK_BYTES: usize = 8 << 20;
/// RFC 9113 §7.
const ENHANCE_YOUR_CALM: u32 = 11;

fn get(stream: u32, flags: u8, path: &str, authority: &str) -> Vec<u8> {
    headers(
        stream,
        flags,
        &block(&[(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", authority)]),
    )
}

/// What an attack must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The connection ends, and says that it was too much.
    Calmed,
    /// The connection ends.
    Ended,
    /// It may go on: it costs no memory, and others nothing.
    Borne,
}

/// Sends what `round` makes of 0, 1, 2, … until the proxy ends the connection or has had enough bytes of it.
fn attack(
    scene: &Scene,
    road: Road,
    fate: Fate,
    first: &[u8],
    round: impl Fn(u32, &str) -> Vec<u8>,
) -> anyhow::Result<()> {
    let proxy = &scene.first(road).program;
    let (before, (mut line, authority)) = (proxy.resident_bytes()?, scene.line2(road)?);
    ensure!(line.send(&[&hello(), first].concat()), "it refuses a hello");
    let (mut sent, mut number) = (0, 0);
    while sent < ATTACK_BYTES {
        let mut burst = Vec::new();
        while burst.len() < 64 << 10 {
            burst.extend(round(number, authority));
            number += 1;
        }
        if !line.send(&burst) {
            break;
        }
        sent += burst.len();
    }
    let stopped = sent < ATTACK_BYTES;
    let grown = proxy.resident_bytes()?.saturating_sub(before);
    ensure!(grown <= GROWTH_BYTES_MAX[usize::from(road == Road::Peer)], "it grew by {grown} bytes");
    if fate != Fate::Borne {
        let outcome = judge(&line.hear_all(), u32::MAX);
        let ended = matches!(outcome, Outcome::Ended(_));
        ensure!(ended || stopped, "it goes on after {sent} bytes: {outcome:?}");
        let calmed = matches!(outcome, Outcome::Ended(Some(ENHANCE_YOUR_CALM) | None));
        ensure!(fate != Fate::Calmed || calmed, "it ended: {outcome:?}");
    }
    Ok(())
}

fn floods(scene: &Scene, road: Road) -> Vec<(&'static str, anyhow::Result<()>)> {
    let odd = |number: u32| 2 * number + 1;
    let reset = |stream: u32| frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let host = |authority: &str| {
        block(&[(":method", "GET"), (":scheme", "http"), (":path", "/flood"), (":authority", authority)])
    };
    // 4 KB that the table keeps, and then one byte for each time they are meant again.
    let large = "x".repeat(4000);
    let bomb = |stream: u32, authority: &str| {
        let mut block = host(authority);
        block.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
        block.extend_from_slice(large.as_bytes());
        block.extend(std::iter::repeat_n(0xbe, 10_000));
        headers(stream, END_STREAM, &block)
    };
    let go = |fate, first: &[u8], round: &dyn Fn(u32, &str) -> Vec<u8>| attack(scene, road, fate, first, round);
    vec![
        (
            "streams that are reset at once (CVE-2023-44487)",
            go(Fate::Calmed, &[], &|n, to| [get(odd(n), END_STREAM, "/flood", to), reset(odd(n))].concat()),
        ),
        (
            "streams that we are made to reset (CVE-2025-8671)",
            go(Fate::Ended, &[], &|n, to| {
                [get(odd(n), 0, "/flood", to), frame(kind::WINDOW_UPDATE, 0, odd(n), &[0; 4])].concat()
            }),
        ),
        (
            "streams that we are made to refuse",
            go(Fate::Ended, &[], &|n, _| headers(odd(n), END_STREAM, &block(&[(":method", "GET"), ("X", "y")]))),
        ),
        (
            "continuations without end (CVE-2024-27316)",
            go(Fate::Calmed, &frame(kind::HEADERS, 0, 1, &[0x82]), &|_, _| {
                frame(kind::CONTINUATION, 0, 1, &block(&[("x", "y")]))
            }),
        ),
        (
            "empty continuations without end",
            go(Fate::Calmed, &frame(kind::HEADERS, 0, 1, &[0x82]), &|_, _| frame(kind::CONTINUATION, 0, 1, &[])),
        ),
        ("fields that grow in the table", go(Fate::Ended, &[], &|n, to| bomb(odd(n), to))),
        (
            "empty data (RUSTSEC-2026-0258)",
            go(Fate::Calmed, &get(1, 0, "/flood", "api2:80"), &|_, _| frame(kind::DATA, 0, 1, &[])),
        ),
        ("pings", go(Fate::Borne, &[], &|_, _| frame(kind::PING, 0, 0, &[0; 8]))),
        ("answers to pings", go(Fate::Borne, &[], &|_, _| frame(kind::PING, ACK, 0, &[0; 8]))),
        ("settings", go(Fate::Borne, &[], &|n, _| settings(&[(4, 65_535 - n % 2)]))),
        ("priorities", go(Fate::Borne, &[], &|n, _| frame(kind::PRIORITY, 0, odd(n), &[0, 0, 0, 0, 1]))),
        (
            "windows that grow by a byte and shrink",
            go(Fate::Borne, &[], &|_, _| frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ),
        ("frames of an unknown type", go(Fate::Borne, &[], &|_, _| frame(0xfa, 0xff, 0, &[0; 64]))),
        (
            "requests whose answers nobody takes",
            go(Fate::Borne, &settings(&[(4, 0)]), &|n, to| get(odd(n), END_STREAM, "/flood", to)),
        ),
        ("streams that are opened and left", go(Fate::Borne, &[], &|n, to| get(odd(n), 0, "/left", to))),
        ("goodbyes", go(Fate::Borne, &[], &|_, _| frame(kind::GOAWAY, 0, 0, &[0; 8]))),
        (
            "headers of nothing",
            go(Fate::Ended, &[], &|n, _| frame(kind::HEADERS, END_HEADERS | END_STREAM, odd(n), &[])),
        ),
    ]
}

#[test]
fn floods_end_or_cost_nothing_at_our_outbound() -> anyhow::Result<()> {
    all(Road::Mesh)
}

#[test]
fn floods_end_or_cost_nothing_at_our_inbound() -> anyhow::Result<()> {
    all(Road::Peer)
}

fn all(road: Road) -> anyhow::Result<()> {
    let scene = scene()?;
    let wrong: Vec<_> = floods(&scene, road)
        .into_iter()
        .filter_map(|(name, result)| result.err().map(|error| format!("{name} ({road:?}): {error:#}")))
        .collect();
    ensure!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    scene.close(|target| target == "/flood").context("after the floods")
}
