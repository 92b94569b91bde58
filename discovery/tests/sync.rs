//! `Discovery.Sync` over sockets and mutual TLS: what a proxy sees, and what a proxy that misbehaves does to others.

#![allow(clippy::unwrap_used, reason = "tests fail by it")]

#[path = "sync/mesh.rs"]
mod mesh;

use mesh::{Discovery, Proxy, WEB_PODS, api, target};
use remora_api::{
    sync::{Name, Resource, Update, request},
    v1::sync_request::Kind,
};
use std::collections::HashMap;
use tonic::Code;

#[tokio::test]
async fn a_change_reaches_a_subscribed_stream_as_a_delta() {
    let discovery = Discovery::start(5, 1).await;
    let mut proxy = Proxy::connect(&discovery, "web", Vec::new()).await;
    proxy.subscribe(&api(1)).await;
    let (backend, version) = proxy.backend().await;
    assert_eq!(backend.endpoints.len(), 5);
    assert!(matches!(proxy.next().await, Update::Whole { resource: Resource::Outbound(_), .. }));
    discovery.publish(6, 1);
    let Update::Delta(delta) = proxy.next().await else { panic!("no delta") };
    assert_eq!(delta.apply(&backend, version).unwrap().endpoints.len(), 6);
}

#[tokio::test]
async fn a_refused_delta_is_followed_by_the_whole_and_the_stream_goes_on() {
    let discovery = Discovery::start(5, 1).await;
    let mut proxy = Proxy::connect(&discovery, "web", Vec::new()).await;
    proxy.subscribe(&api(1)).await;
    let (backend, _) = proxy.backend().await;
    proxy.next().await;
    discovery.publish(6, 1);
    let Update::Delta(delta) = proxy.next().await else { panic!("no delta") };
    let name = (&Name::Backend(backend.id.clone())).into();
    proxy.say(request::nack(name, delta.version, "for the test".into())).await;
    assert_eq!(proxy.backend().await.0.endpoints.len(), 6);
    discovery.publish(7, 1);
    assert!(matches!(proxy.next().await, Update::Delta(delta) if delta.upserted.len() == 1));
}

#[tokio::test]
async fn on_reconnect_only_what_changed_is_sent_again() {
    let discovery = Discovery::start(5, 3).await;
    let mut proxy = Proxy::connect(&discovery, "web", Vec::new()).await;
    let mut held = Vec::new();
    for port in 1..=3 {
        proxy.subscribe(&api(port)).await;
        for _ in 0..2 {
            let Update::Whole { version, resource, .. } = proxy.next().await else { panic!("not whole") };
            held.push((resource.name(), version));
        }
    }
    drop(proxy);
    discovery.change_one_port(2);
    let offered = held.iter().map(|(name, version)| request::held(name, *version)).collect();
    let mut proxy = Proxy::connect(&discovery, "web", offered).await;
    let mut told = HashMap::new();
    while told.len() < held.len() {
        match proxy.next().await {
            Update::Current { name, .. } => told.insert(name, "current"),
            Update::Whole { resource, .. } => told.insert(resource.name(), "whole"),
            other => panic!("{other:?}"),
        };
    }
    let whole: Vec<_> = told.iter().filter(|(_, how)| **how == "whole").map(|(name, _)| name.to_string()).collect();
    assert!(whole.iter().all(|name| name.ends_with(":2")) && !whole.is_empty(), "{whole:?}");
}

#[tokio::test]
async fn a_stalled_proxy_delays_nobody_and_is_told_the_latest_when_it_reads_again() {
    const PORTS: u16 = 200;
    const LAST: u8 = 45;
    let discovery = Discovery::start(30, PORTS).await;
    let mut stalled = Proxy::connect(&discovery, "web", Vec::new()).await;
    for port in 1..=PORTS {
        stalled.subscribe(&api(port)).await;
    }
    // It takes one message, so it is being served; far more than its windows hold is on the way to it.
    let (first, _) = stalled.backend().await;
    let mut quick = Proxy::of_pod(&discovery, "web", "web-2", Vec::new()).await;
    quick.subscribe(&api(1)).await;
    let (mut backend, mut version) = quick.backend().await;
    quick.next().await;
    for pods in 31..=LAST {
        discovery.publish(pods, PORTS);
        let Update::Delta(delta) = quick.next().await else { panic!("no delta") };
        backend = delta.apply(&backend, version).unwrap();
        version = delta.version;
        assert_eq!(backend.endpoints.len(), usize::from(pods));
    }
    let mut sizes = HashMap::from([(first.id.port, first.endpoints.len())]);
    let mut messages = 0;
    while sizes.len() < usize::from(PORTS) || sizes.values().any(|size| *size != usize::from(LAST)) {
        messages += 1;
        match stalled.next().await {
            Update::Whole { resource: Resource::Backend(backend), .. } => {
                sizes.insert(backend.id.port, backend.endpoints.len());
            }
            Update::Delta(delta) => *sizes.get_mut(&delta.id.port).unwrap() += delta.upserted.len(),
            _ => {}
        }
    }
    // Three for each port at most: a backend, its target, and one more step for what was on the way.
    assert!(messages <= 3 * usize::from(PORTS), "{messages} messages for {PORTS} targets: it was told of the past");
}

#[tokio::test]
async fn four_thousand_targets_are_answered_to_a_proxy_that_acks_each_and_one_more_is_refused_alone() {
    let discovery = Discovery::start(1, 1000).await;
    let mut proxy = Proxy::connect(&discovery, "web", Vec::new()).await;
    let hosts = ["api", "api.shop", "api.shop.svc", "api.shop.svc.cluster.local"];
    let mut wanted = 0;
    for host in hosts {
        for port in 1..=1024 {
            proxy.subscribe(&target(&format!("{host}:{port}"))).await;
            wanted += 1;
        }
    }
    let (mut outbound, mut backends) = (0, 0);
    while outbound < wanted {
        let Update::Whole { version, resource, .. } = proxy.next().await else { panic!("not whole") };
        match resource {
            Resource::Outbound(_) => outbound += 1,
            _ => backends += 1,
        }
        proxy.say(request::ack(&resource.name(), version)).await;
    }
    assert_eq!(backends, 1000, "each backend once, though four targets lead to it");
    proxy.subscribe(&target("one-too-many:80")).await;
    let Update::Refused { name, .. } = proxy.next().await else { panic!("not refused") };
    assert_eq!(name, target("one-too-many:80"));
    proxy.say(request::unsubscribe(&target("api:1"))).await;
    proxy.subscribe(&target("in-its-place:80")).await;
    assert!(matches!(proxy.next().await, Update::Whole { .. }), "the stream goes on");
}

#[tokio::test]
async fn a_proxy_that_offers_far_too_much_is_told_and_served() {
    let discovery = Discovery::start(1, 1).await;
    let offered = (1..=20_000).map(|n| request::held(&target(&format!("s{n}:80")), 1)).collect();
    let mut proxy = Proxy::connect(&discovery, "web", offered).await;
    let (mut refused, mut whole) = (0, 0);
    while whole < 4096 {
        match proxy.next().await {
            Update::Refused { .. } => refused += 1,
            Update::Whole { .. } => whole += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!((1..1000).contains(&refused), "{refused}: it is told, and nothing is heaped up for it");
}

#[tokio::test]
async fn the_newest_stream_of_a_pod_ends_the_one_before() {
    let discovery = Discovery::start(1, 1).await;
    let mut first = Proxy::connect(&discovery, "web", Vec::new()).await;
    first.subscribe(&api(1)).await;
    first.backend().await;
    let other = Proxy::of_pod(&discovery, "web", "web-2", Vec::new()).await;
    let mut second = Proxy::connect(&discovery, "web", Vec::new()).await;
    second.subscribe(&api(1)).await;
    second.backend().await;
    assert_eq!(first.refusal().await, Code::Aborted);
    drop(other);
}

#[tokio::test]
async fn an_identity_has_few_streams_of_pods_that_nobody_knows() {
    let discovery = Discovery::start(1, 1).await;
    let mut held = Vec::new();
    for pod in 0..16 {
        let mut proxy = Proxy::of_pod(&discovery, "web", &format!("unheard-of-{pod}"), Vec::new()).await;
        proxy.subscribe(&api(1)).await;
        proxy.backend().await;
        held.push(proxy);
    }
    let mut waiting = std::pin::pin!(Proxy::of_pod(&discovery, "web", "unheard-of-too", Vec::new()));
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("one too many"),
        // Another identity does not feel it, nor a pod that is known.
        other = Proxy::connect(&discovery, "other", Vec::new()) => drop(other),
    }
    held.pop();
    let mut last = waiting.await;
    last.subscribe(&api(1)).await;
    last.backend().await;
}

#[tokio::test]
async fn a_hundred_proxies_are_told_of_each_change() {
    let discovery = Discovery::start(5, 1).await;
    let mut proxies = Vec::new();
    for pod in 1..=WEB_PODS {
        let proxy = Proxy::of_pod(&discovery, "web", &format!("web-{pod}"), Vec::new()).await;
        proxy.subscribe(&api(1)).await;
        proxies.push(proxy);
    }
    for proxy in &mut proxies {
        proxy.backend().await;
        proxy.next().await;
    }
    discovery.publish(6, 1);
    for proxy in &mut proxies {
        assert!(matches!(proxy.next().await, Update::Delta(delta) if delta.upserted.len() == 1));
    }
}

#[tokio::test]
async fn no_stream_opens_before_the_first_snapshot() {
    let discovery = Discovery::unread().await;
    let mut connecting = std::pin::pin!(Proxy::connect(&discovery, "web", Vec::new()));
    tokio::select! {
        biased;
        _ = &mut connecting => panic!("a stream opened though nothing is known"),
        // The server is there, and handles others meanwhile.
        refused = discovery.refuses_strangers() => assert!(refused),
    }
    discovery.publish(2, 1);
    let mut proxy = connecting.await;
    proxy.subscribe(&api(1)).await;
    assert_eq!(proxy.backend().await.0.endpoints.len(), 2);
}

#[tokio::test]
async fn a_second_hello_ends_the_stream() {
    let discovery = Discovery::start(1, 1).await;
    let mut proxy = Proxy::connect(&discovery, "web", Vec::new()).await;
    proxy.say(remora_api::v1::SyncRequest { kind: Some(Kind::Hello(Default::default())) }).await;
    assert_eq!(proxy.refusal().await, Code::InvalidArgument);
}

#[tokio::test]
async fn a_proxy_is_answered_only_as_the_workload_that_its_certificate_names() {
    let discovery = Discovery::start(1, 1).await;
    let mut proxy = Proxy::connect(&discovery, "other", Vec::new()).await;
    assert_eq!(proxy.refusal().await, Code::PermissionDenied);
    let mut proxy = Proxy::connect(&discovery, "web", Vec::new()).await;
    proxy.say(remora_api::v1::SyncRequest { kind: None }).await;
    assert_eq!(proxy.refusal().await, Code::InvalidArgument);
    assert!(discovery.refuses_strangers().await, "another trust domain's certificate is no certificate");
}

#[tokio::test]
async fn streams_and_their_server_end_when_the_drain_begins() {
    let discovery = Discovery::start(1, 1).await;
    let mut proxy = Proxy::connect(&discovery, "web", Vec::new()).await;
    proxy.subscribe(&api(1)).await;
    proxy.backend().await;
    proxy.next().await;
    let silent = Proxy::silent(&discovery).await;
    discovery.drain().await;
    assert_eq!(proxy.refusal().await, Code::Unavailable);
    drop(silent);
}
