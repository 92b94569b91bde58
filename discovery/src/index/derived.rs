//! What cells make of objects, as values: the facts that other cells read. Who makes each is in the module of its name.

use super::{
    Key,
    attached::{Kind, Rank},
    status::Judgement,
};
use crate::objects::{
    jwks::JwksUrl,
    policy::{BackendPolicy, Selector},
};
use ipnet::IpNet;
use remora_model::{
    Action, AuthorizationRule, Backend, BackendId, Fault, HostPattern, JwtIssuer, RateLimit, RouteMatch, Rule,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// What a Service leads to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Served {
    pub(super) backends: BTreeMap<BackendId, Arc<Backend>>,
    pub(super) served: BTreeSet<(IpAddr, (u16, BackendId))>,
    pub(super) selecting: BTreeSet<(Key, (u16, BackendId))>,
    /// Its endpoints by their own names.
    pub(super) named: BTreeMap<String, IpAddr>,
    pub(super) reports: Vec<String>,
    pub(super) unseen: Vec<String>,
}

/// Annotations about the settings of proxies, by name.
pub(super) type Said = BTreeMap<String, String>;

/// The ranges, in the order of their addresses, apart from each other.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Ranges(pub(super) Vec<IpNet>);

impl Ranges {
    /// Whether `ip` is in one of the ranges.
    pub(super) fn contain(&self, ip: IpAddr) -> bool {
        // They are apart, so only the last that begins before the address can have it.
        let after = self.0.partition_point(|range| range.network() <= ip);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|range| range.contains(&ip))
    }
}

/// Who of those that have a stream cannot refuse the revoked: how many pods, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unable {
    pub pods: usize,
    pub first: Vec<String>,
}

/// What one rule of a route says: the requests that it takes, and what becomes of them.
pub(super) type ReadRule = (Vec<(Rank, RouteMatch)>, Rule);

/// A route, read.
#[derive(Debug, PartialEq)]
pub(super) struct ReadRoute {
    pub(super) kind: Kind,
    /// For the clients of all namespaces, and of its own; what concerns neither is left out.
    pub(super) sides: Vec<Side>,
    pub(super) reports: Vec<String>,
}

/// The Service ports that a parent names, and whether the Service is headless.
pub(super) type Named = (Vec<BackendId>, bool);

/// What a route says to the same clients.
#[derive(Debug, PartialEq)]
pub(super) struct Side {
    /// The namespace whose clients it is for; `None` for all.
    pub(super) consumer: Option<String>,
    pub(super) rules: Vec<ReadRule>,
    /// The server names that a TLSRoute is for.
    pub(super) hostnames: Arc<[HostPattern]>,
    pub(super) judgement: Judgement,
    /// The parents by their index, and which Service ports each names, or why none.
    pub(super) parents: Vec<(usize, Result<Named, String>)>,
}

/// Where a policy is attached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    Mesh,
    Namespace(String),
    Service(Key),
    /// Of a Service.
    Port(BackendId),
    Pod(Key),
}

/// How specific that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Mesh,
    Namespace,
    /// A Service, a pod, pods with labels.
    Workload,
    /// Of a Service.
    Port,
}

/// What of a policy holds at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hold {
    /// What it says.
    Said,
    /// What it forbids, and nothing that it allows.
    Closed,
}

/// A policy, read.
#[derive(Debug, PartialEq)]
pub(super) struct ReadPolicy {
    pub(super) places: BTreeMap<Place, Hold>,
    /// The pods for which it holds, of those at its places; without one, all.
    pub(super) selector: Option<Selector>,
    pub(super) says: Says,
}

/// What a policy says.
#[derive(Debug, PartialEq)]
pub(super) enum Says {
    Authorization(Authorization),
    MeshTls(TlsMode),
    Backend(Arc<BackendPolicy>),
    RateLimits(Vec<RateLimit>),
    Faults(Vec<Fault>),
}

/// What a MeshTLSPolicy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsMode {
    Permissive,
    Strict,
    /// It decides nothing: as if there were no such policy, but that what Strict would refuse is counted.
    DryRun,
}

/// What an AuthorizationPolicy says.
#[derive(Debug, PartialEq)]
pub(super) struct Authorization {
    /// `namespace/name`.
    pub(super) name: Arc<str>,
    /// Whether it decides nothing.
    pub(super) dry_run: bool,
    pub(super) action: Action,
    pub(super) rules: Vec<AuthorizationRule>,
    /// Whose tokens requests may carry.
    pub(super) issuers: Vec<ReadIssuer>,
}

/// An issuer of tokens, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ReadIssuer {
    /// Without keys, if they are fetched.
    pub(super) issuer: JwtIssuer,
    pub(super) url: Option<JwksUrl>,
}
