//! HTTPRoutes and GRPCRoutes, attached to the Service ports that they name (GAMMA, GEP-1426).
//!
//! A route in its Service's own namespace (a producer's) holds for all clients; one in another namespace (a consumer's) is for
//! the clients of that namespace alone, and there it stands in the place of the producer's.

use super::{
    Snapshot,
    attached::{Attached, Kind, Rank},
    backend_id, is_external, is_headless, report,
    rules::Reader,
    status::{Judgement, ObjectStatus, Teller},
};
use crate::objects::{Kind as _, Metadata, Object, Unknown, core::Service, routes as k8s};
use prost::Message as _;
use remora_api::{convert::LIST_MAX, v1};
use remora_model::{BackendId, RouteMatch, Rule};

/// The most bytes of the routes of one port, for the same clients: half of what a proxy takes as one message.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// GEP-1426 would not have such parents at all; without redirection, where requests go by name, they work like others.
const HEADLESS: &str = "is headless: the route holds for requests by its name, not for those to its pods' addresses";

/// What becomes of a route: its rules, reports for the log, its status.
type Read = (Vec<(BackendId, Attached)>, Vec<String>, Option<ObjectStatus>);

/// A route of either kind.
#[derive(Clone, Copy)]
enum Route<'a> {
    Http(&'a k8s::HttpRoute),
    Grpc(&'a k8s::GrpcRoute),
}

impl<'a> Route<'a> {
    fn of(object: &'a Object) -> Option<Self> {
        match object {
            Object::HttpRoute(route) => Some(Self::Http(route)),
            Object::GrpcRoute(route) => Some(Self::Grpc(route)),
            _ => None,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Http(_) => Kind::Http,
            Self::Grpc(_) => Kind::Grpc,
        }
    }

    fn unknown(self) -> &'a Unknown {
        match self {
            Self::Http(route) => &route.spec.unknown,
            Self::Grpc(route) => &route.spec.unknown,
        }
    }

    fn parts(self) -> (&'a Metadata, &'a [k8s::ParentRef], &'a [String], &'a k8s::RouteStatus) {
        match self {
            Self::Http(route) => (&route.metadata, &route.spec.parent_refs, &route.spec.hostnames, &route.status),
            Self::Grpc(route) => (&route.metadata, &route.spec.parent_refs, &route.spec.hostnames, &route.status),
        }
    }

    fn unreadable(self) -> Option<&'a k8s::Unreadable> {
        match self {
            Self::Http(route) => route.unreadable.as_ref(),
            Self::Grpc(route) => route.unreadable.as_ref(),
        }
    }

    fn read(self, reader: &Reader<'_>) -> Vec<(Vec<(Rank, RouteMatch)>, Rule)> {
        if let Some(k8s::Unreadable::Closed(why)) = self.unreadable() {
            return vec![reader.closed(why)];
        }
        match self {
            // The Gateway API's default: one rule that matches everything, and so leads nowhere.
            Self::Http(route) if route.spec.rules.is_empty() => vec![reader.http(0, &k8s::HttpRule::default())],
            Self::Http(route) => route.spec.rules.iter().enumerate().map(|(i, rule)| reader.http(i, rule)).collect(),
            Self::Grpc(route) => route.spec.rules.iter().enumerate().map(|(i, rule)| reader.grpc(i, rule)).collect(),
        }
    }
}

impl Snapshot {
    pub(super) fn index_routes(&mut self, objects: &[Object]) {
        let grants: Vec<&k8s::ReferenceGrant> = objects
            .iter()
            .filter_map(|object| if let Object::ReferenceGrant(grant) = object { Some(&**grant) } else { None })
            .collect();
        for grant in &grants {
            let told = mistakes(&grant.spec).map(|problem| report(&grant.metadata, k8s::ReferenceGrant::KIND, problem));
            self.reports.extend(told);
        }
        // The oldest first: where there is no room for all, those that came last find none.
        let mut routes: Vec<Route<'_>> = objects.iter().filter_map(Route::of).collect();
        routes.sort_by_cached_key(|route| {
            let meta = route.parts().0;
            let created = (meta.creation_timestamp.is_none(), meta.creation_timestamp.clone());
            (created, meta.namespace.clone(), meta.name.clone())
        });
        for route in routes {
            let (attached, mut reports, status) = self.attach(route, &grants);
            self.reports.append(&mut reports);
            self.statuses.extend(status);
            for (id, one) in attached {
                self.routes.entry(id).or_default().push(one);
            }
        }
    }

    /// A route's rules on the ports that it names, its errors, and what its status should say.
    fn attach(&self, route: Route<'_>, grants: &[&k8s::ReferenceGrant]) -> Read {
        let (meta, parents, hostnames, current) = route.parts();
        let mut reader = Reader::new(self, grants, meta, route.kind());
        // Routes of Gateways alone are others' business.
        let ours = parents.is_empty() || parents.iter().any(is_service);
        for field in route.unknown().names().filter(|_| ours) {
            reader.report(format!("spec.{field}: there is no such field; it is ignored"));
        }
        let mut teller = Teller::new(meta, current, route.kind());
        let mut attached = Vec::new();
        let fall_back = match route.unreadable() {
            Some(k8s::Unreadable::Before(why)) => Some(format!("{why}; its last valid content stays in force")),
            Some(k8s::Unreadable::Closed(_)) | None => None,
        };
        fall_back.iter().for_each(|problem| reader.report(problem.clone()));
        for for_consumer in [false, true] {
            let of_side = |parent: &&k8s::ParentRef| {
                let namespace = parent.namespace.as_ref().unwrap_or(&meta.namespace);
                is_service(parent) && (*namespace != meta.namespace) == for_consumer
            };
            if !parents.iter().any(|parent| of_side(&parent)) {
                continue;
            }
            reader.consumer = for_consumer;
            let rules = route.read(&reader);
            let judgement = Judgement { fall_back: fall_back.clone(), ..reader.judgement() };
            let mut ids = Vec::new();
            for (index, parent) in parents.iter().enumerate().filter(|(_, parent)| of_side(parent)) {
                let found = self.parents(parent.namespace.as_ref().unwrap_or(&meta.namespace), parent);
                let at = |problem: &str| format!("spec.parentRefs[{index}]: {problem}");
                let side = (route.kind(), for_consumer.then_some(meta.namespace.as_str()));
                let taken = match found {
                    Ok((found, _)) if found.iter().any(|id| !self.has_room(id, side, &rules)) => {
                        Err(("TooManyRules", format!("{}; it is ignored", no_room())))
                    }
                    Ok((found, headless)) => {
                        ids.extend(found);
                        if headless { Err(("NoMatchingParent", HEADLESS.to_owned())) } else { Ok(()) }
                    }
                    Err(problem) => Err(("NoMatchingParent", format!("{problem}; it is ignored"))),
                };
                if let Err((_, problem)) = &taken {
                    reader.report(at(problem));
                }
                teller.parent(parent, &taken, &judgement);
            }
            ids.sort();
            ids.dedup();
            let consumer = for_consumer.then(|| meta.namespace.clone());
            for id in ids {
                attached.extend(rules.iter().cloned().map(|(matches, rule)| {
                    let bytes = bytes(&matches, &rule);
                    (id.clone(), Attached { kind: route.kind(), bytes, consumer: consumer.clone(), matches, rule })
                }));
            }
        }
        for (index, parent) in parents.iter().enumerate() {
            if let Some(problem) = nobodys(parent) {
                reader.report(format!("spec.parentRefs[{index}]: {problem}"));
            }
        }
        if !attached.is_empty() && !hostnames.is_empty() {
            reader.report("spec.hostnames: have no meaning on a Service; match the header host instead".to_owned());
        }
        (attached, reader.reports(), teller.finish())
    }

    /// The Service ports that a parent names: one by number or name, or all; and whether the Service is headless.
    fn parents(&self, namespace: &str, parent: &k8s::ParentRef) -> Result<(Vec<BackendId>, bool), String> {
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
            named.map(|port| backend_id(&key, port.port)).filter(|id| self.backends.contains_key(id)).collect();
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

    /// Whether a route's rules fit into one message beside those that are attached to the port for the same clients.
    fn has_room(&self, id: &BackendId, side: (Kind, Option<&str>), more: &[(Vec<(Rank, RouteMatch)>, Rule)]) -> bool {
        let there = self.routes.get(id).into_iter().flatten();
        let there = there.filter(|one| (one.kind, one.consumer.as_deref()) == side);
        let (mut rules, mut matches, mut all) = (more.len(), 0, 0);
        for (found, rule) in more {
            (matches, all) = (matches + found.len(), all + bytes(found, rule));
        }
        for one in there {
            (rules, matches, all) = (rules + 1, matches + one.matches.len(), all + one.bytes);
        }
        rules <= LIST_MAX && matches <= LIST_MAX && all <= BYTES_MAX
    }
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
fn mistakes(spec: &k8s::GrantSpec) -> impl Iterator<Item = String> {
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
