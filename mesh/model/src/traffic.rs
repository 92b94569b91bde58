//! What bounds or disturbs the traffic that policy lets into a port: rate limits and faults.
//!
//! A limit restricts, a fault breaks on purpose; neither lets anybody in. For a proxy that cannot carry one out there is none.

use crate::{Closed, Feature, Features, PathPattern, SpiffeId};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use std::{sync::Arc, time::Duration};

/// The most of anything that a [`Rate`] allows in its interval, and at once: 1 TB.
pub const RATE_MAX: u64 = 1_000_000_000_000;
/// The longest interval of a [`Rate`].
pub const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// The most of requests or connections that a [`Rate`] allows in a second: a nanosecond is 0.1 % of what is between two of them.
pub const REQUESTS_PER_SECOND_MAX: u64 = 1_000_000;
/// The limits and the faults of one port, of all policies together.
pub const LIMITS_MAX: usize = 64;
/// See [`LIMITS_MAX`].
pub const FAULTS_MAX: usize = 64;
/// What a share is a part of.
pub const WHOLE: u32 = 1_000_000;
/// The longest time by which a fault delays a request.
pub const DELAY_MAX: Duration = Duration::from_secs(3600);

/// The limits and faults of one port.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Traffic {
    /// All of them hold.
    pub limits: Vec<RateLimit>,
    /// The first that is for a request and is drawn happens to it.
    pub faults: Vec<Fault>,
}

/// Which requests something is for; every list that is not empty must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RequestMatch {
    pub methods: Vec<Method>,
    pub paths: Vec<PathPattern>,
    /// All of them must be there, with this value among those of the field.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Any of these calls. A caller without identity is none of them.
    pub identities: Vec<SpiffeId>,
}

impl RequestMatch {
    /// Whether it is for all.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

/// So many of something in each interval, and so many at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rate {
    /// From 1 to [`RATE_MAX`].
    pub count: u64,
    /// From 1 ms to [`INTERVAL_MAX`].
    pub interval: Duration,
    /// From 1 to [`RATE_MAX`].
    pub burst: u64,
}

/// What of a port is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    Requests,
    /// New ones, of any protocol.
    Connections,
    /// Of connections that are not HTTP, both ways together.
    Bytes,
}

/// For whom it is counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum By {
    /// All callers together.
    Target,
    /// Each identity; callers without one together.
    Identity,
    /// Each value of this field of a request; those without it together.
    Header(HeaderName),
    /// Each address.
    ClientAddress,
}

/// The rate of some callers in place of the limit's own: each of them has it for itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateOverride {
    pub identities: Vec<SpiffeId>,
    pub rate: Rate,
}

/// One limit of a RateLimitPolicy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// `namespace/name limit N` of the policy: in logs and metrics.
    pub name: Arc<str>,
    /// Of [`Amount::Requests`] alone.
    pub only: RequestMatch,
    pub by: By,
    pub of: Amount,
    pub rate: Rate,
    /// Of [`By::Identity`] alone.
    pub overrides: Vec<RateOverride>,
    /// Whether it is counted, and nothing is refused.
    pub dry_run: bool,
}

/// How a fault ends a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AbortWith {
    /// An answer of this status; of a gRPC call, the gRPC status that stands for it.
    Status(StatusCode),
    /// An answer of this gRPC status, from 1 to 16; of a request that is no gRPC call, 500.
    Grpc(u8),
    /// No answer: the stream or connection of the request is reset.
    Reset,
}

/// One fault of a FaultPolicy. One of delay and abort is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// `namespace/name fault N` of the policy: in logs and metrics.
    pub name: Arc<str>,
    pub only: RequestMatch,
    /// Of how many in [`WHOLE`], and by how long.
    pub delay: Option<(u32, Duration)>,
    /// Of how many in [`WHOLE`], and how.
    pub abort: Option<(u32, AbortWith)>,
}

impl Traffic {
    /// What of it holds for a proxy that can carry out `known`. What it cannot, it does not do: no limit is better than a closed port.
    #[must_use]
    pub fn within(self, known: Features, closed: &mut Vec<Closed>) -> Self {
        let Self { mut limits, mut faults } = self;
        let mut lost = |name: &Arc<str>, feature| {
            closed.push(Closed { rule: name.clone(), lacks: [feature].into_iter().collect() });
        };
        if !known.contain(Feature::RateLimits) {
            limits.drain(..).for_each(|limit| lost(&limit.name, Feature::RateLimits));
        }
        if !known.contain(Feature::Faults) {
            faults.drain(..).for_each(|fault| lost(&fault.name, Feature::Faults));
        }
        Self { limits, faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_cannot_carry_out_it_does_not_do_and_that_is_told() {
        let rate = Rate { count: 1, interval: Duration::from_secs(1), burst: 1 };
        let limit = RateLimit {
            name: "shop/l limit 0".into(),
            only: RequestMatch::default(),
            by: By::Target,
            of: Amount::Requests,
            rate,
            overrides: Vec::new(),
            dry_run: false,
        };
        let delay = Some((WHOLE, Duration::from_secs(1)));
        let fault = Fault { name: "shop/f fault 0".into(), only: RequestMatch::default(), delay, abort: None };
        let whole = Traffic { limits: vec![limit], faults: vec![fault] };
        for (lacked, limits, faults, named) in
            [(Feature::RateLimits, 0, 1, "shop/l limit 0"), (Feature::Faults, 1, 0, "shop/f fault 0")]
        {
            let lacks: Features = [lacked].into_iter().collect();
            let mut closed = Vec::new();
            let less = whole.clone().within(Features::all().beyond(lacks), &mut closed);
            assert_eq!((less.limits.len(), less.faults.len()), (limits, faults));
            assert_eq!(closed, [Closed { rule: named.into(), lacks }]);
        }
        let mut closed = Vec::new();
        assert_eq!((whole.clone().within(Features::all(), &mut closed), closed.len()), (whole, 0));
    }
}
