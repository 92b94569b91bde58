//! What goes when Remora goes.
//!
//! In: the cluster's objects by label. Out: their names as manifests for `kubectl delete`, and what a person must know
//! before. It refuses while pods have a sidecar: without a control plane they run on, but their certificates end.

use super::UninstallArgs;
use crate::cluster::{
    Cluster, NoCluster,
    objects::{self, Object},
    policies, target,
};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, ListParams},
};
use remora_kube::{
    client::{self, CallError},
    names,
};
use std::collections::BTreeMap;

/// Why nothing is listed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Cluster(#[from] NoCluster),
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("nothing of Remora is in this cluster")]
    Nothing,
    #[error("pods still have a sidecar:\n{0}\nafter that, `remora uninstall` again; --force lists everything now")]
    Meshed(String),
}

/// The manifests and the notes.
pub(super) async fn run(args: &UninstallArgs) -> Result<(String, Vec<String>), Error> {
    let cluster = Cluster::connect(&args.cluster).await?;
    let (all, meshed, policies, opted_in) =
        tokio::try_join!(objects::all(&cluster), meshed_pods(&cluster), policies(&cluster), opted_in(&cluster))?;
    let gone: Vec<&Object> = all.iter().filter(|it| !(args.keep_crds && it.kind() == objects::CRD)).collect();
    if gone.is_empty() {
        return Err(Error::Nothing);
    }
    if !meshed.is_empty() && !args.force {
        return Err(Error::Meshed(way_out(&meshed)));
    }
    let manifests = gone.iter().map(|it| it.manifest()).collect();
    Ok((manifests, notes(&gone, &policies, &opted_in)))
}

/// What must be known before.
fn notes(gone: &[&Object], policies: &[String], opted_in: &[String]) -> Vec<String> {
    let mut notes = Vec::new();
    // CRDs that Helm left behind still name their release.
    if let Some(release) = gone.iter().filter(|it| it.kind() != objects::CRD).find_map(|it| it.release.as_ref()) {
        notes.push(format!(
            "it was installed by Helm: run `helm uninstall {release}` first; this lists what that leaves behind, too"
        ));
    }
    let crds = gone.iter().any(|it| it.kind() == objects::CRD);
    if crds && !policies.is_empty() {
        let (count, list) = (policies.len(), policies.join(", "));
        notes.push(format!("with the CRDs go {count} policies that users wrote (--keep-crds keeps them): {list}"));
    }
    if let Some(namespace) = gone.iter().find(|it| it.kind() == objects::NAMESPACE) {
        notes.push(format!("with namespace {} goes everything in it", namespace.name));
    }
    if !opted_in.is_empty() {
        let list = opted_in.join(", ");
        notes.push(format!("still opted in by {}, which has no effect from then on: {list}", names::INJECT));
    }
    notes.push(format!("{} objects; carry it out by: remora uninstall | kubectl delete -f -", gone.len()));
    notes
}

/// Per namespace with meshed pods, how to take them out.
fn way_out(meshed: &BTreeMap<String, usize>) -> String {
    let line = |(namespace, count): (&String, &usize)| {
        format!(
            "  namespace {namespace}: {count}; take them out by\n    \
             kubectl annotate namespace {namespace} {inject}- && kubectl label namespace {namespace} {inject}-\n    \
             kubectl rollout restart deployment,statefulset,daemonset --namespace {namespace}",
            inject = names::INJECT
        )
    };
    meshed.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How many pods have a sidecar, by namespace.
async fn meshed_pods(cluster: &Cluster) -> Result<BTreeMap<String, usize>, CallError> {
    let pods: Api<Pod> = Api::all(cluster.client.clone());
    let list = client::call(pods.list(&ListParams::default().labels(&target::meshed_selector()))).await?;
    let mut count = BTreeMap::new();
    for pod in list.iter().filter(|pod| target::meshed(pod)) {
        *count.entry(pod.namespace().unwrap_or_default()).or_default() += 1;
    }
    Ok(count)
}

/// Every policy that a user wrote: `AuthorizationPolicy shop/web`.
async fn policies(cluster: &Cluster) -> Result<Vec<String>, CallError> {
    let lists = policies::ours().map(|registered| async move {
        let kind = registered.kind;
        let resource = policies::resource(registered);
        let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &resource);
        match client::call(api.list_metadata(&ListParams::default())).await {
            Ok(list) => {
                let name = |it: &kube::core::PartialObjectMeta<DynamicObject>| {
                    let (namespace, name) = (it.metadata.namespace.as_deref(), it.metadata.name.as_deref());
                    format!("{kind} {}/{}", namespace.unwrap_or_default(), name.unwrap_or_default())
                };
                Ok(list.items.iter().map(name).collect())
            }
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    });
    let lists: Vec<Vec<String>> = futures_util::future::try_join_all(lists).await?;
    Ok(lists.concat())
}

/// Namespaces whose annotation or label opts them in.
async fn opted_in(cluster: &Cluster) -> Result<Vec<String>, CallError> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let list = client::call(namespaces.list_metadata(&ListParams::default())).await?;
    let enabled = |it: &&kube::core::PartialObjectMeta<Namespace>| {
        let word = |from: &BTreeMap<String, String>| from.get(names::INJECT).cloned();
        word(it.annotations()).or_else(|| word(it.labels())).as_deref() == Some(names::ENABLED)
    };
    Ok(list.items.iter().filter(enabled).map(kube::ResourceExt::name_any).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_with_meshed_pods_is_told_its_way_out() {
        let text = way_out(&[("shop".to_owned(), 3), ("web".to_owned(), 1)].into());
        assert!(
            text.contains("namespace shop: 3") && text.contains("kubectl annotate namespace web remora.dev/inject-")
        );
    }

    #[test]
    fn users_policies_are_named_before_they_go() {
        let text = super::super::manifests::tests::settings().render();
        let all = objects::of_manifests(&text).unwrap();
        let gone: Vec<&Object> = all.iter().collect();
        let policies = ["AuthorizationPolicy shop/web".to_owned()];
        let said = notes(&gone, &policies, &["shop".to_owned()]).join("\n");
        for word in ["AuthorizationPolicy shop/web", "--keep-crds", "everything in it", "opted in"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        let kept: Vec<&Object> = all.iter().filter(|it| it.kind() != objects::CRD).collect();
        assert!(!notes(&kept, &policies, &[]).join("\n").contains("shop/web"));
    }
}
