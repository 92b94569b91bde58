//! What belongs to Remora in a cluster: objects of the chart (label `remora.dev/part`) and those that its parts make
//! themselves (label `remora.dev/made-by`).
//!
//! In: a cluster. Out: [`Object`]s in the order in which they can be deleted without harm.

use super::{Cluster, list::resource};
use futures_util::future::try_join_all;
use kube::{
    Api,
    api::{DynamicObject, ListParams, PartialObjectMeta},
};
use remora_kube::{
    client::{self, CallError},
    names, yaml,
};
use serde_json::Value;

/// Every kind that the chart or a part makes: `apiVersion`, kind, plural. In the order of deletion: first what lets the
/// parts write, so that none of them makes anew what is deleted; then what stands between a person and his pods, the
/// rule that asks for a sidecar before the webhook that adds one; then the rest, the namespace last.
const KINDS: &[(&str, &str, &str)] = &[
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
    ("monitoring.coreos.com/v1", "PodMonitor", "podmonitors"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("apps/v1", "Deployment", "deployments"),
    ("v1", "Service", "services"),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "Secret", "secrets"),
    ("coordination.k8s.io/v1", "Lease", "leases"),
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("rbac.authorization.k8s.io/v1", "Role", "roles"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles"),
    ("apiextensions.k8s.io/v1", CRD, "customresourcedefinitions"),
    ("v1", NAMESPACE, "namespaces"),
];
/// What users' policies go with.
pub(crate) const CRD: &str = "CustomResourceDefinition";
/// What everything in it goes with.
pub(crate) const NAMESPACE: &str = "Namespace";

/// An object by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Object {
    /// Its kind's place in [`KINDS`].
    rank: usize,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    /// The Helm release that holds it.
    pub(crate) release: Option<String>,
    /// A part made it; it is in no manifest.
    pub(crate) made_by_part: bool,
}

impl Object {
    fn new(kind: &str, namespace: Option<String>, name: String) -> Option<Self> {
        let rank = KINDS.iter().position(|it| it.1 == kind)?;
        Some(Self { rank, namespace, name, release: None, made_by_part: false })
    }

    pub(crate) fn kind(&self) -> &'static str {
        KINDS.get(self.rank).map_or("", |it| it.1)
    }

    /// As `kubectl delete -f -` takes it.
    pub(crate) fn manifest(&self) -> String {
        let version = KINDS.get(self.rank).map_or("", |it| it.0);
        let namespace = self.namespace.as_ref().map_or_else(String::new, |it| format!("  namespace: {it:?}\n"));
        format!("---\napiVersion: {version}\nkind: {}\nmetadata:\n  name: {:?}\n{namespace}", self.kind(), self.name)
    }

    /// For people: `Deployment remora/remora-identity`.
    pub(crate) fn title(&self) -> String {
        let namespace = self.namespace.as_ref().map_or_else(String::new, |it| format!("{it}/"));
        format!("{} {namespace}{}", self.kind(), self.name)
    }

    /// Whether `other` is the same object.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.rank, &self.namespace, &self.name) == (other.rank, &other.namespace, &other.name)
    }
}

/// Everything that is Remora's, in the order of deletion.
pub(crate) async fn all(cluster: &Cluster) -> Result<Vec<Object>, CallError> {
    let lists = KINDS
        .iter()
        .enumerate()
        .flat_map(|(rank, kind)| [names::PART, names::MADE_BY].map(|label| list(cluster, rank, kind, label)));
    let mut all: Vec<Object> = try_join_all(lists).await?.into_iter().flatten().collect();
    all.sort();
    all.dedup();
    Ok(all)
}

async fn list(
    cluster: &Cluster,
    rank: usize,
    kind: &(&str, &str, &str),
    label: &str,
) -> Result<Vec<Object>, CallError> {
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &resource(*kind));
    // Names and labels only: what a Secret holds is none of our business.
    match client::call(api.list_metadata(&ListParams::default().labels(label))).await {
        Ok(list) => Ok(list
            .items
            .into_iter()
            .filter(|item| is_ours(kind.1, item))
            .filter_map(|item| object(rank, item))
            .collect()),
        // A kind that the cluster does not know (PodMonitor) has no objects.
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A namespace is Remora's if it made it, whatever else a label says of it: everything in it goes with it.
fn is_ours(kind: &str, item: &PartialObjectMeta<DynamicObject>) -> bool {
    let made_by = item.metadata.labels.as_ref().and_then(|labels| labels.get(names::MADE_BY));
    kind != NAMESPACE || made_by.is_some_and(|by| by == names::INSTALL)
}

fn object(rank: usize, item: PartialObjectMeta<DynamicObject>) -> Option<Object> {
    let made_by_part = item.metadata.labels.is_some_and(|it| it.contains_key(names::MADE_BY));
    let release = item.metadata.annotations.unwrap_or_default().remove("meta.helm.sh/release-name");
    Some(Object { rank, namespace: item.metadata.namespace, name: item.metadata.name?, release, made_by_part })
}

/// The objects of manifests.
pub(crate) fn of_manifests(text: &str) -> Result<Vec<Object>, yaml::Mistake> {
    let manifests: Vec<Value> =
        yaml::read(text).into_iter().map(|it| it.map(yaml::Node::into_json)).collect::<Result<_, _>>()?;
    let object = |it: &Value| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Object::new(it["kind"].as_str()?, text(&it["metadata"]["namespace"]), text(&it["metadata"]["name"])?)
    };
    Ok(manifests.iter().filter_map(object).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_deleted_first_lets_nothing_be_made_anew() {
        let rank = |kind: &str| KINDS.iter().position(|it| it.1 == kind).unwrap();
        assert!(rank("ClusterRoleBinding") < rank("ConfigMap"), "identity keeps the trust anchors");
        assert!(rank("ClusterRoleBinding") < rank("MutatingWebhookConfiguration"), "the injector keeps it");
        assert!(rank("ValidatingAdmissionPolicyBinding") < rank("MutatingWebhookConfiguration"));
        assert_eq!(rank(NAMESPACE), KINDS.len() - 1);
    }

    #[test]
    fn a_namespace_that_install_did_not_make_is_never_listed_whatever_its_labels() {
        let labelled = |labels: Value| -> PartialObjectMeta<DynamicObject> {
            serde_json::from_value(serde_json::json!({ "metadata": { "name": "monitoring", "labels": labels } }))
                .unwrap()
        };
        let made = |by: &str| labelled(serde_json::json!({ names::PART: "remora", names::MADE_BY: by }));
        assert!(is_ours(NAMESPACE, &made(names::INSTALL)));
        let part = labelled(serde_json::json!({ names::PART: "remora" }));
        assert!(!is_ours(NAMESPACE, &part) && !is_ours(NAMESPACE, &made("somebody")));
        assert!(!is_ours(NAMESPACE, &labelled(Value::Null)));
        assert!(is_ours("Secret", &part) && is_ours("Secret", &made(names::INJECTOR)));
    }

    #[test]
    fn an_object_is_named_as_kubectl_takes_it_whatever_its_name() {
        let object = Object::new("Secret", Some("1e3".into()), "null".into()).unwrap();
        let read = yaml::read(&object.manifest()).remove(0).unwrap().into_json();
        assert_eq!(read["metadata"], serde_json::json!({ "name": "null", "namespace": "1e3" }));
        assert_eq!(read["apiVersion"], "v1");
        assert_eq!(object.title(), "Secret 1e3/null");
    }
}
