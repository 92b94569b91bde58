//! HTTPRoutes, GRPCRoutes, TLSRoutes and TCPRoutes, attached to the Service ports that they name (GAMMA, GEP-1426).
//!
//! A route in its Service's own namespace (a producer's) holds for all clients; one in another namespace (a consumer's) is for
//! the clients of that namespace alone, and there it stands in the place of the producer's.

use super::{
    Key, ObjectId,
    attached::{Attached, Kind, Rank, Ruled},
    backend_id,
    derived::{Named, ReadRoute, ReadRule, Side},
    facts::Facts,
    is_external, is_headless, report,
    rules::Reader,
    status::{Judgement, Lacked, ObjectStatus, Teller},
};
use crate::objects::{Metadata, Object, Unknown, core::Service, routes as k8s};
use prost::Message as _;
use remora_api::{convert::LIST_MAX, v1};
use remora_model::{BackendId, Feature, HostPattern, RouteMatch, Rule};
use std::{collections::BTreeSet, sync::Arc};

/// The most bytes of the routes of one port, for the same clients: half of what a proxy takes as one message.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// What the CRD allows.
const HOSTNAMES_MAX: usize = 1024;

/// GEP-1426 would not have such parents at all; without redirection, where requests go by name, they work like others.
const HEADLESS: &str = "is headless: the route holds for requests by its name, not for those to its pods' addresses";

/// When a route was made, the oldest first; one that does not say so last.
pub(super) type Age = (bool, Option<String>);

/// A route of any kind.
#[derive(Clone, Copy)]
enum Route<'a> {
    Http(&'a k8s::HttpRoute),
    Grpc(&'a k8s::GrpcRoute),
    Tls(&'a k8s::TlsRoute),
    Tcp(&'a k8s::TcpRoute),
}

impl<'a> Route<'a> {
    fn of(object: &'a Object) -> Option<Self> {
        match object {
            Object::HttpRoute(route) => Some(Self::Http(route)),
            Object::GrpcRoute(route) => Some(Self::Grpc(route)),
            Object::TlsRoute(route) => Some(Self::Tls(route)),
            Object::TcpRoute(route) => Some(Self::Tcp(route)),
            _ => None,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Http(_) => Kind::Http,
            Self::Grpc(_) => Kind::Grpc,
            Self::Tls(_) => Kind::Tls,
            Self::Tcp(_) => Kind::Tcp,
        }
    }

    fn unknown(self) -> &'a Unknown {
        match self {
            Self::Http(route) => &route.spec.unknown,
            Self::Grpc(route) => &route.spec.unknown,
            Self::Tls(route) => &route.spec.unknown,
            Self::Tcp(route) => &route.spec.unknown,
        }
    }

    fn parts(self) -> (&'a Metadata, &'a [k8s::ParentRef], &'a [String]) {
        fn parts<R>(route: &k8s::Route<R>) -> (&Metadata, &[k8s::ParentRef], &[String]) {
            (&route.metadata, &route.spec.parent_refs, &route.spec.hostnames)
        }
        match self {
            Self::Http(route) => parts(route),
            Self::Grpc(route) => parts(route),
            Self::Tls(route) => parts(route),
            Self::Tcp(route) => parts(route),
        }
    }

    fn unreadable(self) -> Option<&'a k8s::Unreadable> {
        match self {
            Self::Http(route) => route.unreadable.as_ref(),
            Self::Grpc(route) => route.unreadable.as_ref(),
            Self::Tls(route) => route.unreadable.as_ref(),
            Self::Tcp(route) => route.unreadable.as_ref(),
        }
    }

    fn read(self, reader: &Reader<'_>) -> Vec<ReadRule> {
        if let Some(k8s::Unreadable::Closed(why)) = self.unreadable() {
            return vec![reader.closed(why)];
        }
        match self {
            // The Gateway API's default: one rule that matches everything, and so leads nowhere.
            Self::Http(route) if route.spec.rules.is_empty() => vec![reader.http(0, &k8s::HttpRule::default())],
            Self::Http(route) => route.spec.rules.iter().enumerate().map(|(i, rule)| reader.http(i, rule)).collect(),
            Self::Grpc(route) => route.spec.rules.iter().enumerate().map(|(i, rule)| reader.grpc(i, rule)).collect(),
            Self::Tls(route) => {
                let rules: Vec<_> = route.spec.rules.iter().map(|rule| &rule.0).collect();
                vec![connections(reader, &rules, names(&route.spec.hostnames).1)]
            }
            Self::Tcp(route) => {
                let rules: Vec<_> = route.spec.rules.iter().map(|rule| &rule.0).collect();
                vec![connections(reader, &rules, None)]
            }
        }
    }

    /// The server names that it is for, those that can be read.
    fn hostnames(self) -> Arc<[HostPattern]> {
        match self {
            Self::Tls(route) => names(&route.spec.hostnames).0.into(),
            Self::Http(_) | Self::Grpc(_) | Self::Tcp(_) => Arc::default(),
        }
    }
}

/// The one rule of a route of connections, which is closed if there is a problem around it.
fn connections(reader: &Reader<'_>, rules: &[&k8s::BytesRule], problem: Option<String>) -> ReadRule {
    let count = (rules.len() != 1).then(|| format!("spec.rules: has {} entries, and must have one", rules.len()));
    let none = k8s::BytesRule::default();
    reader.bytes(0, rules.first().copied().unwrap_or(&none), problem.or(count))
}

/// Server names, and what is the matter with them.
fn names(texts: &[String]) -> (Vec<HostPattern>, Option<String>) {
    let read = |(at, text): (usize, &String)| {
        HostPattern::parse(text).map_err(|problem| format!("spec.hostnames[{at}]: {text:?} {problem}"))
    };
    let (read, wrong): (Vec<_>, Vec<_>) = texts.iter().enumerate().map(read).partition(Result::is_ok);
    let problem = match texts.len() {
        0 => Some("spec.hostnames: is empty".to_owned()),
        1..=HOSTNAMES_MAX => wrong.into_iter().find_map(Result::err),
        more => Some(format!("spec.hostnames: has {more} entries, more than the {HOSTNAMES_MAX} allowed")),
    };
    (read.into_iter().flatten().take(HOSTNAMES_MAX).collect(), problem)
}

impl Facts {
    /// Reads a route.
    pub(super) fn read_route(&self, id: &ObjectId) -> Option<ReadRoute> {
        let route = Route::of(self.routes.get(id)?)?;
        let (meta, parents, hostnames) = route.parts();
        let mut reader = Reader::new(self, meta, route.kind());
        // Routes of Gateways alone are others' business.
        let ours = parents.is_empty() || parents.iter().any(is_service);
        for field in route.unknown().names().filter(|_| ours) {
            reader.report(format!("spec.{field}: there is no such field; it is ignored"));
        }
        let fall_back = match route.unreadable() {
            Some(k8s::Unreadable::Before(why)) => Some(format!("{why}; its last valid content stays in force")),
            Some(k8s::Unreadable::Closed(_)) | None => None,
        };
        fall_back.iter().for_each(|problem| reader.report(problem.clone()));
        let mut sides = Vec::new();
        for for_consumer in [false, true] {
            let namespace =
                |parent: &k8s::ParentRef| parent.namespace.clone().unwrap_or_else(|| meta.namespace.clone());
            let of_side =
                |parent: &k8s::ParentRef| is_service(parent) && (namespace(parent) != meta.namespace) == for_consumer;
            let named: Vec<_> = parents.iter().enumerate().filter(|(_, parent)| of_side(parent)).collect();
            if named.is_empty() {
                continue;
            }
            reader.consumer = for_consumer;
            let rules = route.read(&reader);
            let judgement = Judgement { fall_back: fall_back.clone(), ..reader.judgement() };
            let parents = named.into_iter().map(|(at, parent)| (at, self.parents(&namespace(parent), parent)));
            let side = Side {
                consumer: for_consumer.then(|| meta.namespace.clone()),
                rules,
                hostnames: route.hostnames(),
                judgement,
                parents: parents.collect(),
            };
            for (at, problem) in side.problems() {
                reader.report(format!("spec.parentRefs[{at}]: {problem}"));
            }
            sides.push(side);
        }
        for (index, parent) in parents.iter().enumerate() {
            if let Some(problem) = nobodys(parent) {
                reader.report(format!("spec.parentRefs[{index}]: {problem}"));
            }
        }
        let attached = sides.iter().any(|side| side.ports().next().is_some());
        if attached && !hostnames.is_empty() && route.kind() != Kind::Tls {
            reader.report("spec.hostnames: have no meaning on a Service; match the header host instead".to_owned());
        }
        Some(ReadRoute { kind: route.kind(), sides, reports: reader.reports() })
    }

    /// Makes known what a route says, in place of what it said before. What makes no sense, and the ports that it named or names.
    pub(super) fn take_route(&mut self, id: &ObjectId, now: Option<ReadRoute>) -> (Vec<String>, BTreeSet<BackendId>) {
        let before = self.read_routes.unnoted().get(id).cloned();
        let ports = |read: Option<&ReadRoute>| -> BTreeSet<BackendId> {
            read.into_iter().flat_map(|read| &read.sides).flat_map(Side::ports).cloned().collect()
        };
        let (were, are) = (ports(before.as_deref()), ports(now.as_ref()));
        let at = |ids: &BTreeSet<BackendId>| ids.iter().map(|port| (port.clone(), id.clone())).collect();
        self.routes_at.replace(&at(&were), &at(&are));
        let reports = now.as_ref().map_or_else(Vec::new, |read| read.reports.clone());
        self.read_routes.put(id.clone(), now.map(Arc::new));
        (reports, were.union(&are).cloned().collect())
    }

    /// What is attached to a Service port. The oldest route first: where there is no room for all, those that came last find
    /// none.
    pub(super) fn rule(&self, port: &BackendId) -> Ruled {
        let all = self.routes_at.get(port).filter_map(|id| Some((self.age(id)?, id, self.read_routes.get(id)?)));
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        let mut ruled = Ruled::default();
        for (_, id, read) in all {
            for side in read.sides.iter().filter(|side| side.ports().any(|named| named == port)) {
                let of = (read.kind, side.consumer.as_deref());
                if !has_room(&ruled.attached, of, &side.rules) {
                    ruled.refused.insert((id.clone(), side.consumer.is_some()));
                    continue;
                }
                ruled.attached.extend(side.rules.iter().cloned().map(|(matches, rule)| {
                    let hostnames = Arc::clone(&side.hostnames);
                    let bytes =
                        bytes(&matches, &rule) + hostnames.iter().map(|host| host.as_str().len() + 2).sum::<usize>();
                    let (route, consumer) = (id.clone(), side.consumer.clone());
                    Attached { route, kind: read.kind, bytes, consumer, matches, rule, hostnames }
                }));
            }
        }
        ruled
    }

    /// Its age, and then its name.
    fn age(&self, id: &ObjectId) -> Option<(Age, Key)> {
        let meta = self.routes.get(id)?.metadata();
        Some(((meta.creation_timestamp.is_none(), meta.creation_timestamp.clone()), id.key.clone()))
    }

    /// What is to be said of a route: its status, and reports of ports that have no room for it.
    pub(super) fn judge_route(&self, id: &ObjectId) -> Option<(Option<ObjectStatus>, Vec<String>)> {
        let object = self.routes.get(id)?;
        let route = Route::of(object)?;
        let read = self.read_routes.get(id)?;
        let (meta, parents, _) = route.parts();
        let (mut teller, mut reports) = (Teller::new(object), Vec::new());
        for side in &read.sides {
            let refused = (id.clone(), side.consumer.is_some());
            let lacked = self.lacked_of(side, route.kind());
            for (at, found) in &side.parents {
                let Some(parent) = parents.get(*at) else { continue };
                let full =
                    |port: &BackendId| self.ruled.get(port).is_some_and(|ruled| ruled.refused.contains(&refused));
                let overruled = |port: &BackendId| {
                    let by = self.ruled.get(port)?.overrules(id, route.kind(), side.consumer.as_deref())?;
                    let (kind, (namespace, name)) = (by.kind.name(), &by.route.key);
                    Some(format!("{kind} {namespace}/{name} has port {} of the Service", port.port))
                };
                let overruled: Vec<String> = found.iter().flat_map(|(ports, _)| ports).filter_map(overruled).collect();
                let taken = match found {
                    Ok((ports, _)) if !ports.is_empty() && overruled.len() == ports.len() => Err((
                        "Conflicted",
                        format!("{}; only one kind of routes counts; it is ignored", overruled.join("; ")),
                    )),
                    Ok((ports, _)) if ports.iter().any(full) => {
                        let problem = format!("{}; it is ignored", no_room());
                        reports.push(report(meta, route.kind().name(), format!("spec.parentRefs[{at}]: {problem}")));
                        Err(("TooManyRules", problem))
                    }
                    Ok((_, true)) => Err(("NoMatchingParent", HEADLESS.to_owned())),
                    Ok((_, false)) => Ok(()),
                    Err(problem) => Err(("NoMatchingParent", format!("{problem}; it is ignored"))),
                };
                let partly = lacked.iter().cloned().chain(overruled.into_iter().filter(|_| taken.is_ok())).collect();
                teller.parent(parent, &taken, (&side.judgement, &partly));
            }
        }
        Some((teller.finish(), reports))
    }

    /// The rules that some proxy is too old for.
    fn lacked_of(&self, side: &Side, kind: Kind) -> Lacked {
        let (needed, instead) = match kind {
            Kind::Grpc | Kind::Http => (None, "it answers 500"),
            Kind::Tls => (Some(Feature::TlsRoutes), "the Service cannot be called"),
            Kind::Tcp => (Some(Feature::TcpRoutes), "the Service cannot be called"),
        };
        let lacked = |(_, rule): &ReadRule| {
            let problem = self.lacked(rule.needs().and(needed), instead)?;
            Some(format!("{}: {problem}", rule.label))
        };
        side.rules.iter().filter_map(lacked).collect()
    }

    /// The Service ports that a parent names: one by number or name, or all; and whether the Service is headless.
    fn parents(&self, namespace: &str, parent: &k8s::ParentRef) -> Result<Named, String> {
        // It might be a `sectionName`, without which all ports would be meant.
        parent.unknown.none()?;
        let key = (namespace.to_owned(), parent.name.clone());
        let name = || format!("Service {namespace}/{}", parent.name);
        let service = self.services.get(&key).ok_or_else(|| format!("{} is not there", name()))?;
        if is_external(service) {
            return Err(format!("{} is of type ExternalName, which is no parent", name()));
        }
        let named = service.spec.ports.iter().filter(|port| {
            parent.port.is_none_or(|number| number == port.port)
                && parent.section_name.as_ref().is_none_or(|name| port.name.as_ref() == Some(name))
        });
        let ids: Vec<BackendId> =
            named.map(|port| backend_id(&key, port.port)).filter(|id| self.ports.contains_key(id)).collect();
        if ids.is_empty() {
            let wanted = match (&parent.section_name, parent.port) {
                (Some(name), Some(port)) => format!("{port} named {name:?}"),
                (Some(name), None) => format!("named {name:?}"),
                (None, Some(port)) => port.to_string(),
                (None, None) => "at all".to_owned(),
            };
            return Err(format!("{} has no TCP port {wanted}; it has {}", name(), ports(service)));
        }
        Ok((ids, is_headless(service)))
    }
}

impl Side {
    /// The Service ports that its parents name.
    fn ports(&self) -> impl Iterator<Item = &BackendId> {
        self.parents.iter().filter_map(|(_, found)| found.as_ref().ok()).flat_map(|(ports, _)| ports)
    }

    /// What is the matter with its parents, by index.
    fn problems(&self) -> impl Iterator<Item = (usize, String)> {
        self.parents.iter().filter_map(|(at, found)| match found {
            Ok((_, true)) => Some((*at, HEADLESS.to_owned())),
            Ok((_, false)) => None,
            Err(problem) => Some((*at, format!("{problem}; it is ignored"))),
        })
    }
}

/// Whether a route's rules fit into one message beside those that are attached to the port for the same clients.
fn has_room(there: &[Attached], side: (Kind, Option<&str>), more: &[ReadRule]) -> bool {
    let there = there.iter().filter(|one| (one.kind, one.consumer.as_deref()) == side);
    let (mut rules, mut matches, mut all) = (more.len(), 0, 0);
    for (found, rule) in more {
        (matches, all) = (matches + found.len(), all + bytes(found, rule));
    }
    for one in there {
        (rules, matches, all) = (rules + 1, matches + one.matches.len(), all + one.bytes);
    }
    rules <= LIST_MAX && matches <= LIST_MAX && all <= BYTES_MAX
}

fn bytes(matches: &[(Rank, RouteMatch)], rule: &Rule) -> usize {
    let matches = matches.iter().map(|(_, one)| v1::RouteMatch::from(one).encoded_len());
    matches.sum::<usize>() + v1::Rule::from(rule).encoded_len()
}

fn no_room() -> String {
    format!(
        "its routes would have more than {LIST_MAX} rules or matches, or {BYTES_MAX} bytes, and this one is younger"
    )
}

/// Entries of a ReferenceGrant that grant nothing, because they have an unknown field.
pub(super) fn mistakes(spec: &k8s::GrantSpec) -> impl Iterator<Item = String> {
    let whole = spec.unknown.none().err().map(|e| format!("spec.{e}; it grants nothing"));
    let told = |field: &str, index: usize, unknown: &Unknown| {
        unknown.none().err().map(|e| format!("spec.{field}[{index}].{e}; the entry grants nothing"))
    };
    let from = spec.from.iter().enumerate().filter_map(move |(i, from)| told("from", i, &from.unknown));
    let to = spec.to.iter().enumerate().filter_map(move |(i, to)| told("to", i, &to.unknown));
    whole.into_iter().chain(from).chain(to)
}

fn ports(service: &Service) -> String {
    let tcp = service.spec.ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let named = tcp.map(|port| match &port.name {
        Some(name) => format!("{} named {name:?}", port.port),
        None => port.port.to_string(),
    });
    let named: Vec<String> = named.collect();
    if named.is_empty() { "none".to_owned() } else { named.join(", ") }
}

/// What is wrong with a parent that looks like a Service and has an unknown kind.
fn nobodys(parent: &k8s::ParentRef) -> Option<String> {
    let (group, kind) = (parent.group.as_deref(), parent.kind.as_deref());
    let (shown, named) = (group.unwrap_or("gateway.networking.k8s.io"), kind.unwrap_or("Gateway"));
    match (group, kind) {
        _ if is_service(parent) => None,
        (Some("" | "core"), _) => Some(format!("the core group has no {named} that can be a parent; it is ignored")),
        (_, Some(kind)) if kind.eq_ignore_ascii_case("Service") => {
            Some(format!("group {shown} has no kind {kind}; a Service is of group \"\"; it is ignored"))
        }
        _ => None,
    }
}

/// Whether a parent is ours: other kinds (Gateways above all) are others' business.
fn is_service(parent: &k8s::ParentRef) -> bool {
    parent.kind.as_deref() == Some("Service") && matches!(parent.group.as_deref(), Some("" | "core"))
}
