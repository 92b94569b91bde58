//! How many streams are being opened, and when those come again for whom there is no room. Pure: the time is given.
//!
//! A stream costs most at its beginning: all that it asks for is looked up and sent. After a restart every proxy of the cluster
//! comes at once; if all were served at once, all would be late, and give up, and come again. So a number is served, and each
//! of the others is given a turn of its own. Turns are apart from each other, so that they return spread over time.

use super::limits::{OPENING_MAX, OPENING_PATIENCE, RETURN_MAX, RETURNS_PER_SECOND};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The streams of one service that have not been told all that they asked for at first.
#[derive(Debug, Clone, Default)]
pub(super) struct Opening(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Since when each is being opened, in this order. One that takes its time, as it does not read, counts no longer.
    streams: BTreeMap<u64, Instant>,
    next: u64,
    /// The last turn that was given.
    last: Option<Instant>,
}

/// That a stream is being opened, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    opening: Opening,
    number: u64,
}

impl Opening {
    /// Lets a stream in, or says after how long it may come again.
    pub(super) fn enter(&self, now: Instant) -> Result<Place, Duration> {
        let mut state = self.lock();
        while state.streams.first_entry().is_some_and(|first| now.duration_since(*first.get()) > OPENING_PATIENCE) {
            state.streams.pop_first();
        }
        if state.streams.len() < OPENING_MAX {
            let number = state.next;
            state.next += 1;
            state.streams.insert(number, now);
            return Ok(Place { opening: self.clone(), number });
        }
        let apart = Duration::from_secs(1) / RETURNS_PER_SECOND;
        let earliest = now + apart;
        let next = state.last.map_or(earliest, |last| earliest.max(last + apart));
        // With more than all turns are taken the first are given again: that is late enough.
        let turn = if next.duration_since(now) > RETURN_MAX { earliest } else { next };
        state.last = Some(turn);
        Err(turn.duration_since(now))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.opening.lock().streams.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_at_once_are_let_in_or_return_spread_over_time() {
        let (opening, now) = (Opening::default(), Instant::now());
        let all: Vec<_> = (0..10_000).map(|_| opening.enter(now)).collect();
        let (places, waits): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
        assert_eq!(places.len(), OPENING_MAX);
        let waits: Vec<Duration> = waits.into_iter().filter_map(Result::err).collect();
        assert!(waits.iter().all(|wait| *wait <= RETURN_MAX && !wait.is_zero()));
        for second in 0..RETURN_MAX.as_secs() {
            let within = waits.iter().filter(|wait| wait.as_secs() == second).count();
            assert!(within <= 2 * RETURNS_PER_SECOND as usize, "{within} in second {second}");
        }
        drop(places);
        assert!(opening.enter(now).is_ok(), "who is done makes room");
    }

    #[test]
    fn who_never_reads_holds_no_place_for_long() {
        let (opening, now) = (Opening::default(), Instant::now());
        let held: Vec<_> = (0..OPENING_MAX).map(|_| opening.enter(now).unwrap()).collect();
        assert!(opening.enter(now + OPENING_PATIENCE).is_err());
        let later = now + OPENING_PATIENCE + Duration::from_millis(1);
        let others: Vec<_> = (0..OPENING_MAX).map(|_| opening.enter(later).unwrap()).collect();
        drop(held);
        assert!(opening.enter(later).is_err(), "their end makes no room twice");
        drop(others);
    }

    #[test]
    fn turns_of_long_ago_delay_nobody() {
        let (opening, now) = (Opening::default(), Instant::now());
        let _full: Vec<_> = (0..OPENING_MAX).map(|_| opening.enter(now).unwrap()).collect();
        for _ in 0..1000 {
            opening.enter(now).unwrap_err();
        }
        assert!(opening.enter(now + RETURN_MAX).unwrap_err() < Duration::from_millis(100));
    }
}
