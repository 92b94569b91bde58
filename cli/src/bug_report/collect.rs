//! What goes into a report, in the order of what helps most, so that a bound leaves out what helps least.

use super::{archive::Error, proxies, report::Report};
use crate::{
    check,
    cluster::{Cluster, list, policies, scope::Session},
    text, version,
};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};
use remora_discovery::objects::registry::kinds;
use remora_kube::{client::CallError, names};
use serde_json::Value;
use std::collections::BTreeMap;

/// What is the control plane's and no Secret: `apiVersion`, kind, plural.
const CONTROL_KINDS: [(&str, &str, &str); 8] = [
    ("apps/v1", "Deployment", "deployments"),
    ("v1", "Pod", "pods"),
    ("v1", "Service", "services"),
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("coordination.k8s.io/v1", "Lease", "leases"),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
];
/// What stands between a pod and the API server: those of it that are Remora's.
const ADMISSION_KINDS: [(&str, &str, &str); 4] = [
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
];
/// Whose routes are read beside Remora's own policies.
const GATEWAY: &str = "gateway.networking";

/// Everything. It fails only if the file cannot be written.
pub(super) async fn all(report: &mut Report, session: &Session<'_>, own: &str) -> Result<(), Error> {
    match &session.cluster {
        // Each on the heap: together they are more than a thread's stack wants to hold.
        Some(cluster) => {
            Box::pin(versions(report, cluster, own)).await?;
            Box::pin(checks(report, cluster, session, own)).await?;
            Box::pin(nodes(report, cluster)).await?;
            Box::pin(control(report, cluster, own)).await?;
            Box::pin(admission(report, cluster)).await?;
            Box::pin(proxies::components(report, cluster, own)).await?;
            Box::pin(objects(report, cluster, session)).await?;
        }
        None => report.write("versions.json", &format!("{:#}\n", serde_json::json!({ "client": version::OWN })))?,
    }
    Box::pin(proxies::sidecars(report, session)).await
}

async fn versions(report: &mut Report, cluster: &Cluster, own: &str) -> Result<(), Error> {
    if !report.begin("versions") {
        return Ok(());
    }
    let versions = version::of_cluster(cluster, own).await;
    report.write_or_fail("versions.json", serde_json::to_string_pretty(&versions).map_err(|error| error.to_string()))
}

async fn checks(report: &mut Report, cluster: &Cluster, session: &Session<'_>, own: &str) -> Result<(), Error> {
    if !report.begin("remora check") {
        return Ok(());
    }
    let scope = session.scope;
    let named = scope.namespace.is_some() || !scope.targets.is_empty();
    let namespace = named.then(|| session.namespace());
    let found = check::report(cluster, own, namespace).await;
    report.write("check.txt", &text::render(&found.lines(), false))?;
    report.write_or_fail("check.json", serde_json::to_string_pretty(&found).map_err(|error| error.to_string()))
}

/// What the nodes run, how many of each, without their names.
async fn nodes(report: &mut Report, cluster: &Cluster) -> Result<(), Error> {
    if !report.begin("versions of the nodes") {
        return Ok(());
    }
    let api: Api<Node> = Api::all(cluster.client.clone());
    let found = list::all(&api, ListParams::default()).await.map_err(|error| crate::chain(&error));
    let text = found.map(|nodes| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for info in nodes.into_iter().filter_map(|node| node.status?.node_info) {
            let said = [
                info.kubelet_version,
                info.container_runtime_version,
                info.os_image,
                info.kernel_version,
                info.architecture,
            ];
            *counts.entry(said.join(", ")).or_insert(0) += 1;
        }
        counts.iter().map(|(said, count)| format!("{count}: {said}\n")).collect()
    });
    report.write_or_fail("nodes.txt", text)
}

/// What is in the control plane's namespace, but for Secrets; of ConfigMaps the trust anchors, which are public.
async fn control(report: &mut Report, cluster: &Cluster, own: &str) -> Result<(), Error> {
    if !report.begin("the control plane's objects") {
        return Ok(());
    }
    for kind in CONTROL_KINDS {
        of_kind(report, cluster, "control-plane", kind, Some(own), |_| true).await?;
    }
    let anchors = |it: &Value| it["metadata"]["name"] == names::TRUST_ANCHORS;
    of_kind(report, cluster, "control-plane", ("v1", "ConfigMap", "configmaps"), Some(own), anchors).await?;
    of_kind(report, cluster, "control-plane", ("v1", "Event", "events"), Some(own), |_| true).await
}

async fn admission(report: &mut Report, cluster: &Cluster) -> Result<(), Error> {
    if !report.begin("webhooks and admission policies") {
        return Ok(());
    }
    let ours = |it: &Value| it["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("remora"));
    for kind in ADMISSION_KINDS {
        of_kind(report, cluster, "admission", kind, None, ours).await?;
    }
    Ok(())
}

/// Routes and policies: of the whole cluster, or where that is forbidden of the one namespace.
async fn objects(report: &mut Report, cluster: &Cluster, session: &Session<'_>) -> Result<(), Error> {
    let (scope, namespace) = (session.scope, session.namespace());
    if !report.begin("routes and policies") {
        return Ok(());
    }
    for kind in kinds() {
        if !kind.group.starts_with(GATEWAY) && kind.group != remora_discovery::objects::kind::OUR_GROUP {
            continue;
        }
        let resource = policies::resource(kind);
        let mut found = policies::objects(cluster, &resource, None).await;
        if found.as_ref().is_err_and(CallError::is_forbidden) && !scope.all_namespaces {
            report.leave_out(
                &format!("{} of all namespaces", kind.kind),
                &format!("they may not be read; those of {namespace} were"),
            );
            found = policies::objects(cluster, &resource, Some(namespace)).await;
        }
        report.objects(&format!("objects/{}.{}.yaml", kind.plural, kind.group), found, |_| true)?;
    }
    let namespaces = ("v1", "Namespace", "namespaces");
    let opted = |it: &Value| it["metadata"].to_string().contains("remora.dev/");
    of_kind(report, cluster, "objects", namespaces, None, opted).await
}

/// The objects of a kind, in one file.
async fn of_kind(
    report: &mut Report,
    cluster: &Cluster,
    folder: &str,
    kind: (&str, &str, &str),
    namespace: Option<&str>,
    wanted: impl Fn(&Value) -> bool,
) -> Result<(), Error> {
    let found = policies::objects(cluster, &list::resource(kind), namespace).await;
    report.objects(&format!("{folder}/{}.yaml", kind.2), found, wanted)
}
