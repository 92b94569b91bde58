//! Objects: applied from YAML, read, changed, waited for.

use super::Cluster;
use crate::patience::until_within;
use anyhow::{Context as _, bail, ensure};
use kube::{
    api::{Api, DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;
use std::time::Duration;

/// The field manager of what the tests apply.
const MANAGER: &str = "remora-tests";

impl Cluster {
    /// Applies documents of YAML, in a namespace where they name none. `$NAME` in them stands for `values`.
    pub fn apply(&self, namespace: &str, yaml: &str, values: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut text = yaml.to_owned();
        for (name, value) in values {
            text = text.replace(&format!("${name}"), value);
        }
        for document in remora_kube::yaml::read(&text) {
            let value = document.with_context(|| format!("YAML: {text}"))?.into_json();
            let title = value.to_string();
            let object: DynamicObject = serde_json::from_value(value).with_context(|| format!("object: {title}"))?;
            self.apply_object(namespace, &object).with_context(|| format!("applying {title}"))?;
        }
        Ok(())
    }

    fn apply_object(&self, namespace: &str, object: &DynamicObject) -> anyhow::Result<()> {
        let types = object.types.as_ref().context("no apiVersion and kind")?;
        let kind = GroupVersionKind::try_from(types)?;
        let name = object.metadata.name.as_deref().context("no name")?;
        let (resource, capabilities) = self.ask(kube::discovery::pinned_kind(&self.client, &kind))?;
        let api: Api<DynamicObject> = if capabilities.scope == kube::discovery::Scope::Cluster {
            Api::all_with(self.client(), &resource)
        } else {
            let namespace = object.metadata.namespace.as_deref().unwrap_or(namespace);
            Api::namespaced_with(self.client(), namespace, &resource)
        };
        self.ask(api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object))).map(drop)
    }

    /// An object as JSON. `resource` is `GROUP/VERSION/PLURAL` (`v1/pods`, `apps/v1/deployments`).
    pub fn object(&self, namespace: &str, resource: &str, name: &str) -> anyhow::Result<Value> {
        let object =
            self.ask(self.api(namespace, resource)?.get(name)).with_context(|| format!("{resource} {name}"))?;
        Ok(serde_json::to_value(object)?)
    }

    /// All objects of a kind that a label selector takes.
    pub fn objects(&self, namespace: &str, resource: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
        let parameters = kube::api::ListParams::default().labels(selector);
        let list = self.ask(self.api(namespace, resource)?.list(&parameters)).with_context(|| resource.to_owned())?;
        list.items.into_iter().map(|object| Ok(serde_json::to_value(object)?)).collect()
    }

    /// Changes an object by a JSON merge patch.
    pub fn merge(&self, namespace: &str, resource: &str, name: &str, patch: &Value) -> anyhow::Result<()> {
        let patch = Patch::Merge(patch);
        self.ask(self.api(namespace, resource)?.patch(name, &PatchParams::default(), &patch)).map(drop)
    }

    /// Asks for an object to go.
    pub fn delete(&self, namespace: &str, resource: &str, name: &str) -> anyhow::Result<()> {
        self.ask(self.api(namespace, resource)?.delete(name, &kube::api::DeleteParams::default())).map(drop)
    }

    fn api(&self, namespace: &str, resource: &str) -> anyhow::Result<Api<DynamicObject>> {
        let words: Vec<&str> = resource.split('/').collect();
        let (group, version, plural) = match words[..] {
            [version, plural] => ("", version, plural),
            [group, version, plural] => (group, version, plural),
            _ => bail!("{resource} is no GROUP/VERSION/PLURAL"),
        };
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let resource = ApiResource {
            group: group.into(),
            version: version.into(),
            api_version,
            kind: String::new(),
            plural: plural.into(),
        };
        Ok(if namespace.is_empty() {
            Api::all_with(self.client(), &resource)
        } else {
            Api::namespaced_with(self.client(), namespace, &resource)
        })
    }

    /// Waits for something that the API server knows.
    pub fn until<T>(
        &self,
        patience: Duration,
        what: &str,
        mut look: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        // The API server is asked five times a second rather than two hundred.
        let mut first = true;
        until_within(patience, what, move || {
            if !std::mem::take(&mut first) {
                std::thread::park_timeout(Duration::from_millis(200));
            }
            look()
        })
    }

    /// Waits until a Deployment or StatefulSet (`apps/v1/deployments`) is rolled out: every replica new and available.
    pub fn rolled_out(&self, namespace: &str, resource: &str, name: &str, patience: Duration) -> anyhow::Result<()> {
        let rolled = self.until(patience, &format!("{resource} {name} is rolled out"), || {
            let object = self.object(namespace, resource, name)?;
            let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
            let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
            let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
            let all = counts.iter().all(|count| number(&format!("/status/{count}")) == wanted);
            let seen = number("/status/observedGeneration") >= number("/metadata/generation");
            ensure!(seen && all, "status {}", object["status"]);
            Ok(Some(()))
        });
        rolled.with_context(|| self.pods_said(namespace))
    }

    /// Restarts a Deployment as `kubectl rollout restart` does.
    pub fn restart(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let now = format!("{:?}", std::time::SystemTime::now());
        let patch =
            serde_json::json!({"spec": {"template": {"metadata": {"annotations": {"remora-tests/restarted": now}}}}});
        self.merge(namespace, "apps/v1/deployments", name, &patch)
    }

    /// Sets the replicas of a Deployment.
    pub fn scale(&self, namespace: &str, name: &str, replicas: u32) -> anyhow::Result<()> {
        self.merge(namespace, "apps/v1/deployments", name, &serde_json::json!({"spec": {"replicas": replicas}}))
    }

    /// In a line per pod what there is to know when a test fails.
    pub fn pods_said(&self, namespace: &str) -> String {
        let mut said = String::from("pods:");
        for pod in self.objects(namespace, "v1/pods", "").unwrap_or_default() {
            let status = &pod["status"];
            let containers =
                ["initContainerStatuses", "containerStatuses"].iter().filter_map(|kind| status[*kind].as_array());
            let states: Vec<String> = containers
                .flatten()
                .map(|container| format!("{}: ready={} {}", container["name"], container["ready"], container["state"]))
                .collect();
            said += &format!("\n  {} {} {}", pod["metadata"]["name"], status["phase"], states.join("; "));
        }
        for event in self.objects(namespace, "v1/events", "").unwrap_or_default() {
            if event["type"] != "Normal" {
                said += &format!("\n  event {}: {}", event["involvedObject"]["name"], event["message"]);
            }
        }
        said
    }
}

/// A text of an object, or an error that says which is missing.
pub(super) fn text(object: &Value, pointer: &str) -> anyhow::Result<String> {
    let found = object.pointer(pointer).and_then(Value::as_str);
    Ok(found.with_context(|| format!("no {pointer} in {}", object["metadata"]["name"]))?.to_owned())
}
