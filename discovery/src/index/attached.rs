//! Rules of routes as they are attached to a Service port, and which of them comes first, exactly as the Gateway API says.
//!
//! HTTPRoute: exact path, longest prefix, method, number of headers, number of query parameters. GRPCRoute: characters of
//! the service, of the method, number of headers. Ties: oldest route, then `namespace/name` by alphabet, then order of
//! rules. A regular expression, whose place the specification leaves open, comes between exact paths and prefixes.
//! Host names come nowhere: on a Service they mean nothing (GEP-1426), but for those of a TLSRoute, whose most specific one wins.

use super::ObjectId;
use crate::objects::{Metadata, routes::GrpcMatch};
use remora_model::{HostPattern, PathMatch, RouteMatch, Rule};
use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

/// Smaller comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    class: u8,
    first: Reverse<usize>,
    second: Reverse<usize>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// Without a time: as if made last.
    created: (bool, String),
    name: String,
    rule: usize,
    index: usize,
}

impl Rank {
    pub(super) fn http(one: &RouteMatch, meta: &Metadata, rule: usize, index: usize) -> Self {
        let (class, length) = match &one.path {
            Some(PathMatch::Exact(path)) => (0, path.len()),
            Some(PathMatch::Pattern(pattern)) => (1, pattern.as_str().len()),
            Some(PathMatch::Prefix(path)) => (2, path.len()),
            None => (2, 0),
        };
        let counts = [length, usize::from(one.method.is_some()), one.headers.len(), one.query.len()];
        Self::new(class, counts, meta, rule, index)
    }

    /// All rules of connections match alike: the oldest comes first.
    pub(super) fn bytes(meta: &Metadata, rule: usize) -> Self {
        Self::new(0, [0; 4], meta, rule, 0)
    }

    pub(super) fn grpc(one: &GrpcMatch, headers: usize, meta: &Metadata, rule: usize, index: usize) -> Self {
        let length = |text: Option<&String>| text.map_or(0, String::len);
        let (service, method) =
            one.method.as_ref().map_or((0, 0), |m| (length(m.service.as_ref()), length(m.method.as_ref())));
        Self::new(0, [service, method, headers, 0], meta, rule, index)
    }

    fn new(class: u8, counts: [usize; 4], meta: &Metadata, rule: usize, index: usize) -> Self {
        let [first, second, headers, query] = counts.map(Reverse);
        let created = (meta.creation_timestamp.is_none(), meta.creation_timestamp.clone().unwrap_or_default());
        let name = format!("{}/{}", meta.namespace, meta.name);
        Self { class, first, second, headers, query, created, name, rule, index }
    }
}

/// The type of a route, the most specific first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Grpc,
    Http,
    Tls,
    Tcp,
}

impl Kind {
    /// Whether it is of requests, and not of connections.
    pub(super) fn is_of_requests(self) -> bool {
        matches!(self, Self::Grpc | Self::Http)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }
}

/// What is attached to one Service port.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ruled {
    pub(super) attached: Vec<Attached>,
    /// Routes for which there was no room beside older ones; for the clients of their own namespace alone, or not.
    pub(super) refused: BTreeSet<(ObjectId, bool)>,
}

/// One rule of a route, on one Service port.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attached {
    /// The route that it is of.
    pub(super) route: ObjectId,
    pub(super) kind: Kind,
    /// Of its part of a message.
    pub(super) bytes: usize,
    /// The namespace whose clients it is for; `None` for a producer's route, which holds for all clients.
    pub(super) consumer: Option<String>,
    pub(super) matches: Vec<(Rank, RouteMatch)>,
    pub(super) rule: Rule,
    /// The server names that a TLSRoute is for.
    pub(super) hostnames: Arc<[HostPattern]>,
}

impl Ruled {
    /// What stands in the place of a route of `kind`, for the same clients: only the most specific kind counts (GEP-1294), and of
    /// TCPRoutes, which all take every connection, only the oldest.
    pub(super) fn overrules(&self, route: &ObjectId, kind: Kind, consumer: Option<&str>) -> Option<&Attached> {
        let ours = || self.attached.iter().filter(|one| one.consumer.as_deref() == consumer);
        let first = ours().min_by_key(|one| one.kind)?;
        (first.kind < kind || (kind == Kind::Tcp && first.route != *route)).then_some(first)
    }
}
