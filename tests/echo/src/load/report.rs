//! What became of the requests.

use serde::Serialize;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// Failures told one by one; all are counted.
const TOLD_MAX: usize = 200;
/// Servers and reasons told apart.
const NAMES_MAX: usize = 200;
/// Latencies that the percentiles are made of; later ones are only counted.
const LATENCIES_MAX: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Tally {
    url: String,
    rate: f64,
    began: Instant,
    began_unix_ms: u64,
    asked: u64,
    late: Duration,
    latencies_us: Vec<u32>,
    failed: u64,
    reasons: BTreeMap<String, u64>,
    failures: Vec<Failure>,
    servers: BTreeMap<String, u64>,
    pub(super) connections: u64,
    pub(super) done: bool,
}

#[derive(Debug, Clone, Serialize)]
struct Failure {
    /// When it was due.
    unix_ms: u64,
    after_ms: f64,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    url: &'a str,
    rate: f64,
    done: bool,
    began_unix_ms: u64,
    seconds: f64,
    asked: u64,
    answered: u64,
    failed: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// How late the generator itself was at worst.
    late_ms: f64,
    connections: u64,
    reasons: &'a BTreeMap<String, u64>,
    servers: &'a BTreeMap<String, u64>,
    failures: &'a [Failure],
}

impl Tally {
    pub(super) fn new(url: &str, rate: f64) -> Self {
        let began_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            url: url.into(),
            rate,
            began: Instant::now(),
            began_unix_ms: u64::try_from(began_unix_ms.as_millis()).unwrap_or(u64::MAX),
            asked: 0,
            late: Duration::ZERO,
            latencies_us: Vec::new(),
            failed: 0,
            reasons: BTreeMap::new(),
            failures: Vec::new(),
            servers: BTreeMap::new(),
            connections: 0,
            done: false,
        }
    }

    pub(super) fn asked(&mut self, due: Instant) {
        self.asked += 1;
        self.late = self.late.max(due.elapsed());
    }

    pub(super) fn answered(&mut self, due: Instant, server: Option<String>) {
        if self.latencies_us.len() < LATENCIES_MAX {
            self.latencies_us.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        if let Some(server) = server {
            count(&mut self.servers, server);
        }
    }

    pub(super) fn failed(&mut self, due: Instant, reason: String) {
        self.failed += 1;
        if self.failures.len() < TOLD_MAX {
            let at = due.saturating_duration_since(self.began);
            let unix_ms = self.began_unix_ms + u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            self.failures.push(Failure { unix_ms, after_ms: ms(due.elapsed()), reason: reason.clone() });
        }
        count(&mut self.reasons, reason);
    }

    /// For a person who watches.
    pub(super) fn line(&self) -> String {
        let seconds = self.began.elapsed().as_secs();
        format!("{seconds} s: {} asked, {} failed {:?}", self.asked, self.failed, self.reasons)
    }

    /// One line.
    pub(super) fn json(&self) -> String {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).map_or(0.0, |&us| f64::from(us) / 1e3)
        };
        let report = Report {
            url: &self.url,
            rate: self.rate,
            done: self.done,
            began_unix_ms: self.began_unix_ms,
            seconds: self.began.elapsed().as_secs_f64(),
            asked: self.asked,
            answered: sorted.len() as u64,
            failed: self.failed,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            late_ms: ms(self.late),
            connections: self.connections,
            reasons: &self.reasons,
            servers: &self.servers,
            failures: &self.failures,
        };
        serde_json::to_string(&report).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
    }
}

fn count(names: &mut BTreeMap<String, u64>, name: String) {
    let name = if names.len() < NAMES_MAX || names.contains_key(&name) { name } else { "other".into() };
    *names.entry(name).or_default() += 1;
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn percentiles_are_those_of_the_requests() {
        let mut tally = Tally::new("http://x", 1.0);
        let due = Instant::now();
        for milliseconds in 1..=100_u64 {
            tally.latencies_us.push(u32::try_from(milliseconds * 1000).unwrap_or(0));
        }
        tally.failed(due, "status 503".into());
        let report: serde_json::Value = serde_json::from_str(&tally.json()).unwrap_or_default();
        assert_eq!(
            (&report["p50_ms"], &report["p99_ms"], &report["max_ms"]),
            (&50.0.into(), &99.0.into(), &100.0.into())
        );
        assert_eq!(report["reasons"]["status 503"], 1);
        assert_eq!(report["answered"], 100);
    }

    #[test]
    fn names_are_bounded() {
        let mut names = BTreeMap::new();
        (0..NAMES_MAX * 2).for_each(|number| count(&mut names, number.to_string()));
        assert_eq!((names.len(), names["other"]), (NAMES_MAX + 1, NAMES_MAX as u64));
    }
}
