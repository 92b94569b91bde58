//! Discovery is killed and started again, and stalled, under load; while it is away, an endpoint is added and another
//! removed. Callers must notice nothing, and the change must be in effect within a second of its return.

use super::{
    at_most, failures, pause, seconds,
    shop::{AUTHORITY, Shop},
    steady::{Load, Sample},
    tell,
};
use crate::report::Report;
use std::{
    path::Path,
    time::{Duration, Instant},
};

const PER_SECOND: u32 = 200;
/// After its return, how long is watched.
const AFTER: Duration = Duration::from_secs(4);
/// What is away longer than its proxies probe for it is reconnected to.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(4);

/// A time without discovery.
struct Absence {
    how: &'static str,
    returned: Instant,
    added: String,
    removed: String,
}

pub(super) fn run(time: Duration, logs: Option<&Path>, report: &mut Report) -> anyhow::Result<()> {
    let shop = Shop::open(4, logs)?;
    let (mut now, mut next) = (vec![0, 1, 2], vec![1, 2, 3]);
    shop.serve(&now)?;
    let load = Load::start(shop.web.outbound, AUTHORITY, PER_SECOND);
    pause(AFTER);
    let end = Instant::now() + time;
    let mut absences = Vec::new();
    for how in ["killed", "stalled", "stalled for long"].into_iter().cycle() {
        let (added, removed) = (next.iter().find(|i| !now.contains(i)), now.iter().find(|i| !next.contains(i)));
        let name = |index: Option<&usize>| index.map_or_else(String::new, |index| shop.pods[*index].name.clone());
        let (added, removed) = (name(added), name(removed));
        let returned = absence(&shop, how, &next)?;
        absences.push(Absence { how, returned, added, removed });
        std::mem::swap(&mut now, &mut next);
        if Instant::now() >= end && absences.len() >= 3 {
            break;
        }
    }
    let samples = load.stop(report)?;
    tell(report, "requests", samples.len() as f64, "");
    let failed = failures(report, samples.iter());
    at_most(report, "failed requests", failed, 0.0, "");
    for how in ["killed", "stalled", "stalled for long"] {
        let right = absences.iter().filter(|one| one.how == how).map(|one| right_after(&samples, one));
        let worst = right.fold(0.0, f64::max);
        at_most(report, format!("{how}: endpoints right after its return, at worst"), worst, 1.0, "s");
    }
    tell(report, "absences", absences.len() as f64, "");
    Ok(())
}

/// Discovery is away while the endpoints change; when it is back.
fn absence(shop: &Shop, how: &str, endpoints: &[usize]) -> anyhow::Result<Instant> {
    let discovery = &shop.mesh.discovery;
    if how == "killed" {
        discovery.kill()?;
        pause(SHORT);
        shop.serve(endpoints)?;
        discovery.restart()?;
        shop.mesh.ready(discovery)?;
    } else {
        discovery.stop()?;
        pause(if how == "stalled" { SHORT } else { LONG });
        shop.serve(endpoints)?;
        pause(Duration::from_secs(1));
        discovery.cont()?;
    }
    let returned = Instant::now();
    pause(AFTER);
    Ok(returned)
}

/// How long after discovery's return the removed endpoint got its last request, or the added one its first.
fn right_after(samples: &[Sample], absence: &Absence) -> f64 {
    let after = |sample: &&Sample| sample.at >= absence.returned && sample.at < absence.returned + AFTER;
    let served = |by: &str| {
        samples.iter().filter(after).filter(move |sample| sample.by == by).map(|sample| sample.at).collect::<Vec<_>>()
    };
    let since = |at: Instant| seconds(at - absence.returned);
    let last = served(&absence.removed).into_iter().max().map_or(0.0, since);
    let first = served(&absence.added).into_iter().min().map_or(f64::INFINITY, since);
    last.max(first)
}
