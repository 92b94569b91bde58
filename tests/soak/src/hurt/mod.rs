//! What callers notice while parts of the mesh are hurt: one file per subcommand, over the same [`shop`] and the same
//! [`steady`] load, which does not slow down when the mesh does.

pub(crate) mod backend;
mod bulk;
mod cardinality;
mod discovery;
mod endpoint_kill;
mod fds;
mod hostile;
mod idle;
mod retry_budget;
mod shop;
mod slow_endpoint;
mod steady;
mod victim;

use crate::report::Report;
use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use steady::Sample;

/// What is done to the mesh.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hurt {
    Discovery,
    EndpointKill,
    SlowEndpoint,
    RetryBudget,
    Idle,
    Fds,
    Bulk,
    Hostile,
    Cardinality,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long, where the run can be longer [default: what it needs]
    #[arg(long = "for", value_parser = crate::duration)]
    time: Option<Duration>,
    /// Keep the logs of all processes in this folder
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
}

type Run = fn(Duration, Option<&Path>, &mut Report) -> anyhow::Result<()>;

/// Does it, and tells of it.
pub(crate) fn run(hurt: Hurt, args: &Args) -> anyhow::Result<Report> {
    let (name, seconds, run): (_, _, Run) = match hurt {
        Hurt::Discovery => ("discovery", 90, discovery::run),
        Hurt::EndpointKill => ("endpoint-kill", 40, endpoint_kill::run),
        Hurt::SlowEndpoint => ("slow-endpoint", 20, slow_endpoint::run),
        Hurt::RetryBudget => ("retry-budget", 30, retry_budget::run),
        Hurt::Idle => ("idle", 90, idle::run),
        Hurt::Fds => ("fds", 0, fds::run),
        Hurt::Bulk => ("bulk", 30, bulk::run),
        Hurt::Hostile => ("hostile", 20 * 60, hostile::run),
        Hurt::Cardinality => ("cardinality", 20 * 60, cardinality::run),
    };
    let mut report = Report::new(name);
    let started = Instant::now();
    run(args.time.unwrap_or(Duration::from_secs(seconds)), args.logs.as_deref(), &mut report)?;
    report.took(started.elapsed());
    Ok(report)
}

/// A figure that is only told.
fn tell(report: &mut Report, what: impl Into<String>, measured: f64, unit: &str) {
    report.note(what, shown(measured, unit));
}

/// A figure that must be at most `most`.
fn at_most(report: &mut Report, what: impl Into<String>, measured: f64, most: f64, unit: &str) {
    report.check(what, shown(measured, unit), format!("at most {}", shown(most, unit)), measured <= most);
}

/// A figure that must be at least `least`.
fn at_least(report: &mut Report, what: impl Into<String>, measured: f64, least: f64, unit: &str) {
    report.check(what, shown(measured, unit), format!("at least {}", shown(least, unit)), measured >= least);
}

/// Whole where it is whole, else three digits.
fn shown(value: f64, unit: &str) -> String {
    let number = if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    format!("{number} {unit}").trim_end().to_owned()
}

/// Requests sent in this time after `from`.
fn sent(samples: &[Sample], from: Instant, within: Range<Duration>) -> impl Iterator<Item = &Sample> {
    samples.iter().filter(move |sample| sample.at >= from + within.start && sample.at < from + within.end)
}

/// So many of a hundred of them took no longer, in milliseconds: infinity where there are none.
fn percentile_ms<'a>(samples: impl Iterator<Item = &'a Sample>, percent: usize) -> f64 {
    let mut times: Vec<_> = samples.map(|sample| sample.done - sample.at).collect();
    times.sort_unstable();
    times.get(times.len() * percent / 100).map_or(f64::INFINITY, |time| time.as_secs_f64() * 1e3)
}

/// How many of them failed; the first few go into the report.
fn failures<'a>(report: &mut Report, samples: impl Iterator<Item = &'a Sample>) -> f64 {
    let failed: Vec<&Sample> = samples.filter(|sample| sample.failed()).collect();
    let told = |sample: &&Sample| format!("after {:.0?}: {} {}", sample.done - sample.at, sample.status, sample.error);
    report.failures(failed.iter().take(4).map(told));
    failed.len() as f64
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Lets time pass.
fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}
