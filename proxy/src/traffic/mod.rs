//! Beside policy: what bounds or disturbs what policy lets into a port. In: who calls, for what, at what time. Out: whether the rates are kept, how
//! many bytes may go, and what happens on purpose ([`fault`]). Refuses: what is over a limit.
//!
//! A limit is one for all workers of the process ([`Shared`]), so that its rate is exact for a proxy; between proxies nothing is shared. What
//! counts for a caller is looked up once for each connection, so that a request costs one compare-and-swap for each limit on it. A port without
//! limits and faults costs a request one branch.
//!
//! **Nobody's limit is used up by others.** Limits of each caller are asked first, and what all have together is looked at before: who is over a
//! limit takes nothing from what others share.

mod bucket;
pub(crate) mod fault;
mod keys;
mod limits;
mod pacer;
mod rate;
mod record;
mod which;

pub(crate) use fault::Happens;
pub(crate) use limits::{BUSY_MAX, RETRY_AFTER_SECONDS_MAX};
pub(crate) use pacer::Pacer;
pub(crate) use which::Asked;

use crate::policy::Peer;
use fault::Injected;
use rate::{Limit, Slot};
use remora_model::{Amount, Traffic};
use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// The limits of a process, by port and name. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<All>);

#[derive(Debug, Default)]
struct All {
    limits: Mutex<HashMap<OfPort, Weak<Limit>>>,
    keys: keys::All,
}

/// A limit by its port and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OfPort(u16, Arc<str>);

/// The limits and faults of one port.
#[derive(Debug, Default)]
pub(crate) struct PortTraffic {
    /// Those of each caller before those of all.
    requests: Vec<Arc<Limit>>,
    connections: Vec<Arc<Limit>>,
    bytes: Vec<Arc<Limit>>,
    pub(crate) faults: Vec<Injected>,
}

/// The same of this moment.
#[derive(Debug, Default)]
pub(crate) struct Current(RefCell<Option<Arc<PortTraffic>>>);

/// What was refused, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limited {
    pub(crate) rule: Arc<str>,
    pub(crate) wait: Duration,
    /// Whether all else that the caller may ask for is refused until then.
    pub(crate) of_all: bool,
}

/// What counts for all requests of one connection, as far as it does not depend on the request.
#[derive(Debug, Default)]
pub(crate) struct Known(Option<(Arc<PortTraffic>, Vec<Option<Slot>>)>);

impl Shared {
    /// The limits and faults of a port, `None` if there are none. One that holds already goes on counting.
    pub(crate) fn compile(&self, port: u16, traffic: &Traffic) -> Option<Arc<PortTraffic>> {
        if *traffic == Traffic::default() {
            return None;
        }
        let mut compiled =
            PortTraffic { faults: traffic.faults.iter().map(Injected::new).collect(), ..PortTraffic::default() };
        let mut limits = self.0.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.retain(|_, limit| limit.strong_count() > 0);
        for rule in &traffic.limits {
            let known = limits.get(&OfPort(port, rule.name.clone())).and_then(Weak::upgrade);
            let limit = known.filter(|limit| limit.rule == *rule).unwrap_or_else(|| {
                let limit = Arc::new(Limit::new(rule, &self.0.keys, Instant::now()));
                limits.insert(OfPort(port, rule.name.clone()), Arc::downgrade(&limit));
                limit
            });
            match rule.of {
                Amount::Requests => compiled.requests.push(limit),
                Amount::Connections => compiled.connections.push(limit),
                Amount::Bytes => compiled.bytes.push(limit),
            }
        }
        for limits in [&mut compiled.requests, &mut compiled.connections] {
            limits.sort_by_key(|limit| limit.is_whole());
        }
        Some(Arc::new(compiled))
    }
}

impl Current {
    /// What holds now.
    pub(crate) fn get(&self) -> Option<Arc<PortTraffic>> {
        self.0.borrow().clone()
    }

    /// Whether nothing does.
    pub(crate) fn is_none(&self) -> bool {
        self.0.borrow().is_none()
    }

    /// Something else holds.
    pub(crate) fn set(&self, traffic: Option<Arc<PortTraffic>>) {
        *self.0.borrow_mut() = traffic;
    }
}

impl PortTraffic {
    /// Whether a request may go; if so, it is counted.
    pub(crate) fn request(
        self: &Arc<Self>,
        known: &mut Known,
        peer: &Peer,
        asked: &Asked<'_>,
        now: Instant,
    ) -> Result<(), Limited> {
        if self.requests.is_empty() {
            return Ok(());
        }
        let slots = known.of(self, peer);
        let all = self.requests.iter().zip(slots).zip(0..u64::BITS);
        // By the place of the limit: a port has no more of them than that has bits.
        let mut on = 0_u64;
        for ((limit, _), place) in all.clone() {
            on |= u64::from(asked.counts_for(&limit.rule.only)) << place;
        }
        let of = all.filter(|(_, place)| on & (1 << place) != 0).map(|(of, _)| of);
        go(of, Some(asked), now)
    }

    /// Whether a connection may be there; if so, it is counted.
    pub(crate) fn connection(&self, peer: &Peer, now: Instant) -> Result<(), Limited> {
        let slots: Vec<_> = self.connections.iter().map(|limit| limit.of(peer)).collect();
        go(self.connections.iter().zip(&slots), None, now)
    }
}

/// Asks all of these limits, those of each caller first.
fn go<'a>(
    limits: impl Iterator<Item = (&'a Arc<Limit>, &'a Option<Slot>)> + Clone,
    asked: Option<&Asked<'_>>,
    now: Instant,
) -> Result<(), Limited> {
    let refused = |limit: &Limit, wait| {
        limit.counters.limited.increment(1);
        Err(Limited { rule: limit.rule.name.clone(), wait, of_all: limit.is_of_all() })
    };
    let holding = limits.clone().filter(|(limit, _)| !limit.rule.dry_run);
    for (limit, slot) in holding.clone().filter(|(limit, _)| limit.is_whole()) {
        if let Some(Err(wait)) = slot.as_ref().map(|slot| limit.look(slot, now)) {
            return refused(limit, wait);
        }
    }
    for (limit, slot) in holding.clone() {
        if let Err(wait) = limit.take(slot.as_ref(), asked, now) {
            return refused(limit, wait);
        }
    }
    for (limit, _) in holding {
        limit.counters.admitted.increment(1);
    }
    for (limit, slot) in limits.filter(|(limit, _)| limit.rule.dry_run) {
        match limit.take(slot.as_ref(), asked, now) {
            Ok(()) => limit.counters.admitted.increment(1),
            Err(_) => limit.counters.would_limit.increment(1),
        }
    }
    Ok(())
}

impl Known {
    /// What counts for `peer`, looked up where something else holds than before.
    fn of(&mut self, traffic: &Arc<PortTraffic>, peer: &Peer) -> &[Option<Slot>] {
        let known = self.0.take().filter(|(before, _)| Arc::ptr_eq(before, traffic));
        let known = known.unwrap_or_else(|| {
            let slots = traffic.requests.iter().map(|limit| limit.of(peer)).collect();
            (traffic.clone(), slots)
        });
        &self.0.insert(known).1
    }
}

#[cfg(test)]
mod tests;
