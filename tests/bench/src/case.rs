//! The cases, and the order in which they run.

use crate::build::Plan;
use crate::contender::{Contender, Pair};
use crate::load::{self, Idle};
use crate::pki;
use crate::pods::Pods;
use crate::process::Memory;
use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

const IDLE_CONNECTIONS: u32 = 1000;
/// So many connections make their requests at the same time where each request takes a new one.
const NEW_CONNECTIONS: u32 = 64;
/// How long nothing happens before memory is called idle memory. Remora gives some back after 5 to 10 s.
const IDLE: Duration = Duration::from_secs(11);
/// Memory is the same in every round, and takes half a minute each time.
const MEMORY_ROUNDS: u32 = 3;
const WARM_UP_SECONDS: u32 = 1;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// HTTP/1, 1 connection, closed loop.
    #[value(name = "http1-1")]
    #[serde(rename = "http1-1")]
    Http1One,
    /// HTTP/1, 64 connections, closed loop.
    #[value(name = "http1-64")]
    #[serde(rename = "http1-64")]
    Http1Many,
    /// HTTP/1, 512 connections, closed loop.
    #[value(name = "http1-512")]
    #[serde(rename = "http1-512")]
    Http1Crowd,
    /// HTTP/1, a new connection per request, 64 at a time.
    NewConnections,
    /// Bulk TCP, one stream.
    Bulk,
    /// Memory idle, and per idle connection.
    Memory,
}

/// One contender's figures in one round of one case. A figure's unit is the end of its name.
#[derive(Serialize, Debug)]
pub(crate) struct Sample {
    pub(crate) case: Case,
    pub(crate) contender: Contender,
    pub(crate) round: u32,
    pub(crate) figures: BTreeMap<&'static str, f64>,
}

/// What came of the run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) samples: Vec<Sample>,
    /// Contenders that failed, each with what went wrong; they are left out from then on.
    pub(crate) failed: Vec<(Contender, String)>,
}

/// Runs everything in the plan: contenders take turns within a case, cases within a round.
pub(crate) fn measure_all(plan: &Plan) -> Result<Outcome> {
    pki::create()?;
    let mut pods = Pods::create()?;
    let mut outcome = Outcome::default();
    for round in 1..=plan.rounds {
        for &case in &plan.cases {
            for &contender in &plan.contenders {
                let failed = outcome.failed.iter().any(|(other, _)| *other == contender);
                let nothing_new = case == Case::Memory && (contender == Contender::None || round > MEMORY_ROUNDS);
                if failed || nothing_new {
                    continue;
                }
                let title = format!("round {round}, {case:?}, {contender}");
                match measure(plan, case, contender) {
                    Ok(figures) => {
                        eprintln!("{title}: {}", shown(&figures));
                        outcome.samples.push(Sample { case, contender, round, figures });
                    }
                    Err(error) => {
                        eprintln!("{title}: {error:#}\ngoing on without {contender}");
                        outcome.failed.push((contender, format!("{title}: {error:#}")));
                    }
                }
                pods.check()?;
            }
        }
    }
    Ok(outcome)
}

fn measure(plan: &Plan, case: Case, contender: Contender) -> Result<BTreeMap<&'static str, f64>> {
    let mut pair = contender.start(plan)?;
    let figures = case.measure(&pair, plan.seconds);
    // A proxy that died is the cause of whatever else went wrong.
    pair.check()?;
    figures
}

fn shown(figures: &BTreeMap<&'static str, f64>) -> String {
    figures.iter().map(|(name, figure)| format!("{name} {figure:.2}")).collect::<Vec<_>>().join(", ")
}

impl Case {
    fn measure(self, pair: &Pair, seconds: u32) -> Result<BTreeMap<&'static str, f64>> {
        match self {
            Self::Http1One => http(pair, 1, true, seconds),
            Self::Http1Many => http(pair, 64, true, seconds),
            Self::Http1Crowd => http(pair, 512, true, seconds),
            Self::NewConnections => http(pair, NEW_CONNECTIONS, false, seconds),
            Self::Bulk => bulk(pair, seconds),
            Self::Memory => memory(pair),
        }
    }
}

fn http(pair: &Pair, connections: u32, keep_alive: bool, seconds: u32) -> Result<BTreeMap<&'static str, f64>> {
    load::http(connections, keep_alive, WARM_UP_SECONDS)?;
    let before = pair.cpu()?;
    let http = load::http(connections, keep_alive, seconds)?;
    let mut figures = BTreeMap::from([
        ("requests_per_s", http.requests_per_s),
        ("p50_ms", http.p50_ms),
        ("p99_ms", http.p99_ms),
        ("errors", http.errors),
    ]);
    if let (Some(before), Some(after)) = (before, pair.cpu()?) {
        figures.insert("cpu_us_per_request", (after - before).as_secs_f64() * 1e6 / http.requests.max(1.0));
    }
    Ok(figures)
}

fn bulk(pair: &Pair, seconds: u32) -> Result<BTreeMap<&'static str, f64>> {
    let before = pair.cpu()?;
    let bulk = load::bulk(seconds)?;
    let mut figures = BTreeMap::from([("gbit_per_s", bulk.bits_per_s / 1e9)]);
    if let (Some(before), Some(after)) = (before, pair.cpu()?) {
        figures.insert("cpu_s_per_gib", (after - before).as_secs_f64() * GIB / bulk.bytes.max(1.0));
    }
    Ok(figures)
}

#[expect(clippy::disallowed_methods, reason = "the passing of time is what is measured")]
fn stay_idle() {
    thread::sleep(IDLE);
}

/// Memory some time after the one request that showed the pair ready, then some time after connections that are idle now
/// made one each.
fn memory(pair: &Pair) -> Result<BTreeMap<&'static str, f64>> {
    stay_idle();
    let idle = pair.memory()?;
    let connections = Idle::open(IDLE_CONNECTIONS)?;
    stay_idle();
    let held = pair.memory()?;
    drop(connections);
    let (&[client, server], &[client_held, server_held]) = (&idle[..], &held[..]) else {
        bail!("memory is measured of pairs only");
    };
    let each = |idle: Memory, held: Memory| (held.resident_kb - idle.resident_kb) / f64::from(IDLE_CONNECTIONS);
    Ok(BTreeMap::from([
        ("client_resident_mb", client.resident_kb / 1024.0),
        ("client_anonymous_mb", client.anonymous_kb / 1024.0),
        ("server_resident_mb", server.resident_kb / 1024.0),
        ("server_anonymous_mb", server.anonymous_kb / 1024.0),
        ("client_per_idle_connection_kb", each(client, client_held)),
        ("server_per_idle_connection_kb", each(server, server_held)),
    ]))
}
