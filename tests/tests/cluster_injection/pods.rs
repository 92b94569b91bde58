//! Which pods get their sidecar, and what becomes of those that cannot.

use super::dry::{created, expect_sidecar, has_sidecar, names_of, refusal, word};
use anyhow::{Context as _, ensure};
use remora_kube::names;
use remora_tests::cluster::{Cluster, POD_PATIENCE};
use serde_json::{Value, json};

pub(super) fn pod_wins(cluster: &Cluster) -> anyhow::Result<()> {
    let (inside, outside) = (cluster.scope("inside")?, cluster.bare_scope("outside")?);
    expect_sidecar(&inside, &json!({}), true)?;
    expect_sidecar(&inside, &word("disabled"), false)?;
    expect_sidecar(&inside, &json!({"metadata": {"labels": {names::INJECT: "disabled"}}}), false)?;
    expect_sidecar(&outside, &json!({}), false)?;
    expect_sidecar(&outside, &word("enabled"), true)?;
    expect_sidecar(&outside, &json!({"metadata": {"labels": {names::INJECT: "enabled"}}}), true)?;
    Ok(())
}

pub(super) fn by_label(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.bare_scope("labelled")?;
    let patch = json!({"metadata": {"annotations": {names::INJECT: null}, "labels": {names::INJECT: names::ENABLED}}});
    cluster.merge("", "v1/namespaces", &scope.namespace, &patch)?;
    cluster.until(POD_PATIENCE, "the label counts", || Ok(has_sidecar(&created(&scope, &json!({}))?).then_some(())))
}

pub(super) fn skipped(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("skipped")?;
    expect_sidecar(&scope, &json!({"spec": {"hostNetwork": true}}), false)?;
    expect_sidecar(&scope, &json!({"spec": {"nodeSelector": {"kubernetes.io/os": "windows"}}}), false)?;
    let istio = json!({"spec": {"containers": [{"name": "app", "image": "a"}, {"name": "istio-proxy", "image": "b"}]}});
    expect_sidecar(&scope, &istio, false)?;
    let yaml = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: other-mesh}
spec:
  replicas: 1
  selector: {matchLabels: {app: other-mesh}}
  template:
    metadata: {labels: {app: other-mesh}}
    spec: {containers: [{name: linkerd-proxy, image: $IMAGE}]}";
    scope.apply(yaml, &[])?;
    cluster.until(POD_PATIENCE, "an event about the ReplicaSet", || {
        let events = cluster.objects(&scope.namespace, "events.k8s.io/v1/events", "")?;
        let told = events.iter().find(|event| event["reason"] == "InjectionSkipped");
        let Some(event) = told else { return Ok(None) };
        ensure!(event["regarding"]["kind"] == "ReplicaSet", "{event}");
        ensure!(event["note"].as_str().is_some_and(|note| note.contains("a sidecar of Linkerd")), "{event}");
        Ok(Some(()))
    })
}

pub(super) fn mistakes(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("mistakes")?;
    let annotations = json!({"remora.dev/skip-inbound-port": "22", "remora.dev/proxy-memory-limit": "64m"});
    let text = refusal(&scope, &json!({"metadata": {"annotations": annotations}}))?;
    for part in ["the nearest is remora.dev/skip-inbound-ports", "did you mean 64Mi?"] {
        ensure!(text.contains(part), "{part} is not in {text}");
    }
    let text = refusal(&scope, &word("enable"))?;
    ensure!(text.contains("the nearest is enabled"), "{text}");
    Ok(())
}

pub(super) fn twice(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("twice")?;
    let probe = json!({"httpGet": {"path": "/", "port": 80}});
    let own = json!([{"name": "fetch", "image": "fetch:1"}]);
    let containers = json!([{"name": "app", "image": "app:1", "readinessProbe": probe}]);
    let once = created(&scope, &json!({"spec": {"containers": containers, "initContainers": own}}))?;
    ensure!(names_of(&once, "initContainers") == ["remora-init", "remora-proxy", "fetch"], "{once}");
    let again = json!({
        "metadata": {"labels": once["metadata"]["labels"], "annotations": once["metadata"]["annotations"]},
        "spec": once["spec"],
    });
    let again = created(&scope, &again)?;
    ensure!(again["spec"] == once["spec"], "{}\n{}", again["spec"], once["spec"]);
    Ok(())
}

pub(super) fn no_api_token(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("token")?;
    let pod = created(&scope, &json!({}))?;
    let volumes = |container: &Value| -> Vec<String> {
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        mounts.filter_map(|mount| Some(mount["name"].as_str()?.to_owned())).collect()
    };
    for container in pod["spec"]["initContainers"].as_array().context("no sidecar")? {
        ensure!(volumes(container).iter().all(|name| name == names::PROXY_VOLUME), "{container}");
    }
    let app = volumes(&pod["spec"]["containers"][0]);
    ensure!(app.iter().any(|name| name.starts_with("kube-api-access")), "the application has it as ever: {app:?}");
    Ok(())
}

pub(super) fn strict_probes(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("strict")?;
    let yaml = "
apiVersion: remora.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {name: strict}
spec: {mode: Strict}
---
apiVersion: v1
kind: Pod
metadata: {name: probed, labels: {app: probed}}
spec:
  containers:
    - name: echo
      image: $IMAGE
      args: [--port=8080, --grpc=7070, --tcp=9090]
      startupProbe: {httpGet: {path: /live, port: 8080}, periodSeconds: 1, failureThreshold: 30}
      readinessProbe: {grpc: {port: 7070}, periodSeconds: 1}
      livenessProbe: {tcpSocket: {port: 9090}, periodSeconds: 1}
      lifecycle: {postStart: {httpGet: {path: /ready, port: 8080}}}";
    scope.apply(yaml, &[])?;
    let pod = scope.pod("app=probed")?;
    ensure!(has_sidecar(&scope.object("v1/pods", &pod)?), "no sidecar");
    let ip = scope.object("v1/pods", &pod)?["status"]["podIP"].as_str().context("no address")?.to_owned();
    // Plaintext from outside is refused, or the policy is not in force and the test proves nothing.
    let outside = cluster.bare_scope("outside")?;
    let client = outside.client("client")?;
    cluster.until(POD_PATIENCE, "strict mode is in force", || {
        Ok((!outside.get(&client, &format!("http://{ip}:8080/"))?.ok).then_some(()))
    })?;
    scope.get(&pod, "http://127.0.0.1:8080/set?ready=false")?.well()?;
    cluster.until(POD_PATIENCE, "the application's word counts", || {
        let pod = scope.object("v1/pods", &pod)?;
        let conditions = pod["status"]["conditions"].as_array().context("no conditions")?.clone();
        Ok(conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "False").then_some(()))
    })
}
