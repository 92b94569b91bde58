//! Exchanges of a seed, each once directly and once through two proxies: whoever is at either end sees the same, but for the
//! differences that docs/protocols.md lists. `REMORA_SEED` takes another seed.
//!
//! `script` says what an exchange is; `generate`, `requests` and `pools` make them; `client`, `client2`, `origin` and `origin2` play
//! them, with `stage` between both ends; `message` reads what was on the wire; `differences` and `ends` say what may differ;
//! `report` tells the rest.

#![allow(unreachable_pub, reason = "modules of one test program")]

mod random;
mod script;
mod pools;
mod requests;
mod generate;
mod message;
mod stage;
mod origin;
mod origin2;
mod client;
mod client2;
mod ends;
mod differences;
mod report;

use anyhow::{Context as _, ensure};
use client::{Heard, Road};
use differences::{ALLOWED, Difference};
use message::Message;
use origin::Origin;
use remora_tests::{
    local::{Mesh, Proxy},
    patience::until,
};
use script::Exchange;
use std::{collections::BTreeMap, path::Path, sync::Arc};

const COUNT: usize = 400;
/// Of the exchanges of every gate; the lists of differences are what these need.
const SEED: u64 = 12;

/// What both ends of an exchange saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Of each call, what arrived at the origin, each time that it did.
    arrived: Vec<Vec<Message>>,
    /// Of each call, what its client got.
    heard: Vec<Heard>,
}

fn play(exchange: &Exchange, road: &Road) -> anyhow::Result<Side> {
    let heard = client::play(exchange, road).with_context(|| format!("exchange {}", exchange.number))?;
    let arrived = heard.iter().enumerate().map(|(call, heard)| {
        let refused = heard.messages.iter().any(|message| message.values("x-remora-error").next().is_some());
        let key = exchange.key(call);
        if refused && road.stage.arrived(key).is_empty() { Vec::new() } else { road.stage.wait_ended(key) }
    });
    let side = Side { arrived: arrived.collect(), heard };
    ensure!(road.stage.rest(), "exchange {}: a connection does not end with its other side's", exchange.number);
    Ok(side)
}

fn seed() -> anyhow::Result<u64> {
    let seed = std::env::var_os("REMORA_SEED").map(|seed| seed.to_string_lossy().parse());
    Ok(seed.transpose().context("REMORA_SEED is no number")?.unwrap_or(SEED))
}

/// Waits until requests reach the origin, which does not answer one without a number.
fn reached(web: &Proxy) -> anyhow::Result<()> {
    until("the origin is known", || {
        let answer = web.get("api:80", "/")?;
        ensure!(answer.status == 502, "{}", answer.head);
        Ok(Some(()))
    })
}

/// What is left of the lines in which both sides differ, after these differences.
fn mismatches<'a>(
    exchange: &Exchange,
    (direct, through): &(Side, Side),
    known: impl Iterator<Item = &'a Difference>,
) -> Vec<String> {
    let (mut direct, mut through) = (direct.clone(), through.clone());
    for difference in known {
        (difference.apply)(exchange, &mut direct, &mut through);
    }
    report::mismatches(&direct, &through)
}

/// Plays all of them both ways, on a mesh of its own.
fn play_all(exchanges: &Arc<Vec<Exchange>>) -> anyhow::Result<Vec<(Side, Side)>> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
    let (near, far) = (Origin::start(mesh.address(), exchanges)?, Origin::start(api.ip, exchanges)?);
    mesh.service("api", 80, None, &[far.address])?;
    let (web, api) = (web.ready()?, api.ready()?);
    reached(&web).with_context(|| web.program.log_end())?;
    let asked = far.stage.strays().len();
    let direct = Road { to: near.address, proxy: false, stage: near.stage.clone() };
    let through = Road { to: web.outbound, proxy: true, stage: far.stage.clone() };
    let both = |exchange| Ok((play(exchange, &direct)?, play(exchange, &through)?));
    let played = exchanges.iter().map(both).collect::<anyhow::Result<_>>()?;
    let strays = [near.stage.strays(), far.stage.strays().split_off(asked)].concat();
    ensure!(strays.is_empty(), "the origin got what no client sent: {strays:?}");
    for proxy in [&web, &api] {
        ensure!(!proxy.log().contains("panicked"), "a proxy panicked: {}", proxy.log());
    }
    Ok(played)
}

#[test]
fn both_ends_see_through_the_mesh_what_they_see_without_it() -> anyhow::Result<()> {
    let seed = seed()?;
    let exchanges = Arc::new(generate::exchanges(seed, COUNT));
    let played = play_all(&exchanges)?;
    let (mut kinds, mut all) = (BTreeMap::<String, Vec<usize>>::new(), String::new());
    for (exchange, sides) in exchanges.iter().zip(&played) {
        let mismatches = mismatches(exchange, sides, ALLOWED.iter());
        if !mismatches.is_empty() {
            kinds.entry(report::kind(&mismatches)).or_default().push(exchange.number);
            let (number, lines) = (exchange.number, mismatches.join("\n"));
            all.push_str(&format!("\nexchange {number} of seed {seed}: {}\n{lines}\n", report::exchange(exchange)));
        }
    }
    let kinds: Vec<_> =
        kinds.iter().map(|(kind, numbers)| format!("{} × {kind}: {numbers:?}", numbers.len())).collect();
    ensure!(kinds.is_empty(), "seed {seed}; `-` is seen directly, `+` through the mesh:\n{}\n{all}", kinds.join("\n"));

    // Another seed need not have met all of them.
    let met = |difference: &Difference| {
        let others = || ALLOWED.iter().filter(|other| other.text != difference.text);
        exchanges.iter().zip(&played).any(|(exchange, sides)| !mismatches(exchange, sides, others()).is_empty())
    };
    let stale: Vec<_> = ALLOWED.iter().filter(|it| seed == SEED && !met(it)).map(|it| it.text).collect();
    ensure!(stale.is_empty(), "listed, and not seen in any exchange (mended?): {stale:#?}");
    Ok(())
}

#[test]
fn the_page_lists_every_difference_that_is_allowed_and_no_other() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocols.md"))?;
    let section = page.split("\n## ").find(|section| section.starts_with("What differs through the mesh\n"));
    let rows = section.context("the page has no such section")?.split("\n- **").skip(1);
    let listed: Vec<_> = rows.filter_map(|row| row.split_once(".**")).map(|(text, _)| text).collect();
    let allowed: Vec<_> = ALLOWED.iter().map(|difference| difference.text).collect();
    ensure!(listed == allowed, "the page lists {listed:#?}, this test allows {allowed:#?}");
    Ok(())
}

#[test]
fn one_byte_that_differs_is_a_mismatch_and_nothing_listed_explains_it() {
    let side = |text: &str| {
        let (message, _) = message::read(text.as_bytes(), message::Kind::Request);
        Side { arrived: vec![vec![message]], heard: Vec::new() }
    };
    let exchange = &generate::exchanges(SEED, 1)[0];
    let caller = "x-remora-client-id: spiffe://cluster.local/ns/test/sa/web\r\n";
    let head = |line: &str, ours: &str| format!("{line}\r\nX-A: 1\r\n{ours}Content-Length: 2\r\n\r\n");
    let seen = side(&(head("PUT /a HTTP/1.1", "") + "ok"));
    let differ = |other: String| mismatches(exchange, &(seen.clone(), side(&other)), ALLOWED.iter());
    assert!(
        differ(head("PUT /a HTTP/1.1", caller).to_lowercase().replace("put /a http", "PUT /a HTTP") + "ok").is_empty()
    );
    for (line, ours, body) in [
        ("PUT /b HTTP/1.1", caller, "ok"),
        ("PUT /a HTTP/1.1", "", "ok"),
        ("PUT /a HTTP/1.1", caller, "oK"),
        ("PUT /a HTTP/1.1", caller, "o"),
        ("PUT /a HTTP/1.1", "x-b: 2\r\nx-remora-client-id: spiffe://cluster.local/ns/test/sa/web\r\n", "ok"),
    ] {
        let text = head(line, ours).replace("X-A", "x-a").replace("Content-Length", "content-length") + body;
        assert!(!differ(text).is_empty(), "{line} {ours} {body}");
    }
}
