//! When to renew and when to retry: pure, from times and a random number to a wait.

use std::time::Duration;

/// Retry waits double from here.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// No wait for the first certificate is longer: a pod without one is of no use.
const BACKOFF_MAX_FIRST: Duration = Duration::from_secs(5);
/// No retry wait is longer, however long the leaf lives: a CA that came back should be met soon.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Nor does it shrink below this for very short leaves, so that a failing CA is not hammered.
const BACKOFF_MAX_LEAST: Duration = Duration::from_secs(1);

/// How long after it was issued a certificate that lives for `life` is to be renewed: a third of its life, ±10 %.
///
/// `random` is uniform in `0.0..1.0`. A third leaves two thirds (16 h of 24 h) to survive without a CA; the jitter
/// spreads pods that started together.
#[must_use]
pub fn renew_after(life: Duration, random: f64) -> Duration {
    life.mul_f64((0.9 + 0.2 * random.clamp(0.0, 1.0)) / 3.0)
}

/// How long to wait after the `failures`-th failure in a row (from 1): exponential, with full jitter over its
/// upper half, bounded by a minute and by a twentieth of the leaf's life, or by five seconds where there is none yet.
#[must_use]
pub fn retry_after(failures: u32, life: Option<Duration>, random: f64) -> Duration {
    let cap = life.map_or(BACKOFF_MAX_FIRST, |life| (life / 20).clamp(BACKOFF_MAX_LEAST, BACKOFF_MAX));
    let doubled = BACKOFF_FIRST.saturating_mul(1_u32 << failures.saturating_sub(1).min(16));
    doubled.min(cap).mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn renewal_is_at_a_third_of_life_within_ten_percent() {
        let day = 24 * HOUR;
        assert_eq!(renew_after(day, 0.5).as_secs_f64().round(), (8 * HOUR).as_secs_f64());
        assert!(renew_after(day, 0.0) >= (8 * HOUR).mul_f64(0.899));
        assert!(renew_after(day, 1.0) <= (8 * HOUR).mul_f64(1.101));
    }

    #[test]
    fn even_the_latest_renewal_survives_an_outage_of_fifteen_hours() {
        assert!(renew_after(24 * HOUR, 1.0) + 15 * HOUR < 24 * HOUR);
    }

    #[test]
    fn retries_back_off_to_a_bound_that_fits_the_life() {
        let day = Some(24 * HOUR);
        let waits: Vec<_> = (1..40).map(|n| retry_after(n, day, 1.0)).collect();
        assert!(waits.is_sorted());
        assert_eq!(waits.first(), Some(&BACKOFF_FIRST));
        assert_eq!(waits.last(), Some(&BACKOFF_MAX));
        assert_eq!(retry_after(99, Some(Duration::from_secs(20)), 1.0), BACKOFF_MAX_LEAST);
        assert_eq!(retry_after(99, None, 0.0), BACKOFF_MAX_FIRST / 2);
    }
}
