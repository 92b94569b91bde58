//! How much of its share of the machine the process uses: time of each worker's thread and of all, memory against the limit.
//!
//! In: what the kernel tells of this process, once a second. Out: shares of the last ten seconds. On anything but Linux there is nothing to read,
//! and nothing is shown.

use serde_json::{Map, Value, json};
use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::Instant;

/// Over so many seconds.
const SECONDS: usize = 10;
/// Ticks a second of the times in `/proc` (`USER_HZ`, which is 100 on every architecture that Linux has left; proc(5)).
const HZ: f64 = 100.0;
/// A page of memory, where nothing else is said.
const PAGE_SIZE: u64 = 4096;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Saturation {
    memory_limit: u64,
    /// In processors.
    cpu_limit: Option<f64>,
    samples: Arc<Mutex<VecDeque<Sample>>>,
}

/// Processor time until a moment, in seconds.
#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    all: f64,
    /// By worker, in their order.
    workers: Vec<f64>,
}

impl Saturation {
    /// Of a process that may have so much memory, and so many processors if there is a quota.
    pub(crate) fn of(memory_limit: u64, cpu_limit: Option<f64>) -> Self {
        Self { memory_limit, cpu_limit, samples: Arc::default() }
    }

    /// Reads what there is. To be called once a second.
    pub(super) fn tick(&self, now: Instant) {
        let Some(sample) = Sample::read(now) else { return };
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() > SECONDS {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The same in Prometheus' text format, under the names that client libraries use.
    pub(super) fn prometheus(&self, out: &mut String) {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let cpu = samples.back().map(|sample| sample.all.to_string());
        let memory = memory().map(|bytes| bytes.to_string());
        let families = [
            ("process_cpu_seconds_total", "counter", "Processor time of the process, in seconds.", cpu),
            ("process_resident_memory_bytes", "gauge", "Memory of the process that is resident.", memory),
            (
                "remora_memory_limit_bytes",
                "gauge",
                "Memory that the process may have.",
                Some(self.memory_limit.to_string()),
            ),
        ];
        for (name, kind, help, value) in families {
            if let Some(value) = value {
                // Writing to a string cannot fail.
                let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
            }
        }
    }

    /// As `/signals` shows it: shares of one processor.
    pub(super) fn json(&self) -> Map<String, Value> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shown = Map::new();
        if let (Some(first), Some(last)) = (samples.front(), samples.back()) {
            let (cpu, workers) = shares(first, last);
            shown.insert("cpu".to_owned(), json!(cpu));
            shown.insert("workers".to_owned(), json!(workers));
        }
        shown.insert("cpu_limit".to_owned(), json!(self.cpu_limit));
        shown.insert("memory_bytes".to_owned(), json!(memory()));
        shown.insert("memory_limit_bytes".to_owned(), json!(self.memory_limit));
        shown
    }
}

/// What was used between two samples: by all, and by each worker.
fn shares(first: &Sample, last: &Sample) -> (f64, Vec<f64>) {
    let seconds = last.at.saturating_duration_since(first.at).as_secs_f64().max(0.5);
    let share = |before: f64, after: f64| ((after - before).max(0.0) / seconds * 1e3).round() / 1e3;
    let before = first.workers.iter().copied().chain(std::iter::repeat(0.0));
    let workers = before.zip(&last.workers).map(|(before, after)| share(before, *after));
    (share(first.all, last.all), workers.collect())
}

impl Sample {
    fn read(at: Instant) -> Option<Self> {
        let all = seconds(&fs::read_to_string("/proc/self/stat").ok()?)?;
        let mut workers = Vec::new();
        for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
            // A thread may have ended since.
            let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
            if let Some(worker) = worker(&stat).zip(seconds(&stat)) {
                workers.push(worker);
            }
        }
        workers.sort_unstable_by_key(|(number, _)| *number);
        Some(Self { at, all, workers: workers.into_iter().map(|(_, seconds)| seconds).collect() })
    }
}

/// The number of the worker whose thread this is.
fn worker(stat: &str) -> Option<usize> {
    let name = stat.split_once('(')?.1.rsplit_once(')')?.0;
    name.strip_prefix("worker-")?.parse().ok()
}

/// Processor time of user and kernel, which are the 14th and 15th field (proc(5)). The name before them may have spaces.
fn seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, kernel): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + kernel) / HZ)
}

fn memory() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const STAT: &str = "7 (worker-1) R 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1 2 3";

    #[test]
    fn a_workers_time_is_read_from_what_the_kernel_tells() {
        assert_eq!((worker(STAT), seconds(STAT)), (Some(1), Some(3.0)));
        let odd = STAT.replace("worker-1", "a ) (b");
        assert_eq!((worker(&odd), seconds(&odd)), (None, Some(3.0)));
        assert_eq!((worker(""), seconds("7 (x) R 1")), (None, None));
    }

    #[test]
    fn shares_are_of_the_time_between_two_samples() {
        let at = Instant::now();
        let first = Sample { at, all: 1.0, workers: vec![0.5] };
        let last = Sample { at: at + Duration::from_secs(10), all: 4.0, workers: vec![3.0, 0.5] };
        assert_eq!(shares(&first, &last), (0.3, vec![0.25, 0.05]));
    }

    #[test]
    fn this_process_uses_some_of_the_machine() {
        let saturation = Saturation::of(1000, Some(0.5));
        saturation.tick(Instant::now());
        let mut text = String::new();
        saturation.prometheus(&mut text);
        for line in ["# TYPE process_cpu_seconds_total counter", "remora_memory_limit_bytes 1000"] {
            assert!(text.lines().any(|it| it == line), "no {line} in {text}");
        }
        let shown = saturation.json();
        assert!(
            shown["memory_bytes"].as_u64().unwrap() > 1_000_000
                && shown["memory_limit_bytes"] == 1000
                && shown["cpu_limit"] == 0.5,
            "{shown:?}"
        );
    }
}
