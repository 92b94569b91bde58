//! How much work one stream may ask for, and how many lines of the log all together. Pure: the time is given.

use super::limits::{LINES_MAX, LINES_PERIOD, WORK_MAX, WORK_PER_SECOND};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A stream's work: what is asked may run into debt, which is waited off.
#[derive(Debug)]
pub(super) struct Budget {
    /// Units that are left; negative: debt.
    left: f64,
    at: Instant,
}

impl Budget {
    /// A full one.
    pub(super) fn new(now: Instant) -> Self {
        Self { left: f64::from(WORK_MAX), at: now }
    }

    /// Takes `units`. Gives how long to wait before more is done.
    pub(super) fn spend(&mut self, units: u32, now: Instant) -> Option<Duration> {
        let earned = now.duration_since(self.at).as_secs_f64() * f64::from(WORK_PER_SECOND);
        self.left = (self.left + earned).min(f64::from(WORK_MAX)) - f64::from(units);
        self.at = now;
        (self.left < 0.0).then(|| Duration::from_secs_f64(-self.left / f64::from(WORK_PER_SECOND)))
    }
}

/// Lines that may be many at once, of all streams.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Lines {
    /// Whether a line may be said now; and then, how many were left out before it.
    pub(super) fn may_say(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.since.is_none_or(|since| now.duration_since(since) >= LINES_PERIOD) {
            (said.since, said.lines) = (Some(now), 0);
        }
        if said.lines == LINES_MAX {
            said.left_out += 1;
            return None;
        }
        said.lines += 1;
        Some(std::mem::take(&mut said.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_gets_its_share_for_long_and_what_it_saved_at_once() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut budget = Budget::new(began);
        assert_eq!(budget.spend(WORK_MAX, began), None);
        assert_eq!(budget.spend(2 * WORK_PER_SECOND, began), Some(Duration::from_secs(2)));
        assert_eq!(budget.spend(0, after(1)), Some(Duration::from_secs(1)));
        assert_eq!(budget.spend(WORK_PER_SECOND, after(3)), None);
        assert_eq!(budget.spend(WORK_MAX, after(1000)), None, "no more is saved than that");
        assert!(budget.spend(1, after(1000)).is_some());
    }

    #[test]
    fn many_lines_at_once_become_some_and_a_number() {
        let (lines, began) = (Lines::default(), Instant::now());
        let said = (0..100).filter(|_| lines.may_say(began).is_some()).count();
        assert_eq!(said, LINES_MAX as usize);
        assert_eq!(lines.may_say(began + LINES_PERIOD), Some(100 - u64::from(LINES_MAX)));
        assert_eq!(lines.may_say(began + LINES_PERIOD), Some(0));
    }
}
