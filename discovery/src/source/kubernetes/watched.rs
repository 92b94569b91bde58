//! An object as the API's JSON is read: right into what is kept of it, so that memory follows that.
//!
//! The API server has checked what is built in, so it is read as it comes. What CRDs describe may be written for another
//! version of us: one object that cannot be read is reported by name, and affects no other.

use crate::{
    index::Key,
    objects::{IS_NULL, Kind, Metadata, Object, Unreadable, kind::Defined},
};
use kube::{Resource, api::ObjectMeta, core::DynamicResourceScope};
use serde::de::{Deserialize, Deserializer, Error as _};
use std::borrow::Cow;

/// An object of a kind, or why it cannot be read.
#[derive(Debug, Clone)]
pub(super) struct Watched<T> {
    pub(super) read: Result<T, Box<Unreadable>>,
    /// Only the resource version, which the watcher goes on from.
    meta: ObjectMeta,
}

impl<T: Kind + Into<Object>> Watched<T> {
    /// What to keep.
    pub(super) fn entry(self) -> Result<Object, Box<Unreadable>> {
        self.read.map(Into::into)
    }

    /// Its name.
    pub(super) fn key(&mut self) -> Key {
        let metadata = match &mut self.read {
            Ok(object) => object.metadata_mut(),
            Err(unreadable) => &mut unreadable.metadata,
        };
        (metadata.namespace.clone(), metadata.name.clone())
    }
}

impl<T: Kind> Watched<T> {
    fn of(mut object: T) -> Self {
        object.trim();
        let metadata = object.metadata_mut();
        let mut meta = ObjectMeta { resource_version: metadata.resource_version.take(), ..ObjectMeta::default() };
        // A write of a status must name the version that was read.
        if T::STATUS.is_some() {
            metadata.resource_version.clone_from(&meta.resource_version);
        }
        meta.name = Some(metadata.name.clone());
        Self { read: Ok(object), meta }
    }
}

impl<'de, T: Kind> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if T::DEFINED == Defined::BuiltIn {
            return T::deserialize(deserializer).map(Self::of);
        }
        let mut value = serde_json::Value::deserialize(deserializer)?;
        if let Some(spec) = value.get_mut("spec").filter(|_| T::is_ours()) {
            name_nulls(spec);
        }
        let value = without_nulls(value);
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(object) => return Ok(Self::of(object)),
            Err(error) => error,
        };
        let problem = format!("{}: {}", error.path(), error.inner());
        let metadata = value.get("metadata").ok_or_else(|| D::Error::missing_field("metadata"))?;
        let metadata = Metadata::deserialize(metadata).map_err(D::Error::custom)?;
        let resource_version = metadata.resource_version.clone();
        let meta = ObjectMeta { resource_version, name: Some(metadata.name.clone()), ..ObjectMeta::default() };
        let (spec, status) = (value["spec"].clone(), value["status"].clone());
        Ok(Self { read: Err(Box::new(Unreadable { metadata, problem, spec, status })), meta })
    }
}

/// Every field that is null is named so ([`IS_NULL`]).
fn name_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, mut value) in std::mem::take(fields) {
                let name = if value.is_null() { name + IS_NULL } else { name };
                name_nulls(&mut value);
                fields.insert(name, value);
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(name_nulls),
        _ => {}
    }
}

/// A field that is null is a field that is absent, as in Kubernetes, unless its name says it.
fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(name, value)| !value.is_null() || name.ends_with(IS_NULL));
            kept.map(|(name, value)| (name, without_nulls(value))).collect()
        }
        serde_json::Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

impl<T: Kind> Resource for Watched<T> {
    type DynamicType = ();
    type Scope = DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        T::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        T::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        T::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::PLURAL.into()
    }

    fn metadata_api() -> bool {
        T::METADATA_ALONE
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{
        core::{EndpointSlice, Pod},
        policy::{AuthorizationPolicy, MeshTlsPolicy},
        routes::HttpRoute,
    };

    #[test]
    fn of_a_pod_only_what_is_used_is_kept() {
        let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"b","resourceVersion":"7","uid":"u",
            "annotations":{"remora.dev/opaque-ports":"1","other":"x"},"managedFields":[{"manager":"m"}]},
            "spec":{"nodeName":"n","containers":[{"name":"c","image":"i","env":[{"name":"A","value":"b"}],"ports":
            [{"containerPort":80},{"name":"web","containerPort":81},{"containerPort":82,"protocol":"UDP"}]},
            {"name":"d","ports":null}],"initContainers":[{"name":"remora-proxy","restartPolicy":"Always","args":["x"],
            "env":[{"name":"A"},{"name":"REMORA_PROXY_LOG"},{"name":"REMORA_PROXY_POD"}]}]},
            "status":{"podIP":"10.0.0.1","conditions":[{"type":"Ready","status":"True"},{"type":"Initialized","status":"True"}]}}"#;
        let watched: Watched<Pod> = serde_json::from_str(json).unwrap();
        assert_eq!(watched.meta().resource_version.as_deref(), Some("7"));
        let pod = watched.read.unwrap();
        assert_eq!(pod.metadata.resource_version, None, "or each change of a status would be a change of the pod");
        assert_eq!(pod.metadata.annotations.len(), 1);
        let container = &pod.spec.containers[0];
        assert_eq!((pod.spec.containers.len(), container.ports.len(), container.env.len()), (1, 2, 0));
        let proxy = &pod.spec.init_containers[0];
        assert_eq!((proxy.name.as_str(), proxy.env.len(), proxy.args.len()), ("remora-proxy", 1, 0));
        assert_eq!(pod.status.conditions.len(), 1);
    }

    #[test]
    fn a_slice_without_endpoints_is_written_with_null() {
        let json =
            r#"{"metadata":{"name":"a","resourceVersion":"7"},"addressType":"IPv4","endpoints":null,"ports":null}"#;
        assert!(serde_json::from_str::<Watched<EndpointSlice>>(json).unwrap().read.unwrap().endpoints.is_empty());
    }

    #[test]
    fn a_policy_that_cannot_be_read_is_told_of_by_name_and_field() {
        let json = r#"{"metadata":{"name":"a","namespace":"b","resourceVersion":"7"},"spec":{"mode":"Strictest"}}"#;
        let mut watched: Watched<MeshTlsPolicy> = serde_json::from_str(json).unwrap();
        assert_eq!(watched.key(), ("b".to_owned(), "a".to_owned()));
        let problem = watched.read.unwrap_err().problem;
        assert!(problem.starts_with("spec.mode: unknown variant `Strictest`"), "{problem}");
    }

    #[test]
    fn of_a_route_that_cannot_be_read_its_status_and_the_parents_that_can_be_are_kept() {
        let json = r#"{"metadata":{"name":"a","namespace":"b","resourceVersion":"7"},"spec":{"rules":7,
            "parentRefs":[{"name":"api","kind":"Service","group":""},{"name":1}]},"status":{"parents":[{"x":"y"}]}}"#;
        let unreadable = serde_json::from_str::<Watched<HttpRoute>>(json).unwrap().read.unwrap_err();
        assert!(unreadable.problem.starts_with("spec.parentRefs[1].name: invalid type"), "{}", unreadable.problem);
        let closed = HttpRoute::stand_in(&unreadable).unwrap();
        let parents: Vec<&str> = closed.spec.parent_refs.iter().map(|parent| parent.name.as_str()).collect();
        assert_eq!(parents, ["api"]);
        assert_eq!(unreadable.status["parents"][0]["x"], "y");
    }

    #[test]
    fn what_is_null_in_a_policy_closes_its_rule_and_nothing_else() {
        let json = r#"{"metadata":{"name":"a","namespace":"b","labels":null},"status":null,"spec":{"rules":[
            {"from":null,"to":[{"methods":["GET"]}]},{"from":[],"to":[{"methods":["GET"]}]}]}}"#;
        let policy = serde_json::from_str::<Watched<AuthorizationPolicy>>(json).unwrap().read.unwrap();
        let problem = policy.spec.rules[0].unknown.none().unwrap_err();
        assert_eq!(problem, "from: is null; leave it out, or say what is meant");
        assert!(policy.spec.unknown.none().is_ok() && policy.spec.rules[1].unknown.none().is_ok());
        let json =
            r#"{"metadata":{"name":"a"},"spec":{"selector":{"matchLabels":{"app":"api","tier":null}},"rules":[]}}"#;
        let problem = serde_json::from_str::<Watched<AuthorizationPolicy>>(json).unwrap().read.unwrap_err().problem;
        assert!(problem.starts_with("spec.selector.matchLabels.tier is null: "), "{problem}");
    }

    #[test]
    fn a_route_keeps_its_version_and_what_others_say_of_it() {
        let json = r#"{"metadata":{"name":"a","resourceVersion":"7","generation":3},
            "spec":{"rules":[{"filters":null}]},"status":{"parents":[{"controllerName":"x"}]}}"#;
        let route = serde_json::from_str::<Watched<HttpRoute>>(json).unwrap().read.unwrap();
        assert_eq!((route.metadata.resource_version.as_deref(), route.metadata.generation), (Some("7"), Some(3)));
        assert_eq!(route.status.parents.len(), 1);
    }
}
