//! How loaded an endpoint is: its peak-EWMA latency times its requests in flight.
//!
//! The latency is the greater of a *mean* over ten seconds and a *peak*, which follows a slow answer at once and is
//! forgotten within half a second, so that an endpoint that turns slow loses its traffic with the first slow answer. While
//! nothing is sent to it both fade, so that it is asked again before long: ×20 slower than the others, about once in 10 s.
//!
//! Four departures from the textbook, which has one value for both. That remembers every peak for the ten seconds: one
//! pause of 20 ms (a garbage collection, a busy CPU) kept an endpoint that answers in one out of use for half a minute, and
//! the others had its share. An endpoint that was never asked is asked next, and its first answer replaces the seed that
//! stands for it meanwhile: a pool that grows uses its new members at once, and one request at a time. What few answers
//! told fades sooner, since the first ones are often slow. And an endpoint that owes answers and gives none counts as
//! being as slow as its silence is long.

use std::{cell::Cell, time::Duration};
use tokio::time::Instant;

/// The time in which the mean forgets, or fades, to 1/e, …
const DECAY_S: f64 = 10.0;
/// … once so many answers have made it; with fewer, in proportion.
const ANSWERS_KNOWN: u32 = 32;

/// The time in which a peak falls to 1/e.
const PEAK_DECAY_S: f64 = 0.06;

/// An answer counts in the mean as so many times the mean at most: one that took a thousand times as long is a peak, and
/// says little about the next ones. One that is slow for good gets there in a dozen answers.
const OUTLIER: f64 = 4.0;

/// What an endpoint that was asked and never answered is taken for: slower than a neighbour in the same zone, faster than
/// a timeout.
const SEED_S: f64 = 0.03;

/// See the module.
#[derive(Debug)]
pub(crate) struct Load {
    mean_s: Cell<f64>,
    peak_s: Cell<f64>,
    /// When these two held.
    updated: Cell<Instant>,
    /// How many answers made them.
    answers: Cell<u32>,
    asked: Cell<bool>,
    in_flight: Cell<u32>,
    /// Of those in flight, how many have had no answer.
    awaiting: Cell<u32>,
    /// The last answer, or when the first of the awaited ones was asked for.
    progress: Cell<Instant>,
}

impl Load {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            mean_s: Cell::new(SEED_S),
            peak_s: Cell::new(0.0),
            updated: Cell::new(now),
            answers: Cell::new(0),
            asked: Cell::new(false),
            in_flight: Cell::new(0),
            awaiting: Cell::new(0),
            progress: Cell::new(now),
        }
    }

    /// How long an answer takes; no time for an endpoint that was never asked.
    pub(super) fn latency_s(&self, now: Instant) -> f64 {
        self.at_least(self.estimate_s(now), now)
    }

    /// The same in the mean, whatever the last answers took.
    pub(super) fn steady_s(&self, now: Instant) -> f64 {
        self.at_least(self.faded_mean_s(now), now)
    }

    /// What its answers took in the mean when the last of them came: what people are shown. It does not fade, for an endpoint that nobody asks
    /// became no faster by that.
    pub(super) fn measured_s(&self, now: Instant) -> f64 {
        self.at_least(self.mean_s.get(), now)
    }

    fn at_least(&self, latency_s: f64, now: Instant) -> f64 {
        if !self.asked.get() {
            return 0.0;
        }
        let silence = if self.awaiting.get() > 0 {
            now.saturating_duration_since(self.progress.get()).as_secs_f64()
        } else {
            0.0
        };
        // A floor keeps the count of requests in flight meaningful when the estimate has faded to nothing.
        latency_s.max(1e-6).max(silence)
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
        let sample = latency.as_secs_f64();
        if !success && sample < self.estimate_s(now) {
            return; // failing fast must not look like being fast
        }
        let answers = self.answers.get().saturating_add(1);
        let (mean, peak) = (self.mean_s.get(), self.peak_s.get() * fading(self.age_s(now), PEAK_DECAY_S));
        // The first ones count alike, and the very first replaces the seed.
        let weight = (1.0 - fading(self.age_s(now), self.decay_s())).max(1.0 / f64::from(answers));
        let counted = if answers == 1 { sample } else { sample.min(OUTLIER * mean) };
        self.mean_s.set(mean + weight * (counted - mean));
        self.peak_s.set(sample.max(peak));
        self.answers.set(answers);
        self.updated.set(self.updated.get().max(now));
    }

    /// It returns to the rotation: how slow it was while it was failing says nothing about it now.
    pub(super) fn forget(&self) {
        self.mean_s.set(SEED_S);
        self.peak_s.set(0.0);
        self.answers.set(0);
        self.asked.set(false);
    }

    /// It is over; `silent` if no answer was recorded.
    pub(super) fn end(&self, silent: bool) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        if silent {
            self.awaiting.set(self.awaiting.get().saturating_sub(1));
        }
    }

    /// Whether anything was answered.
    pub(super) fn is_known(&self) -> bool {
        self.answers.get() > 0
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    fn estimate_s(&self, now: Instant) -> f64 {
        self.faded_mean_s(now).max(self.peak_s.get() * fading(self.age_s(now), PEAK_DECAY_S))
    }

    fn faded_mean_s(&self, now: Instant) -> f64 {
        self.mean_s.get() * fading(self.age_s(now), self.decay_s())
    }

    fn age_s(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.updated.get()).as_secs_f64()
    }

    /// How fast the mean fades. The seed does not know anything, and fades like the first answer.
    fn decay_s(&self) -> f64 {
        DECAY_S * f64::from(self.answers.get().clamp(1, ANSWERS_KNOWN)) / f64::from(ANSWERS_KNOWN)
    }
}

fn fading(age_s: f64, decay_s: f64) -> f64 {
    (-age_s / decay_s).exp()
}
