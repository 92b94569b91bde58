//! What each kind of objects is to the index: where its objects are kept, what they set off, what is said of them. One
//! implementation for each kind of the registry; without it nothing compiles. Pure.

use super::{
    Cell, ObjectId, default_inbound,
    facts::Facts,
    given::{Taking, cluster_ips},
    is_external, networks, pods, proxies, report, routes,
    status::Judged,
};
use crate::objects::{
    Kind, Object,
    core::{EndpointSlice, Namespace, Node, OPAQUE_PORTS, Pod, Service, ServiceCidr, ZONE},
    mesh::XMesh,
    policy::{Policy, PolicySpec},
    registry::all_kinds,
    routes::{ReferenceGrant, Route, RouteRule},
};
use std::sync::Arc;

/// A kind, to the index.
pub(super) trait Means: Kind {
    /// What makes no sense in it, whatever else there is.
    fn problems(&self, _facts: &Facts) -> Vec<String> {
        Vec::new()
    }

    /// The object of this name is another now, or none.
    fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Arc<Self>>);

    /// Only what is said of the object of this name is another.
    fn resay(taking: &mut Taking<'_>, id: ObjectId, object: Arc<Self>) {
        Self::set(taking, id, Some(object));
    }

    /// The object of this name that counts, without noting that it was looked for.
    fn counts(facts: &Facts, id: &ObjectId) -> Option<Object>;

    /// What is to be said of the object of this name. `None`: it is not there, or nothing is said of its kind.
    fn judge(_facts: &Facts, _id: &ObjectId) -> Option<Judged> {
        None
    }
}

macro_rules! meanings {
    ($($name:ident($of:ty),)*) => {
        /// What makes no sense in an object, whatever else there is.
        pub(super) fn problems(object: &Object, facts: &Facts) -> Vec<String> {
            let problems = match object {
                $(Object::$name(object) => object.problems(facts),)*
            };
            problems.into_iter().map(|problem| report(object.metadata(), object.kind(), problem)).collect()
        }

        /// The object of this name is another now, or none.
        pub(super) fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Object>) {
            match (id.kind, object) {
                $(
                    (_, Some(Object::$name(object))) => <$of>::set(taking, id, Some(object)),
                    (<$of>::KIND, None) => <$of>::set(taking, id, None),
                )*
                _ => {}
            }
        }

        /// Only what is said of the object of this name is another.
        pub(super) fn resay(taking: &mut Taking<'_>, id: ObjectId, object: Object) {
            match object {
                $(Object::$name(object) => <$of>::resay(taking, id, object),)*
            }
        }

        /// The object of this name that counts.
        pub(super) fn counts(facts: &Facts, id: &ObjectId) -> Option<Object> {
            match id.kind {
                $(<$of>::KIND => <$of>::counts(facts, id),)*
                _ => None,
            }
        }

        /// What is to be said of the object of this name. `None`: it is not there.
        pub(super) fn judge(facts: &Facts, id: &ObjectId) -> Option<Judged> {
            match id.kind {
                $(<$of>::KIND => <$of>::judge(facts, id),)*
                _ => None,
            }
        }
    };
}

all_kinds!(meanings);

impl Means for Namespace {
    fn problems(&self, _facts: &Facts) -> Vec<String> {
        let default = default_inbound::problem(&self.metadata);
        pods::opaque_problem(&self.metadata)
            .into_iter()
            .chain(proxies::problems(&self.metadata))
            .chain(default)
            .collect()
    }

    fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Arc<Self>>) {
        let proxies = object.as_ref().and_then(|object| proxies::said(&object.metadata));
        taking.facts.proxies_of.put(id.key.1.clone(), proxies);
        let said = object.as_ref().and_then(|object| object.metadata.annotations.get(OPAQUE_PORTS).cloned());
        taking.facts.opaque.put(id.key.1.clone(), said);
        let said = object.as_ref().and_then(|object| default_inbound::said(&object.metadata).map(str::to_owned));
        taking.facts.default_inbound.put(id.key.1.clone(), said);
        match object {
            Some(object) => drop(taking.facts.namespaces.insert(id.key, object)),
            None => drop(taking.facts.namespaces.remove(&id.key)),
        }
    }

    fn counts(facts: &Facts, id: &ObjectId) -> Option<Object> {
        facts.namespaces.get(&id.key).cloned().map(Object::Namespace)
    }
}

impl Means for Node {
    fn problems(&self, _facts: &Facts) -> Vec<String> {
        networks::read(&self.clone().into()).1
    }

    fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Arc<Self>>) {
        let zone = object.as_ref().and_then(|object| object.metadata.labels.get(ZONE).cloned());
        taking.facts.zones.put(id.key.1.clone(), zone);
        taking.ranged(id, object.map(Object::Node));
    }

    fn counts(facts: &Facts, id: &ObjectId) -> Option<Object> {
        facts.ranged.get(id).cloned()
    }
}

impl Means for ServiceCidr {
    fn problems(&self, _facts: &Facts) -> Vec<String> {
        networks::read(&self.clone().into()).1
    }

    fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Arc<Self>>) {
        taking.ranged(id, object.map(Object::ServiceCidr));
    }

    fn counts(facts: &Facts, id: &ObjectId) -> Option<Object> {
        facts.ranged.get(id).cloned()
    }
}

impl Means for Pod {
    fn problems(&self, facts: &Facts) -> Vec<String> {
        let unclear = pods::membership(self, &facts.mesh.trust_domain).err();
        let unclear = unclear.map(|problem| format!("{problem}; it is left out"));
        let settings = proxies::problems(&self.metadata);
        let default = default_inbound::problem(&self.metadata);
        pods::opaque_problem(&self.metadata).into_iter().chain(settings).chain(default).chain(unclear).collect()
    }

    fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Arc<Self>>) {
        taking.pod(id.key, object);
    }

    fn counts(facts: &Facts, id: &ObjectId) -> Option<Object> {
        facts.pods.unnoted().get(&id.key).cloned().map(Object::Pod)
    }
}

impl Means for Service {
    fn problems(&self, _facts: &Facts) -> Vec<String> {
        let external = is_external(self).then(|| "ExternalName is not supported, ignored".to_owned());
        let mut told: Vec<String> = pods::opaque_problem(&self.metadata).into_iter().chain(external).collect();
        let wrong = cluster_ips(self).filter_map(|(text, ip)| ip.is_none().then_some(text));
        told.extend(wrong.map(|ip| format!("spec.clusterIPs: {ip:?} is no address")));
        told.dedup();
        told
    }

    fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Arc<Self>>) {
        taking.service(id.key, object);
    }

    fn counts(facts: &Facts, id: &ObjectId) -> Option<Object> {
        facts.services.unnoted().get(&id.key).cloned().map(Object::Service)
    }
}

impl Means for EndpointSlice {
    fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Arc<Self>>) {
        taking.slice(id.key, object);
    }

    fn counts(facts: &Facts, id: &ObjectId) -> Option<Object> {
        facts.slices.unnoted().get(&id.key).cloned().map(Object::EndpointSlice)
    }
}

impl Means for ReferenceGrant {
    fn problems(&self, _facts: &Facts) -> Vec<String> {
        routes::mistakes(&self.spec).collect()
    }

    fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Arc<Self>>) {
        taking.grant(id.key, object);
    }

    fn counts(facts: &Facts, id: &ObjectId) -> Option<Object> {
        facts.grants.unnoted().get(&id.key).cloned().map(Object::ReferenceGrant)
    }
}

impl Means for XMesh {
    fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Arc<Self>>) {
        match object {
            Some(object) => drop(taking.facts.meshes.insert(id.clone(), object)),
            None => drop(taking.facts.meshes.remove(&id)),
        }
        taking.graph.wake(Cell::Status(id));
    }

    fn counts(facts: &Facts, id: &ObjectId) -> Option<Object> {
        facts.meshes.get(id).cloned().map(Object::XMesh)
    }

    fn judge(facts: &Facts, id: &ObjectId) -> Option<Judged> {
        facts.judge_mesh(id)
    }
}

impl<R: RouteRule> Means for Route<R>
where
    Arc<Self>: Into<Object>,
{
    fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Arc<Self>>) {
        taking.facts.routes.put(id.clone(), object.map(Into::into));
        taking.graph.wake(Cell::Route(id));
    }

    fn resay(taking: &mut Taking<'_>, id: ObjectId, object: Arc<Self>) {
        taking.facts.routes.resay(id.clone(), object.into());
        taking.graph.wake(Cell::Status(id));
    }

    fn counts(facts: &Facts, id: &ObjectId) -> Option<Object> {
        facts.routes.unnoted().get(id).cloned()
    }

    fn judge(facts: &Facts, id: &ObjectId) -> Option<Judged> {
        facts.judge_route(id)
    }
}

impl<S: PolicySpec> Means for Policy<S>
where
    Arc<Self>: Into<Object>,
{
    fn set(taking: &mut Taking<'_>, id: ObjectId, object: Option<Arc<Self>>) {
        taking.policy(id, object.map(Into::into));
    }

    fn resay(taking: &mut Taking<'_>, id: ObjectId, object: Arc<Self>) {
        taking.facts.policies.resay(id.clone(), object.into());
        taking.graph.wake(Cell::Status(id));
    }

    fn counts(facts: &Facts, id: &ObjectId) -> Option<Object> {
        facts.policies.unnoted().get(id).cloned()
    }

    fn judge(facts: &Facts, id: &ObjectId) -> Option<Judged> {
        facts.judge_policy(id)
    }
}
