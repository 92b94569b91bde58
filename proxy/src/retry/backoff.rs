//! How long to wait before a retry: doubling from 25 ms to 250 ms, jittered, so that the clients of a backend that
//! failed for a moment do not all come back in the same moment.

use std::time::Duration;

/// The bounds of a backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { min: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

impl Backoff {
    /// From `min`, doubled with every retry, up to `max` (or `min`, if that is longer). A route's own backoff is a
    /// minimum (Gateway API GEP-1731).
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min) }
    }

    /// Before retry number `retry`, counted from 0: between one and two times the doubled minimum, never over the maximum.
    #[must_use]
    pub fn delay(&self, retry: u32, rng: &mut fastrand::Rng) -> Duration {
        let base = self.min.saturating_mul(1 << retry.min(16)).min(self.max);
        base.mul_f64(1.0 + rng.f64()).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_vary_and_stay_in_bounds() {
        let mut rng = fastrand::Rng::with_seed(1);
        let backoff = Backoff::default();
        for retry in 0..64 {
            let least = Duration::from_millis(25).saturating_mul(1 << retry.min(10)).min(Duration::from_millis(250));
            for _ in 0..50 {
                let delay = backoff.delay(retry, &mut rng);
                assert!((least..=Duration::from_millis(250)).contains(&delay), "{retry}: {delay:?}");
            }
        }
        assert_ne!(backoff.delay(0, &mut rng), backoff.delay(0, &mut rng));
    }
}
