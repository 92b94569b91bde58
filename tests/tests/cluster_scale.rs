//! A cluster with many Services: discovery stays small, and a change arrives soon.

use anyhow::{Context as _, ensure};
use remora_kube::names;
use remora_tests::cluster::{self, Cluster, POD_PATIENCE, Scope};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

const SERVICES: usize = 500;
/// Of each Service: 2 000 in all.
const ENDPOINTS: usize = 4;
/// Discovery's resident memory, all of it.
const RSS_MAX: u64 = 60 << 20;
/// From the change of an EndpointSlice to the sending of the first request that goes to its new address.
const ARRIVES_WITHIN: Duration = Duration::from_secs(1);
const CHANGES: usize = 6;

fn main() -> ExitCode {
    cluster::run(&[("five_hundred_services_keep_discovery_small_and_changes_quick", many)])
}

/// A Service whose endpoints are written by hand, as many others have them: nobody answers there.
const FILLER: &str = "
apiVersion: v1
kind: Service
metadata: {name: filler-$NUMBER}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: filler-$NUMBER-1, labels: {kubernetes.io/service-name: filler-$NUMBER}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [$ENDPOINTS]";

const MOVED: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: moved-1, labels: {kubernetes.io/service-name: moved}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [$IP], conditions: {ready: true}}]";

fn many(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_mesh()?;
    let scope = cluster.scope("scale")?;
    scope.echo("one", 1, "")?;
    scope.echo("two", 1, "")?;
    let client = scope.client("client")?;
    let began = Instant::now();
    for number in 0..SERVICES {
        let addresses: Vec<String> = (0..ENDPOINTS)
            .map(|endpoint| {
                format!(
                    "{{addresses: [10.250.{}.{}], conditions: {{ready: true}}}}",
                    number % 250,
                    number / 250 * 10 + endpoint
                )
            })
            .collect();
        scope.apply(FILLER, &[("NUMBER", &number.to_string()), ("ENDPOINTS", &addresses.join(", "))])?;
    }
    println!("    {SERVICES} Services with {ENDPOINTS} endpoints each made in {:?}", began.elapsed());

    let addresses = [address(&scope, "one")?, address(&scope, "two")?];
    scope.apply("apiVersion: v1\nkind: Service\nmetadata: {name: moved}\nspec: {ports: [{name: http, port: 80, targetPort: 8080}]}", &[])?;
    let mut slowest = Duration::ZERO;
    for change in 0..=CHANGES {
        let (name, ip) = &addresses[change % 2];
        scope.apply(MOVED, &[("IP", ip)])?;
        let changed = Instant::now();
        let asked = cluster.until(POD_PATIENCE, "the change arrives", || {
            let asked = Instant::now();
            let said = scope.get(&client, "http://moved/")?;
            Ok((said.fact("Hostname") == Some(name)).then_some(asked))
        })?;
        // It had arrived before the request that showed it. The first address is one that nobody had asked for.
        if change > 0 {
            slowest = slowest.max(asked - changed);
        }
    }
    println!("    the slowest of {CHANGES} changes had arrived after {slowest:?}");
    ensure!(slowest < ARRIVES_WITHIN, "a change took {slowest:?}");
    memory(cluster)
}

fn address(scope: &Scope<'_>, name: &str) -> anyhow::Result<(String, String)> {
    let pod = scope.pod(&format!("app={name}"))?;
    let ip = scope.object("v1/pods", &pod)?["status"]["podIP"].as_str().context("no address")?.to_owned();
    Ok((pod, ip))
}

fn memory(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_own()?;
    let control = cluster.control();
    for pod in cluster.objects(&control, "v1/pods", &format!("{}={}", names::PART, names::DISCOVERY))? {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let container = pod["spec"]["containers"][0]["name"].as_str().context("no container")?;
        let bytes = cluster.rss_bytes(&control, name, container)?;
        println!("    {name}: {:.1} MB resident", bytes as f64 / 1e6);
        ensure!(bytes < RSS_MAX, "{name} takes {bytes} bytes");
    }
    Ok(())
}
