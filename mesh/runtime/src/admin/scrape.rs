//! `/metrics` at a bounded cost: the text, which may have megabytes, is rendered at most once a second for
//! other addresses, slow readers can keep only a few old texts alive, and each address has a rate limit. The pod
//! itself and its node always get the latest.

use axum::body::Bytes;
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How old the text may be that another address gets.
const FRESH: Duration = Duration::from_secs(1);
/// Texts that slow readers may keep alive; beyond that no newer one is rendered. 2 MB each if there are many series.
const TEXTS_MAX: usize = 4;
/// Scrapes at once from one address, …
const BURST: f64 = 4.0;
/// … and per second. Scrapers come twice a minute.
const PER_SECOND: f64 = 1.0;
/// Addresses with a rate limit of their own; all others share one.
const ADDRESSES_MAX: usize = 256;

/// The texts and the allowances.
#[derive(Debug, Default)]
pub(super) struct Scrapes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The latest last.
    texts: VecDeque<(Instant, Bytes)>,
    allowances: HashMap<Option<IpAddr>, (Instant, f64)>,
}

impl Scrapes {
    /// The text that another address gets `now`, rendered if need be. `None`: the address is over its rate limit.
    pub(super) fn text(&self, peer: IpAddr, now: Instant, render: impl FnOnce() -> String) -> Option<Bytes> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.allows(peer.to_canonical(), now) {
            return None;
        }
        let latest = state.texts.pop_back();
        state.texts.retain(|(_, text)| !text.is_unique());
        state.texts.extend(latest);
        let full = state.texts.len() >= TEXTS_MAX;
        match state.texts.back() {
            Some((made, text)) if full || now.saturating_duration_since(*made) < FRESH => Some(text.clone()),
            _ => {
                let text = Bytes::from(render());
                state.texts.push_back((now, text.clone()));
                Some(text)
            }
        }
    }
}

impl State {
    fn allows(&mut self, peer: IpAddr, now: Instant) -> bool {
        let grown = |(since, left): (Instant, f64)| {
            (left + now.saturating_duration_since(since).as_secs_f64() * PER_SECOND).min(BURST)
        };
        if self.allowances.len() >= ADDRESSES_MAX && !self.allowances.contains_key(&Some(peer)) {
            // Who has all of it is as good as unknown.
            self.allowances.retain(|_, allowance| grown(*allowance) < BURST);
        }
        let known = self.allowances.len() < ADDRESSES_MAX || self.allowances.contains_key(&Some(peer));
        let allowance = self.allowances.entry(known.then_some(peer)).or_insert((now, BURST));
        *allowance = (now, grown(*allowance));
        let allowed = allowance.1 >= 1.0;
        if allowed {
            allowance.1 -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(number: usize) -> IpAddr {
        IpAddr::from([10, 0, (number / 250) as u8, (number % 250) as u8])
    }

    #[test]
    fn a_text_is_made_once_a_second_however_many_ask() {
        let (scrapes, now, mut made) = (Scrapes::default(), Instant::now(), 0);
        for second in 0..3_u32 {
            for number in 0..200 {
                let text = scrapes.text(peer(number), now + second * SECOND, || {
                    made += 1;
                    format!("text {second}")
                });
                assert_eq!(text.unwrap(), format!("text {second}"));
            }
        }
        assert_eq!(made, 3);
    }

    #[test]
    fn one_address_has_its_share_and_others_have_theirs() {
        let (scrapes, now) = (Scrapes::default(), Instant::now());
        let asked = |number, at| scrapes.text(peer(number), at, String::new).is_some();
        let first = (0..100).filter(|_| asked(1, now)).count();
        let later = (0..100).filter(|_| asked(1, now + 3 * SECOND)).count();
        assert_eq!((first, later), (4, 3));
        assert!(asked(2, now));
        // Addresses beyond the bound share one rate limit.
        for number in 0..2000 {
            asked(number, now + 4 * SECOND);
        }
        let state = scrapes.0.lock().unwrap();
        assert!(state.allowances.len() <= ADDRESSES_MAX + 1, "{}", state.allowances.len());
    }

    #[test]
    fn slow_readers_keep_no_more_than_a_few_texts_alive() {
        let (scrapes, now) = (Scrapes::default(), Instant::now());
        let held: Vec<_> =
            (0..50).filter_map(|i| scrapes.text(peer(i), now + SECOND * i as u32, || "x".repeat(i + 1))).collect();
        assert_eq!(held.len(), 50, "everybody is told something");
        let mut texts: Vec<_> = held.iter().map(|text| text.as_ptr()).collect();
        texts.dedup();
        assert!(texts.len() <= TEXTS_MAX, "{}", texts.len());
        drop(held);
        let next = scrapes.text(peer(99), now + 60 * SECOND, || "new".to_owned());
        assert_eq!(next.unwrap(), "new");
        assert_eq!(scrapes.0.lock().unwrap().texts.len(), 2, "what nobody reads goes");
    }
}
