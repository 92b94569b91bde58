//! Of five endpoints one is killed, and later one stalled, under 500 retryable GETs a second.

use super::{
    at_most, failures, pause, seconds, sent,
    shop::{AUTHORITY, Pod, Shop},
    steady::{Load, Sample},
    tell,
};
use crate::report::Report;
use std::{
    path::Path,
    time::{Duration, Instant},
};

const ENDPOINTS: usize = 5;
const PER_SECOND: u32 = 500;
/// In this time the mesh may still be finding out.
const SETTLING: Duration = Duration::from_secs(3);
/// A black hole is harder to tell from a slow answer.
const SETTLING_STALLED: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(10);
/// What is looked at for a share.
const WINDOW: Duration = Duration::from_secs(6);

pub(super) fn run(time: Duration, logs: Option<&Path>, report: &mut Report) -> anyhow::Result<()> {
    let shop = Shop::open(ENDPOINTS, logs)?;
    let load = Load::start(shop.web.outbound, AUTHORITY, PER_SECOND);
    let (begun, victim) = (Instant::now(), &shop.pods[2]);
    let start = counts(&shop, None)?;
    pause(Duration::from_secs(5));
    let usual = busiest(&start, &counts(&shop, None)?);
    let killed = Instant::now();
    victim.kill()?;
    pause(SETTLING);
    let before = counts(&shop, Some(victim))?;
    pause(WINDOW);
    let after = counts(&shop, Some(victim))?;
    let counted = Instant::now();
    let back = victim.restart()?;
    pause(BACK + Duration::from_secs(2));

    let stalled_pod = &shop.pods[4];
    let stalled = Instant::now();
    stalled_pod.stall()?;
    pause(SETTLING_STALLED + WINDOW);
    stalled_pod.resume()?;
    pause((begun + time).saturating_duration_since(Instant::now()));

    let samples = load.stop(report)?;
    tell(report, "requests", samples.len() as f64, "");
    let in_flight = samples.iter().filter(|sample| sample.at < killed && sample.done > killed).count();
    let early = failures(report, samples.iter().filter(|s| s.done >= killed && s.at < killed + SETTLING));
    at_most(report, "killed: failures in the first 3 s, of those in flight", early, in_flight as f64, "");
    let late = failures(report, sent(&samples, killed, SETTLING..stalled - killed));
    at_most(report, "killed: failures after 3 s", late, 0.0, "");
    let asked = sent(&samples, killed, SETTLING..counted - killed).count() as f64;
    let arrived = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    at_most(report, "killed: requests that reach the others, of those sent", arrived as f64 / asked, 1.2, "");
    tell(report, "before: the busiest, of its fair share", usual, "");
    at_most(report, "killed: the busiest of the others, of its fair share", busiest(&before, &after), 1.2, "");
    at_most(report, "killed: in rotation again after its return", in_rotation(&samples, back, victim), 10.0, "s");

    let late = failures(report, sent(&samples, stalled, SETTLING_STALLED..SETTLING_STALLED + WINDOW));
    at_most(report, "stalled: failures after 5 s", late, 0.0, "");
    let all = failures(report, sent(&samples, stalled, Duration::ZERO..SETTLING_STALLED));
    tell(report, "stalled: failures in the first 5 s", all, "");
    let late = sent(&samples, stalled, SETTLING_STALLED..SETTLING_STALLED + WINDOW);
    let slow = late.filter(|sample| sample.done - sample.at > Duration::from_secs(1)).count();
    at_most(report, "stalled: requests over 1 s after 5 s", slow as f64, 0.0, "");
    Ok(())
}

/// What reached each backend but the victim's, retries included.
fn counts(shop: &Shop, victim: Option<&Pod>) -> anyhow::Result<Vec<u64>> {
    shop.pods.iter().filter(|pod| victim.is_none_or(|victim| pod.name != victim.name)).map(Pod::count).collect()
}

/// The most that reached one of them in between, of an even share.
fn busiest(before: &[u64], after: &[u64]) -> f64 {
    let loads = before.iter().zip(after).map(|(before, after)| after - before);
    let even = loads.clone().sum::<u64>() as f64 / before.len() as f64;
    loads.max().map_or(0.0, |most| most as f64) / even
}

/// When a pod began to have at least half its fair share of a second's requests.
fn in_rotation(samples: &[Sample], back: Instant, pod: &Pod) -> f64 {
    let fair = f64::from(PER_SECOND) / ENDPOINTS as f64;
    let tenth = Duration::from_millis(100);
    let served = |after: Duration| {
        sent(samples, back, after..after + Duration::from_secs(1)).filter(|s| s.by == pod.name).count() as f64
    };
    (0..150).map(|step| tenth * step).find(|after| served(*after) >= fair / 2.0).map_or(f64::INFINITY, seconds)
}
