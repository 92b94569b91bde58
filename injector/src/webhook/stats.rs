//! The webhook's metrics. Not kept in the `metrics` recorder, whose histograms grow until they are scraped.

use super::room::Room;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Injected,
    Skipped,
    Refused,
    Unreadable,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Skipped => "skipped",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Upper bounds in microseconds; a decision takes a few hundred.
const BOUNDS_US: [u64; 9] = [100, 250, 500, 1000, 2500, 5000, 10_000, 50_000, 250_000];

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Stats(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    decisions: BTreeMap<(Outcome, &'static str), u64>,
    buckets: [u64; BOUNDS_US.len()],
    sum_us: u64,
    count: u64,
    self_check: Option<bool>,
    no_review: u64,
    room: Option<Room>,
}

impl Stats {
    /// One decision. The reasons are those of [`Skip`](crate::pod::Skip), and `no_pod`, `settings`, `patch`, `randomness`.
    pub(super) fn count(&self, outcome: Outcome, reason: &'static str, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.decisions.entry((outcome, reason)).or_default() += 1;
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for (bucket, bound) in counts.buckets.iter_mut().zip(BOUNDS_US) {
            *bucket += u64::from(took_us <= bound);
        }
        counts.sum_us = counts.sum_us.saturating_add(took_us);
        counts.count += 1;
    }

    /// How the last self-check went.
    pub(crate) fn self_check(&self, good: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).self_check = Some(good);
    }

    /// One connection was ended because no review came in time.
    pub(super) fn no_review(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).no_review += 1;
    }

    /// Whose connections are counted.
    pub(super) fn show(&self, room: Room) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).room = Some(room);
    }

    /// In the Prometheus format.
    pub(crate) fn prometheus(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write(&mut text);
        text
    }
}

impl Counts {
    fn write(&self, text: &mut String) -> std::fmt::Result {
        let family = |text: &mut String, name: &str, kind: &str, help: &str| {
            writeln!(text, "# HELP remora_injector_{name} {help}\n# TYPE remora_injector_{name} {kind}")
        };
        family(text, "decisions_total", "counter", "Pods that were decided about.")?;
        for ((outcome, reason), count) in &self.decisions {
            let outcome = outcome.word();
            writeln!(text, "remora_injector_decisions_total{{outcome=\"{outcome}\",reason=\"{reason}\"}} {count}")?;
        }
        family(text, "decision_seconds", "histogram", "How long a decision took.")?;
        let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS_US) {
            writeln!(text, "remora_injector_decision_seconds_bucket{{le=\"{}\"}} {bucket}", seconds(bound))?;
        }
        writeln!(text, "remora_injector_decision_seconds_bucket{{le=\"+Inf\"}} {}", self.count)?;
        writeln!(text, "remora_injector_decision_seconds_sum {}", seconds(self.sum_us))?;
        writeln!(text, "remora_injector_decision_seconds_count {}", self.count)?;
        if let Some(room) = &self.room {
            let (open, gone) = room.counts();
            family(text, "connections", "gauge", "Connections that are open.")?;
            writeln!(text, "remora_injector_connections {open}")?;
            family(text, "connections_ended_total", "counter", "Connections that were ended by the webhook.")?;
            for (reason, count) in [("room", gone), ("no_review", self.no_review)] {
                writeln!(text, "remora_injector_connections_ended_total{{reason=\"{reason}\"}} {count}")?;
            }
        }
        if let Some(good) = self.self_check {
            let help = "Whether the webhook answers through its own Service, verified as API servers verify it.";
            family(text, "self_check", "gauge", help)?;
            writeln!(text, "remora_injector_self_check {}", u8::from(good))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Skip;

    #[test]
    fn decisions_are_counted_by_outcome_and_reason() {
        let stats = Stats::default();
        stats.count(Outcome::Injected, "", Duration::from_micros(300));
        stats.count(Outcome::Skipped, Skip::HostNetwork.reason(), Duration::from_secs(1));
        stats.self_check(true);
        let text = stats.prometheus();
        for line in [
            "remora_injector_decisions_total{outcome=\"injected\",reason=\"\"} 1\n",
            "remora_injector_decisions_total{outcome=\"skipped\",reason=\"host_network\"} 1\n",
            "remora_injector_decision_seconds_bucket{le=\"0.00025\"} 0\n",
            "remora_injector_decision_seconds_bucket{le=\"0.0005\"} 1\n",
            "remora_injector_decision_seconds_bucket{le=\"+Inf\"} 2\n",
            "remora_injector_decision_seconds_sum 1.0003\n",
            "remora_injector_self_check 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
