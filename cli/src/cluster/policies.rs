//! Remora's own policies and objects of any kind by their names, and whether policies hold as they were meant: what discovery says in their statuses.

use super::{Cluster, list};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use remora_discovery::objects::{
    kind::{OUR_GROUP, Registered},
    registry::kinds,
};
use remora_kube::client::CallError;
use serde_json::Value;

/// What a policy's status says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// All of it, or what other policies leave of it.
    Yes,
    /// What is wrong.
    No(String),
    /// Discovery has not said anything yet.
    Unsaid,
}

/// A policy.
#[derive(Debug)]
pub(crate) struct Policy {
    /// `MeshTLSPolicy shop/strict`.
    pub(crate) title: String,
    pub(crate) holds: Holds,
    /// As the API server has it.
    pub(crate) value: Value,
}

/// All policies, or those of one namespace.
pub(crate) async fn all(cluster: &Cluster, namespace: Option<&str>) -> Result<Vec<Policy>, CallError> {
    let mut all = Vec::new();
    for kind in ours() {
        for object in objects(cluster, &resource(kind), namespace).await? {
            let title = format!("{} {}/{}", kind.kind, object.namespace().unwrap_or_default(), object.name_any());
            let holds = holds(&object.data["status"]);
            // What was read as JSON is JSON.
            all.push(Policy { title, holds, value: serde_json::to_value(&object).unwrap_or_default() });
        }
    }
    Ok(all)
}

/// The kinds of Remora's own group.
pub(crate) fn ours() -> impl Iterator<Item = Registered> {
    kinds().filter(|kind| kind.group == OUR_GROUP)
}

/// A kind that discovery reads, as the API is asked for it.
pub(crate) fn resource(kind: Registered) -> ApiResource {
    let is = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
    ApiResource::from_gvk_with_plural(&is, kind.plural)
}

/// The objects of a kind; none of a kind that the cluster does not know, whose CRD is another's affair.
pub(crate) async fn objects(
    cluster: &Cluster,
    resource: &ApiResource,
    namespace: Option<&str>,
) -> Result<Vec<DynamicObject>, CallError> {
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, resource),
        None => Api::all_with(cluster.client.clone(), resource),
    };
    match list::all(&api, ListParams::default()).await {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        found => found,
    }
}

/// What a status says.
pub(crate) fn holds(status: &Value) -> Holds {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is = |kind: &str, status: &str| conditions.iter().find(|one| one["type"] == kind && one["status"] == status);
    let wrong =
        is("Accepted", "False").or_else(|| is("PartiallyInvalid", "True")).or_else(|| is("Ineffective", "True"));
    match wrong {
        Some(wrong) => {
            let text = |field: &str| wrong[field].as_str().unwrap_or_default();
            Holds::No(format!("{}: {}", text("reason"), text("message")))
        }
        None if conditions.is_empty() => Holds::Unsaid,
        None => Holds::Yes,
    }
}
