//! What cells make of objects, as values: the facts that other cells read. Who makes each is in the module of its name.

use super::{
    Key,
    attached::{Kind, Rank},
    status::Judgement,
};
use crate::objects::policy::Selector;
use ipnet::IpNet;
use remora_model::{AuthorizationRule, Backend, BackendId, RouteMatch, Rule};
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
    pub(super) named: BTreeMap<(Key, String), IpAddr>,
    pub(super) reports: Vec<String>,
    pub(super) unseen: Vec<String>,
}

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
    pub(super) judgement: Judgement,
    /// The parents by their index, and which Service ports each names, or why none.
    pub(super) parents: Vec<(usize, Result<Named, String>)>,
}

/// What a policy is attached to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// The whole mesh: of MeshTLSPolicies alone.
    Mesh,
    Namespace(String),
    Service(Key),
    Pod(Key),
}

/// A policy, read.
#[derive(Debug, PartialEq)]
pub(super) enum Read {
    Authorization(Authorization),
    MeshTls { strict: bool },
}

/// An AuthorizationPolicy, read.
#[derive(Debug, PartialEq)]
pub(super) struct Authorization {
    pub(super) selector: Option<Selector>,
    pub(super) allows: bool,
    pub(super) rules: Vec<AuthorizationRule>,
}
