//! The trust anchors and the issuer: kept, repaired, rotated.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use remora_identity::issuer::Files;
use remora_kube::names;
use remora_model::TrustDomain;
use remora_tests::cluster::{Cluster, NotTried, POD_PATIENCE, Scope};
use serde_json::json;

use super::caller::{Caller, IDENTITY};

/// How soon a namespace has what it needs, on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// How long the ConfigMap stays after its last use, and a bit.
const LINGERS: Duration = Duration::from_secs(60);

fn text(caller: &Caller, namespace: &str) -> anyhow::Result<Option<String>> {
    caller.wait(async {
        let map = caller.api::<ConfigMap>(namespace).get_opt(names::TRUST_ANCHORS).await?;
        Ok(map.and_then(|map| map.data).and_then(|mut data| data.remove(names::CA_CRT)))
    })
}

/// Waits until the namespace has the anchors in force (or none), and says how long that took.
fn until(cluster: &Cluster, caller: &Caller, namespace: &str, wanted: bool, patience: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    cluster.until(patience, &format!("anchors in {namespace}: {wanted}"), || {
        let (there, here) = (text(caller, namespace)?, text(caller, &caller.control)?);
        let good = if wanted { there.is_some() && there == here } else { there.is_none() };
        Ok(good.then_some(()))
    })?;
    println!("    anchors in {namespace}: {wanted} after {:?}", start.elapsed());
    Ok(())
}

pub(crate) fn kept(cluster: &Cluster) -> anyhow::Result<()> {
    let (caller, scope) = (Caller::new(cluster)?, cluster.bare_scope("anchors")?);
    let namespace = &scope.namespace;
    let maps = caller.api::<ConfigMap>(namespace);
    ensure!(text(&caller, namespace)?.is_none(), "a namespace that is not opted in has the anchors");
    scope.opt(Some(names::ENABLED))?;
    until(cluster, &caller, namespace, true, SOON)?;

    let edited = Patch::Merge(json!({"data": {names::CA_CRT: "edited"}}));
    caller.wait(async { Ok(maps.patch(names::TRUST_ANCHORS, &PatchParams::default(), &edited).await?) })?;
    until(cluster, &caller, namespace, true, SOON)?;
    caller.wait(async { Ok(maps.delete(names::TRUST_ANCHORS, &DeleteParams::default()).await?) })?;
    until(cluster, &caller, namespace, true, SOON)?;
    let stripped = Patch::Merge(json!({"metadata": {"labels": {names::MADE_BY: null}}}));
    caller.wait(async { Ok(maps.patch(names::TRUST_ANCHORS, &PatchParams::default(), &stripped).await?) })?;
    cluster.until(SOON, "the label is back", || {
        let map = caller.wait(async { Ok(maps.get(names::TRUST_ANCHORS).await?) })?;
        Ok(map.labels().contains_key(names::MADE_BY).then_some(()))
    })?;

    scope.opt(None)?;
    until(cluster, &caller, namespace, false, LINGERS)?;
    // An injected pod alone is reason enough.
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: alone, labels: {$INJECTED: 'true'}}
spec: {containers: [{name: echo, image: $IMAGE}]}";
    scope.apply(pod, &[("INJECTED", names::INJECTED)])?;
    until(cluster, &caller, namespace, true, SOON)
}

pub(crate) fn restored(cluster: &Cluster) -> anyhow::Result<()> {
    let caller = Caller::new(cluster)?;
    let secrets = caller.api::<Secret>(&caller.control);
    let before = caller.wait(async { Ok(secrets.get(names::ISSUER_SECRET).await?) })?;
    if !before.labels().contains_key(names::MADE_BY) {
        bail!(NotTried("this cluster's issuer is somebody's own"));
    }
    caller.wait(async { Ok(secrets.delete(names::ISSUER_SECRET, &DeleteParams::default()).await?) })?;
    let after = cluster.until(SOON, "the Secret is back", || {
        let secret = caller.wait(async { Ok(secrets.get_opt(names::ISSUER_SECRET).await?) })?;
        Ok(secret.filter(|secret| secret.uid() != before.uid()))
    })?;
    ensure!(after.data == before.data && after.type_ == before.type_, "it is another");
    Ok(())
}

pub(crate) fn rotate(cluster: &Cluster) -> anyhow::Result<()> {
    let (caller, scope) = (Caller::new(cluster)?, cluster.scope("rotation")?);
    scope.echo("old", 1, "")?;
    let asker = scope.client("asker")?;
    let old = caller.wait(async { Ok(caller.api::<Secret>(&caller.control).get(names::ISSUER_SECRET).await?) })?;
    let old = old.data.context("an empty Secret")?;
    let old_anchors = String::from_utf8(old.get(names::CA_CRT).context("no ca.crt")?.0.clone())?;
    let (crt, key, new_anchor) = new_issuer()?;

    // 1. Both anchors, 2. the new issuer; at once a pod starts whose template knows nothing of either.
    let both = format!("{}\n{new_anchor}", old_anchors.trim_end());
    set(&caller, &[(names::CA_CRT, both.as_bytes())])?;
    scope.cluster.scale(&scope.namespace, "old", 2)?;
    until(cluster, &caller, &scope.namespace, true, SOON)?;
    set(&caller, &[("tls.crt", &crt), ("tls.key", &key)])?;
    scope.rolled_out("apps/v1/deployments", "old")?;
    scope.echo("new", 1, "")?;
    answers(&scope, &asker, "old")?;
    answers(&scope, &asker, "new")?;

    // 3. The old anchor is in use, and is not let go.
    let failures = "remora_identity_reload_failures_total";
    let before = caller.wait(caller.metric(IDENTITY, failures))?;
    let since = SystemTime::now();
    set(&caller, &[(names::CA_CRT, new_anchor.as_bytes())])?;
    cluster.until(POD_PATIENCE, "the refusal is counted", || {
        Ok((caller.wait(caller.metric(IDENTITY, failures))? > before).then_some(()))
    })?;
    let lines = caller.wait(caller.logged(IDENTITY, since, &["drops an anchor"]))?;
    println!("    {}", lines.last().context("the refusal is not logged")?);
    cluster.until(POD_PATIENCE, "an Event on the Secret", || {
        let events = cluster.objects(&caller.control, "v1/events", "")?;
        Ok(events.iter().any(|event| event["reason"] == "IssuerRefused").then_some(()))
    })?;
    // The bundle in force still has both; so has the Secret from now on, for whatever runs in this cluster.
    set(&caller, &[(names::CA_CRT, both.as_bytes())])?;
    let bundle = caller.wait(caller.bundle())?;
    ensure!(bundle.anchors().len() > 1, "the old anchor is gone");
    answers(&scope, &asker, "old")
}

fn answers(scope: &Scope<'_>, asker: &str, name: &str) -> anyhow::Result<()> {
    for _ in 0..10 {
        let said = scope.get(asker, &format!("http://{name}/"))?;
        ensure!(said.status() == Some(200), "{name}: {said:?}");
    }
    Ok(())
}

/// `tls.crt`, `tls.key` and `ca.crt` of an issuer that nobody knows.
fn new_issuer() -> anyhow::Result<(Vec<u8>, Vec<u8>, String)> {
    let folder = tempfile::tempdir()?;
    Files::make(&TrustDomain::new("cluster.local")?, SystemTime::now())?.write(folder.path())?;
    let read = |name: &str| std::fs::read(folder.path().join(name));
    Ok((read("tls.crt")?, read("tls.key")?, String::from_utf8(read("ca.crt")?)?))
}

fn set(caller: &Caller, values: &[(&str, &[u8])]) -> anyhow::Result<()> {
    let data: BTreeMap<_, _> = values.iter().map(|(key, value)| (*key, ByteString(value.to_vec()))).collect();
    let patch = Patch::Merge(json!({"data": data}));
    let secrets = caller.api::<Secret>(&caller.control);
    caller.wait(async { Ok(secrets.patch(names::ISSUER_SECRET, &PatchParams::default(), &patch).await?) }).map(drop)
}
