//! Failure accrual: when an endpoint leaves the rotation, and how it returns.
//!
//! It leaves after failures in a row, after a bad share of successes over ten seconds, after two failed connects in a
//! row, or at once for a wrong identity. It stays away for an exponential, jittered backoff; then one request probes
//! it, which brings it back or doubles the backoff. A set keeps a minimum in rotation, by [`Outcome`]: see the parent.

use super::Outcome;
use remora_model::Accrual;
use std::{
    cell::{Cell, RefCell},
    time::Duration,
};
use tokio::time::Instant;

/// Connects in a row that fail before an endpoint leaves: one may be a lost race with a restart.
const CONNECT_FAILURES: u32 = 2;

/// The longest absence for failed connects. A failed connect costs its probe little, and an endpoint that comes back
/// should be back within ten seconds.
const CONNECT_BACKOFF_MAX: Duration = Duration::from_secs(8);

/// The window of the success rate.
const BUCKETS: u64 = 10;

/// What the endpoints of one set share.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) accrual: Cell<Accrual>,
    pub(super) epoch: Instant,
    total: Cell<usize>,
    pub(super) ready: Cell<usize>,
    /// No probe is due before; `None`: nothing is ejected.
    next_probe: Cell<Option<Instant>>,
    /// When it is looked again who is passed over; `None`: nobody is.
    pub(super) busy: Cell<Option<Instant>>,
    jitter: RefCell<fastrand::Rng>,
}

impl Pool {
    pub(super) fn new(accrual: Accrual, epoch: Instant) -> Self {
        let jitter = RefCell::new(fastrand::Rng::new());
        Self {
            accrual: Cell::new(accrual),
            epoch,
            total: Cell::new(0),
            ready: Cell::new(0),
            next_probe: Cell::new(None),
            busy: Cell::new(None),
            jitter,
        }
    }

    pub(super) fn recount<'a>(&self, members: impl Iterator<Item = &'a Health> + Clone) {
        self.total.set(members.clone().count());
        self.ready.set(members.clone().filter(|health| health.is_ready()).count());
        self.reschedule(members);
    }

    /// Finds when the next probe is due.
    pub(super) fn reschedule<'a>(&self, members: impl Iterator<Item = &'a Health>) {
        let waiting = members.filter(|health| !health.probing.get()).filter_map(|health| match health.state.get() {
            State::Ready => None,
            State::Ejected { until, .. } => Some(until),
        });
        self.next_probe.set(waiting.min());
    }

    fn expect_probe(&self, until: Instant) {
        self.next_probe.set(Some(self.next_probe.get().map_or(until, |next| next.min(until))));
    }

    pub(super) fn probe_is_due(&self, now: Instant) -> bool {
        self.next_probe.get().is_some_and(|due| due <= now)
    }

    /// Whether one more may leave.
    fn can_spare(&self, outcome: Outcome) -> bool {
        let keep = match outcome {
            Outcome::WrongIdentity => 0,
            Outcome::Unreachable => 1,
            Outcome::Failure | Outcome::Success => self.total.get().div_ceil(2),
        };
        self.ready.get() > keep
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Ready,
    Ejected { at: Instant, until: Instant, why: Why },
}

/// Why an endpoint left the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// So many failures in a row.
    Consecutive,
    /// The share of successes over ten seconds.
    Rate,
    Unreachable,
    WrongIdentity,
}

impl Why {
    /// Why it stays away after a probe that came to this, for one that left because of `before`.
    const fn of(outcome: Outcome, before: Self) -> Self {
        match outcome {
            Outcome::WrongIdentity => Self::WrongIdentity,
            Outcome::Unreachable => Self::Unreachable,
            Outcome::Failure | Outcome::Success => match before {
                Self::Rate => Self::Rate,
                _ => Self::Consecutive,
            },
        }
    }

    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive_failures",
            Self::Rate => "failure_rate",
            Self::Unreachable => "unreachable",
            Self::WrongIdentity => "wrong_identity",
        }
    }
}

/// One endpoint's health.
#[derive(Debug)]
pub(crate) struct Health {
    state: Cell<State>,
    /// Whether the set still has it; a request may outlive that.
    member: Cell<bool>,
    probing: Cell<bool>,
    failures: Cell<u32>,
    connect_failures: Cell<u32>,
    /// Ejections in a row, for the backoff.
    ejections: Cell<u32>,
    /// Second since the epoch, successes and failures in it.
    window: RefCell<[(u64, u32, u32); BUCKETS as usize]>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            state: Cell::new(State::Ready),
            member: Cell::new(true),
            probing: Cell::new(false),
            failures: Cell::new(0),
            connect_failures: Cell::new(0),
            ejections: Cell::new(0),
            window: RefCell::default(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state.get(), State::Ready)
    }

    pub(super) fn leave_pool(&self) {
        self.member.set(false);
    }

    /// News came of an endpoint: if it was an impostor, a probe may look again now.
    pub(super) fn doubt_impostor(&self) {
        if let State::Ejected { at, why: why @ Why::WrongIdentity, .. } = self.state.get() {
            self.state.set(State::Ejected { at, until: at, why });
        }
    }

    /// When its next probe is due, if it is ejected and yet better than nothing.
    pub(super) fn due_at(&self) -> Option<Instant> {
        match self.state.get() {
            State::Ejected { why: Why::WrongIdentity, .. } | State::Ready => None,
            State::Ejected { until, .. } => Some(until),
        }
    }

    /// Whether it is in rotation; else why not, when its next probe is due, and whether that is under way.
    pub(super) fn ejected(&self) -> Option<(Why, Instant, bool)> {
        match self.state.get() {
            State::Ready => None,
            State::Ejected { until, why, .. } => Some((why, until, self.probing.get())),
        }
    }

    /// Claims the probe, if one is due.
    pub(super) fn take_probe(&self, now: Instant) -> bool {
        let due = matches!(self.state.get(), State::Ejected { until, .. } if until <= now);
        due && !self.probing.replace(true)
    }

    /// The probe is over, with or without an answer.
    pub(super) fn end_probe(&self, pool: &Pool) {
        self.probing.set(false);
        if let State::Ejected { until, .. } = self.state.get()
            && self.member.get()
        {
            pool.expect_probe(until);
        }
    }

    /// Takes in how a request went: whether the endpoint is back in the rotation by it.
    pub(super) fn record(&self, pool: &Pool, outcome: Outcome, started: Instant, now: Instant) -> bool {
        if let State::Ejected { at, why, .. } = self.state.get() {
            // What was sent before the ejection says nothing new.
            if started >= at {
                match outcome {
                    Outcome::Success => {
                        self.restore(pool);
                        return true;
                    }
                    failed if self.probing.get() => self.eject(pool, Why::of(failed, why), now),
                    _ => {}
                }
            }
            return false;
        }
        self.count(pool, outcome == Outcome::Success, now);
        let accrual = pool.accrual.get();
        let why = match outcome {
            Outcome::Success => {
                self.failures.set(0);
                self.connect_failures.set(0);
                return false;
            }
            Outcome::WrongIdentity => Some(Why::WrongIdentity),
            Outcome::Unreachable => {
                self.connect_failures.set(self.connect_failures.get() + 1);
                (self.connect_failures.get() >= CONNECT_FAILURES).then_some(Why::Unreachable)
            }
            Outcome::Failure => {
                self.failures.set(self.failures.get().saturating_add(1));
                let in_a_row = self.failures.get() >= accrual.consecutive;
                in_a_row.then_some(Why::Consecutive).or_else(|| self.rate_is_bad(pool, now).then_some(Why::Rate))
            }
        };
        if let Some(why) = why.filter(|_| self.member.get() && pool.can_spare(outcome)) {
            pool.ready.set(pool.ready.get() - 1);
            self.eject(pool, why, now);
        }
        false
    }

    fn eject(&self, pool: &Pool, why: Why, now: Instant) {
        metrics::counter!("remora_ejections_total", "reason" => why.as_str()).increment(1);
        let (ejections, accrual) = (self.ejections.get(), pool.accrual.get());
        self.ejections.set(ejections.saturating_add(1));
        let most = match why {
            Why::Unreachable => accrual.backoff_max.min(CONNECT_BACKOFF_MAX),
            Why::WrongIdentity | Why::Consecutive | Why::Rate => accrual.backoff_max,
        };
        let backoff = accrual.backoff_min.saturating_mul(1 << ejections.min(16)).min(most);
        let until = now + backoff.mul_f64(1.0 - pool.jitter.borrow_mut().f64() / 2.0);
        self.state.set(State::Ejected { at: now, until, why });
        if self.member.get() {
            pool.expect_probe(until);
        }
    }

    /// Back into the rotation, with a clean record. The backoff is forgotten only once the endpoint has proved itself:
    /// one that fails again at once is away for longer.
    fn restore(&self, pool: &Pool) {
        self.state.set(State::Ready);
        self.failures.set(0);
        self.connect_failures.set(0);
        *self.window.borrow_mut() = Default::default();
        if self.member.get() {
            pool.ready.set(pool.ready.get() + 1);
        }
    }

    fn count(&self, pool: &Pool, success: bool, now: Instant) {
        let second = now.saturating_duration_since(pool.epoch).as_secs();
        let mut window = self.window.borrow_mut();
        let bucket = &mut window[(second % BUCKETS) as usize];
        if bucket.0 != second {
            *bucket = (second, 0, 0);
        }
        if success {
            bucket.1 = bucket.1.saturating_add(1);
            // One good answer after a probe could be luck; a few in one second are not.
            if bucket.1 == 10 {
                self.ejections.set(0);
            }
        } else {
            bucket.2 = bucket.2.saturating_add(1);
        }
    }

    fn rate_is_bad(&self, pool: &Pool, now: Instant) -> bool {
        let second = now.saturating_duration_since(pool.epoch).as_secs();
        let recent = |bucket: &&(u64, u32, u32)| second.saturating_sub(bucket.0) < BUCKETS;
        let (good, bad) = self
            .window
            .borrow()
            .iter()
            .filter(recent)
            .fold((0u64, 0u64), |(good, bad), bucket| (good + u64::from(bucket.1), bad + u64::from(bucket.2)));
        let total = good + bad;
        let accrual = pool.accrual.get();
        total >= u64::from(accrual.minimum_requests) && (good as f64) < f64::from(accrual.success_rate) * total as f64
    }
}
