//! One pod that asks for everything, again and again, over many streams, while the world changes: what it may cost.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program")]

#[path = "cluster/process.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod process;

use process::{Process, Proxy};
use remora_api::sync::Name;
use std::{
    fmt::Write as _,
    path::Path,
    time::{Duration, Instant},
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Streams that the pod opens: a proxy has one.
const STREAMS: usize = 64;
/// Targets that each asks for.
const TARGETS: usize = 5000;
/// The kubelet's patience with `/live`.
const LIVE_WITHIN: Duration = Duration::from_secs(1);
/// What all of it may cost, beside what discovery has without it. On the build of 2026-11-27 each stream took 2.6 MB.
const MEMORY_MB: f64 = 32.0;

fn world(directory: &Path, change: usize) {
    let mut text = String::new();
    for service in 1..=200 {
        writeln!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{ name: s{service}, namespace: shop }}
spec: {{ clusterIP: 10.0.0.{service}, selector: {{ app: s{service} }}, ports: [{{ port: 80 }}] }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: s{service}-1, namespace: shop, labels: {{ app: s{service}, change: '{change}' }} }}
status: {{ podIP: 10.1.{}.{service} }}",
            change % 200
        )
        .unwrap();
    }
    let next = directory.join("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, directory.join("world.yaml")).unwrap();
}

#[tokio::test]
async fn one_pod_that_asks_for_everything_costs_a_share_and_the_kubelet_has_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    world(folder.path(), 0);
    let discovery = Process::on_directory(folder.path());
    let mut honest = Proxy::connect(&discovery, "shop", "web-1").await;
    let name = |text: &str| Name::Outbound(text.parse().unwrap());
    honest.subscribe(&name("s1:80")).await;
    honest.answers(&[name("s1:80")]).await;
    let (before, _) = discovery.memory_mb();
    let mut streams = Vec::new();
    for stream in 0..STREAMS {
        let mut proxy = Proxy::connect(&discovery, "shop", "bad-1").await;
        for target in 0..TARGETS {
            proxy.subscribe(&name(&format!("s{}:{}", target % 200 + 1, 80 + target / 200 + stream))).await;
        }
        // Until a newer one ends it.
        streams.push(tokio::spawn(async move { while proxy.read().await {} }));
    }
    let mut slowest = Duration::ZERO;
    for change in 1..=20 {
        world(folder.path(), change);
        let began = Instant::now();
        discovery.live().await;
        slowest = slowest.max(began.elapsed());
        // The honest one is told of each change, so that this is as fast as discovery can.
        honest.changed().await;
    }
    let (after, most) = discovery.memory_mb();
    println!("/live within {slowest:?}; {before:.0} MB before, {after:.0} MB after, {most:.0} MB at most");
    assert!(slowest < LIVE_WITHIN, "{slowest:?}");
    assert!(after - before < MEMORY_MB, "{before} MB, then {after} MB");
    let ended = streams.iter().filter(|stream| stream.is_finished()).count();
    assert_eq!(ended, STREAMS - 1, "the newest stream of a pod ends the others");
}
