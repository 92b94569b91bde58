//! Log lines that a peer or client can cause without bound.
//!
//! In: [`limited!`](crate::limited) at the place of the line. Out: the first [`BURST`] lines; while more come, one after two
//! seconds, four, eight and so on to one a minute, each with the number of those left out since. A minute of quiet makes the
//! place speak freely again. What is counted exactly is a metric's; the log says that it happens, and to whom.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines that are written at once: rare events are logged every time.
const BURST: u32 = 3;
/// The wait after them.
const WAIT_MIN: Duration = Duration::from_secs(2);
/// The longest time between two lines: within it the log says that the events go on. After as long without a line they have stopped.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Keys that one place keeps apart; keys are closed sets of words. What comes later shares one place.
const KEYS_MAX: usize = 32;

/// What one place in the source may still say, by a key such as the reason; a `static` beside the line.
#[derive(Debug, Default)]
pub struct Limited(Mutex<Vec<(&'static str, State)>>);

#[derive(Debug, Default)]
struct State {
    /// Lines since the last quiet.
    written: u32,
    /// When the next line may be written, and after which wait since the last one.
    next: Option<(Instant, Duration)>,
    left_out: u64,
}

/// A line may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// How many were not, since the last one; `None` if none.
    pub left_out: Option<u64>,
}

impl Limited {
    /// Nothing was said yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Whether a line of this key may be written `now`; if not, it is counted.
    pub fn admit(&self, key: &'static str, now: Instant) -> Option<Admitted> {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match states.iter().position(|(known, _)| *known == key) {
            Some(at) => at,
            None if states.len() < KEYS_MAX => {
                states.push((key, State::default()));
                states.len() - 1
            }
            None => KEYS_MAX - 1,
        };
        states[at].1.admit(now)
    }
}

impl State {
    fn admit(&mut self, now: Instant) -> Option<Admitted> {
        let wait = match self.next {
            Some((next, _)) if now < next => {
                self.left_out += 1;
                return None;
            }
            Some((next, _)) if now >= next + WAIT_MAX => {
                self.written = 0;
                WAIT_MIN
            }
            Some((_, wait)) if self.written >= BURST => (wait * 2).min(WAIT_MAX),
            _ => WAIT_MIN,
        };
        self.written = self.written.saturating_add(1);
        self.next = Some((if self.written < BURST { now } else { now + wait }, wait));
        let left_out = std::mem::take(&mut self.left_out);
        Some(Admitted { left_out: (left_out > 0).then_some(left_out) })
    }
}

/// `tracing::info!` and the like, for events that a peer or an unknown client can cause: `limited!(info, %peer, "refused")`, or
/// `limited!(info by reason, reason, %peer, "refused")` to limit each word of a closed set by itself. See
/// [`Limited`]; the field `left_out` is added.
#[macro_export]
macro_rules! limited {
    ($level:ident by $key:expr, $($line:tt)+) => {{
        static LIMITED: $crate::log::Limited = $crate::log::Limited::new();
        if let Some(admitted) = LIMITED.admit($key, ::std::time::Instant::now()) {
            $crate::log::tracing::$level!(left_out = admitted.left_out, $($line)+);
        }
    }};
    ($level:ident, $($line:tt)+) => { $crate::limited!($level by "", $($line)+) };
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn left_out(count: u64) -> Option<Admitted> {
        Some(Admitted { left_out: (count > 0).then_some(count) })
    }

    /// When lines are written of events `apart` in twenty minutes, and how many were left out before each.
    fn written(apart: Duration) -> Vec<(Duration, u64)> {
        let (limited, start, mut at, mut written) = (Limited::new(), Instant::now(), Duration::ZERO, Vec::new());
        while at < 1200 * SECOND {
            if let Some(admitted) = limited.admit("", start + at) {
                written.push((at, admitted.left_out.unwrap_or_default()));
            }
            at += apart;
        }
        written
    }

    #[test]
    fn the_first_lines_are_written_at_once_and_a_flood_ever_more_seldom_with_its_count() {
        let written = written(SECOND / 100);
        let at: Vec<_> = written.iter().map(|(at, _)| at.as_secs()).collect();
        assert_eq!(at[..8], [0, 0, 0, 2, 6, 14, 30, 62]);
        assert_eq!(written[3].1, 199);
        assert!(written.len() <= 28, "{} lines in twenty minutes", written.len());
        let told: u64 = written.iter().map(|(_, left_out)| left_out + 1).sum();
        assert!(told > 120_000 - 6_100, "of all but the last minute, each is told of: {told}");
    }

    #[test]
    fn a_trickle_is_told_of_once_a_minute_as_well() {
        for seconds in [1, 2, 3, 7, 20, 59] {
            let lines = written(SECOND * seconds).len();
            assert!(lines <= 28, "{lines} lines of events every {seconds} s");
        }
    }

    #[test]
    fn what_happens_now_and_then_is_always_written() {
        assert_eq!(written(SECOND * 125).len(), 10);
    }

    #[test]
    fn after_quiet_a_place_speaks_freely_and_of_those_before() {
        let (limited, start) = (Limited::new(), Instant::now());
        for tick in 0..1000_u32 {
            limited.admit("", start + SECOND * tick / 10);
        }
        let quiet = start + SECOND * 1000;
        let Some(Admitted { left_out: Some(_) }) = limited.admit("", quiet) else {
            panic!("those before are not told of")
        };
        for tick in 1..BURST {
            assert_eq!(limited.admit("", quiet + SECOND * tick / 100), left_out(0));
        }
        assert_eq!(limited.admit("", quiet + SECOND / 10), None);
    }

    #[test]
    fn a_flood_of_one_key_hides_no_other_and_keys_are_bounded() {
        let (limited, now) = (Limited::new(), Instant::now());
        let other_place = Limited::new();
        for _ in 0..1000 {
            limited.admit("denied", now);
        }
        assert_eq!(limited.admit("timeout", now), left_out(0));
        assert_eq!(other_place.admit("denied", now), left_out(0));
        for number in 0..1000 {
            limited.admit(Box::leak(number.to_string().into_boxed_str()), now);
        }
        assert_eq!(limited.0.lock().unwrap().len(), KEYS_MAX);
    }
}
