//! How long to wait before a retry: doubling within two bounds, jittered, so that the clients of a backend that
//! failed for a moment do not all come back in the same moment.

use crate::limits::{BACKOFF_MAX as MAX, BACKOFF_MIN as MIN};
use std::time::Duration;

/// The wait before the next try when `tries` were made: the minimum doubled with every try, times one to two, at most
/// the maximum; never less than `least`, which the route may ask for (Gateway API GEP-1731: a backoff is a minimum).
#[must_use]
pub(crate) fn backoff(least: Duration, tries: u32, rng: &mut fastrand::Rng) -> Duration {
    let base = MIN.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(MAX);
    base.mul_f64(1.0 + rng.f64()).min(MAX).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_vary_and_stay_in_bounds() {
        let mut rng = fastrand::Rng::with_seed(1);
        for tries in 0..64u32 {
            let least = MIN.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(MAX);
            for _ in 0..50 {
                let delay = backoff(Duration::ZERO, tries, &mut rng);
                assert!((least..=MAX).contains(&delay), "{tries}: {delay:?}");
            }
        }
        assert_ne!(backoff(MIN, 1, &mut rng), backoff(MIN, 1, &mut rng));
        assert_eq!(backoff(2 * MAX, 1, &mut rng), 2 * MAX);
    }
}
