//! The counters of one series, what one peer does at one route: a handful of relaxed atomics that the workers increment. Latencies are
//! recorded for the route and for the peer ([`Track`]).

use super::{Blame, Fault, Reason, RouteKey, record::Times, tracks::Track};
use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Requests per second are shown over this many ticks of a second.
const RATE_TICKS: usize = 10;
/// How an application's own failure is called, beside the [`Reason`]s.
pub(crate) const STATUS_5XX: &str = "status_5xx";

/// The golden signals of one series. Made by [`super::Routes::find`] when a route is built, never per request.
#[derive(Debug)]
pub(crate) struct RouteStats {
    requests: AtomicU64,
    success: AtomicU64,
    cancelled: AtomicU64,
    server_errors: AtomicU64,
    /// Allocated with the first failure: most series have none.
    failures: OnceLock<Box<ByReason>>,
    retries: AtomicU64,
    retry_overflow: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    rate: Mutex<Rate>,
    /// Removed from the registry: the next count must look it up anew.
    retired: AtomicBool,
    id: u32,
    pub(super) key: RouteKey,
    pub(super) route: Arc<Track>,
    pub(super) peer: Arc<Track>,
}

/// How often something failed, by [`Reason::index`].
#[derive(Debug)]
struct ByReason {
    /// By the fault of the reason's own.
    own: [AtomicU64; Reason::ALL.len()],
    /// Those that are the peer's fault, while others of the same reason are not.
    peer: [AtomicU64; Reason::ALL.len()],
}

impl RouteStats {
    /// Those of `key`, all zero, from `now` on: the series `id` of this route and this peer.
    pub(super) fn new(id: u32, key: RouteKey, (route, peer): (Arc<Track>, Arc<Track>), now: Instant) -> Self {
        Self {
            requests: AtomicU64::new(0),
            success: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            server_errors: AtomicU64::new(0),
            failures: OnceLock::new(),
            retries: AtomicU64::new(0),
            retry_overflow: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            rate: Mutex::new(Rate::new(now)),
            retired: AtomicBool::new(false),
            id,
            key,
            route,
            peer,
        }
    }

    /// Its number, which no other series of this process has.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Whether the registry has given it up.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Gives it up, if nothing began here for `idle`, as of the last tick, and nothing is under way.
    pub(super) fn retire(&self, now: Instant, idle: Duration) -> bool {
        let requests = self.requests.load(Relaxed);
        let open = self.opened.load(Relaxed) > self.closed.load(Relaxed);
        let rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = rate.requests == requests && now.saturating_duration_since(rate.moved) >= idle;
        let retires = quiet && !open && self.ended() >= requests;
        self.retired.store(retires, Relaxed);
        retires
    }

    /// What has ended, in whatever way.
    fn ended(&self) -> u64 {
        let failures = self.failures.get().into_iter().flat_map(|failures| failures.own.iter().chain(&failures.peer));
        let ended = [&self.success, &self.cancelled, &self.server_errors].into_iter().chain(failures);
        ended.map(|count| count.load(Relaxed)).sum()
    }

    /// A request (or an opaque connection) began. Exactly one of [`Self::success`], [`Self::failure`],
    /// [`Self::server_error`] and [`Self::cancelled`] follows.
    pub(super) fn request(&self) {
        add(&self.requests, 1);
    }

    /// It was answered by the application, below 500: a 4xx is the client's doing.
    pub(super) fn success(&self, latency: Duration) {
        add(&self.success, 1);
        self.record(latency, false);
    }

    /// The mesh could not serve it.
    pub(super) fn failure(&self, why: Blame, latency: Duration) {
        let failures = self.failures.get_or_init(ByReason::new);
        let failures = if why.fault == why.reason.fault() { &failures.own } else { &failures.peer };
        add(&failures[why.reason.index()], 1);
        self.record(latency, why.fault != Fault::Client);
    }

    /// The application answered that it failed: a 5xx, or a gRPC status that means the same.
    pub(super) fn server_error(&self, latency: Duration) {
        add(&self.server_errors, 1);
        self.record(latency, true);
    }

    /// The client cancelled before the response: not a failure, and not a latency to record.
    pub(super) fn cancelled(&self) {
        add(&self.cancelled, 1);
    }

    fn record(&self, latency: Duration, failed: bool) {
        self.route.record(latency, failed);
        self.peer.record(latency, failed);
    }

    /// Where the time of something that ended went.
    pub(super) fn spend(&self, times: &Times) {
        self.route.spend(times);
    }

    /// Whether that is slow for its route.
    pub(super) fn is_slow(&self, latency: Duration) -> bool {
        self.route.is_slow(latency)
    }

    /// A request is sent once more.
    pub(super) fn retry(&self) {
        add(&self.retries, 1);
    }

    /// A retry was due, and the budget was spent.
    pub(super) fn retry_overflow(&self) {
        add(&self.retry_overflow, 1);
    }

    /// A connection was opened.
    pub(super) fn connection_opened(&self) {
        add(&self.opened, 1);
    }

    /// A connection that was counted as opened is gone.
    pub(super) fn connection_closed(&self) {
        add(&self.closed, 1);
    }

    /// Bytes that came from the client.
    pub(super) fn bytes_in(&self, n: u64) {
        add(&self.bytes_in, n);
    }

    /// Bytes that went to the client.
    pub(super) fn bytes_out(&self, n: u64) {
        add(&self.bytes_out, n);
    }

    /// Moves the window of the rate on. Called once a second.
    pub(super) fn tick(&self, now: Instant) {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.tick(now, self.requests.load(Relaxed));
    }

    /// Everything as it stands at `now`.
    pub(super) fn read(&self, now: Instant) -> Reading {
        // Ends are read before beginnings, so that what happens meanwhile cannot make more of them.
        let success = self.success.load(Relaxed);
        let cancelled = self.cancelled.load(Relaxed);
        let closed = self.closed.load(Relaxed);
        let ended = self.ended();
        let own = Failures { reason: STATUS_5XX, fault: Fault::Application, count: self.server_errors.load(Relaxed) };
        let failures = self.failures.get().into_iter().flat_map(|failures| failures.read()).chain([own]);
        let failures = failures.filter(|failures| failures.count > 0).collect();
        let requests = self.requests.load(Relaxed);
        let rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        Reading {
            requests,
            in_flight: requests.saturating_sub(ended),
            success,
            cancelled,
            failures,
            rps: rate.rate(now, requests),
            retries: self.retries.load(Relaxed),
            retry_overflow: self.retry_overflow.load(Relaxed),
            connections: self.opened.load(Relaxed).saturating_sub(closed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }
}

impl ByReason {
    fn new() -> Box<Self> {
        let zero = || [const { AtomicU64::new(0) }; Reason::ALL.len()];
        Box::new(Self { own: zero(), peer: zero() })
    }

    fn read(&self) -> impl Iterator<Item = Failures> {
        Reason::ALL.iter().flat_map(|reason| {
            let count = |counts: &[AtomicU64; Reason::ALL.len()]| counts[reason.index()].load(Relaxed);
            let other = Blame::from(*reason).at_peer().fault;
            [
                Failures { reason: reason.as_str(), fault: reason.fault(), count: count(&self.own) },
                Failures { reason: reason.as_str(), fault: other, count: count(&self.peer) },
            ]
        })
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
    /// What began and has not ended.
    pub(super) in_flight: u64,
    pub(super) success: u64,
    pub(super) cancelled: u64,
    /// Only what happened.
    pub(super) failures: Vec<Failures>,
    pub(super) rps: f64,
    pub(super) retries: u64,
    pub(super) retry_overflow: u64,
    pub(super) connections: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// Requests counted at each of the last ticks, the oldest first. Of thousands of series each has one, so it is kept small.
#[derive(Debug)]
struct Rate {
    born: Instant,
    /// Milliseconds since then, and how many requests there were: of both the lower bits, which tell ten seconds apart.
    ticks: [(u32, u32); RATE_TICKS],
    /// How many of them there are.
    many: u8,
    /// How many requests there were at the last tick, and since when.
    requests: u64,
    moved: Instant,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { born: now, ticks: [(0, 0); RATE_TICKS], many: 1, requests: 0, moved: now }
    }

    fn tick(&mut self, now: Instant, requests: u64) {
        if requests != self.requests {
            (self.requests, self.moved) = (requests, now);
        }
        if usize::from(self.many) == RATE_TICKS {
            self.ticks.rotate_left(1);
            self.many -= 1;
        }
        self.ticks[usize::from(self.many)] = (self.millis(now), requests as u32);
        self.many += 1;
    }

    /// Since it was born, modulo 2^32.
    fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.born).as_millis() as u32
    }

    /// Requests per second since the oldest tick; a route younger than a second is shown as if it were one.
    fn rate(&self, now: Instant, requests: u64) -> f64 {
        let (since, before) = self.ticks[0];
        let seconds = (f64::from(self.millis(now).wrapping_sub(since)) / 1e3).max(1.0);
        f64::from((requests as u32).wrapping_sub(before)) / seconds
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::telemetry::{Direction, Proto, Tls, tracks::Of};

    const SECOND: Duration = Duration::from_secs(1);

    fn counters(now: Instant) -> RouteStats {
        let (direction, tls, protocol) = (Direction::Outbound, Tls::Mtls, Proto::Http1);
        let key = RouteKey { direction, parent: "".into(), route: "".into(), peer: "".into(), tls, protocol };
        let route = Of::Route { direction, parent: "".into(), route: "".into() };
        let peer = Of::Peer { direction, peer: "".into(), tls };
        RouteStats::new(1, key, (Track::new(1, route, now).into(), Track::new(2, peer, now).into()), now)
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
    fn the_rate_is_right_where_the_lower_bits_begin_anew() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let (mut requests, mut now) =
            (u64::from(u32::MAX) - 50, start + Duration::from_millis(u64::from(u32::MAX) - 4500));
        for _ in 0..20 {
            rate.tick(now, requests);
            (requests, now) = (requests + 7, now + SECOND);
        }
        let shown = rate.rate(now, requests);
        assert!((shown - 7.0).abs() < 1e-9, "{shown}");
    }

    #[test]
    fn a_new_route_shows_a_rate_at_once() {
        let start = Instant::now();
        let stats = counters(start);
        stats.request();
        assert!((stats.read(start).rps - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_failure_is_counted_by_its_reason_and_by_whose_fault_it_is() {
        let stats = counters(Instant::now());
        stats.failure(Reason::UpstreamReset.into(), SECOND);
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
        stats.cancelled();
        let reading = stats.read(Instant::now());
        assert_eq!((reading.requests, reading.success, reading.cancelled), (1, 0, 1));
        assert!(reading.failures.is_empty());
        assert_eq!((reading.in_flight, stats.route.latency().count()), (0, 0));
    }
}
