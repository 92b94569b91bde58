//! Certificates that live for less than an outage: identity is killed, and the API server is away for longer than
//! a certificate lives, and nobody's requests fail.

use super::caller::{Caller, IDENTITY};
use anyhow::{Context as _, bail, ensure};
use remora_kube::names;
use remora_tests::cluster::{Cluster, NotTried, POD_PATIENCE, Part};
use serde_json::{Value, json};
use std::time::Duration;

const LEAF: &str = "--leaf-lifetime=60s";
/// Every proxy renews within this.
const A_LIFE: Duration = Duration::from_secs(60);
/// How long the API server is away: three lives.
const AWAY: Duration = Duration::from_secs(180);
const DEPLOYMENTS: &str = "apps/v1/deployments";

/// Identity signs for a minute until this is dropped.
struct ShortLives<'a> {
    cluster: &'a Cluster,
    containers: Value,
}

impl<'a> ShortLives<'a> {
    fn new(cluster: &'a Cluster) -> anyhow::Result<Self> {
        let deployment = cluster.object(&cluster.control(), DEPLOYMENTS, names::IDENTITY)?;
        let containers = deployment["spec"]["template"]["spec"]["containers"].clone();
        let changed = Self { cluster, containers };
        let mut short = changed.containers.clone();
        let args = short[0]["args"].as_array_mut().context("no arguments")?;
        args.retain(|arg| !arg.as_str().is_some_and(|arg| arg.starts_with("--leaf-lifetime")));
        args.push(json!(LEAF));
        changed.set(&short)?;
        cluster.rolled_out(&cluster.control(), DEPLOYMENTS, names::IDENTITY, POD_PATIENCE)?;
        Ok(changed)
    }

    fn set(&self, containers: &Value) -> anyhow::Result<()> {
        let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        self.cluster.merge(&self.cluster.control(), DEPLOYMENTS, names::IDENTITY, &patch)
    }
}

impl Drop for ShortLives<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.set(&self.containers) {
            eprintln!("identity still signs for a minute: {error:#}");
        }
    }
}

pub(crate) fn outage(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_mesh()?;
    cluster.needs_own()?;
    if std::env::var_os("REMORA_CLUSTER_LONG").is_none_or(|set| set != "1") {
        bail!(NotTried("takes seven minutes; REMORA_CLUSTER_LONG=1 tries it"));
    }
    let caller = Caller::new(cluster)?;
    let _short = ShortLives::new(cluster)?;
    let scope = cluster.scope("lives")?;
    scope.echo("web", 2, "")?;
    let load = scope.load("load", "http://web/", "--rate 200")?;
    let fresh = scope.load("fresh", "http://web/", "--rate 20 --new-connections")?;

    cluster.kill(&caller.control, &caller.wait(caller.pod(IDENTITY))?, "identity")?;
    cluster.rolled_out(&caller.control, DEPLOYMENTS, names::IDENTITY, POD_PATIENCE)?;
    load.go_on(A_LIFE)?.none_failed()?;

    let away = cluster.stop(Part::ApiServer)?;
    std::thread::park_timeout(AWAY);
    away.resume()?;
    cluster.until(POD_PATIENCE, "the API server is back", || {
        Ok(cluster.object(&scope.namespace, "v1/services", "web").ok())
    })?;
    load.go_on(A_LIFE)?;
    let recalled = caller.wait(caller.metric(IDENTITY, "remora_identity_recalled_total"))?;
    println!("    {recalled} certificates were renewed while the API server was away");
    ensure!(recalled > 0.0, "nobody had to be believed without it: the outage was too short to show anything");
    let (load, fresh) = (load.stop()?, fresh.stop()?);
    load.none_failed()?;
    fresh.none_failed()
}
