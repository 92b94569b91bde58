//! How loaded an endpoint is: its peak-EWMA latency times its requests in flight.
//!
//! The estimate follows a *rise* at once and a *fall* with a decay of ten seconds, so that an endpoint that turns
//! slow loses its traffic with the first slow answer. While nothing is sent to it the estimate fades, so that it is
//! asked again before long: ×20 slower than the others, about once in 25 s.
//!
//! Three departures from the textbook. An endpoint that was never asked is asked next, and its first answer replaces the
//! seed that stands for it meanwhile: a pool that grows uses its new members at once, and one request at a time. An
//! estimate falls to the latest answer and not to a blend above it, so that one that recovered is preferred no less
//! than the others. And an endpoint that owes answers and gives none counts as being as slow as its silence is long.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// The time in which an estimate falls to 1/e.
const DECAY: Duration = Duration::from_secs(10);

/// What an endpoint that was asked and never answered is taken for: slower than a neighbour in the same zone, faster than
/// a timeout.
const SEED: Duration = Duration::from_millis(30);

/// See the module.
#[derive(Debug)]
pub struct Load {
    estimate_s: Cell<f64>,
    /// When `estimate_s` held.
    updated: Cell<Instant>,
    asked: Cell<bool>,
    sampled: Cell<bool>,
    in_flight: Cell<u32>,
    /// Of those in flight, how many have had no answer.
    awaiting: Cell<u32>,
    /// The last answer, or when the first of the awaited ones was asked for.
    progress: Cell<Instant>,
}

impl Load {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            estimate_s: Cell::new(SEED.as_millis() as f64 / 1000.0),
            updated: Cell::new(now),
            asked: Cell::new(false),
            sampled: Cell::new(false),
            in_flight: Cell::new(0),
            awaiting: Cell::new(0),
            progress: Cell::new(now),
        }
    }

    /// The cost of sending one more, `free` of those in flight not counted.
    pub(super) fn cost(&self, now: Instant, free: u32) -> f64 {
        self.latency_s(now) * (f64::from(self.in_flight.get().saturating_sub(free)) + 1.0)
    }

    /// How long an answer takes; no time for an endpoint that was never asked.
    pub(super) fn latency_s(&self, now: Instant) -> f64 {
        if !self.asked.get() {
            return 0.0;
        }
        // A floor keeps the count of requests in flight meaningful when the estimate has faded to nothing.
        let latency = (self.estimate_s.get() * self.fading(now)).max(1e-6);
        let silence = if self.awaiting.get() > 0 {
            now.saturating_duration_since(self.progress.get()).as_secs_f64()
        } else {
            0.0
        };
        latency.max(silence)
    }

    pub(super) fn begin(&self, now: Instant) {
        self.asked.set(true);
        if self.awaiting.get() == 0 {
            self.progress.set(now);
        }
        self.in_flight.set(self.in_flight.get() + 1);
        self.awaiting.set(self.awaiting.get() + 1);
    }

    /// An answer came. `latency` is `None` where it says nothing about the endpoint's speed (a refused connection).
    pub(super) fn answered(&self, now: Instant, latency: Option<Duration>, success: bool) {
        self.awaiting.set(self.awaiting.get().saturating_sub(1));
        self.progress.set(self.progress.get().max(now));
        let Some(latency) = latency else { return };
        let (sample, before) = (latency.as_secs_f64(), self.estimate_s.get());
        if !success && sample < before {
            return; // failing fast must not look like being fast
        }
        let first = !self.sampled.replace(true);
        self.estimate_s.set(if first { sample } else { sample.max(before * self.fading(now)) });
        self.updated.set(self.updated.get().max(now));
    }

    /// It returns to the rotation: how slow it was while it was failing says nothing about it now.
    pub(super) fn forget(&self) {
        self.estimate_s.set(SEED.as_millis() as f64 / 1000.0);
        self.asked.set(false);
        self.sampled.set(false);
    }

    /// It is over; `silent` if no answer was recorded.
    pub(super) fn end(&self, silent: bool) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        if silent {
            self.awaiting.set(self.awaiting.get().saturating_sub(1));
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    fn fading(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.updated.get());
        (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}
