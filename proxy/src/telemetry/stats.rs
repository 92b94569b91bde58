//! The counters of one route: a handful of relaxed atomics that the workers increment, and a window over them that only
//! the sampler and the readers touch.

use super::{
    Blame, Fault, Reason, RouteKey,
    errors::Errors,
    histogram::{Histogram, Snapshot},
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Requests per second are shown over this many ticks of a second.
const RATE_TICKS: usize = 10;
/// Quantiles are shown over the last one to two of these.
const QUANTILE_WINDOW: Duration = Duration::from_secs(10);
/// How an application's own failure is called, beside the [`Reason`]s.
pub(crate) const STATUS_5XX: &str = "status_5xx";

/// The golden signals of one route. Made by [`super::Routes::find`] when a route is built, never per request.
#[derive(Debug)]
pub(crate) struct RouteStats {
    requests: AtomicU64,
    success: AtomicU64,
    cancelled: AtomicU64,
    server_errors: AtomicU64,
    failures: [AtomicU64; Reason::ALL.len()],
    /// Those that are the peer's fault, while others of the same reason are not.
    peer_failures: [AtomicU64; Reason::ALL.len()],
    retries: AtomicU64,
    retry_overflow: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    latency: Histogram,
    window: Mutex<Window>,
    /// Removed from the registry: the next count must look it up anew.
    retired: AtomicBool,
    key: RouteKey,
    /// Where failures are kept one by one.
    errors: Arc<Errors>,
}

impl RouteStats {
    /// Those of `key`, all zero, from `now` on.
    pub(super) fn new(key: RouteKey, errors: Arc<Errors>, now: Instant) -> Self {
        Self {
            requests: AtomicU64::new(0),
            success: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            server_errors: AtomicU64::new(0),
            failures: [const { AtomicU64::new(0) }; Reason::ALL.len()],
            peer_failures: [const { AtomicU64::new(0) }; Reason::ALL.len()],
            retries: AtomicU64::new(0),
            retry_overflow: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            latency: Histogram::new(),
            window: Mutex::new(Window::new(now)),
            retired: AtomicBool::new(false),
            key,
            errors,
        }
    }

    /// Whether the registry has given it up.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Gives it up, if nothing began here for `idle`, as of the last tick, and nothing is under way.
    pub(super) fn retire(&self, now: Instant, idle: Duration) -> bool {
        let ended = [&self.success, &self.cancelled, &self.server_errors]
            .into_iter()
            .chain(&self.failures)
            .chain(&self.peer_failures);
        let ended: u64 = ended.map(|count| count.load(Relaxed)).sum();
        let requests = self.requests.load(Relaxed);
        let open = self.opened.load(Relaxed) > self.closed.load(Relaxed);
        let window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = window.requests == requests && now.saturating_duration_since(window.moved) >= idle;
        let retires = quiet && !open && ended >= requests;
        self.retired.store(retires, Relaxed);
        retires
    }

    /// A request (or an opaque connection) began. Exactly one of [`Self::success`], [`Self::failure`],
    /// [`Self::server_error`] and [`Self::cancelled`] follows.
    pub(crate) fn request(&self) {
        add(&self.requests, 1);
    }

    /// It was answered by the application, below 500: a 4xx is the client's doing.
    pub(crate) fn success(&self, latency: Duration) {
        add(&self.success, 1);
        self.latency.record(latency);
    }

    /// The mesh could not serve it.
    pub(crate) fn failure(&self, why: impl Into<Blame>, latency: Duration) {
        let why = why.into();
        let failures = if why.fault == why.reason.fault() { &self.failures } else { &self.peer_failures };
        add(&failures[why.reason.index()], 1);
        self.latency.record(latency);
        self.errors.note(&self.key, why, latency);
    }

    /// The application answered that it failed: a 5xx, or a gRPC status that means the same.
    pub(crate) fn server_error(&self, latency: Duration) {
        add(&self.server_errors, 1);
        self.latency.record(latency);
    }

    /// The client cancelled before the response: not a failure, and not a latency to record.
    pub(crate) fn cancelled(&self, _latency: Duration) {
        add(&self.cancelled, 1);
    }

    /// A request is sent once more.
    pub(crate) fn retry(&self) {
        add(&self.retries, 1);
    }

    /// A retry was due, and the budget was spent.
    pub(crate) fn retry_overflow(&self) {
        add(&self.retry_overflow, 1);
    }

    /// A connection was opened.
    pub(crate) fn connection_opened(&self) {
        add(&self.opened, 1);
    }

    /// A connection that was counted as opened is gone.
    pub(crate) fn connection_closed(&self) {
        add(&self.closed, 1);
    }

    /// Bytes that came from the client.
    pub(crate) fn bytes_in(&self, n: u64) {
        add(&self.bytes_in, n);
    }

    /// Bytes that went to the client.
    pub(crate) fn bytes_out(&self, n: u64) {
        add(&self.bytes_out, n);
    }

    /// Moves the windows of rate and quantiles on. Called once a second.
    pub(super) fn tick(&self, now: Instant) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.tick(now, self.requests.load(Relaxed), &self.latency);
    }

    /// Everything as it stands at `now`.
    pub(super) fn read(&self, now: Instant) -> Reading {
        // Ends are read before beginnings, so that what happens meanwhile cannot make more of them.
        let success = self.success.load(Relaxed);
        let cancelled = self.cancelled.load(Relaxed);
        let closed = self.closed.load(Relaxed);
        let latency = self.latency.snapshot();
        let failed = Reason::ALL.iter().flat_map(|reason| {
            let count = |counts: &[AtomicU64; Reason::ALL.len()]| counts[reason.index()].load(Relaxed);
            let other = Blame::from(*reason).at_peer().fault;
            [
                Failures { reason: reason.as_str(), fault: reason.fault(), count: count(&self.failures) },
                Failures { reason: reason.as_str(), fault: other, count: count(&self.peer_failures) },
            ]
        });
        let own = Failures { reason: STATUS_5XX, fault: Fault::Application, count: self.server_errors.load(Relaxed) };
        let failures = failed.chain([own]).filter(|failures| failures.count > 0).collect();
        let requests = self.requests.load(Relaxed);
        let window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        Reading {
            requests,
            success,
            cancelled,
            failures,
            rps: window.rate(now, requests),
            recent: window.recent(&latency),
            latency,
            retries: self.retries.load(Relaxed),
            retry_overflow: self.retry_overflow.load(Relaxed),
            connections: self.opened.load(Relaxed).saturating_sub(closed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }
}

/// How often a request failed for one reason by one fault.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failures {
    pub(super) reason: &'static str,
    pub(super) fault: Fault,
    pub(super) count: u64,
}

/// The values of a [`RouteStats`] at one moment.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) requests: u64,
    pub(super) success: u64,
    pub(super) cancelled: u64,
    /// Only what happened.
    pub(super) failures: Vec<Failures>,
    pub(super) rps: f64,
    /// Since the start.
    pub(super) latency: Snapshot,
    /// Of the last ten to twenty seconds; since the start if there was nothing.
    pub(super) recent: Snapshot,
    pub(super) retries: u64,
    pub(super) retry_overflow: u64,
    pub(super) connections: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

#[derive(Debug)]
struct Window {
    /// Requests counted at each of the last ticks, the oldest first.
    ticks: VecDeque<(Instant, u64)>,
    /// Where the shown quantiles begin, and where they will begin after the next turn.
    from: Snapshot,
    next_from: Snapshot,
    turned: Instant,
    /// How many requests there were at the last tick, and since when.
    requests: u64,
    moved: Instant,
}

impl Window {
    fn new(now: Instant) -> Self {
        let ticks = VecDeque::from([(now, 0)]);
        let (from, next_from) = (Snapshot::default(), Snapshot::default());
        Self { ticks, from, next_from, turned: now, requests: 0, moved: now }
    }

    fn tick(&mut self, now: Instant, requests: u64, latency: &Histogram) {
        if requests != self.requests {
            (self.requests, self.moved) = (requests, now);
        }
        self.ticks.push_back((now, requests));
        while self.ticks.len() > RATE_TICKS {
            self.ticks.pop_front();
        }
        if now.saturating_duration_since(self.turned) >= QUANTILE_WINDOW {
            self.turned = now;
            self.from = std::mem::replace(&mut self.next_from, latency.snapshot());
        }
    }

    /// Requests per second since the oldest tick; a route younger than a second is shown as if it were one.
    fn rate(&self, now: Instant, requests: u64) -> f64 {
        let Some((since, before)) = self.ticks.front() else { return 0.0 };
        let seconds = now.saturating_duration_since(*since).as_secs_f64().max(1.0);
        requests.saturating_sub(*before) as f64 / seconds
    }

    fn recent(&self, latency: &Snapshot) -> Snapshot {
        let recent = latency.since(&self.from);
        if recent.count() > 0 { recent } else { latency.clone() }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::telemetry::{Direction, Proto, Tls};

    const SECOND: Duration = Duration::from_secs(1);

    fn counters(now: Instant) -> RouteStats {
        let (direction, tls, protocol) = (Direction::Outbound, Tls::Mtls, Proto::Http1);
        let key = RouteKey { direction, parent: "".into(), route: "".into(), peer: "".into(), tls, protocol };
        RouteStats::new(key, Arc::default(), now)
    }

    #[test]
    fn the_rate_is_over_the_last_ten_seconds() {
        let start = Instant::now();
        let stats = counters(start);
        let mut now = start;
        for second in 0..30 {
            for _ in 0..if second < 20 { 100 } else { 10 } {
                stats.request();
            }
            now += SECOND;
            stats.tick(now);
        }
        let rate = stats.read(now).rps;
        assert!((rate - 10.0).abs() < 0.01, "{rate}");
        let idle = stats.read(now + Duration::from_secs(91)).rps;
        assert!(idle < 1.0, "{idle}: the rate falls even if the sampler stalls");
    }

    #[test]
    fn a_new_route_shows_a_rate_at_once() {
        let start = Instant::now();
        let stats = counters(start);
        stats.request();
        assert!((stats.read(start).rps - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn quantiles_forget_what_is_older_than_twenty_seconds() {
        let start = Instant::now();
        let stats = counters(start);
        stats.success(5 * SECOND);
        for second in 1..=20 {
            stats.tick(start + second * SECOND);
        }
        stats.success(Duration::from_millis(1));
        let reading = stats.read(start + 20 * SECOND);
        assert!(reading.recent.quantile(0.99).unwrap() < Duration::from_millis(2));
        assert_eq!(reading.latency.count(), 2);
    }

    #[test]
    fn an_idle_route_shows_its_quantiles_since_the_start() {
        let start = Instant::now();
        let stats = counters(start);
        stats.success(SECOND);
        for second in 1..=60 {
            stats.tick(start + second * SECOND);
        }
        assert!(stats.read(start + 60 * SECOND).recent.quantile(0.5).unwrap() > SECOND / 2);
    }

    #[test]
    fn a_failure_is_counted_by_its_reason_and_by_whose_fault_it_is() {
        let stats = counters(Instant::now());
        stats.failure(Reason::UpstreamReset, SECOND);
        stats.failure(Blame::from(Reason::UpstreamReset).at_peer(), SECOND);
        stats.failure(Blame::from(Reason::Timeout).at_peer(), SECOND);
        stats.server_error(SECOND);
        let shown = stats.read(Instant::now()).failures;
        let shown: Vec<_> = shown.iter().map(|it| (it.reason, it.fault.as_str(), it.count)).collect();
        let expected = [
            ("timeout", "application", 1),
            ("upstream_reset", "application", 1),
            ("upstream_reset", "peer", 1),
            ("status_5xx", "application", 1),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_cancelled_request_is_neither_success_nor_failure_nor_latency() {
        let stats = counters(Instant::now());
        stats.request();
        stats.cancelled(SECOND);
        let reading = stats.read(Instant::now());
        assert_eq!((reading.requests, reading.success, reading.cancelled), (1, 0, 1));
        assert!(reading.failures.is_empty());
        assert_eq!(reading.latency.count(), 0);
    }
}
