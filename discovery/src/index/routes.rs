//! HTTPRoutes and GRPCRoutes, attached to the Service ports that they name (GAMMA, GEP-1426).
//!
//! A route in its Service's own namespace (a producer's) is for everybody; one in another namespace (a consumer's) is for
//! the clients of that namespace alone, and there it stands in the place of the producer's.

use super::sort::Rank;
use super::status::{RouteStatus, Teller};
use super::{Snapshot, backend_id, is_external, is_headless, rules::Reader};
use crate::objects::{Metadata, Object, routes as k8s};
use remora_model::{BackendId, RouteMatch, Rule};

/// GEP-1426 would not have such parents at all; without redirection, where requests go by name, they work like others.
const HEADLESS: &str = "is headless: the route holds for requests by its name, not for those to its pods' addresses";

/// The type of a route, the most specific first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Grpc,
    Http,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
        }
    }
}

/// One rule of a route, on one Service port.
#[derive(Debug, Clone)]
pub(super) struct Attached {
    pub(super) kind: Kind,
    /// The namespace whose clients it is for; `None` for a producer's route, which is for everybody.
    pub(super) consumer: Option<String>,
    pub(super) matches: Vec<(Rank, RouteMatch)>,
    pub(super) rule: Rule,
}

/// What becomes of a route: its rules, reports for the log, its status.
type Read = (Vec<(BackendId, Attached)>, Vec<String>, Option<RouteStatus>);

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

    fn parts(self) -> (&'a Metadata, &'a [k8s::ParentRef], &'a [String], &'a k8s::RouteStatus) {
        match self {
            Self::Http(route) => (&route.metadata, &route.spec.parent_refs, &route.spec.hostnames, &route.status),
            Self::Grpc(route) => (&route.metadata, &route.spec.parent_refs, &route.spec.hostnames, &route.status),
        }
    }

    fn read(self, reader: &Reader<'_>) -> Vec<(Vec<(Rank, RouteMatch)>, Rule)> {
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
        for route in objects.iter().filter_map(Route::of) {
            let (attached, mut reports, status) = self.attach(route, &grants);
            self.reports.append(&mut reports);
            self.statuses.extend(status);
            for (id, one) in attached {
                self.routes.entry(id).or_default().push(one);
            }
        }
    }

    /// A route's rules on the ports that it names, what makes no sense of it, and what its status should say.
    fn attach(&self, route: Route<'_>, grants: &[&k8s::ReferenceGrant]) -> Read {
        let (meta, parents, hostnames, current) = route.parts();
        let mut reader = Reader::new(self, grants, meta, route.kind());
        let mut teller = Teller::new(meta, current, route.kind());
        let mut attached = Vec::new();
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
            let judgement = reader.judgement();
            let mut ids = Vec::new();
            for (index, parent) in parents.iter().enumerate().filter(|(_, parent)| of_side(parent)) {
                let found = self.parents(parent.namespace.as_ref().unwrap_or(&meta.namespace), parent);
                let at = |problem: &str| format!("spec.parentRefs[{index}]: {problem}");
                let taken = match found {
                    Ok((found, headless)) => {
                        ids.extend(found);
                        if headless { Err(HEADLESS.to_owned()) } else { Ok(()) }
                    }
                    Err(problem) => Err(format!("{problem}; it is ignored")),
                };
                if let Err(problem) = &taken {
                    reader.report(at(problem));
                }
                teller.parent(parent, &taken, &judgement);
            }
            ids.sort();
            ids.dedup();
            let consumer = for_consumer.then(|| meta.namespace.clone());
            for id in ids {
                attached.extend(rules.iter().cloned().map(|(matches, rule)| {
                    (id.clone(), Attached { kind: route.kind(), consumer: consumer.clone(), matches, rule })
                }));
            }
        }
        if !attached.is_empty() && !hostnames.is_empty() {
            reader.report("spec.hostnames: have no meaning on a Service; match the header host instead".to_owned());
        }
        (attached, reader.reports(), teller.finish())
    }

    /// The Service ports that a parent names: one by number or name, or all; and whether the Service is headless.
    fn parents(&self, namespace: &str, parent: &k8s::ParentRef) -> Result<(Vec<BackendId>, bool), String> {
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
            return Err(format!("{} has no such TCP port", name()));
        }
        Ok((ids, is_headless(service)))
    }
}

/// Whether a parent is ours: other kinds (Gateways above all) are others' business.
fn is_service(parent: &k8s::ParentRef) -> bool {
    parent.kind.as_deref() == Some("Service") && matches!(parent.group.as_deref(), Some("" | "core"))
}
