//! Discovery on a real Kubernetes API: with `REMORA_CLUSTER=1`, against the cluster that `KUBECONFIG` names (the project's
//! own: `REMORA_CLUSTER=1 tests/cluster/run enter cargo test --workspace --test cluster`). Otherwise nothing is tested,
//! and one line says so.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program")]

#[path = "cluster/objects.rs"]
mod objects;
#[path = "cluster/process.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod process;

use objects::{Objects, many, world};
use process::{Process, Proxy};
use remora_api::sync::{Name, Resource};
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster's objects of one test, in a namespace of their own. `None` if no cluster is to be tested.
async fn cluster(name: &str) -> Option<Objects> {
    if std::env::var_os("REMORA_CLUSTER").is_none_or(|set| set != "1") {
        println!("{name}: not run without REMORA_CLUSTER=1 and a cluster");
        return None;
    }
    Some(Objects::in_new_namespace(name).await)
}

fn target(text: &str) -> Name {
    Name::Outbound(text.parse().unwrap())
}

/// What both sources say of everything there is to ask in a small world.
#[tokio::test]
async fn the_api_and_a_directory_of_the_same_objects_give_the_same_answers() {
    let Some(objects) = cluster("same").await else { return };
    world(&objects).await;
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    loop {
        objects.write_into(folder.path()).await;
        let (api, directory) = (Process::on_api(), Process::on_directory(folder.path()));
        let names = objects.names().await;
        let (one, other) =
            tokio::join!(answers(&api, objects.namespace(), &names), answers(&directory, objects.namespace(), &names));
        // A controller may have written between the two readings.
        if one == other {
            let backends = one.keys().filter(|name| matches!(name, Name::Backend(_))).count();
            println!("{} answers are the same, {backends} of them backends", one.len());
            assert!(one.len() > names.len() && backends > 5, "{one:#?}");
            return;
        }
        let differ: Vec<_> = one.iter().filter(|(name, found)| other.get(*name) != Some(found)).collect();
        assert!(began.elapsed() < PATIENCE, "API and directory differ in {differ:#?}\nthe directory: {other:#?}");
    }
}

async fn answers(process: &Process, namespace: &str, names: &[Name]) -> BTreeMap<Name, Resource> {
    let mut proxy = Proxy::connect(process, namespace, "api-0").await;
    for name in names {
        proxy.subscribe(name).await;
    }
    proxy.answers(names).await
}

/// Issue 4: 500 Services and 2 000 endpoints.
#[tokio::test]
async fn with_500_services_and_2000_endpoints_discovery_is_small_and_quick() {
    let Some(objects) = cluster("many").await else { return };
    let (services, pods_each) = (500, 4);
    many(&objects, services, pods_each).await;
    let began = Instant::now();
    let api = Process::on_api();
    let mut proxies = Vec::new();
    for number in 0..20 {
        let mut proxy = Proxy::connect(&api, objects.namespace(), &format!("s{number}-0")).await;
        let names: Vec<Name> = (0..50).map(|n| target(&format!("s{}:80", (number * 7 + n) % services))).collect();
        for name in &names {
            proxy.subscribe(name).await;
        }
        proxy.answers(&names).await;
        proxies.push(proxy);
    }
    let mut watcher = Proxy::connect(&api, objects.namespace(), "s0-0").await;
    watcher.subscribe(&target("s0:80")).await;
    watcher.answers(&[target("s0:80")]).await;
    println!("20 proxies have 50 targets each {:?} after the start", began.elapsed());
    let mut took = Vec::new();
    for round in 0..20_u8 {
        let changed = json!({"endpoints": [{"addresses": [format!("10.255.255.{}", round + 1)]}]});
        let began = Instant::now();
        objects.merge("discovery.k8s.io/v1", "EndpointSlice", "s0", &changed).await;
        watcher.changed().await;
        took.push(began.elapsed());
    }
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    let (rss_mb, peak_mb) = api.memory_mb();
    println!(
        "a change reaches a proxy in {median:?} (worst of 20: {worst:?}); RSS {rss_mb:.1} MB, at most {peak_mb:.1} MB"
    );
    println!("indexing: {}", api.metric("remora_discovery_index_seconds{quantile=\"0.5\"}").await);
    assert!(worst < Duration::from_secs(1), "{took:?}");
    assert!(rss_mb < 60.0, "{rss_mb} MB");
}
