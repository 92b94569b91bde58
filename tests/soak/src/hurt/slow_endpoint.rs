//! One of five endpoints turns twenty times slower: peak-EWMA must take its traffic away within five seconds.

use super::{
    at_most, failures, pause, sent,
    shop::{AUTHORITY, Shop},
    steady::Load,
    tell,
};
use crate::report::Report;
use std::{
    path::Path,
    time::{Duration, Instant},
};

const PER_SECOND: u32 = 200;
const USUAL_MS: u64 = 5;
const SLOW_MS: u64 = 20 * USUAL_MS;
const SETTLING: Duration = Duration::from_secs(5);

pub(super) fn run(time: Duration, logs: Option<&Path>, report: &mut Report) -> anyhow::Result<()> {
    let shop = Shop::open(5, logs)?;
    for pod in &shop.pods {
        pod.behave(USUAL_MS, 200)?;
    }
    let load = Load::start(shop.web.outbound, AUTHORITY, PER_SECOND);
    pause(SETTLING);
    let slow = &shop.pods[1];
    let turned = Instant::now();
    slow.behave(SLOW_MS, 200)?;
    let window = time.max(SETTLING * 2);
    pause(window);
    let samples = load.stop(report)?;
    let share = |range: std::ops::Range<Duration>| {
        let all: Vec<_> = sent(&samples, turned, range).collect();
        100.0 * all.iter().filter(|sample| sample.by == slow.name).count() as f64 / all.len().max(1) as f64
    };
    tell(report, "requests", samples.len() as f64, "");
    let failed = failures(report, samples.iter());
    at_most(report, "failed requests", failed, 0.0, "");
    tell(report, "share of the slow endpoint in the first 5 s", share(Duration::ZERO..SETTLING), "%");
    at_most(report, "share of the slow endpoint after 5 s", share(SETTLING..window), 5.0, "%");
    Ok(())
}
