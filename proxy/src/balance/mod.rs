//! Stage 5 of 8: balance. In: a backend's endpoints, and the time. Out: one endpoint, held by a [`Picked`]. Refuses: a
//! set that is empty, or of which nothing may be tried ([`NoEndpoint`]).
//!
//! The choice is the better of two random endpoints (P2C) by peak-EWMA latency × requests in flight ÷ weight, per
//! request for HTTP and per connection for TCP. Endpoints of our own zone go first, until they are twice as loaded as a
//! remote one. Failing endpoints leave the rotation and return by a single probe ([`health`]).
//!
//! **A pool never ejects itself empty.** How much may leave depends on how good the evidence is ([`Outcome`]):
//! failed answers often come from something behind all endpoints, so they eject at most half of the set; an endpoint
//! that cannot be connected to is not there, so all but one may go; an endpoint with somebody else's identity is never
//! tried before its next probe, even if it was the last.
//!
//! Single-threaded (`Rc`, `Cell`): one set per worker. It never reads a clock, and [`Balancer::pick`] does not allocate.
//! What it does not do: dial, retry, or know what an endpoint is.

pub mod health;
pub mod load;

use health::{Health, Pool};
use load::Load;
use remora_model::Accrual;
use std::{
    cell::Cell,
    collections::HashMap,
    hash::Hash,
    ops::Range,
    rc::Rc,
    time::{Duration, Instant},
};

/// How much more loaded the zone's own endpoint must be before one of another zone is taken.
const SPILL_FACTOR: f64 = 2.0;

/// Requests in flight on an endpoint of our zone, per unit of weight, that count as no load in that comparison: traffic
/// between zones costs money, and a dozen requests at once are no overload.
const SPILL_FREE: u32 = 16;

/// Random draws in search of two eligible endpoints before the set is walked instead.
const DRAWS: usize = 8;

/// One endpoint as the source names it.
#[derive(Clone, Debug)]
pub struct Entry<K, E> {
    /// Who it is. Statistics survive an update under an equal key; put the identity into it, so that a reused address
    /// starts afresh.
    pub key: K,
    /// Relative share; 0 counts as 1.
    pub weight: u32,
    /// Whether it is in our zone.
    pub same_zone: bool,
    /// What the caller needs to reach it.
    pub endpoint: E,
}

/// Why nothing was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// The set has no endpoints.
    #[error("the backend has no endpoints; look at its Service's selector and the readiness of its pods")]
    Empty,
    /// All endpoints are ejected for a wrong identity, or excluded by the caller.
    #[error("all endpoints of the backend are ejected or were tried; look at their failures in the log")]
    AllEjected,
}

/// How a request or connection went, as the endpoint's own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered (a 4xx is an answer too).
    Success,
    /// It answered with a failure, reset, or did not answer in time.
    Failure,
    /// It could not be connected to.
    ConnectFailure,
    /// It proved to be somebody else.
    WrongIdentity,
}

/// The endpoints of one backend.
#[derive(Debug)]
pub struct Balancer<K, E> {
    /// Those of our zone first.
    slots: Vec<Rc<Slot<K, E>>>,
    local: usize,
    pool: Rc<Pool>,
}

#[derive(Debug)]
struct Slot<K, E> {
    key: K,
    weight: u32,
    same_zone: bool,
    endpoint: E,
    stats: Rc<Stats>,
}

#[derive(Debug)]
struct Stats {
    load: Load,
    health: Health,
}

impl<K: Clone + Eq + Hash, E> Balancer<K, E> {
    /// An empty set. `now` is the start of its time: instants before it count as it.
    #[must_use]
    pub fn new(accrual: Accrual, now: Instant) -> Self {
        Self { slots: Vec::new(), local: 0, pool: Rc::new(Pool::new(accrual, now)) }
    }

    /// Replaces the endpoints. Those with a known key keep their statistics, and their place outside the rotation.
    pub fn update(&mut self, entries: Vec<Entry<K, E>>) {
        let mut known: HashMap<K, Rc<Stats>> =
            self.slots.drain(..).map(|slot| (slot.key.clone(), Rc::clone(&slot.stats))).collect();
        for entry in entries {
            let stats = known
                .remove(&entry.key)
                .unwrap_or_else(|| Rc::new(Stats { load: Load::new(self.pool.epoch), health: Health::new() }));
            let Entry { key, weight, same_zone, endpoint } = entry;
            self.slots.push(Rc::new(Slot { key, weight: weight.max(1), same_zone, endpoint, stats }));
        }
        for gone in known.values() {
            gone.health.leave_pool();
        }
        self.slots.sort_by_key(|slot| !slot.same_zone);
        self.local = self.slots.iter().filter(|slot| slot.same_zone).count();
        self.pool.recount(self.slots.iter().map(|slot| &slot.stats.health));
    }

    /// Chooses an endpoint that is not in `exclude`, the ones this request has tried.
    ///
    /// A due probe goes first, unless `exclude` says that this is a retry: a request that was unlucky once should not
    /// be the one to try a doubtful endpoint. When everything is ejected, the endpoint that is due first serves.
    ///
    /// # Errors
    /// The set is empty, or everything in it is excluded or known to be somebody else.
    pub fn pick(&self, now: Instant, rng: &mut fastrand::Rng, exclude: &[K]) -> Result<Picked<K, E>, NoEndpoint> {
        if self.slots.is_empty() {
            return Err(NoEndpoint::Empty);
        }
        if exclude.is_empty() && self.pool.probe_is_due(now) {
            let due = self.slots.iter().find(|slot| slot.stats.health.take_probe(now));
            self.pool.reschedule(self.slots.iter().map(|slot| &slot.stats.health));
            if let Some(slot) = due {
                return Ok(self.picked(slot, now, true));
            }
        }
        let local = self.better_of_two(0..self.local, now, rng, exclude);
        let remote = self.better_of_two(self.local..self.slots.len(), now, rng, exclude);
        let chosen = match (local, remote) {
            (Some(local), Some(remote)) => {
                let spill = local.spill_cost(now) > SPILL_FACTOR * remote.spill_cost(now);
                Some(if spill { remote } else { local })
            }
            (local, remote) => local.or(remote),
        };
        let chosen = chosen.or_else(|| self.last_resort(exclude)).ok_or(NoEndpoint::AllEjected)?;
        Ok(self.picked(chosen, now, false))
    }

    /// Endpoints in the set, and how many of them are in rotation.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.slots.len(), self.pool.ready.get())
    }

    /// The endpoints, for people.
    pub fn endpoints(&self) -> impl Iterator<Item = View<'_, K, E>> {
        self.slots.iter().map(|slot| View {
            key: &slot.key,
            endpoint: &slot.endpoint,
            ready: slot.stats.health.is_ready(),
            in_flight: slot.stats.load.in_flight(),
            latency: slot.stats.load.latency(),
        })
    }

    fn better_of_two(
        &self,
        range: Range<usize>,
        now: Instant,
        rng: &mut fastrand::Rng,
        exclude: &[K],
    ) -> Option<&Rc<Slot<K, E>>> {
        let slots = self.slots.get(range)?;
        if slots.is_empty() {
            return None;
        }
        let eligible = |slot: &Slot<K, E>| slot.stats.health.is_ready() && !exclude.contains(&slot.key);
        let (first, second) = two(slots, rng, |slot| eligible(slot));
        match (first, second) {
            (Some(a), Some(b)) => Some(if b.cost(now) < a.cost(now) { b } else { a }),
            (one, _) => one,
        }
    }

    fn last_resort(&self, exclude: &[K]) -> Option<&Rc<Slot<K, E>>> {
        self.slots
            .iter()
            .filter(|slot| !exclude.contains(&slot.key))
            .filter_map(|slot| slot.stats.health.due_at().map(|due| (due, slot)))
            .min_by_key(|(due, slot)| (slot.stats.load.in_flight(), *due))
            .map(|(_, slot)| slot)
    }

    fn picked(&self, slot: &Rc<Slot<K, E>>, now: Instant, probe: bool) -> Picked<K, E> {
        slot.stats.load.begin(now);
        Picked { slot: Rc::clone(slot), pool: Rc::clone(&self.pool), started: now, probe, recorded: Cell::new(false) }
    }
}

/// Two different eligible items: by a few random draws, which is enough while most are eligible, else by a walk from a
/// random place.
fn two<'a, T>(
    items: &'a [T],
    rng: &mut fastrand::Rng,
    eligible: impl Fn(&T) -> bool,
) -> (Option<&'a T>, Option<&'a T>) {
    let mut first: Option<usize> = None;
    if items.len() > 2 {
        for _ in 0..DRAWS {
            let at = rng.usize(..items.len());
            if first == Some(at) || !eligible(&items[at]) {
                continue;
            }
            match first {
                None => first = Some(at),
                Some(first) => return (Some(&items[first]), Some(&items[at])),
            }
        }
    }
    let start = rng.usize(..items.len());
    let (head, tail) = items.split_at(start);
    let mut walk = tail.iter().chain(head).filter(|item| eligible(item));
    (walk.next(), walk.next())
}

impl<K, E> Slot<K, E> {
    fn cost(&self, now: Instant) -> f64 {
        self.stats.load.cost(now, 0) / f64::from(self.weight)
    }

    fn spill_cost(&self, now: Instant) -> f64 {
        self.stats.load.cost(now, SPILL_FREE.saturating_mul(self.weight)) / f64::from(self.weight)
    }
}

/// One endpoint of a [`Balancer`] as it stands.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, K, E> {
    pub key: &'a K,
    pub endpoint: &'a E,
    /// Whether it is in rotation.
    pub ready: bool,
    pub in_flight: u32,
    /// The latency estimate, once there is one.
    pub latency: Option<Duration>,
}

/// A chosen endpoint. It counts as in flight until this is dropped: keep it until the response body ended.
#[derive(Debug)]
pub struct Picked<K, E> {
    slot: Rc<Slot<K, E>>,
    pool: Rc<Pool>,
    started: Instant,
    probe: bool,
    recorded: Cell<bool>,
}

impl<K, E> Picked<K, E> {
    #[must_use]
    pub fn key(&self) -> &K {
        &self.slot.key
    }

    #[must_use]
    pub fn endpoint(&self) -> &E {
        &self.slot.endpoint
    }

    /// Whether this request decides if the endpoint returns to the rotation.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.probe
    }

    /// Tells how it went, `latency` after it was picked (for HTTP: when the response head came). The first call counts;
    /// a `Picked` that is dropped without one (the client went away) says nothing about the endpoint.
    pub fn record(&self, latency: Duration, outcome: Outcome) {
        if self.recorded.replace(true) {
            return;
        }
        let now = self.started + latency;
        let Stats { load, health } = &*self.slot.stats;
        load.answered(now, (outcome != Outcome::ConnectFailure).then_some(latency), outcome == Outcome::Success);
        health.record(&self.pool, outcome, self.started, now);
    }
}

impl<K, E> Drop for Picked<K, E> {
    fn drop(&mut self) {
        self.slot.stats.load.end(!self.recorded.get());
        if self.probe {
            self.slot.stats.health.end_probe(&self.pool);
        }
    }
}

#[cfg(test)]
mod tests;
