//! `/metrics` at a bounded cost: the page, which may have megabytes, is rendered at most once a second in each form for
//! other addresses, slow readers can keep only a few old pages alive, and each address has a rate limit. The pod
//! itself and its node always get the latest.

use super::exposition::Form;
use axum::body::Bytes;
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How old the page may be that another address gets.
const FRESH: Duration = Duration::from_secs(1);
/// Pages of one form that slow readers may keep alive; beyond that no newer one is rendered. 2 MB each if there are many series.
const PAGES_MAX: usize = 2;
/// Scrapes at once from one address, …
const BURST: f64 = 4.0;
/// … and per second. Scrapers come twice a minute.
const PER_SECOND: f64 = 1.0;
/// Addresses with a rate limit of their own; all others share one.
const ADDRESSES_MAX: usize = 256;

/// The pages and the allowances.
#[derive(Debug, Default)]
pub(super) struct Scrapes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The latest last.
    pages: HashMap<Form, VecDeque<(Instant, Bytes)>>,
    allowances: HashMap<Option<IpAddr>, (Instant, f64)>,
}

impl Scrapes {
    /// The page that another address gets `now`, rendered if need be. `None`: the address is over its rate limit.
    pub(super) fn page(
        &self,
        form: Form,
        peer: IpAddr,
        now: Instant,
        render: impl FnOnce() -> Vec<u8>,
    ) -> Option<Bytes> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.allows(peer.to_canonical(), now) {
            return None;
        }
        let pages = state.pages.entry(form).or_default();
        let latest = pages.pop_back();
        pages.retain(|(_, page)| !page.is_unique());
        pages.extend(latest);
        let full = pages.len() >= PAGES_MAX;
        match pages.back() {
            Some((made, page)) if full || now.saturating_duration_since(*made) < FRESH => Some(page.clone()),
            _ => {
                let page = Bytes::from(render());
                pages.push_back((now, page.clone()));
                Some(page)
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
    fn a_page_is_made_once_a_second_however_many_ask() {
        let (scrapes, now, mut made) = (Scrapes::default(), Instant::now(), 0);
        for second in 0..3_u32 {
            for number in 0..200 {
                let page = scrapes.page(Form::Text, peer(number), now + second * SECOND, || {
                    made += 1;
                    format!("page {second}").into_bytes()
                });
                assert_eq!(page.unwrap(), format!("page {second}"));
            }
        }
        assert_eq!(made, 3);
    }

    #[test]
    fn one_address_has_its_share_and_others_have_theirs() {
        let (scrapes, now) = (Scrapes::default(), Instant::now());
        let asked = |number, at| scrapes.page(Form::Text, peer(number), at, Vec::new).is_some();
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
    fn slow_readers_keep_no_more_than_a_few_pages_alive() {
        let (scrapes, now) = (Scrapes::default(), Instant::now());
        let held: Vec<_> = (0..50)
            .filter_map(|i| scrapes.page(Form::Text, peer(i), now + SECOND * i as u32, || vec![b'x'; i + 1]))
            .collect();
        assert_eq!(held.len(), 50, "everybody is told something");
        let mut pages: Vec<_> = held.iter().map(|page| page.as_ptr()).collect();
        pages.dedup();
        assert!(pages.len() <= PAGES_MAX, "{}", pages.len());
        drop(held);
        let next = scrapes.page(Form::Text, peer(99), now + 60 * SECOND, || b"new".to_vec());
        assert_eq!(next.unwrap(), "new");
        assert_eq!(scrapes.0.lock().unwrap().pages[&Form::Text].len(), 2, "what nobody reads goes");
    }

    #[test]
    fn each_form_has_a_page_of_its_own() {
        let (scrapes, now) = (Scrapes::default(), Instant::now());
        for (form, page) in [(Form::Text, "text"), (Form::OpenMetrics, "open"), (Form::Protobuf, "proto")] {
            let shown = scrapes.page(form, peer(1), now, || page.into());
            assert_eq!(shown.unwrap(), page);
        }
        assert_eq!(scrapes.page(Form::Text, peer(2), now, || b"another".to_vec()).unwrap(), "text");
    }
}
