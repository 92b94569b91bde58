//! What the injector's account may write, what others may change of the mesh's marks, and what is put right.

use super::dry::{created, has_sidecar};
use anyhow::{Context as _, bail, ensure};
use remora_kube::names;
use remora_tests::cluster::{Cluster, POD_PATIENCE};
use serde_json::{Value, json};
use std::{
    io::Write as _,
    process::{Command, Stdio},
};

const CONFIGURATION: &str = "admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

pub(super) fn put_right(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("drift")?;
    let is_right = || -> anyhow::Result<Option<()>> {
        let object = cluster.object("", CONFIGURATION, names::INJECTOR)?;
        let entries = object["webhooks"].as_array().context("no entries")?.clone();
        let right = entries.len() >= 2 && entries.iter().all(|entry| entry["failurePolicy"] == "Ignore");
        Ok(right.then_some(()))
    };
    let mut object = cluster.object("", CONFIGURATION, names::INJECTOR)?;
    for entry in object["webhooks"].as_array_mut().context("no entries")? {
        entry["failurePolicy"] = json!("Fail");
    }
    cluster.merge("", CONFIGURATION, names::INJECTOR, &json!({"webhooks": object["webhooks"]}))?;
    cluster.until(POD_PATIENCE, "the changed policy is put right", is_right)?;
    cluster.delete("", CONFIGURATION, names::INJECTOR)?;
    cluster.until(POD_PATIENCE, "the deleted configuration is made again", is_right)?;
    cluster.until(POD_PATIENCE, "pods get their sidecar again", || {
        Ok(has_sidecar(&created(&scope, &json!({}))?).then_some(()))
    })
}

/// Whether the API server would take `object` from the injector's account; else what it says.
fn from_the_injector(cluster: &Cluster, object: &Value) -> anyhow::Result<Result<(), String>> {
    let account = format!("system:serviceaccount:{}:{}", cluster.control(), names::INJECTOR);
    let mut child = Command::new("kubectl")
        .args([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--field-manager=test",
            "--as",
            &account,
        ])
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("kubectl is missing")?;
    child.stdin.take().context("no stdin")?.write_all(object.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(if output.status.success() { Ok(()) } else { Err(said) })
}

/// The same of a change to the webhook configuration. Applied, what others own of it would stay beside what is new.
fn patched_by_the_injector(cluster: &Cluster, change: &Value) -> anyhow::Result<Result<(), String>> {
    let account = format!("system:serviceaccount:{}:{}", cluster.control(), names::INJECTOR);
    let patch = json!([change]).to_string();
    let output = Command::new("kubectl")
        .args(["patch", "mutatingwebhookconfigurations", names::INJECTOR, "--type=json", "--dry-run=server"])
        .args(["--as", &account, "--patch", &patch])
        .output()
        .context("kubectl is missing")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(if output.status.success() { Ok(()) } else { Err(said) })
}

pub(super) fn account(cluster: &Cluster) -> anyhow::Result<()> {
    let mut right = cluster.object("", CONFIGURATION, names::INJECTOR)?;
    right["metadata"] = json!({"name": names::INJECTOR});
    from_the_injector(cluster, &right)?.map_err(|said| anyhow::anyhow!("what is there is refused: {said}"))?;
    let service = "/webhooks/0/clientConfig/service";
    let changes = [
        (json!({"op": "add", "path": "/webhooks/0/rules/0/resources/-", "value": "secrets"}), "for new pods"),
        (json!({"op": "replace", "path": "/webhooks/0/rules/0/resources", "value": ["*"]}), "for new pods"),
        (json!({"op": "add", "path": "/webhooks/0/rules/0/operations/-", "value": "UPDATE"}), "for new pods"),
        (json!({"op": "replace", "path": "/webhooks/0/rules/0/apiGroups", "value": ["*"]}), "for new pods"),
        (json!({"op": "replace", "path": format!("{service}/name"), "value": "other"}), "its own Service"),
        (json!({"op": "replace", "path": format!("{service}/namespace"), "value": "default"}), "its own Service"),
        (
            json!({"op": "replace", "path": "/webhooks/0/clientConfig", "value": {"url": "https://attacker.example"}}),
            "its own Service",
        ),
        (json!({"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"}), "fails open"),
        (
            json!({"op": "replace", "path": "/webhooks/0/namespaceSelector", "value": {}}),
            "never called for pods of kube-system",
        ),
        (
            json!({"op": "replace", "path": "/webhooks/0/matchConditions", "value": []}),
            "is not called for pods that want",
        ),
        (json!({"op": "replace", "path": "/webhooks/0/name", "value": "other.injector.remora.dev"}), "its own entries"),
    ];
    for (change, expected) in changes {
        match patched_by_the_injector(cluster, &change)? {
            Ok(()) => bail!("{change} is taken"),
            Err(said) => ensure!(said.contains(expected), "{change}: {said}"),
        }
    }
    let control = cluster.control();
    for (name, kind) in [(names::ISSUER_SECRET, "kubernetes.io/tls"), ("other", "kubernetes.io/service-account-token")]
    {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": kind,
            "metadata": {"name": name, "namespace": control, "annotations": {"kubernetes.io/service-account.name": names::IDENTITY}}});
        ensure!(from_the_injector(cluster, &secret)?.is_err(), "the Secret {name} is taken");
    }
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "other", "namespace": control}, "spec": {}});
    ensure!(from_the_injector(cluster, &lease)?.is_err(), "another Lease is taken");
    // The injector goes on with its own.
    put_right(cluster)
}

pub(super) fn membership(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("member")?;
    scope.echo("web", 1, "")?;
    let pod = scope.pod("app=web")?;
    ensure!(has_sidecar(&scope.object("v1/pods", &pod)?), "no sidecar");
    for metadata in [
        json!({"labels": {names::INJECTED: null}}),
        json!({"labels": {names::INJECTED: "false"}}),
        json!({"annotations": {names::INJECTED: "false"}}),
        json!({"annotations": {names::PROXY_ADDRESS: "10.0.0.1:4143"}}),
    ] {
        let Err(error) = cluster.merge(&scope.namespace, "v1/pods", &pod, &json!({"metadata": metadata})) else {
            bail!("{metadata} is taken");
        };
        let said = format!("{error:#}");
        ensure!(said.contains("cannot be changed"), "{metadata}: {said}");
    }
    // Whatever else is said of a pod may change, by people as by the kubelet.
    let other = json!({"metadata": {"labels": {"team": "a"}, "annotations": {"example.com/note": "b"}}});
    cluster.merge(&scope.namespace, "v1/pods", &pod, &other)?;
    let bare = cluster.bare_scope("bare")?;
    bare.echo("web", 1, "")?;
    let outside = bare.pod("app=web")?;
    let lie = json!({"metadata": {"labels": {names::INJECTED: "true"}}});
    ensure!(cluster.merge(&bare.namespace, "v1/pods", &outside, &lie).is_err(), "a bare pod is called a member");
    cluster.delete(&scope.namespace, "v1/pods", &pod)
}
