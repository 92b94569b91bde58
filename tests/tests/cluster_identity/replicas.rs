//! Several replicas: one makes the issuer, one leads. The libraries run in the test, against the cluster's API server.

use super::caller::Caller;
use anyhow::ensure;
use k8s_openapi::api::core::v1::Secret as Object;
use remora_identity::{issuer::Issuer, source::secret::Secret};
use remora_kube::{
    lease::{Candidate, elect},
    names,
};
use remora_model::TrustDomain;
use remora_runtime::drain;
use remora_tests::cluster::Cluster;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout};

pub(crate) fn race(cluster: &Cluster) -> anyhow::Result<()> {
    let (caller, scope) = (Caller::new(cluster)?, cluster.bare_scope("race")?);
    let (trust_domain, now) = (TrustDomain::new("cluster.local")?, SystemTime::now());
    let replicas = [(); 3].map(|()| Secret::new(caller.client.clone(), &scope.namespace));
    let [a, b, c] = &replicas;
    let held = caller.wait(async {
        let opened = tokio::join!(a.open(&trust_domain, now), b.open(&trust_domain, now), c.open(&trust_domain, now));
        Ok([opened.0?, opened.1?, opened.2?])
    })?;
    ensure!(held.iter().all(|one| one.files == held[0].files), "they hold different issuers");
    Issuer::load(&held[0].files, &trust_domain, now)?;
    let stored = caller.wait(async { Ok(caller.api::<Object>(&scope.namespace).get(names::ISSUER_SECRET).await?) })?;
    ensure!(stored.type_.as_deref() == Some("kubernetes.io/tls"), "{:?}", stored.type_);
    Ok(())
}

pub(crate) fn lead(cluster: &Cluster) -> anyhow::Result<()> {
    let (caller, scope) = (Caller::new(cluster)?, cluster.bare_scope("lease")?);
    let candidate = |me: &str| {
        let (signal, watch) = drain::channel();
        let candidate = Candidate { namespace: scope.namespace.clone(), name: "part".into(), me: me.into() };
        let (leads, election) = elect(caller.client.clone(), candidate, watch);
        (signal, leads, election)
    };
    caller.wait(async {
        let (first_signal, mut first, election) = candidate("a");
        tokio::spawn(election);
        timeout(Duration::from_secs(5), first.wait_for(|leads| *leads)).await??;

        let (_second_signal, mut second, election) = candidate("b");
        let second_task = tokio::spawn(election);
        ensure!(timeout(Duration::from_secs(7), second.wait_for(|leads| *leads)).await.is_err(), "two lead");

        let released = Instant::now();
        first_signal.drain().await;
        second.wait_for(|leads| *leads).await?;
        println!("    handed over after {:?}", released.elapsed());
        ensure!(released.elapsed() < Duration::from_secs(2), "after {:?}", released.elapsed());

        // One that ends without a word.
        second_task.abort();
        let lapsed = Instant::now();
        let (_third_signal, mut third, election) = candidate("c");
        tokio::spawn(election);
        third.wait_for(|leads| *leads).await?;
        println!("    taken over after {:?}", lapsed.elapsed());
        ensure!(lapsed.elapsed() > Duration::from_secs(5), "before it can have lapsed: {:?}", lapsed.elapsed());
        Ok(())
    })
}
