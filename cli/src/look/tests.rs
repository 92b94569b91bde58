//! What tests of this folder share, and the whole way through an API server.

use super::{ask, model::Signals};
use crate::{
    admin::Place,
    cluster::{
        ControlPlane, FORWARDS_MAX,
        scope::{Found, Scope},
        standin::{self, Standin, World},
        target,
    },
};
use remora_kube::names;
use serde_json::json;

/// A pod of `deploy/web` and what its proxy says: `requests` in the last minute, each of which took `ns`.
pub(super) fn pod(name: &str, requests: u64, ns: u64) -> (Found, Signals) {
    let found = Found {
        name: name.to_owned(),
        namespace: name.split_once('/').unwrap().0.to_owned(),
        workload: "deploy/web".to_owned(),
        admin: Place::Address(([127, 0, 0, 1], 1).into()),
    };
    (found, serde_json::from_value(signals(name, requests, ns)).unwrap())
}

/// The same as JSON.
pub(super) fn signals(name: &str, requests: u64, ns: u64) -> serde_json::Value {
    let window = json!({"rps": 1.0, "requests": requests, "failed": 0, "latencies_ns": [[ns, requests]]});
    json!({
        "pod": name, "identity": "spiffe://cluster.local/ns/shop/sa/web", "version": "1", "uptime_s": 1.0,
        "routes": [{"id": 1, "direction": "inbound", "parent": "shop/web:80", "route": "GET /", "failures": {}, "retries": 0,
                    "in_flight": 0, "s10": window, "m1": window, "m5": window, "m15": window, "before": null,
                    "time": {"before_ms": 0.0, "connect_ms": 0.0, "server_ms": 1.0, "after_ms": 0.0}}],
        "edges": [], "backends": [], "discovery": {"state": "open", "for_ms": 1},
        "saturation": {"memory_bytes": 1, "memory_limit_bytes": 1 << 20},
    })
}

/// Five pods of two workloads in two namespaces; two replicas of discovery that know some of them.
fn world(forbidden: &[&str], discovery: impl Fn(&str, &str) -> Option<(u16, String)> + Send + Sync + 'static) -> World {
    let mut objects: Vec<_> = (1..=3).map(|n| standin::pod("shop", &format!("web-{n}"), "web")).collect();
    objects.extend((1..=2).map(|n| standin::pod("pay", &format!("card-{n}"), "card")));
    objects.extend(["one", "two"].map(|name| standin::replica(names::DISCOVERY, name)));
    let port = move |pod: &str, port: u16, path: &str| match (pod.split_once('/').unwrap(), port) {
        ((names::NAMESPACE, replica), names::DISCOVERY_ADMIN_PORT) => discovery(replica, path),
        (_, names::PROXY_ADMIN_PORT) if path.starts_with("/signals") => Some((200, signals(pod, 10, 1).to_string())),
        _ => None,
    };
    let forbidden = forbidden.iter().map(|it| (*it).to_owned()).collect();
    World { objects, forbidden, port: Box::new(port) }
}

/// What discovery says of these pods, each with so many requests, and of those that it could not ask.
fn ndjson(said: &[(&str, u64)], silent: &[&str]) -> Option<(u16, String)> {
    let names = |pod: &str| pod.split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let mut text = String::new();
    for (pod, requests) in said {
        let (namespace, name) = names(pod);
        text += &json!({"namespace": namespace, "pod": name, "identity": "", "version": "1", "signals": signals(pod, *requests, 1)}).to_string();
        text += "\n";
    }
    for pod in silent {
        let (namespace, name) = names(pod);
        text += &format!("{}\n", json!({"namespace": namespace, "pod": name, "error": "it did not answer within 5 s"}));
    }
    text += &format!("{}\n", json!({"asked": said.len() + silent.len(), "answered": said.len()}));
    Some((200, text))
}

/// Requests by pod, and who said nothing.
async fn asked(server: &Standin) -> (Vec<(String, u64)>, Vec<ask::Silent>) {
    let scope = server.everywhere();
    let mut said = Vec::new();
    let control_plane = ControlPlane { namespace: names::NAMESPACE.to_owned() };
    let asking = ask::Asking::of(&scope, &control_plane).await.unwrap();
    let silent = asking.signals(|found, signals| said.push((found.name.clone(), signals.routes[0].m1.requests)));
    let silent = silent.await.unwrap();
    said.sort();
    (said, silent)
}

#[tokio::test]
async fn all_replicas_of_discovery_are_asked_once_and_what_they_know_is_put_together() {
    let server = Standin::start(world(&[], |replica, path| {
        assert!(path.starts_with("/mesh/signals?namespace="), "{path}");
        match (replica, path.contains("namespace=shop")) {
            ("one", true) => ndjson(&[("shop/web-1", 1), ("shop/web-2", 2)], &[]),
            ("two", true) => ndjson(&[("shop/web-2", 2), ("shop/web-3", 3), ("shop/unasked", 9)], &["shop/web-1"]),
            ("one", false) => ndjson(&[("pay/card-1", 4), ("pay/card-2", 5)], &[]),
            _ => ndjson(&[], &[]),
        }
    }))
    .await;
    let (said, silent) = asked(&server).await;
    let expected = [("pay/card-1", 4), ("pay/card-2", 5), ("shop/web-1", 1), ("shop/web-2", 2), ("shop/web-3", 3)];
    assert_eq!(said, expected.map(|(pod, n)| (pod.to_owned(), n)));
    assert!(silent.is_empty(), "{silent:?}");
    assert_eq!(server.asked("/portforward"), 4, "two namespaces of two replicas, and no pod");
}

#[tokio::test]
async fn what_discovery_cannot_give_is_asked_of_the_pod_itself() {
    let server = Standin::start(world(&[], |replica, path| match (replica, path.contains("shop")) {
        ("one", true) => ndjson(&[("shop/web-1", 1), ("shop/web-2", 2)], &["shop/web-3"]),
        ("one", false) => ndjson(&[("pay/card-1", 4)], &[]),
        _ => None,
    }))
    .await;
    let (said, silent) = asked(&server).await;
    assert_eq!(said.len(), 5, "{said:?}");
    assert!(said.contains(&("shop/web-3".to_owned(), 10)) && said.contains(&("pay/card-2".to_owned(), 10)), "{said:?}");
    assert!(silent.is_empty(), "{silent:?}");
}

#[tokio::test]
async fn without_a_right_in_the_control_planes_namespace_or_with_an_older_one_each_pod_is_asked() {
    for (forbidden, status) in [(Some("/api/v1/namespaces/remora/pods"), 200), (None, 404)] {
        let forbidden: Vec<_> = forbidden.into_iter().collect();
        let server = Standin::start(world(&forbidden, move |_, _| Some((status, "nothing here\n".to_owned())))).await;
        let (said, silent) = asked(&server).await;
        assert_eq!((said.len(), silent.len()), (5, 0));
        assert!(said.iter().all(|(_, requests)| *requests == 10), "{said:?}");
    }
}

#[tokio::test]
async fn a_mesh_of_a_thousand_pods_is_asked_by_one_forward_to_each_replica() {
    let name = |n: usize| format!("n{}/p-{n}", n % 20);
    let mut world = world(&[], move |replica, path| {
        assert_eq!(path, "/mesh/signals");
        let half = usize::from(replica == "two");
        let known: Vec<String> = (0..1000).filter(|n| n % 2 == half).map(name).collect();
        ndjson(&known.iter().map(|pod| (pod.as_str(), 1)).collect::<Vec<_>>(), &[])
    });
    world.objects.retain(|it| it["metadata"]["namespace"] == names::NAMESPACE);
    world.objects.extend((0..1000).map(|n| standin::pod(&format!("n{}", n % 20), &format!("p-{n}"), "p")));
    let server = Standin::start(world).await;
    let (said, silent) = asked(&server).await;
    assert_eq!((said.len(), silent.len(), server.asked("/portforward")), (1000, 0, 2));
}

#[tokio::test]
async fn pods_are_asked_a_few_at_a_time() {
    let mut world = world(&["/api/v1/namespaces/remora/pods"], |_, _| None);
    world.objects.extend((0..40).map(|n| standin::pod("wide", &format!("w-{n}"), "w")));
    let server = Standin::start(world).await;
    let (said, _) = asked(&server).await;
    let most = server.forwards_most();
    assert!(said.len() == 45 && (2..=FORWARDS_MAX).contains(&most), "{most} at once");
}

#[tokio::test]
async fn everything_that_a_proxy_holds_is_read_with_the_policies_of_its_namespace() {
    let mut world = world(&[], |_, _| None);
    let said =
        json!([{ "type": "Accepted", "status": "False", "reason": "Invalid", "message": "spec.mode: is wrong" }]);
    world.objects.push(json!({ "apiVersion": "policy.remora.dev/v1alpha1", "kind": "MeshTLSPolicy", "metadata": { "namespace": "shop", "name": "strict" }, "status": { "conditions": said } }));
    let kinds: Vec<_> = crate::cluster::policies::ours().collect();
    let kind = kinds.iter().find(|kind| kind.kind == "MeshTLSPolicy").unwrap();
    world.objects.last_mut().unwrap()["apiVersion"] = format!("{}/{}", kind.group, kind.version).into();
    let answers = world.port;
    world.port = Box::new(move |pod, port, path| match path {
        "/ready" => Some((503, "discovery: no answer yet\n".to_owned())),
        "/config" => Some((200, json!({ "log": "info" }).to_string())),
        path => answers(pod, port, path),
    });
    let server = Standin::start(world).await;
    let found =
        Scope { targets: vec![target::parse("pod/web-1").unwrap()], all_namespaces: false, ..server.everywhere() };
    let found = found.open().await.unwrap().find().await.unwrap().remove(0);
    let state = super::state::read(&found.admin, &found.namespace, Some(&server.cluster().await)).await.unwrap();
    let odd = super::diagnose::of_state(&state, 100);
    assert!(odd.contains(&"it is not ready: discovery: no answer yet".to_owned()), "{odd:?}");
    assert!(
        odd.iter().any(|it| it.contains("MeshTLSPolicy shop/strict") && it.contains("spec.mode: is wrong")),
        "{odd:?}"
    );
    let json = state.json();
    assert_eq!((&json["config"]["log"], &json["policies"][0]["metadata"]["name"]), (&json!("info"), &json!("strict")));
    assert!(json["errors"]["error"].as_str().is_some_and(|why| why.contains("connection refused")), "{json}");
}

#[tokio::test]
async fn a_pod_that_did_not_answer_is_named_and_hides_no_other() {
    let mut world = world(&["/api/v1/namespaces/remora/pods"], |_, _| None);
    let answers = world.port;
    world.port = Box::new(move |pod, port, path| if pod == "pay/card-2" { None } else { answers(pod, port, path) });
    let server = Standin::start(world).await;
    let (said, silent) = asked(&server).await;
    assert_eq!(said.len(), 4);
    assert_eq!(silent[0].pod, "pay/card-2");
    assert!(silent[0].error.contains("connection refused"), "{silent:?}");
}

#[tokio::test]
async fn a_pod_that_answers_nobody_is_named_with_what_both_ways_say() {
    let mut world = world(&[], |replica, path| match (replica, path.contains("shop")) {
        ("one", true) => ndjson(&[("shop/web-1", 1), ("shop/web-2", 2)], &["shop/web-3"]),
        _ => ndjson(&[("pay/card-1", 1), ("pay/card-2", 2)], &[]),
    });
    let answers = world.port;
    world.port = Box::new(move |pod, port, path| if pod == "shop/web-3" { None } else { answers(pod, port, path) });
    let server = Standin::start(world).await;
    let (said, silent) = asked(&server).await;
    assert_eq!((said.len(), silent.len()), (4, 1));
    let why = &silent[0].error;
    assert!(
        why.starts_with("discovery says: it did not answer within 5 s; ") && why.contains("connection refused"),
        "{why}"
    );
}

#[tokio::test]
async fn targets_selectors_and_namespaces_mean_what_they_mean_to_kubectl() {
    let mut world = world(&[], |_, _| None);
    let selector = json!({ "selector": { "matchLabels": { "app": "web" } }, "template": {} });
    world.objects.push(json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "namespace": "shop", "name": "web" }, "spec": selector }));
    world.objects.push(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "shop", "name": "front" }, "spec": { "selector": { "app": "web" } } }));
    world.objects.push(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "shop", "name": "bare" }, "spec": {} }));
    let server = Standin::start(world).await;
    let find = async |targets: &[&str], selector: Option<&str>| {
        let scope = Scope {
            targets: targets.iter().map(|it| target::parse(it).unwrap()).collect(),
            selector: selector.map(str::to_owned),
            all_namespaces: targets.is_empty(),
            ..server.everywhere()
        };
        let found = scope.open().await.unwrap().find().await;
        found
            .map(|all| all.into_iter().map(|it| it.name).collect::<Vec<_>>().join(" "))
            .map_err(|error| error.to_string())
    };
    let web = "shop/web-1 shop/web-2 shop/web-3";
    assert_eq!(find(&["deployment.apps/web"], None).await.unwrap(), web);
    assert_eq!(
        find(&["svc/front", "pod/web-1", "ns/pay"], None).await.unwrap(),
        format!("pay/card-1 pay/card-2 {web}")
    );
    assert_eq!(find(&["ns/pay"], Some("app=card")).await.unwrap(), "pay/card-1 pay/card-2");
    assert_eq!(find(&[], Some("app=card")).await.unwrap(), "pay/card-1 pay/card-2");
    assert!(find(&["ns/pay"], Some("app=web")).await.unwrap_err().contains("labels app=web in namespace pay"));
    assert!(find(&["svc/bare"], None).await.unwrap_err().contains("Service bare selects no pods"));
    assert!(find(&["pod/nobody"], None).await.unwrap_err().contains("no pod nobody in namespace shop"));
    assert!(find(&["pod/web-1"], Some("app=web")).await.unwrap_err().contains("not both"));
}
