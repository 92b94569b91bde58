//! The algorithms by which an endpoint is chosen, as a BackendPolicy names them. Which one is decided when settings change, and what it needs of
//! the endpoints is made when they do.
//!
//! Where a Service says how near its endpoints must be, the nearest tier with one in rotation serves, whatever its load ([`Tiers`]).
//!
//! | algorithm | chooses | zones |
//! |--|--|--|
//! | peak-EWMA, least-request | the better of two random endpoints | our own first, until it is overloaded |
//! | round-robin | the next one ([`Turns`]) | the same |
//! | hash by source address | the first in rank for our pod ([`Key::rank`]) | our own first |
//! | hash by source identity, header or cookie | the first in rank for the key ([`Ranking`]) | none: wherever it is asked from, a key leads to one endpoint |

use super::{
    Balancer, InFlight, NoEndpoint, SPILL_FREE, Slot,
    hash::{self, Key, Ranking},
    turns::Turns,
};
use http::HeaderMap;
use remora_model::{HashSource, LoadBalancer, Locality};
use std::{cell::OnceCell, cmp::Reverse, net::SocketAddr};
use tokio::time::Instant;

/// Who asks, where all that a client sends goes to one endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    ip: Key,
    identity: Key,
}

impl Client {
    /// The pod `namespace/pod`, which runs as `namespace/account`.
    #[must_use]
    pub(crate) fn new(namespace: &str, pod: &str, account: &str) -> Self {
        Self { ip: Key::of(&["pod", namespace, pod]), identity: Key::of(&["sa", namespace, account]) }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) enum Choice {
    PeakEwma,
    LeastRequest,
    /// Of our zone, and of the others.
    RoundRobin(Box<[Turns; 2]>),
    /// The set is in the order of ranks.
    Source {
        key: Key,
        zoned: bool,
    },
    Request(Ranking),
    Tiered(Box<Tiers>),
}

impl Choice {
    /// The word for it.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::PeakEwma => "peak_ewma",
            Self::LeastRequest => "least_request",
            Self::RoundRobin(_) => "round_robin",
            Self::Source { .. } => "hash_source",
            Self::Request(_) => "hash_request",
            Self::Tiered(_) => "nearest",
        }
    }
}

/// What of the set is how far, where the nearest that is in rotation serves: on our node, in our zone, elsewhere.
#[derive(Debug)]
pub(super) struct Tiers {
    algorithm: Algorithm,
    /// Where each tier ends.
    ends: [usize; TIERS],
}

/// As many as [`Locality`] tells apart.
const TIERS: usize = 3;

#[derive(Debug)]
enum Algorithm {
    PeakEwma,
    LeastRequest,
    RoundRobin([Turns; TIERS]),
}

impl Choice {
    pub(super) fn new(load_balancer: &LoadBalancer, locality: Locality, client: Client) -> Self {
        let strict = locality != Locality::Spill;
        let tiered = |algorithm| Self::Tiered(Box::new(Tiers { algorithm, ends: [0; TIERS] }));
        let mut rng = fastrand::Rng::new();
        match load_balancer {
            LoadBalancer::PeakEwma if strict => tiered(Algorithm::PeakEwma),
            LoadBalancer::LeastRequest if strict => tiered(Algorithm::LeastRequest),
            LoadBalancer::RoundRobin if strict => {
                tiered(Algorithm::RoundRobin(std::array::from_fn(|_| Turns::new(&mut rng))))
            }
            LoadBalancer::PeakEwma => Self::PeakEwma,
            LoadBalancer::LeastRequest => Self::LeastRequest,
            LoadBalancer::RoundRobin => Self::RoundRobin(Box::new([Turns::new(&mut rng), Turns::new(&mut rng)])),
            LoadBalancer::SourceHash(HashSource::Ip) => Self::Source { key: client.ip, zoned: true },
            LoadBalancer::SourceHash(HashSource::Identity) => Self::Source { key: client.identity, zoned: false },
            LoadBalancer::RequestHash(by) => Self::Request(Ranking::new(by.clone())),
        }
    }

    /// Brings the endpoints into the order that it needs: of those that do not say otherwise, our zone's first.
    pub(super) fn sort<P>(&self, slots: &mut [Slot<P>]) {
        match *self {
            Self::Source { key, zoned } => slots.sort_by_cached_key(|Slot { member, .. }| {
                (if zoned { member.tier } else { 0 }, Reverse(key.rank(hash::seed(member.key), member.weight)))
            }),
            Self::PeakEwma | Self::LeastRequest | Self::RoundRobin(_) | Self::Request(_) | Self::Tiered(_) => {
                slots.sort_by_key(|slot| slot.member.tier);
            }
        }
    }

    /// Takes in the endpoints, in their order, of which the first are the nearest.
    pub(super) fn update<P>(&mut self, (local, others): (&[Slot<P>], &[Slot<P>])) {
        match self {
            Self::RoundRobin(turns) => {
                for (turns, slots) in turns.iter_mut().zip([local, others]) {
                    turns.update(slots.iter().map(|slot| slot.member.weight));
                }
            }
            Self::Request(ranking) => {
                ranking.update(local.iter().chain(others).map(|slot| (slot.member.key, slot.member.weight)));
            }
            Self::Tiered(tiers) => {
                let mut began = 0;
                for (tier, end) in (0..).zip(&mut tiers.ends) {
                    let of_tier = local.iter().chain(others).filter(|slot| slot.member.tier == tier);
                    if let Algorithm::RoundRobin(turns) = &mut tiers.algorithm {
                        turns[usize::from(tier)].update(of_tier.clone().map(|slot| slot.member.weight));
                    }
                    began += of_tier.count();
                    *end = began;
                }
            }
            Self::PeakEwma | Self::LeastRequest | Self::Source { .. } => {}
        }
    }
}

impl<P: Clone> Balancer<P> {
    /// The next one in turn. What of our zone is overloaded leaves its turn to another zone's.
    pub(super) fn in_turn(&self, turns: &[Turns; 2], now: Instant, exclude: &[SocketAddr]) -> Option<(P, InFlight)> {
        let (local, others) = self.slots.split_at(self.local);
        let [of_local, of_others] = [(&turns[0], local), (&turns[1], others)].map(|(turns, slots)| {
            let turn = turns.peek(|at| slots[at].may_serve(exclude))?;
            Some((turns, turn, &slots[turn.slot]))
        });
        let (turns, turn, slot) = match (of_local, of_others) {
            (Some(local), Some(other)) => Some(if local.2.spills_to(other.2) { other } else { local }),
            (local, other) => local.or(other),
        }?;
        turns.take(turn);
        Some(self.picked(slot, now, false))
    }

    /// One of the nearest tier that has any in rotation.
    pub(super) fn of_tiers(
        &self,
        tiers: &Tiers,
        now: Instant,
        rng: &mut fastrand::Rng,
        exclude: &[SocketAddr],
    ) -> Option<(P, InFlight)> {
        let mut began = 0;
        for (tier, end) in tiers.ends.into_iter().enumerate() {
            let range = std::mem::replace(&mut began, end)..end;
            let slot = match &tiers.algorithm {
                Algorithm::PeakEwma => self.better_of_two(range, rng, exclude, |a, b| super::better(a, b, now)),
                Algorithm::LeastRequest => self.better_of_two(range, rng, exclude, super::idler),
                Algorithm::RoundRobin(turns) => {
                    let slots = &self.slots[range];
                    let turn = turns[tier].peek(|at| slots[at].may_serve(exclude));
                    turn.map(|turn| {
                        turns[tier].take(turn);
                        &slots[turn.slot]
                    })
                }
            };
            if let Some(slot) = slot {
                return Some(self.picked(slot, now, false));
            }
        }
        None
    }

    /// The first in rank that is in rotation. One that ranks before it is probed when that is due.
    pub(super) fn of_source(&self, now: Instant, exclude: &[SocketAddr]) -> Result<(P, InFlight), NoEndpoint> {
        for slot in self.slots.iter().filter(|slot| !exclude.contains(&slot.member.key)) {
            if slot.stats.health.is_ready() {
                return Ok(self.picked(slot, now, false));
            }
            if let Some(probe) = self.probe_of(slot, now, exclude) {
                return Ok(probe);
            }
        }
        self.last_resort(now, exclude)
    }

    /// The endpoint that a request's key leads to. If that is out of rotation or full, the next in rank that is neither: the same one
    /// wherever the key is sent from. `None`: it has no key.
    pub(super) fn of_request(
        &self,
        ranking: &Ranking,
        fields: Option<&HeaderMap>,
        now: Instant,
        exclude: &[SocketAddr],
    ) -> Option<Result<(P, InFlight), NoEndpoint>> {
        let key = ranking.key(fields?)?;
        let full = Full { slots: &self.slots, factor: ranking.balance_factor(), sums: OnceCell::new() };
        let first = &self.slots[ranking.first(key)];
        if first.may_serve(exclude) && !full.is(first) {
            return Some(Ok(self.picked(first, now, false)));
        }
        if let Some(probe) = self.probe_of(first, now, exclude) {
            return Some(Ok(probe));
        }
        let eligible = self.slots.iter().enumerate().filter(|(_, slot)| slot.may_serve(exclude));
        // Where all are full but those that were tried, it is full that serves.
        let next = eligible.max_by_key(|(at, slot)| (!full.is(slot), ranking.rank(key, *at)));
        Some(next.map_or_else(|| self.last_resort(now, exclude), |(_, slot)| Ok(self.picked(slot, now, false))))
    }

    /// The probe of an endpoint, if it is due; retries do not probe.
    fn probe_of(&self, slot: &Slot<P>, now: Instant, exclude: &[SocketAddr]) -> Option<(P, InFlight)> {
        let due = exclude.is_empty() && slot.stats.health.take_probe(now);
        due.then(|| {
            self.reschedule();
            self.picked(slot, now, true)
        })
    }
}

/// Whether endpoints have their share of the requests in flight and more (consistent hashing with bounded loads). They are counted only if
/// somebody may have more.
struct Full<'a, P> {
    slots: &'a [Slot<P>],
    factor: Option<f64>,
    /// Requests in flight, and weights.
    sums: OnceCell<(f64, f64)>,
}

impl<P> Full<'_, P> {
    fn is(&self, slot: &Slot<P>) -> bool {
        let Some(factor) = self.factor else { return false };
        let (load, weight) = (slot.stats.load.in_flight(), slot.member.weight);
        // A few at once are no load, whatever the others have.
        if load < SPILL_FREE.saturating_mul(weight) {
            return false;
        }
        let (loads, weights) = *self.sums.get_or_init(|| {
            let both = self.slots.iter().map(|slot| (slot.stats.load.in_flight(), slot.member.weight));
            both.fold((0.0, 0.0), |sum, (load, weight)| (sum.0 + f64::from(load), sum.1 + f64::from(weight)))
        });
        f64::from(load) + 1.0 > (factor * (loads + 1.0) * f64::from(weight) / weights).ceil()
    }
}
