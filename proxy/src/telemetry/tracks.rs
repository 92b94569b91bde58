//! Latencies and their history of one route, or of one peer.
//!
//! A series ([`RouteStats`](super::RouteStats)) counts what one peer does at one route, of which there may be thousands; what takes more memory
//! than a counter is kept for the route and for the peer, of which there are hundreds.

use super::{
    Direction, Tls,
    histogram::{Histogram, Snapshot, row, row_starts},
    history::{BEFORE, Clock, History, Span, Window},
    record::Times,
};
use serde_json::{Map, Value, json};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// What a track is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Of {
    /// A route of what was called.
    Route { direction: Direction, parent: Arc<str>, route: Arc<str> },
    /// Who called, or who was called.
    Peer { direction: Direction, peer: Arc<str>, tls: Tls },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Track {
    pub(super) id: u32,
    pub(super) of: Of,
    born: Instant,
    latency: Histogram,
    /// Of what failed by anybody's fault but the client's.
    failed: Histogram,
    spent: Spent,
    /// In nanoseconds: what takes longer is among the slowest hundredth of lately.
    slow: AtomicU64,
    past: Mutex<Past>,
}

/// Where the time of requests went, in nanoseconds, and of how many.
#[derive(Debug, Default)]
struct Spent {
    before: AtomicU64,
    connect: AtomicU64,
    server: AtomicU64,
    after: AtomicU64,
    of: AtomicU64,
}

/// A request that belongs to a trace and stands for those of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traced {
    /// When it ended, since the registry was made.
    pub(super) ended: Duration,
    pub(super) latency: Duration,
    pub(super) trace: u128,
}

#[derive(Debug, Default)]
struct Past {
    history: History,
    /// The latest of each bucket that text shows, in their order, as far as somebody asked.
    traced: Vec<(usize, Traced)>,
    /// What was spent at the last ends of ten seconds, the oldest first, …
    spent: VecDeque<[u64; 5]>,
    /// … and at the last ends of minutes.
    spent_by_minute: VecDeque<[u64; 5]>,
}

impl Track {
    pub(super) fn new(id: u32, of: Of, now: Instant) -> Self {
        Self {
            id,
            of,
            born: now,
            latency: Histogram::new(),
            failed: Histogram::new(),
            spent: Spent::default(),
            slow: AtomicU64::new(u64::MAX),
            past: Mutex::default(),
        }
    }

    /// Something ended; `failed` if that was anybody's fault but the client's.
    pub(super) fn record(&self, latency: Duration, failed: bool) {
        self.latency.record(latency);
        if failed {
            self.failed.record(latency);
        }
    }

    /// Where the time of something went that ended.
    pub(super) fn spend(&self, times: &Times) {
        let Spent { before, connect, server, after, of } = &self.spent;
        for (sum, time) in
            [(before, times.before), (connect, times.connect), (server, times.server), (after, times.after)]
        {
            // Nearly always two of them are nothing.
            if time > Duration::ZERO {
                sum.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
            }
        }
        of.fetch_add(1, Relaxed);
    }

    /// Whether that is longer than nearly everything of the last minute.
    pub(super) fn is_slow(&self, latency: Duration) -> bool {
        latency.as_nanos() > u128::from(self.slow.load(Relaxed))
    }

    /// A second has gone by, which `clock` knows already.
    pub(super) fn tick(&self, clock: &Clock) {
        let past = &mut *lock(&self.past);
        past.history.tick(clock, &self.latency, &self.failed);
        if !clock.ends_ten() {
            return;
        }
        if past.spent.len() > 6 {
            past.spent.pop_front();
        }
        past.spent.push_back(self.spent.read());
        if clock.ends_minute() {
            // The ends of the minute that is compared with now are the oldest two.
            if past.spent_by_minute.len() > BEFORE + 1 {
                past.spent_by_minute.pop_front();
            }
            past.spent_by_minute.push_back(self.spent.read());
        }
        let lately = past.history.window(clock, Span::Minute, self.born).and_then(|window| window.quantiles);
        let slow = lately.map_or(u64::MAX, |[.., p99]| u64::try_from(p99.as_nanos()).unwrap_or(u64::MAX));
        self.slow.store(slow, Relaxed);
    }

    /// The latest requests with a trace, each of another bucket, of these and of those that were shown before: a scraper takes none that is older
    /// than the one that it has.
    pub(super) fn show(&self, news: impl IntoIterator<Item = (usize, Traced)>) -> Vec<Traced> {
        let traced = &mut lock(&self.past).traced;
        for (bucket, new) in news {
            match traced.binary_search_by_key(&bucket, |(known, _)| *known) {
                Ok(at) if traced[at].1.ended < new.ended => traced[at].1 = new,
                Ok(_) => {}
                Err(at) => traced.insert(at, (bucket, new)),
            }
        }
        traced.iter().map(|(_, traced)| *traced).collect()
    }

    /// All latencies since the start.
    pub(super) fn latency(&self) -> Snapshot {
        self.latency.snapshot()
    }

    /// A window of its history.
    pub(super) fn window(&self, clock: &Clock, span: Span) -> Option<Window> {
        lock(&self.past).history.window(clock, span, self.born)
    }

    /// Adds every window under its name, with its latencies where those are asked for.
    pub(super) fn windows(&self, clock: &Clock, histograms: bool, row: &mut Map<String, Value>) {
        let past = lock(&self.past);
        for span in Span::ALL {
            let window = past.history.window(clock, span, self.born);
            let mut shown = window.as_ref().map_or(Value::Null, |window| window_json(window, histograms));
            if span == Span::Before
                && let (Some(window), Some(time)) = (shown.as_object_mut(), past.time_before())
            {
                window.insert("time".to_owned(), time);
            }
            row.insert(span.as_str().to_owned(), shown);
        }
    }

    /// Where the time went in the last minute, in the mean.
    pub(super) fn time(&self) -> Value {
        let now = self.spent.read();
        let past = lock(&self.past);
        // What is younger than the window is told of from its start.
        let since = if past.spent.len() > 6 { past.spent.front().copied().unwrap_or_default() } else { [0; 5] };
        drop(past);
        let since = if now[4] > since[4] { since } else { [0; 5] };
        means(since, now)
    }

    /// Its last ten minutes by time and latency. `wall` tells the time of day of an instant, in milliseconds since 1970.
    pub(super) fn heatmap(&self, clock: &Clock, wall: impl Fn(Instant) -> u64) -> Value {
        let columns = lock(&self.past).history.columns(clock);
        let rows = columns.iter().flatten().map(|(index, ..)| row(*index));
        let Some((low, high)) = rows.clone().min().zip(rows.max()) else {
            return json!({ "step_s": 10, "columns_ms": [], "lower_ms": [], "counts": [], "failed": [] });
        };
        let of = |pick: fn(&(u16, u64, u64)) -> u64| -> Vec<Vec<u64>> {
            let column = |column: &Vec<(u16, u64, u64)>| {
                let mut cells = vec![0; high - low + 1];
                column.iter().for_each(|bucket| cells[row(bucket.0) - low] += pick(bucket));
                cells
            };
            columns.iter().map(column).collect()
        };
        json!({
            "step_s": 10,
            "columns_ms": clock.columns().map(wall).collect::<Vec<_>>(),
            "lower_ms": (low..=high).map(|row| row_starts(row).as_secs_f64() * 1e3).collect::<Vec<_>>(),
            "counts": of(|bucket| bucket.1),
            "failed": of(|bucket| bucket.2),
        })
    }
}

impl Past {
    /// Where the time went in the minute that is compared with now; none if nothing ended in it.
    fn time_before(&self) -> Option<Value> {
        let ends = |minutes: usize| self.spent_by_minute.len().checked_sub(minutes).map(|at| self.spent_by_minute[at]);
        let end = ends(BEFORE + 1)?;
        // What is younger than its beginning is told of from its start.
        let begin = ends(BEFORE + 2).unwrap_or_default();
        (end[4] > begin[4]).then(|| means(begin, end))
    }
}

/// Where the time went between two readings, in the mean.
fn means(before: [u64; 5], after: [u64; 5]) -> Value {
    let of = after[4].saturating_sub(before[4]).max(1) as f64;
    let mean = |part: usize| ms(after[part].saturating_sub(before[part]) as f64 / of / 1e6);
    json!({ "before_ms": mean(0), "connect_ms": mean(1), "server_ms": mean(2), "after_ms": mean(3) })
}

impl Spent {
    fn read(&self) -> [u64; 5] {
        [&self.before, &self.connect, &self.server, &self.after, &self.of].map(|sum| sum.load(Relaxed))
    }
}

fn window_json(window: &Window, histograms: bool) -> Value {
    let share = if window.ended == 0 { 0.0 } else { window.failed as f64 / window.ended as f64 };
    let [p50, p95, p99] = match window.quantiles {
        Some(quantiles) => quantiles.map(|quantile| json!(ms(quantile.as_secs_f64() * 1e3))),
        None => [Value::Null, Value::Null, Value::Null],
    };
    let mut shown = json!({
        "rps": ms(window.ended as f64 / window.seconds),
        "requests": window.ended,
        "failed": window.failed,
        "errors": (share * 1e6).round() / 1e6,
        "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
    });
    if histograms {
        shown["latencies_ns"] = json!(window.latencies);
    }
    shown
}

/// To three decimals.
fn ms(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn track(now: Instant) -> Track {
        Track::new(7, Of::Route { direction: Direction::Inbound, parent: "a".into(), route: "b".into() }, now)
    }

    fn pass(track: &Track, clock: &mut Clock, now: &mut Instant, seconds: u32, each: impl Fn()) {
        for _ in 0..seconds {
            each();
            *now += Duration::from_secs(1);
            clock.tick(*now);
            track.tick(clock);
        }
    }

    #[test]
    fn the_cells_of_a_heatmap_add_up_to_what_was_counted() {
        let mut now = Instant::now();
        let (track, mut clock) = (track(now), Clock::new(now));
        pass(&track, &mut clock, &mut now, 900, || {
            track.record(MS, false);
            track.record(40 * MS, true);
        });
        let map = track.heatmap(&clock, |_| 0);
        let sum = |name: &str| -> u64 {
            let columns = map[name].as_array().unwrap();
            columns.iter().flat_map(|column| column.as_array().unwrap()).map(|cell| cell.as_u64().unwrap()).sum()
        };
        assert_eq!((sum("counts"), sum("failed")), (2 * 600, 600));
        let (columns, rows) = (map["columns_ms"].as_array().unwrap(), map["lower_ms"].as_array().unwrap());
        assert_eq!(columns.len(), 60);
        assert!(map["counts"].as_array().unwrap().iter().all(|column| column.as_array().unwrap().len() == rows.len()));
        let (low, high) = (rows[0].as_f64().unwrap(), rows[rows.len() - 1].as_f64().unwrap());
        assert!(low <= 1.0 && low > 0.6 && high <= 40.0 && high > 26.0, "{low} {high}");
    }

    #[test]
    fn the_parts_of_the_time_are_those_of_the_last_minute() {
        let mut now = Instant::now();
        let (track, mut clock) = (track(now), Clock::new(now));
        let spend = |before: u32, server: u32| {
            let times = Times { before: MS * before, server: MS * server, ..Times::default() };
            track.spend(&times);
        };
        pass(&track, &mut clock, &mut now, 100, || spend(50, 1));
        pass(&track, &mut clock, &mut now, 90, || spend(1, 3));
        assert_eq!(track.time(), json!({ "before_ms": 1.0, "connect_ms": 0.0, "server_ms": 3.0, "after_ms": 0.0 }));
    }

    #[test]
    fn the_parts_of_the_time_of_a_young_track_are_those_of_its_whole_life() {
        let mut now = Instant::now();
        let (track, mut clock) = (track(now), Clock::new(now));
        let spend = |server: u32| track.spend(&Times { server: MS * server, ..Times::default() });
        pass(&track, &mut clock, &mut now, 10, || spend(1));
        pass(&track, &mut clock, &mut now, 10, || spend(3));
        assert_eq!(track.time()["server_ms"], 2.0);
    }

    #[test]
    fn the_minute_that_is_compared_with_now_says_where_its_time_went() {
        let mut now = Instant::now();
        let (track, mut clock) = (track(now), Clock::new(now));
        let spend = |server: u32| {
            track.record(MS * server, false);
            track.spend(&Times { server: MS * server, ..Times::default() });
        };
        let before = |clock: &Clock| {
            let mut row = Map::new();
            track.windows(clock, false, &mut row);
            row["before"]["time"]["server_ms"].clone()
        };
        // Minute by minute 1 ms, 2 ms, …
        for minute in 1..=10 {
            pass(&track, &mut clock, &mut now, 60, || spend(minute));
            assert_eq!(before(&clock), Value::Null, "{minute}");
        }
        for minute in 11..=40 {
            pass(&track, &mut clock, &mut now, 60, || spend(minute));
            assert_eq!(before(&clock), f64::from(minute - 10), "{minute}");
        }
    }

    #[test]
    fn slow_is_what_takes_longer_than_nearly_all_of_the_last_minute() {
        let mut now = Instant::now();
        let (track, mut clock) = (track(now), Clock::new(now));
        assert!(!track.is_slow(Duration::from_secs(100)), "nothing is known yet");
        pass(&track, &mut clock, &mut now, 60, || (0..100).for_each(|_| track.record(5 * MS, false)));
        assert!(track.is_slow(6 * MS) && !track.is_slow(4 * MS));
    }
}
