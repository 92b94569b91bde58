//! Creations of pods as dry runs: what would be stored, or why it is refused.

use anyhow::{bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use remora_kube::names;
use remora_tests::cluster::Scope;
use serde_json::{Value, json};

/// A dry run of a pod's creation: what would be stored.
pub(super) fn created(scope: &Scope<'_>, more: &Value) -> anyhow::Result<Value> {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "dry-"},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    merge(&mut pod, more);
    let api: Api<Pod> = Api::namespaced(scope.cluster.client(), &scope.namespace);
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    let made = scope.cluster.ask(api.create(&parameters, &serde_json::from_value(pod)?))?;
    Ok(serde_json::to_value(made)?)
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => into.clone_from(more),
    }
}

pub(super) fn names_of(pod: &Value, field: &str) -> Vec<String> {
    let containers = pod["spec"][field].as_array().into_iter().flatten();
    containers.filter_map(|container| Some(container["name"].as_str()?.to_owned())).collect()
}

pub(super) fn has_sidecar(pod: &Value) -> bool {
    names_of(pod, "initContainers").contains(&names::PROXY_CONTAINER.to_owned())
}

pub(super) fn expect_sidecar(scope: &Scope<'_>, more: &Value, wanted: bool) -> anyhow::Result<Value> {
    let pod = created(scope, more)?;
    ensure!(has_sidecar(&pod) == wanted, "{more}: sidecar {}", !wanted);
    Ok(pod)
}

pub(super) fn word(value: &str) -> Value {
    json!({"metadata": {"annotations": {names::INJECT: value}}})
}

/// The refusal of a pod, whole.
pub(super) fn refusal(scope: &Scope<'_>, more: &Value) -> anyhow::Result<String> {
    match created(scope, more) {
        Ok(_) => bail!("{more} is let in"),
        Err(error) => Ok(format!("{error:#}")),
    }
}
