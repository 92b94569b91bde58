//! What goes into a report, in the order of what helps most, so that a bound leaves out what helps least.

use super::{
    archive::{Archive, Error, Made},
    proxies, redact,
};
use crate::{
    check,
    cluster::{
        Cluster, list, policies,
        scope::{Scope, Session},
    },
    text, version,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{ApiResource, ListParams},
};
use remora_discovery::objects::registry::kinds;
use remora_kube::{client::CallError, names, yaml};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Objects of a kind that are written.
const OBJECTS_MAX: usize = 2000;
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

/// A report while it is made.
pub(super) struct Report {
    archive: Archive,
    until: Instant,
}

impl Report {
    pub(super) fn new(archive: Archive, within: Duration) -> Self {
        Self { archive, until: Instant::now() + within }
    }

    /// Everything. It fails only if the file cannot be written.
    pub(super) async fn all(&mut self, session: &Session<'_>, scope: &Scope) -> Result<(), Error> {
        let own = scope.control_plane_namespace.as_str();
        if session.cluster.is_none() {
            self.write("versions.json", &format!("{:#}\n", serde_json::json!({ "client": version::OWN })))?;
        }
        if let Some(cluster) = &session.cluster {
            // Each on the heap: together they are more than a thread's stack wants to hold.
            Box::pin(self.versions(cluster, own)).await?;
            Box::pin(self.checks(cluster, session)).await?;
            Box::pin(self.nodes(cluster)).await?;
            Box::pin(self.control(cluster, own)).await?;
            Box::pin(self.admission(cluster)).await?;
            Box::pin(proxies::components(self, cluster, own)).await?;
            Box::pin(self.objects(cluster, scope, session.namespace())).await?;
        }
        Box::pin(proxies::sidecars(self, session, scope)).await
    }

    /// Closes the file.
    pub(super) fn finish(self) -> Result<Made, Error> {
        self.archive.finish()
    }

    /// Says what is done, and whether there is time for it.
    pub(super) fn begin(&mut self, what: &str) -> bool {
        if Instant::now() >= self.until {
            self.archive.leave_out(what, "the time is over (--within)");
            return false;
        }
        eprintln!("remora: {what}");
        true
    }

    /// When it must be done.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Writes text, without credentials.
    pub(super) fn write(&mut self, name: &str, text: &str) -> Result<(), Error> {
        self.archive.add(name, &redact::text(text))
    }

    /// Writes what could be read, or notes why it could not.
    pub(super) fn write_or_fail(&mut self, name: &str, text: Result<String, String>) -> Result<(), Error> {
        match text {
            Ok(text) => self.write(name, &text),
            Err(why) => {
                self.fail(name, &why);
                Ok(())
            }
        }
    }

    pub(super) fn fail(&mut self, what: &str, why: &str) {
        self.archive.fail(what, &redact::text(why));
    }

    pub(super) fn leave_out(&mut self, what: &str, why: &str) {
        self.archive.leave_out(what, why);
    }

    async fn versions(&mut self, cluster: &Cluster, own: &str) -> Result<(), Error> {
        if !self.begin("versions") {
            return Ok(());
        }
        let versions = version::of_cluster(cluster, own).await;
        self.write_or_fail("versions.json", serde_json::to_string_pretty(&versions).map_err(|error| error.to_string()))
    }

    async fn checks(&mut self, cluster: &Cluster, session: &Session<'_>) -> Result<(), Error> {
        if !self.begin("remora check") {
            return Ok(());
        }
        let scope = session.scope;
        let named = scope.namespace.is_some() || !scope.targets.is_empty();
        let namespace = named.then(|| session.namespace());
        let report = check::report(cluster, &scope.control_plane_namespace, namespace).await;
        self.write("check.txt", &text::render(&report.lines(), false))?;
        self.write_or_fail("check.json", serde_json::to_string_pretty(&report).map_err(|error| error.to_string()))
    }

    /// What the nodes run, how many of each, without their names.
    async fn nodes(&mut self, cluster: &Cluster) -> Result<(), Error> {
        if !self.begin("versions of the nodes") {
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
        self.write_or_fail("nodes.txt", text)
    }

    /// What is in the control plane's namespace, but for Secrets; of ConfigMaps the trust anchors, which are public.
    async fn control(&mut self, cluster: &Cluster, own: &str) -> Result<(), Error> {
        if !self.begin("the control plane's objects") {
            return Ok(());
        }
        for kind in CONTROL_KINDS {
            self.kind(cluster, "control-plane", kind, Some(own), |_| true).await?;
        }
        let anchors = |it: &Value| it["metadata"]["name"] == names::TRUST_ANCHORS;
        self.kind(cluster, "control-plane", ("v1", "ConfigMap", "configmaps"), Some(own), anchors).await?;
        self.kind(cluster, "control-plane", ("v1", "Event", "events"), Some(own), |_| true).await
    }

    async fn admission(&mut self, cluster: &Cluster) -> Result<(), Error> {
        if !self.begin("webhooks and admission policies") {
            return Ok(());
        }
        let ours = |it: &Value| it["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("remora"));
        for kind in ADMISSION_KINDS {
            self.kind(cluster, "admission", kind, None, ours).await?;
        }
        Ok(())
    }

    /// Routes and policies: of the whole cluster, or where that is forbidden of the one namespace.
    async fn objects(&mut self, cluster: &Cluster, scope: &Scope, namespace: &str) -> Result<(), Error> {
        if !self.begin("routes and policies") {
            return Ok(());
        }
        for kind in kinds() {
            if !kind.group.starts_with(GATEWAY) && kind.group != remora_discovery::objects::kind::OUR_GROUP {
                continue;
            }
            let resource = policies::resource(kind);
            let mut found = policies::objects(cluster, &resource, None).await;
            if found.as_ref().is_err_and(CallError::is_forbidden) && !scope.all_namespaces {
                self.leave_out(
                    &format!("{} of all namespaces", kind.kind),
                    &format!("they may not be read; those of {namespace} were"),
                );
                found = policies::objects(cluster, &resource, Some(namespace)).await;
            }
            self.found(&format!("objects/{}.{}.yaml", kind.plural, kind.group), found, |_| true)?;
        }
        let namespaces = ("v1", "Namespace", "namespaces");
        let opted = |it: &Value| it["metadata"].to_string().contains("remora.dev/");
        self.kind(cluster, "objects", namespaces, None, opted).await
    }

    /// The objects of a kind, in one file.
    async fn kind(
        &mut self,
        cluster: &Cluster,
        folder: &str,
        (api_version, kind, plural): (&str, &str, &str),
        namespace: Option<&str>,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<(), Error> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        let found = policies::objects(cluster, &resource, namespace).await;
        self.found(&format!("{folder}/{plural}.yaml"), found, wanted)
    }

    fn found(
        &mut self,
        name: &str,
        found: Result<Vec<kube::api::DynamicObject>, CallError>,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<(), Error> {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.fail(name, &crate::chain(&error));
                return Ok(());
            }
        };
        let values = found.into_iter().filter_map(|it| serde_json::to_value(it).ok()).filter(wanted);
        let values: Vec<Value> = values.take(OBJECTS_MAX + 1).collect();
        if values.len() > OBJECTS_MAX {
            self.leave_out(name, &format!("only the first {OBJECTS_MAX} objects are in the report"));
        }
        let text: String = values
            .into_iter()
            .take(OBJECTS_MAX)
            .map(|it| format!("---\n{}", yaml::write(&redact::object(it))))
            .collect();
        if text.is_empty() {
            return Ok(());
        }
        self.archive.add(name, &text)
    }
}

/// The pods of a namespace that have these labels.
pub(super) async fn pods(cluster: &Cluster, namespace: &str, labels: &str) -> Result<Vec<Pod>, String> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    list::all(&api, ListParams::default().labels(labels)).await.map_err(|error| crate::chain(&error))
}
