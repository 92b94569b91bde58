//! The injector away, and its certificate replaced: nobody runs bare by accident, nobody else waits.

use super::{
    cost::measured,
    dry::{created, expect_sidecar, has_sidecar, refusal, word},
};
use anyhow::{Context as _, ensure};
use remora_kube::names;
use remora_tests::cluster::{Cluster, POD_PATIENCE, Scope};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const DEPLOYMENTS: &str = "apps/v1/deployments";
/// How soon pods must exist once the injector is back.
const BACK_WITHIN: Duration = Duration::from_secs(30);

pub(super) fn away(cluster: &Cluster) -> anyhow::Result<()> {
    let (inside, outside) = (cluster.scope("inside")?, cluster.bare_scope("outside")?);
    let control = cluster.control();
    let deployment = cluster.object(&control, DEPLOYMENTS, names::INJECTOR)?;
    let replicas = deployment["spec"]["replicas"].as_u64().context("no replicas")?;
    let before = measured(&outside, 50)?;
    cluster.scale(&control, names::INJECTOR, 0)?;
    let checked = without_injector(cluster, &inside, &outside, before.0);
    cluster.scale(&control, names::INJECTOR, u32::try_from(replicas)?)?;
    checked?;
    cluster.until(BACK_WITHIN, "the refused pods exist, with their sidecar", || {
        let pods = inside.pods("app=waits")?;
        Ok((pods.len() == 2 && pods.iter().all(has_sidecar)).then_some(()))
    })
}

fn without_injector(
    cluster: &Cluster,
    inside: &Scope<'_>,
    outside: &Scope<'_>,
    before: Duration,
) -> anyhow::Result<()> {
    let selector = format!("{}={}", names::PART, names::INJECTOR);
    cluster.until(POD_PATIENCE, "the injector is gone", || {
        Ok(cluster.objects(&cluster.control(), "v1/pods", &selector)?.is_empty().then_some(()))
    })?;
    let text = refusal(inside, &json!({}))?;
    for part in ["got no sidecar", "kubectl -n", "remora.dev/inject: disabled"] {
        ensure!(text.contains(part), "{part} is not in {text}");
    }
    // The sidecar's name alone is no sidecar.
    let named = json!({"name": names::PROXY_CONTAINER, "image": "sleep:1", "restartPolicy": "Always"});
    let text = refusal(inside, &json!({"spec": {"initContainers": [named]}}))?;
    ensure!(text.contains("got no sidecar"), "{text}");
    expect_sidecar(inside, &word("disabled"), false)?;
    expect_sidecar(inside, &json!({"spec": {"hostNetwork": true}}), false)?;
    let text = refusal(outside, &word("enabled"))?;
    ensure!(text.contains("got no sidecar"), "{text}");
    let (p50, p99) = measured(outside, 50)?;
    println!("    elsewhere p50 {before:.1?} before, {p50:.1?} without the injector (p99 {p99:.1?})");
    ensure!(
        p50 <= before * 2 + Duration::from_millis(2),
        "pods elsewhere are created late: {p50:?}, before {before:?}"
    );
    let yaml = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: waits}
spec:
  replicas: 2
  selector: {matchLabels: {app: waits}}
  template:
    metadata: {labels: {app: waits}}
    spec: {containers: [{name: echo, image: $IMAGE}]}";
    inside.apply(yaml, &[])?;
    cluster.until(POD_PATIENCE, "the ReplicaSet says why", || {
        let events = cluster.objects(&inside.namespace, "v1/events", "")?;
        let said = |event: &Value| event["message"].as_str().is_some_and(|text| text.contains("got no sidecar"));
        Ok(events.iter().any(said).then_some(()))
    })?;
    ensure!(inside.pods("app=waits")?.is_empty(), "a bare pod was let in");
    Ok(())
}

pub(super) fn rotation(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("rotation")?;
    let control = cluster.control();
    let deployment = cluster.object(&control, DEPLOYMENTS, names::INJECTOR)?;
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let name = container["name"].as_str().context("no name")?;
    let args = |args: &Value| {
        // A merge patch replaces lists whole.
        let mut container = container.clone();
        container["args"] = args.clone();
        json!({"spec": {"template": {"spec": {"containers": [container]}}}})
    };
    let mut short = container["args"].as_array().with_context(|| format!("{name} has no args"))?.clone();
    short.push(json!("--certificate-lifetime=30s"));
    cluster.merge(&control, DEPLOYMENTS, names::INJECTOR, &args(&json!(short)))?;
    let rotated = rotated(cluster, &scope);
    cluster.merge(&control, DEPLOYMENTS, names::INJECTOR, &args(&container["args"]))?;
    settled(cluster)?;
    cluster.delete(&control, "v1/secrets", names::INJECTOR_SECRET)?;
    rotated?;
    cluster.until(POD_PATIENCE, "pods get their sidecar", || {
        Ok(created(&scope, &json!({})).is_ok_and(|pod| has_sidecar(&pod)).then_some(()))
    })
}

/// Waits until the injector is rolled out and nothing is left of the one before.
fn settled(cluster: &Cluster) -> anyhow::Result<()> {
    let control = cluster.control();
    cluster.rolled_out(&control, DEPLOYMENTS, names::INJECTOR, POD_PATIENCE)?;
    let selector = format!("{}={}", names::PART, names::INJECTOR);
    cluster.until(POD_PATIENCE, "the injector before is gone", || {
        let pods = cluster.objects(&control, "v1/pods", &selector)?;
        Ok(pods.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_null()).then_some(()))
    })
}

/// Creates pods without a pause while three pairs come and go.
fn rotated(cluster: &Cluster, scope: &Scope<'_>) -> anyhow::Result<()> {
    let control = cluster.control();
    settled(cluster)?;
    let serving = || -> anyhow::Result<String> {
        let secret = cluster.object(&control, "v1/secrets", names::INJECTOR_SECRET)?;
        Ok(secret["data"]["tls.crt"].as_str().context("no tls.crt")?.to_owned())
    };
    // The pair of the installation lives for long: with none, the first of the short ones is made.
    cluster.delete(&control, "v1/secrets", names::INJECTOR_SECRET)?;
    cluster.until(POD_PATIENCE, "the first short pair is trusted", || {
        Ok((serving().is_ok() && has_sidecar(&created(scope, &json!({}))?)).then_some(()))
    })?;
    let (mut seen, mut count, began) = (vec![serving()?], 0, Instant::now());
    while seen.len() < 4 {
        ensure!(began.elapsed() < Duration::from_secs(150), "only {} pairs in {:?}", seen.len(), began.elapsed());
        for _ in 0..20 {
            let pod = created(scope, &json!({})).with_context(|| format!("pod {count}"))?;
            ensure!(has_sidecar(&pod), "pod {count} is bare");
            count += 1;
        }
        let now = serving()?;
        if seen.last() != Some(&now) {
            seen.push(now);
        }
    }
    println!("    {count} pods through {} pairs in {:.0?}", seen.len(), began.elapsed());
    Ok(())
}
