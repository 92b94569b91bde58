//! Stage 5 of 8: balance. In: a backend's endpoints, and the time. Out: one endpoint, with an [`InFlight`] guard. Refuses: a
//! set that is empty, or of which nothing may be tried ([`NoEndpoint`]).
//!
//! The choice is the better of two random endpoints (P2C) by peak-EWMA latency × requests in flight ÷ weight, per
//! request for HTTP and per connection for TCP; latencies within a factor of two of each other count as equal. Endpoints
//! of our own zone go first, until they are twice as loaded as a remote one. Failing endpoints are ejected (outlier
//! detection) and return by a single probe ([`health`]). A BackendPolicy may name another algorithm ([`choice`]).
//!
//! **A pool never ejects itself empty.** How much may leave depends on how good the evidence is ([`Outcome`]):
//! failed answers often come from something behind all endpoints, so they eject at most half of the set; an endpoint
//! that cannot be connected to is not there, so all but one may go; an endpoint with another workload's identity is never
//! tried before its next probe, even if it was the last.
//!
//! Where the Service asks for session affinity, the pod keeps to one endpoint instead: the one that ranks first for it
//! ([`hash`]), which all workers and a restarted proxy agree on without a word. When that one fails, the next in
//! rank serves, until it is back; a new endpoint takes over only those clients for whom it ranks first.
//!
//! Single-threaded (`Rc`, `Cell`): one set per worker. It never reads a clock, and [`Balancer::pick`] does not allocate.
//! What it does not do: dial, retry, or know what an endpoint is.

mod busy;
mod choice;
#[cfg(test)]
mod choice_tests;
mod hash;
pub(crate) mod health;
pub(crate) mod load;
mod turns;

pub(crate) use choice::Client;

use super::view::{EndpointSeen, EndpointState, LastFailure};
use crate::telemetry::Reason;
use choice::Choice;
use health::{Health, Pool};
use http::HeaderMap;
use load::Load;
use remora_model::{Accrual, LoadBalancer, Locality};
use std::{cell::Cell, collections::HashMap, net::SocketAddr, ops::Range, rc::Rc, time::Duration};
use tokio::time::Instant;

/// How much more loaded the zone's own endpoint must be before one of another zone is taken.
const SPILL_FACTOR: f64 = 2.0;

/// Latencies that differ by less are taken as equal: estimates of equal endpoints do by chance, and a difference without effect on callers should
/// not move load. In simulation, of five of which the slowest takes 1.4 times as long as the fastest, preferring the lesser
/// gives the slowest 0.13 of the requests and the two fastest 0.25; ignoring it all of them 0.18 to 0.22.
const LATENCY_NOISE: f64 = 2.0;

/// Requests in flight on an endpoint of our zone, per unit of weight, that count as no load in that comparison: traffic
/// between zones costs money, and a dozen requests at once are no overload.
const SPILL_FREE: u32 = 16;

/// Random draws in search of two eligible endpoints before the set is walked instead.
const DRAWS: usize = 8;

/// One endpoint as the source names it.
#[derive(Clone, Debug)]
pub(crate) struct Member<P> {
    /// Where it is. Statistics survive an update under an equal key.
    pub key: SocketAddr,
    /// Relative share; 0 counts as 1.
    pub weight: u32,
    /// How far it is, from 0. Nearer ones go first.
    pub tier: u8,
    /// What the caller needs to reach it.
    pub payload: P,
}

/// Why nothing was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoEndpoint {
    /// The set has no endpoints.
    #[error("the backend has no endpoints; look at its Service's selector and the readiness of its pods")]
    Empty,
    /// All endpoints are ejected for a wrong identity, or excluded by the caller.
    #[error("all endpoints of the backend are ejected or were tried; look at their failures in the log")]
    AllEjected,
}

/// How a request or connection went, as the endpoint's own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It answered (a 4xx is an answer too).
    Success,
    /// It answered with a failure, reset, or did not answer in time.
    Failure,
    /// It could not be connected to.
    Unreachable,
    /// Its certificate has another workload's identity.
    WrongIdentity,
}

/// The endpoints of one backend.
#[derive(Debug)]
pub(crate) struct Balancer<P> {
    /// The nearest first; in another order where the choice asks for it.
    slots: Vec<Slot<P>>,
    local: usize,
    choice: Choice,
    pool: Rc<Pool>,
}

#[derive(Debug)]
struct Slot<P> {
    member: Member<P>,
    stats: Rc<Stats>,
}

#[derive(Debug)]
struct Stats {
    load: Load,
    health: Health,
    told: Told,
    /// Until when it is passed over: it refuses what is over a rate limit.
    busy: Cell<Option<Instant>>,
}

/// What is counted for people.
#[derive(Debug, Default)]
struct Told {
    requests: Cell<u64>,
    failures: Cell<u64>,
    last_failure: Cell<Option<(Instant, &'static str)>>,
}

impl<P: Clone> Balancer<P> {
    /// An empty set. The clock is read once, for an origin; all times after it are passed in.
    #[must_use]
    pub(crate) fn new(accrual: Accrual) -> Self {
        Self {
            slots: Vec::new(),
            local: 0,
            choice: Choice::PeakEwma,
            pool: Rc::new(Pool::new(accrual, Instant::now())),
        }
    }

    /// Changes when endpoints leave, from the next failure on.
    pub(crate) fn set_accrual(&mut self, accrual: Accrual) {
        self.pool.accrual.set(accrual);
    }

    /// Changes how an endpoint is chosen, how strictly by where it is, and for which client, from the next [`Self::update`] on.
    pub(crate) fn set_load_balancer(&mut self, load_balancer: &LoadBalancer, locality: Locality, client: Client) {
        self.choice = Choice::new(load_balancer, locality, client);
    }

    /// Replaces the endpoints. Those with a known key keep their statistics, and their place outside the rotation; but
    /// one that was ejected for a wrong identity may be probed at once, since that may be what changed.
    pub(crate) fn update(&mut self, members: Vec<Member<P>>) {
        let mut known: HashMap<SocketAddr, Rc<Stats>> =
            self.slots.drain(..).map(|slot| (slot.member.key, slot.stats)).collect();
        for mut member in members {
            member.weight = member.weight.max(1);
            let stats = known.remove(&member.key).unwrap_or_else(|| {
                let (load, health) = (Load::new(self.pool.epoch), Health::new());
                Rc::new(Stats { load, health, told: Told::default(), busy: Cell::default() })
            });
            stats.health.doubt_impostor();
            self.slots.push(Slot { member, stats });
        }
        for gone in known.values() {
            gone.health.leave_pool();
        }
        self.choice.sort(&mut self.slots);
        self.local = self.slots.iter().filter(|slot| slot.member.tier == 0).count();
        self.choice.update(self.slots.split_at(self.local));
        self.pool.recount(self.slots.iter().map(|slot| &slot.stats.health));
    }

    /// How an endpoint is chosen, in a word.
    pub(crate) const fn algorithm(&self) -> &'static str {
        self.choice.as_str()
    }

    /// Each endpoint as it is shown to people: its payload, and what the payload does not know.
    pub(crate) fn views(&self, now: Instant) -> impl Iterator<Item = (&P, EndpointSeen)> {
        self.slots.iter().map(move |slot| {
            let Stats { load, health, told, busy } = &*slot.stats;
            let (ejected, busy) = (health.ejected(), busy.get().filter(|until| *until > now));
            let (state, why, until) = match (ejected, busy) {
                (None, None) => (EndpointState::Ready, None, None),
                (None, busy) => (EndpointState::Limited, Some(Reason::RateLimited.as_str()), busy),
                (Some((why, until, true)), _) => (EndpointState::Probing, Some(why.as_str()), Some(until)),
                (Some((why, until, false)), _) => (EndpointState::Ejected, Some(why.as_str()), Some(until)),
            };
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let last_failure = told.last_failure.get();
            let seen = EndpointSeen {
                state,
                why,
                for_ms: until.map(|until| millis(until.saturating_duration_since(now))),
                in_flight: load.in_flight(),
                latency_ms: load.is_known().then(|| (load.measured_s(now) * 1e6).round() / 1e3),
                requests: told.requests.get(),
                failures: told.failures.get(),
                last_failure: last_failure
                    .map(|(at, reason)| LastFailure { reason, ago_ms: millis(now.saturating_duration_since(at)) }),
            };
            (&slot.member.payload, seen)
        })
    }

    /// The payload of an endpoint.
    #[must_use]
    pub(crate) fn get(&self, key: &SocketAddr) -> Option<&P> {
        self.slots.iter().find(|slot| slot.member.key == *key).map(|slot| &slot.member.payload)
    }

    /// Chooses an endpoint that is not in `exclude`, the ones this request has tried, for a request with these header fields; bytes
    /// have none.
    ///
    /// A due probe goes first, unless `exclude` says that this is a retry: a request that was unlucky once should not
    /// be the one to try a doubtful endpoint. When everything is ejected, the endpoint that is due first serves.
    ///
    /// # Errors
    /// The set is empty, or everything in it is excluded or known to have another workload's identity.
    pub(crate) fn pick(
        &self,
        now: Instant,
        rng: &mut fastrand::Rng,
        exclude: &[SocketAddr],
        fields: Option<&HeaderMap>,
    ) -> Result<(P, InFlight), NoEndpoint> {
        if self.slots.is_empty() {
            return Err(NoEndpoint::Empty);
        }
        self.settle_busy(now);
        match &self.choice {
            Choice::PeakEwma => {}
            Choice::Source { .. } => return self.of_source(now, exclude),
            Choice::Request(ranking) => {
                if let Some(picked) = self.of_request(ranking, fields, now, exclude) {
                    return picked;
                }
            }
            Choice::LeastRequest | Choice::RoundRobin(_) | Choice::Tiered(_) => {
                return self.by_count(now, rng, exclude);
            }
        }
        if let Some(probe) = self.due_probe(now, exclude) {
            return Ok(probe);
        }
        let better = |first, second| better(first, second, now);
        let chosen = self.of_zones(rng, exclude, better, |local, other| local.outweighs(other, now));
        chosen.map_or_else(|| self.last_resort(now, exclude), |slot| Ok(self.picked(slot, now, false)))
    }

    /// By requests in flight alone: the lesser of two, or in turn; or by tiers.
    fn by_count(
        &self,
        now: Instant,
        rng: &mut fastrand::Rng,
        exclude: &[SocketAddr],
    ) -> Result<(P, InFlight), NoEndpoint> {
        if let Some(probe) = self.due_probe(now, exclude) {
            return Ok(probe);
        }
        let chosen = match &self.choice {
            Choice::RoundRobin(turns) => self.in_turn(turns, now, exclude),
            Choice::Tiered(tiers) => self.of_tiers(tiers, now, rng, exclude),
            _ => {
                let chosen = self.of_zones(rng, exclude, idler, Slot::spills_to);
                chosen.map(|slot| self.picked(slot, now, false))
            }
        };
        chosen.map_or_else(|| self.last_resort(now, exclude), Ok)
    }

    /// The probe of an ejected endpoint that is due first, for a request that is no retry.
    fn due_probe(&self, now: Instant, exclude: &[SocketAddr]) -> Option<(P, InFlight)> {
        if !exclude.is_empty() || !self.pool.probe_is_due(now) {
            return None;
        }
        let due = self.slots.iter().find(|slot| slot.stats.health.take_probe(now));
        self.reschedule();
        due.map(|slot| self.picked(slot, now, true))
    }

    fn reschedule(&self) {
        self.pool.reschedule(self.slots.iter().map(|slot| &slot.stats.health));
    }

    /// The better of two of our zone, unless it is too loaded next to one of the others.
    #[inline]
    fn of_zones<'a>(
        &'a self,
        rng: &mut fastrand::Rng,
        exclude: &[SocketAddr],
        better: impl Fn(&'a Slot<P>, &'a Slot<P>) -> &'a Slot<P>,
        spills: impl Fn(&Slot<P>, &Slot<P>) -> bool,
    ) -> Option<&'a Slot<P>> {
        let local = self.better_of_two(0..self.local, rng, exclude, &better);
        let remote = self.better_of_two(self.local..self.slots.len(), rng, exclude, &better);
        match (local, remote) {
            (Some(local), Some(remote)) => Some(if spills(local, remote) { remote } else { local }),
            (local, remote) => local.or(remote),
        }
    }

    /// Whether an endpoint is in rotation that is not in `exclude`.
    #[must_use]
    pub(crate) fn has_another(&self, exclude: &[SocketAddr]) -> bool {
        self.slots.iter().any(|slot| slot.may_serve(exclude))
    }

    /// Endpoints in the set, and how many of them are in rotation.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.slots.len(), self.pool.ready.get())
    }

    #[inline]
    fn better_of_two<'a>(
        &'a self,
        range: Range<usize>,
        rng: &mut fastrand::Rng,
        exclude: &[SocketAddr],
        better: impl Fn(&'a Slot<P>, &'a Slot<P>) -> &'a Slot<P>,
    ) -> Option<&'a Slot<P>> {
        let slots = self.slots.get(range)?;
        if slots.is_empty() {
            return None;
        }
        match two(slots, rng, |slot| slot.may_serve(exclude)) {
            (Some(a), Some(b)) => Some(better(a, b)),
            (one, _) => one,
        }
    }

    /// Of those that are ejected or passed over, the one that is due first.
    fn last_resort(&self, now: Instant, exclude: &[SocketAddr]) -> Result<(P, InFlight), NoEndpoint> {
        let ejected = self
            .slots
            .iter()
            .filter(|slot| !exclude.contains(&slot.member.key))
            .filter_map(|slot| slot.due_at().map(|due| (due, slot)))
            .min_by_key(|(due, slot)| (slot.stats.load.in_flight(), *due));
        ejected.map(|(_, slot)| self.picked(slot, now, false)).ok_or(NoEndpoint::AllEjected)
    }

    fn picked(&self, slot: &Slot<P>, now: Instant, probe: bool) -> (P, InFlight) {
        slot.stats.load.begin(now);
        slot.stats.told.requests.set(slot.stats.told.requests.get() + 1);
        let (stats, pool) = (Rc::clone(&slot.stats), Rc::clone(&self.pool));
        (slot.member.payload.clone(), InFlight { stats, pool, started: now, probe, recorded: Cell::new(false) })
    }
}

/// The one that should take the next request; the first if neither is better.
fn better<'a, P>(first: &'a Slot<P>, second: &'a Slot<P>, now: Instant) -> &'a Slot<P> {
    let (mut a, mut b) = (first.stats.load.latency_s(now), second.stats.load.latency_s(now));
    if a < LATENCY_NOISE * b && b < LATENCY_NOISE * a {
        (a, b) = (1.0, 1.0);
    }
    if b * second.queue() < a * first.queue() { second } else { first }
}

/// The one with fewer requests in flight per unit of weight; the first if neither has.
fn idler<'a, P>(first: &'a Slot<P>, second: &'a Slot<P>) -> &'a Slot<P> {
    if second.queue() < first.queue() { second } else { first }
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

impl<P> Slot<P> {
    /// Whether it is in rotation and not passed over, and none of those that were tried.
    fn may_serve(&self, exclude: &[SocketAddr]) -> bool {
        self.stats.health.is_ready() && self.busy().is_none() && !exclude.contains(&self.member.key)
    }

    /// When it serves again, if it does not and yet is better than nothing.
    fn due_at(&self) -> Option<Instant> {
        if self.stats.health.is_ready() { self.busy() } else { self.stats.health.due_at() }
    }

    /// Whether a request for it, in our zone, goes to that one of another zone, by what is in flight.
    fn spills_to(&self, other: &Self) -> bool {
        self.excess() > SPILL_FACTOR * other.excess()
    }

    /// Requests in flight beyond those that count as no load, with one more, per unit of weight.
    fn excess(&self) -> f64 {
        let free = SPILL_FREE.saturating_mul(self.member.weight);
        (f64::from(self.stats.load.in_flight().saturating_sub(free)) + 1.0) / f64::from(self.member.weight)
    }

    /// Requests in flight with one more, per unit of weight.
    fn queue(&self) -> f64 {
        (f64::from(self.stats.load.in_flight()) + 1.0) / f64::from(self.member.weight)
    }

    /// The same by latency too: ours at its slowest, the other's in the mean. One slow answer of the other says nothing about the
    /// next; taken for its latency, it would bring the requests back to one of ours that is slow at each.
    fn outweighs(&self, other: &Self, now: Instant) -> bool {
        let ours = self.stats.load.latency_s(now) * self.excess();
        ours > SPILL_FACTOR * other.stats.load.steady_s(now) * other.excess()
    }
}

/// A request on a chosen endpoint. It counts as in flight until this is dropped: keep it until the response body ended.
#[derive(Debug)]
pub(crate) struct InFlight {
    stats: Rc<Stats>,
    pool: Rc<Pool>,
    started: Instant,
    probe: bool,
    recorded: Cell<bool>,
}

impl InFlight {
    /// Whether this request decides if the endpoint returns to the rotation.
    #[must_use]
    pub(crate) const fn is_probe(&self) -> bool {
        self.probe
    }

    /// It failed at `now`, for that reason: a word for people.
    pub(crate) fn failed_for(&self, now: Instant, reason: &'static str) {
        self.stats.told.last_failure.set(Some((now, reason)));
    }

    /// Tells at `now` how it went, and after what latency (for HTTP: from the request on a ready connection to the
    /// response head, as the making of a connection says nothing about the requests after it). The first call counts; one that is dropped without any (the client went away) says nothing about the endpoint.
    pub(crate) fn record(&self, now: Instant, latency: Duration, outcome: Outcome) {
        if self.recorded.replace(true) {
            return;
        }
        let Stats { load, health, told, .. } = &*self.stats;
        if outcome != Outcome::Success {
            told.failures.set(told.failures.get() + 1);
        }
        load.answered(now, (outcome != Outcome::Unreachable).then_some(latency), outcome == Outcome::Success);
        if health.record(&self.pool, outcome, self.started, now) {
            load.forget();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.stats.load.end(!self.recorded.get());
        if self.probe {
            self.stats.health.end_probe(&self.pool);
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod view_tests;
