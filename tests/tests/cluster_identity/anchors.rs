//! The trust anchors and the issuer: kept, repaired, rotated.

use super::caller::{Caller, IDENTITY};
use anyhow::{bail, ensure};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use remora_kube::names;
use remora_tests::cluster::{Cluster, NotTried, Scope};
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

/// How soon a namespace has what it needs, on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// Until a new issuer signs: its anchor is published for a minute.
const SIGNS: Duration = Duration::from_secs(90);
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

/// What cert-manager writes when it renews an issuer whose CA has another key by now: certificate, key and the new root alone, in one
/// write. And then, as its CA was renewed with its key, another root of the same key and name.
pub(crate) fn rotate(cluster: &Cluster) -> anyhow::Result<()> {
    let (caller, scope) = (Caller::new(cluster)?, cluster.scope("rotation")?);
    scope.echo("old", 1, "")?;
    let asker = scope.client("asker")?;
    let before = caller.wait(caller.bundle())?.anchors().len();
    let failures = "remora_identity_reload_failures_total";
    let failed = caller.wait(caller.metric(IDENTITY, failures))?;

    let authority = CertManager::new()?;
    let first = authority.root(30)?;
    let since = SystemTime::now();
    set(&caller, &authority.issue(&first)?)?;
    published(cluster, &caller, before + 1)?;
    // A pod whose template knows nothing of it starts before the new issuer signs, and after.
    scope.cluster.scale(&scope.namespace, "old", 2)?;
    until(cluster, &caller, &scope.namespace, true, SOON)?;
    scope.rolled_out("apps/v1/deployments", "old")?;
    answers(&scope, &asker, "old")?;
    cluster.until(SIGNS, "the new issuer signs", || {
        Ok((!caller.wait(caller.logged(IDENTITY, since, &["issuer reloaded"]))?.is_empty()).then_some(()))
    })?;
    scope.echo("new", 1, "")?;
    answers(&scope, &asker, "old")?;
    answers(&scope, &asker, "new")?;

    // The CA is renewed with its key, and the issuer after it. Leaves chain to both.
    let renewed = authority.root(365)?;
    set(&caller, &authority.issue(&renewed)?)?;
    published(cluster, &caller, before + 2)?;
    answers(&scope, &asker, "old")?;
    let failed_now = caller.wait(caller.metric(IDENTITY, failures))?;
    ensure!(failed_now <= failed, "something was refused");
    // Nothing that the old issuers signed is cut off: their anchors stay for a certificate's life.
    ensure!(caller.wait(caller.bundle())?.anchors().len() == before + 2, "an anchor is gone");
    Ok(())
}

fn published(cluster: &Cluster, caller: &Caller, anchors: usize) -> anyhow::Result<()> {
    cluster.until(SOON, &format!("{anchors} anchors are published"), || {
        Ok((caller.wait(caller.bundle())?.anchors().len() == anchors).then_some(()))
    })
}

/// cert-manager with an issuer of the kind CA, as far as it writes our Secret.
struct CertManager {
    key: KeyPair,
}

impl CertManager {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { key: KeyPair::generate()? })
    }

    fn params(name: &str, days: u64) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_after = (SystemTime::now() + Duration::from_secs(days * 24 * 3600)).into();
        params
    }

    /// The CA's certificate, which is always of one key here and lives for so long.
    fn root(&self, days: u64) -> anyhow::Result<Root> {
        let params = Self::params("my-ca", days);
        let pem = params.self_signed(&self.key)?.pem();
        Ok(Root { params, pem })
    }

    /// All three values, as it writes them: a fresh key, its certificate, and the CA's certificate of this moment.
    fn issue(&self, root: &Root) -> anyhow::Result<[(&'static str, Vec<u8>); 3]> {
        let key = KeyPair::generate()?;
        let certificate =
            Self::params("remora issuer", 20).signed_by(&key, &Issuer::from_params(&root.params, &self.key))?;
        Ok([
            ("tls.crt", certificate.pem().into_bytes()),
            ("tls.key", key.serialize_pem().into_bytes()),
            (names::CA_CRT, root.pem.clone().into_bytes()),
        ])
    }
}

struct Root {
    params: CertificateParams,
    pem: String,
}

fn answers(scope: &Scope<'_>, asker: &str, name: &str) -> anyhow::Result<()> {
    for _ in 0..10 {
        let said = scope.get(asker, &format!("http://{name}/"))?;
        ensure!(said.status() == Some(200), "{name}: {said:?}");
    }
    Ok(())
}

fn set(caller: &Caller, values: &[(&str, Vec<u8>)]) -> anyhow::Result<()> {
    let data: BTreeMap<_, _> = values.iter().map(|(key, value)| (*key, ByteString(value.clone()))).collect();
    let patch = Patch::Merge(json!({"data": data}));
    let secrets = caller.api::<Secret>(&caller.control);
    caller.wait(async { Ok(secrets.patch(names::ISSUER_SECRET, &PatchParams::default(), &patch).await?) }).map(drop)
}
