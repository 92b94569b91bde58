//! What signals cost when there is much to tell: a hundred routes of twenty peers, a million distinct paths, a million distinct hosts, and
//! readers of signals that take nothing. Memory is that of the whole process, so it has connections and buffers in it as well.

use super::{
    at_least, at_most,
    bulk::Pair,
    failures, idle, pause, percentile_ms, sent,
    steady::{self, Load},
    tell, victim,
};
use crate::report::Report;
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use remora_tests::{
    local::{Mesh, Proxy},
    patience::until,
};
use std::{
    net::SocketAddr,
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

const ROUTES: u32 = 100;
const PEERS: usize = 20;
/// How long each of them goes on being called, so that there is a history.
const ROUNDS: u32 = 10;
/// Distinct paths, and distinct hosts.
const NAMES: u32 = 1_000_000;
/// Requests after which a proxy has what it takes when it is at work, the rings of records filled.
const WARM: u32 = 4000;
/// Connections that ask.
const CLIENTS: u32 = 8;
const READERS: [&str; 3] = ["/signals/live", "/tap/live", "/metrics"];
/// Readers of each of them that take nothing.
const STUCK: usize = 3;
const PER_SECOND: u32 = 200;
const WITH_READERS: Duration = Duration::from_secs(20);
const SETTLING: Duration = Duration::from_secs(3);

/// The path and the host of the request of a number.
type Name = fn(u32) -> (String, String);

pub(super) fn run(time: Duration, _logs: Option<&Path>, report: &mut Report) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    let mesh = Mesh::start(std::env::current_exe()?)?;
    let (pair, _) = Pair::open(&mesh, "web", "api")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    routes_and_peers(&mesh, &runtime, report)?;
    let steps: [(&str, Name, u16); 2] = [
        ("paths", |n| (format!("/{n:x}/{}/x{n}", n % 7), "api:80".to_owned()), 200),
        ("hosts", |n| ("/".to_owned(), format!("h{n}.example:80")), 502),
    ];
    for (index, (what, name, status)) in (0_u32..).zip(steps) {
        // What a proxy takes when it is first at work is not what names cost.
        runtime.block_on(ask_all(pair.client.outbound, 0..WARM, end, (name, status)))?;
        let before = memory(&runtime, &pair)?;
        let share = end.saturating_duration_since(Instant::now()) / (2 - index);
        let asked = runtime.block_on(ask_all(
            pair.client.outbound,
            WARM..WARM + NAMES,
            Instant::now() + share,
            (name, status),
        ))?;
        at_least(report, format!("distinct {what}"), f64::from(asked), f64::from(NAMES), "");
        for ((who, before), (_, after)) in before.into_iter().zip(memory(&runtime, &pair)?) {
            at_most(report, format!("memory that they took of {who}"), after - before, 8.0, "MiB");
        }
    }
    stuck_readers(&pair, &runtime, report)
}

/// The memory of both proxies, in MiB.
fn memory(runtime: &tokio::runtime::Runtime, pair: &Pair) -> anyhow::Result<[(&'static str, f64); 2]> {
    let of = |proxy: &Proxy| anyhow::Ok(runtime.block_on(idle::settled(&proxy.program))? as f64 / 1_048_576.0);
    Ok([("the caller's", of(&pair.client)?), ("the server's", of(&pair.server)?)])
}

fn routes_and_peers(mesh: &Mesh, runtime: &tokio::runtime::Runtime, report: &mut Report) -> anyhow::Result<()> {
    let spec = mesh.proxy("many");
    let ports = victim::start(spec.ip())?;
    let server = spec.env("LOG", "info").spawn()?.ready()?;
    mesh.service("many", 80, Some("http"), &[ports.http])?;
    let spawned: Vec<Proxy> = (0..PEERS)
        .map(|number| mesh.proxy(&format!("peer-{number}")).env("LOG", "info").spawn())
        .collect::<anyhow::Result<_>>()?;
    let mut peers = Vec::new();
    for peer in spawned {
        let peer = peer.ready()?;
        until("many answers", || Ok((peer.get("many:80", "/warm")?.status == 200).then_some(())))?;
        peers.push(peer);
    }
    // The records that tap keeps have their own room, however many routes there are.
    let first = peers.first().context("there are peers")?;
    let warm = |_| ("/warm".to_owned(), "many:80".to_owned());
    runtime.block_on(ask_all(first.outbound, 0..WARM, Instant::now() + Duration::from_secs(60), (warm, 200)))?;
    let before = runtime.block_on(idle::settled(&server.program))?;
    for _ in 0..ROUNDS {
        for peer in &peers {
            // Ten by ten: of more siblings than that a template is learned.
            let name = |n| (format!("/{}/{}", letter(n / 10), letter(n % 10)), "many:80".to_owned());
            let end = Instant::now() + Duration::from_secs(60);
            let asked = runtime.block_on(ask_all(peer.outbound, 0..ROUTES, end, (name, 200)))?;
            ensure!(asked == ROUTES, "{asked} of {ROUTES} requests in a minute");
        }
        pause(Duration::from_secs(1));
    }
    let after = runtime.block_on(idle::settled(&server.program))?;
    let signals: serde_json::Value = serde_json::from_str(&server.admin("/signals")?)?;
    let count = |what: &str| signals[what].as_array().map_or(0, Vec::len);
    at_least(report, "routes that the server tells", count("routes") as f64, f64::from(ROUTES), "");
    at_least(report, "series, of a peer and a route", count("edges") as f64, f64::from(ROUTES) * PEERS as f64, "");
    at_most(report, "memory that they took", after.saturating_sub(before) as f64 / 1_048_576.0, 2.0, "MiB");
    let told = runtime.block_on(idle::settled(&server.program))?;
    tell(report, "memory that telling of them left behind", told.saturating_sub(after) as f64 / 1_048_576.0, "MiB");
    Ok(())
}

/// A word of letters alone, which no template takes for a number.
fn letter(number: u32) -> String {
    format!("part-{}", char::from(b'a' + (number % 26) as u8))
}

/// Asks for each of `numbers`, until `end`: how many were answered.
async fn ask_all(
    to: SocketAddr,
    numbers: Range<u32>,
    end: Instant,
    (name, status): (Name, u16),
) -> anyhow::Result<u32> {
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let mine = numbers.clone().skip(client as usize).step_by(CLIENTS as usize);
        clients.spawn(async move {
            let (mut connection, mut answered) = (steady::connect(to).await?, 0);
            for number in mine {
                if Instant::now() > end {
                    break;
                }
                let (path, host) = name(number);
                if connection.ready().await.is_err() {
                    connection = steady::connect(to).await?;
                }
                let request = http::Request::get(&path).header("host", &host).body(Empty::<Bytes>::new())?;
                let response = connection.send_request(request).await.with_context(|| format!("{host}{path}"))?;
                ensure!(response.status() == status, "{host}{path}: {}", response.status());
                response.into_body().collect().await?;
                answered += 1;
            }
            anyhow::Ok(answered)
        });
    }
    let mut sum = 0;
    while let Some(answered) = clients.join_next().await {
        sum += answered??;
    }
    Ok(sum)
}

/// Requests beside readers that ask for all that there is to tell, and take nothing of it.
fn stuck_readers(pair: &Pair, runtime: &tokio::runtime::Runtime, report: &mut Report) -> anyhow::Result<()> {
    let load = Load::start(pair.client.outbound, "api:80", PER_SECOND);
    let alone = Instant::now();
    pause(SETTLING + WITH_READERS);
    let memory_before = pair.client.program.resident_bytes()?;
    let beside = Instant::now();
    let stuck = runtime.block_on(async {
        let mut stuck = Vec::new();
        for path in READERS.iter().flat_map(|path| std::iter::repeat_n(path, STUCK)) {
            let mut stream = TcpStream::connect(pair.client.admin).await?;
            let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", pair.client.admin);
            stream.write_all(head.as_bytes()).await?;
            stuck.push(stream);
        }
        anyhow::Ok(stuck)
    })?;
    pause(SETTLING + WITH_READERS);
    let memory_after = pair.client.program.resident_bytes()?;
    let samples = load.stop(report)?;
    let failed = failures(report, samples.iter());
    at_most(report, format!("requests failed, of {}", samples.len()), failed, 0.0, "");
    for percent in [50, 99] {
        let of = |from| percentile_ms(sent(&samples, from, SETTLING..SETTLING + WITH_READERS), percent);
        tell(report, format!("p{percent} alone"), of(alone), "ms");
        let what = format!("p{percent} beside {} readers that take nothing", stuck.len());
        at_most(report, what, of(beside), 1.5 * of(alone) + 1.0, "ms");
    }
    let grown = memory_after.saturating_sub(memory_before) as f64 / 1_048_576.0;
    at_most(report, "memory that these readers took", grown, 8.0, "MiB");
    drop(stuck);
    Ok(())
}
