//! Which pods a person means: `pod/NAME`, `deploy/NAME` and its like, or a whole namespace; or an address.
//!
//! In: words. Out: [`Found`] pods that have a sidecar, in the order of names. A workload's pods are found by its own
//! selector, so what `kubectl` counts as its pods is what is asked.

use super::{Cluster, forward::PodPort};
use crate::admin;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::Job,
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Api, ResourceExt as _, api::ListParams, core::Selector};
use remora_kube::{
    client::{self, CallError},
    names,
};
use std::net::SocketAddr;

/// What a person may name.
pub(crate) const EXAMPLES: &str = "pod/NAME, deploy/NAME, sts/NAME, ds/NAME, job/NAME or HOST:PORT";

/// What was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// An admin port that can be reached from here.
    Address(SocketAddr),
    /// A pod by name.
    Pod(String),
    /// The pods of a workload.
    Workload(Workload, String),
}

/// A kind that has pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
}

/// Why no pod was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("there is no {what} in namespace {namespace} (say -n NAMESPACE for another one)")]
    Absent { what: String, namespace: String },
    #[error(
        "pod {namespace}/{pod} has no sidecar: opt in by `kubectl annotate namespace {namespace} \
         remora.dev/inject=enabled`, then restart it"
    )]
    NotMeshed { namespace: String, pod: String },
    #[error("no pod of {what} in namespace {namespace} has a sidecar: `remora check --namespace {namespace}` says why")]
    NoneMeshed { what: String, namespace: String },
    #[error("{0} has a selector that cannot be read")]
    Selector(String),
}

/// Reads a target as typed.
pub(crate) fn parse(text: &str) -> Result<Target, String> {
    let named = text.split_once('/').filter(|(kind, name)| !kind.contains([':', '.']) && !name.contains('/'));
    let Some((kind, name)) = named else {
        if text.contains(':') {
            return admin::address(text).map(Target::Address);
        }
        return Err(format!("say which kind it is: {EXAMPLES}"));
    };
    if name.is_empty() {
        return Err(format!("say which {kind}: {EXAMPLES}"));
    }
    let workload = |kind| Ok(Target::Workload(kind, name.to_owned()));
    match kind {
        "pod" | "pods" | "po" => Ok(Target::Pod(name.to_owned())),
        "deploy" | "deployment" | "deployments" => workload(Workload::Deployment),
        "sts" | "statefulset" | "statefulsets" => workload(Workload::StatefulSet),
        "ds" | "daemonset" | "daemonsets" => workload(Workload::DaemonSet),
        "job" | "jobs" => workload(Workload::Job),
        _ => Err(format!("{kind:?} is no kind that has pods: {EXAMPLES}")),
    }
}

/// A pod with a sidecar.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// `namespace/name`.
    pub(crate) name: String,
    /// Its proxy's admin port.
    pub(crate) admin: PodPort,
}

/// Finds the pods of `target`, or of the whole namespace if there is none.
pub(crate) async fn find(cluster: &Cluster, namespace: &str, target: Option<&Target>) -> Result<Vec<Found>, Error> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let absent = |what: String| Error::Absent { what, namespace: namespace.to_owned() };
    let (list, what) = match target {
        Some(Target::Pod(name)) => {
            let pod = client::call(pods.get_opt(name)).await?.ok_or_else(|| absent(format!("pod {name}")))?;
            if !meshed(&pod) {
                return Err(Error::NotMeshed { namespace: namespace.to_owned(), pod: name.clone() });
            }
            return Ok(vec![found(cluster, &pod)]);
        }
        Some(Target::Workload(kind, name)) => {
            let what = format!("{kind:?} {name}");
            let selector = selector(cluster, namespace, *kind, name).await?.ok_or_else(|| absent(what.clone()))?;
            let selector: Selector = selector.try_into().map_err(|_| Error::Selector(what.clone()))?;
            (ListParams::default().labels_from(&selector), what)
        }
        Some(Target::Address(_)) | None => (ListParams::default().labels(&meshed_selector()), "any kind".to_owned()),
    };
    let mut all: Vec<Found> =
        client::call(pods.list(&list)).await?.iter().filter(|pod| meshed(pod)).map(|pod| found(cluster, pod)).collect();
    if all.is_empty() {
        return Err(Error::NoneMeshed { what, namespace: namespace.to_owned() });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// The label selector of pods that have a sidecar.
pub(crate) fn meshed_selector() -> String {
    format!("{}=true", names::INJECTED)
}

/// Whether it has a sidecar that may be running.
pub(crate) fn meshed(pod: &Pod) -> bool {
    pod.labels().get(names::INJECTED).is_some_and(|it| it == "true") && !ended(pod)
}

/// Whether its containers have ended for good.
pub(crate) fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn found(cluster: &Cluster, pod: &Pod) -> Found {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let name_shown = format!("{namespace}/{name}");
    let port = names::PROXY_ADMIN_PORT;
    Found { name: name_shown, admin: PodPort { client: cluster.client.clone(), namespace, pod: name, port } }
}

/// The selector of a workload's pods; `None` if there is no such workload.
async fn selector(
    cluster: &Cluster,
    namespace: &str,
    kind: Workload,
    name: &str,
) -> Result<Option<LabelSelector>, CallError> {
    let client = cluster.client.clone();
    Ok(match kind {
        Workload::Deployment => {
            let found = client::call(Api::<Deployment>::namespaced(client, namespace).get_opt(name)).await?;
            found.and_then(|it| it.spec).map(|spec| spec.selector)
        }
        Workload::StatefulSet => {
            let found = client::call(Api::<StatefulSet>::namespaced(client, namespace).get_opt(name)).await?;
            found.and_then(|it| it.spec).map(|spec| spec.selector)
        }
        Workload::DaemonSet => {
            let found = client::call(Api::<DaemonSet>::namespaced(client, namespace).get_opt(name)).await?;
            found.and_then(|it| it.spec).map(|spec| spec.selector)
        }
        Workload::Job => {
            let found = client::call(Api::<Job>::namespaced(client, namespace).get_opt(name)).await?;
            found.and_then(|it| it.spec).and_then(|spec| spec.selector)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_workloads_and_addresses_are_told_apart() {
        assert_eq!(parse("pod/web-1"), Ok(Target::Pod("web-1".into())));
        assert_eq!(parse("deploy/web"), Ok(Target::Workload(Workload::Deployment, "web".into())));
        assert_eq!(parse("statefulset/db"), Ok(Target::Workload(Workload::StatefulSet, "db".into())));
        let address = Target::Address(SocketAddr::from(([127, 0, 0, 1], 4191)));
        for text in ["127.0.0.1:4191", "http://127.0.0.1:4191", "http://127.0.0.1:4191/routes"] {
            assert_eq!(parse(text), Ok(address.clone()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_told_what_can() {
        for text in ["web", "deploy/", "svc/web", ""] {
            assert!(parse(text).unwrap_err().contains("deploy/NAME"), "{text}");
        }
    }

    #[test]
    fn a_pod_that_has_ended_has_no_sidecar_to_ask() {
        let pod = |phase: &str| -> Pod {
            let labels = serde_json::json!({ names::INJECTED: "true" });
            serde_json::from_value(
                serde_json::json!({ "metadata": { "labels": labels }, "status": { "phase": phase } }),
            )
            .unwrap()
        };
        assert!(meshed(&pod("Running")));
        assert!(!meshed(&pod("Succeeded")));
        assert!(!meshed(&Pod::default()));
    }
}
