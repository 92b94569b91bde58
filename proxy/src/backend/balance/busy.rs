//! Endpoints that refuse all that this proxy asks for, as it is over a rate limit there: passed over until the time that they have told.
//!
//! That is no word about their health: nothing is ejected, and no probe is needed. Where all that are in rotation have said so, none is
//! passed over. A client that keeps to one endpoint goes on keeping to it.

use super::{Balancer, InFlight, Slot};
use tokio::time::Instant;

impl InFlight {
    /// Its endpoint refuses all others until then, too.
    pub(crate) fn busy_until(&self, until: Instant) {
        self.stats.busy.set(Some(until));
        // Whether another is left is looked at before the next choice.
        self.pool.busy.set(Some(self.started));
    }
}

impl<P> Slot<P> {
    /// Until when it is passed over.
    pub(super) fn busy(&self) -> Option<Instant> {
        self.stats.busy.get()
    }
}

impl<P> Balancer<P> {
    /// Takes back those whose time is over at `now`, or all, if no other is left. One comparison as long as nobody is busy.
    #[inline]
    pub(super) fn settle_busy(&self, now: Instant) {
        if self.pool.busy.get().is_some_and(|due| due <= now) {
            self.settle(now);
        }
    }

    #[inline(never)]
    fn settle(&self, now: Instant) {
        let busy = || self.slots.iter().filter(|slot| slot.busy().is_some());
        busy().filter(|slot| slot.busy().is_some_and(|until| until <= now)).for_each(|slot| slot.stats.busy.set(None));
        if !self.slots.iter().any(|slot| slot.may_serve(&[])) {
            busy().for_each(|slot| slot.stats.busy.set(None));
        }
        self.pool.busy.set(busy().filter_map(Slot::busy).min());
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            EndpointState, Outcome,
            tests::{MS, SECOND, Set, member},
        },
        *,
    };
    use remora_model::{Accrual, LoadBalancer, Locality};
    use std::collections::BTreeSet;

    fn set(count: u16, load_balancer: &LoadBalancer) -> Set {
        let mut set = Set::new(Accrual::default());
        set.set_load_balancer(load_balancer, Locality::Spill, super::super::Client::new("shop", "web-1", "web"));
        set.update((0..count).map(member).collect());
        set
    }

    /// The endpoints that a hundred requests go to.
    fn asked(set: &Set, now: Instant) -> BTreeSet<u16> {
        let mut rng = fastrand::Rng::with_seed(3);
        let all = (0..100).map(|_| {
            let (key, in_flight) = set.pick(now, &mut rng, &[], None).unwrap();
            in_flight.record(now, MS, Outcome::Success);
            key
        });
        all.collect()
    }

    /// Has an endpoint say that it is busy, whichever is picked.
    fn refused(set: &Set, now: Instant, until: Instant) -> u16 {
        let (key, in_flight) = set.pick(now, &mut fastrand::Rng::with_seed(5), &[], None).unwrap();
        in_flight.record(now, MS, Outcome::Success);
        in_flight.busy_until(until);
        key
    }

    #[test]
    fn who_is_busy_is_passed_over_for_that_time_and_ejected_by_nobody() {
        for load_balancer in [LoadBalancer::PeakEwma, LoadBalancer::LeastRequest, LoadBalancer::RoundRobin] {
            let (set, start) = (set(3, &load_balancer), Instant::now());
            let busy = refused(&set, start, start + SECOND);
            let others: BTreeSet<u16> = (0..3).filter(|key| *key != busy).collect();
            assert_eq!(asked(&set, start), others, "{load_balancer:?}");
            assert_eq!(set.counts(), (3, 3));
            let (_, seen) = set.views(start).find(|(key, _)| **key == busy).unwrap();
            assert_eq!((seen.state, seen.why, seen.for_ms), (EndpointState::Limited, Some("rate_limited"), Some(1000)));
            assert_eq!(asked(&set, start + SECOND).len(), 3, "{load_balancer:?}");
            assert!(set.pool.busy.get().is_none());
        }
    }

    #[test]
    fn where_all_are_busy_none_is_passed_over() {
        let (set, start) = (set(2, &LoadBalancer::RoundRobin), Instant::now());
        let first = refused(&set, start, start + SECOND);
        let second = refused(&set, start, start + SECOND);
        assert_ne!(first, second);
        assert_eq!(asked(&set, start).len(), 2);
    }

    #[test]
    fn a_try_that_has_been_at_all_others_goes_to_one_that_is_busy() {
        let (set, start) = (set(2, &LoadBalancer::PeakEwma), Instant::now());
        let busy = refused(&set, start, start + SECOND);
        let other = super::super::tests::at(1 - busy);
        let (key, _in_flight) = set.pick(start, &mut fastrand::Rng::with_seed(1), &[other], None).unwrap();
        assert_eq!(key, busy);
    }
}
