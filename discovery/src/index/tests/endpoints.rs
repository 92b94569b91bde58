use super::*;
use remora_model::{HashSource, LoadBalancer, Locality};

#[test]
fn only_a_meshed_pod_has_an_identity() {
    let world = with("");
    let known = world.backend(&outbound(&world, "shop", "api:80").parent.into_backend().unwrap()).unwrap();
    let ids: Vec<_> = known.endpoints.iter().map(|e| e.identity.as_ref().map(ToString::to_string)).collect();
    assert_eq!(ids, [Some("spiffe://cluster.local/ns/shop/sa/api".to_owned()), None]);
    assert_eq!(known.endpoints[0].proxy, "10.1.0.1:4143".parse().ok());
    assert_eq!(known.protocol, remora_model::Protocol::Http2);
}

#[test]
fn a_target_port_may_be_named_and_then_only_pods_that_have_it_serve() {
    assert_eq!(addresses(&with(""), "shop", "api:90"), "10.1.0.1:8000");
}

#[test]
fn a_pod_whose_identity_or_proxy_cannot_be_read_is_no_endpoint_rather_than_a_plaintext_one() {
    let broken = |what: &str, with: &str| snapshot(&WORLD.replace(what, with));
    for world in [broken("serviceAccountName: api", "serviceAccountName: a/b"), broken("10.1.0.1:4143", "10.1.0.1")] {
        assert_eq!(addresses(&world, "shop", "api:80"), "10.1.0.2:8000");
        assert_eq!(addresses(&world, "shop", "10.1.0.1:8000"), "", "nor by its own address");
        assert!(world.reports[0].starts_with("test.yaml: line 2: Pod shop/api-1: "), "{:?}", world.reports);
    }
}

/// The endpoints in use of a Service whose slice has these conditions, one endpoint each.
fn in_use(conditions: &[&str]) -> String {
    let endpoints: String = conditions
        .iter()
        .enumerate()
        .map(|(i, conditions)| format!("  - {{ addresses: [10.2.0.{i}], conditions: {{ {conditions} }} }}\n"))
        .collect();
    let world = snapshot(&format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: api, namespace: shop }}
spec: {{ clusterIP: 10.0.0.1, ports: [{{ name: main, port: 80 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: api-1, namespace: shop, labels: {{ kubernetes.io/service-name: api }} }}
addressType: IPv4
ports: [{{ name: main, port: 1 }}, {{ name: other, port: 2 }}]
endpoints:
{endpoints}"
    ));
    addresses(&world, "shop", "api:80")
}

#[test]
fn the_conditions_of_endpoints_mean_what_kubernetes_says() {
    assert_eq!(in_use(&["", "ready: true"]), "10.2.0.0:1 10.2.0.1:1", "what is not said is ready");
    assert_eq!(in_use(&["ready: false", "ready: true"]), "10.2.0.1:1");
    let leaving = "ready: false, serving: true, terminating: true";
    assert_eq!(in_use(&[leaving, "ready: true"]), "10.2.0.1:1", "one that shuts down gets nothing new");
    assert_eq!(in_use(&[leaving, "ready: false"]), "10.2.0.0:1", "unless nothing else is left");
    assert_eq!(in_use(&["ready: false, serving: false, terminating: true"]), "", "and it still serves");
    assert_eq!(in_use(&["ready: false, terminating: true"]), "", "serving is as ready where it is not said");
    let published = "ready: true, serving: true, terminating: true";
    assert_eq!(in_use(&[published]), "10.2.0.0:1", "publishNotReadyAddresses");
}

#[test]
fn without_slices_pods_are_judged_like_the_endpoint_controller_does() {
    let changed = |what: &str| {
        let pod = "metadata: { name: bare, namespace: shop, labels: { app: api } }";
        assert!(WORLD.contains(pod));
        addresses(&snapshot(&WORLD.replace(pod, what)), "shop", "api:80")
    };
    let both = "10.1.0.1:8000 10.1.0.2:8000";
    assert_eq!(addresses(&with(""), "shop", "api:80"), both);
    let leaving =
        "metadata: { name: bare, namespace: shop, labels: { app: api }, deletionTimestamp: '2026-01-01T00:00:00Z' }";
    assert_eq!(changed(leaving), "10.1.0.1:8000");
    assert_eq!(changed("metadata: { name: bare, namespace: other, labels: { app: api } }"), "10.1.0.1:8000");
    let unready = WORLD.replace("podIP: 10.1.0.2", "podIP: 10.1.0.2, conditions: [{ type: Ready, status: 'False' }]");
    assert_eq!(addresses(&snapshot(&unready), "shop", "api:80"), "10.1.0.1:8000");
    let published =
        unready.replace("selector: { app: api }", "selector: { app: api }\n  publishNotReadyAddresses: true");
    assert_eq!(addresses(&snapshot(&published), "shop", "api:80"), both);
    let done = WORLD.replace("podIP: 10.1.0.2", "podIP: 10.1.0.2, phase: Succeeded");
    assert_eq!(addresses(&snapshot(&done), "shop", "api:80"), "10.1.0.1:8000");
}

#[test]
fn an_endpoint_of_a_pod_that_nobody_knows_is_left_out_since_plaintext_might_be_a_downgrade() {
    let slice = |target: &str| {
        with(&format!(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: api-1, namespace: shop, labels: {{ kubernetes.io/service-name: api }} }}
ports: [{{ name: main, port: 8000 }}]
endpoints: [{{ addresses: [10.2.0.1], targetRef: {{ kind: Pod, name: {target} }} }}]
"
        ))
    };
    assert_eq!(addresses(&slice("api-1"), "shop", "api:80"), "10.2.0.1:8000");
    let world = slice("gone");
    assert_eq!(addresses(&world, "shop", "api:80"), "");
    assert!(world.unseen[0].contains("Pod shop/gone, which is not there"), "{:?}", world.unseen);
}

#[test]
fn a_backend_policy_changes_what_it_names_and_leaves_the_rest() {
    let world = with(
        "apiVersion: remora.dev/v1alpha1
kind: BackendPolicy
metadata: { name: p, namespace: shop }
spec: { targetRefs: [{ kind: Service, name: api }], accrual: { consecutive: 3, backoffMax: 1 hour }, retryConstraint: { budget: { percent: 50 } } }
",
    );
    let known = world.backend(&outbound(&world, "shop", "api:80").parent.into_backend().unwrap()).unwrap();
    let settings = &known.settings;
    assert_eq!((settings.accrual.consecutive, settings.retry_ratio), (3, 0.5));
    assert_eq!(settings.accrual.backoff_max, remora_model::BackendSettings::default().accrual.backoff_max);
    assert!(world.reports[0].contains("spec.accrual.backoffMax: \"1 hour\" is no duration"), "{:?}", world.reports);
}

#[test]
fn a_time_of_zero_in_a_backend_policy_is_a_mistake_that_changes_nothing() {
    let default = remora_model::BackendSettings::default();
    for (spec, field) in [
        ("connectTimeout: 0s", "spec.connectTimeout"),
        ("connectTimeout: 0h0m0s", "spec.connectTimeout"),
        ("accrual: { backoffMin: 0s }", "spec.accrual.backoffMin"),
        ("accrual: { backoffMin: 0ms, backoffMax: 0s }", "spec.accrual.backoffMax"),
    ] {
        let world = with(&format!(
            "apiVersion: remora.dev/v1alpha1
kind: BackendPolicy
metadata: {{ name: p, namespace: shop }}
spec: {{ targetRefs: [{{ kind: Service, name: api }}], {spec} }}
"
        ));
        let known = world.backend(&outbound(&world, "shop", "api:80").parent.into_backend().unwrap()).unwrap();
        assert_eq!(known.settings, default, "{spec}");
        let told = |report: &String| report.contains(field) && report.contains("is zero, which cannot be meant");
        assert!(world.reports.iter().any(told), "{spec}: {:?}", world.reports);
        let status = world.statuses[0].to_write("").unwrap();
        assert_eq!(status["conditions"][0]["status"], "False", "{spec}");
    }
}

#[test]
fn a_service_says_whether_its_clients_keep_to_one_endpoint() {
    let world = with(
        "apiVersion: v1
kind: Service
metadata: { name: carts, namespace: shop }
spec: { clusterIP: 10.1.0.77, sessionAffinity: ClientIP, selector: { app: api }, ports: [{ port: 80 }] }
",
    );
    assert_eq!(load_balancer(&world, "carts:80"), LoadBalancer::SourceHash(HashSource::Ip));
    assert_eq!(load_balancer(&world, "api:80"), LoadBalancer::PeakEwma);
}

#[test]
fn a_service_says_how_near_its_endpoints_must_be_and_only_then_are_their_nodes_told() {
    let told = |spec: &str| {
        let service = format!(
            "apiVersion: v1
kind: Service
metadata: {{ name: near, namespace: shop }}
spec: {{ clusterIP: 10.1.0.78, selector: {{ app: near }}, ports: [{{ port: 80 }}], {spec} }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: near-1, namespace: shop, labels: {{ app: near }} }}
spec: {{ nodeName: node-1 }}
status: {{ podIP: 10.1.0.44 }}
"
        );
        let world = with(&service);
        let parent = outbound(&world, "shop", "near:80").parent.into_backend().unwrap();
        let backend = world.backend(&parent).unwrap();
        let reports = world.reports.join("\n");
        (backend.settings.locality, backend.endpoints[0].node.clone(), reports)
    };
    let node = || Some("node-1".into());
    for (spec, locality, node) in [
        ("internalTrafficPolicy: Cluster", Locality::Spill, None),
        ("trafficDistribution: PreferSameZone", Locality::Zone, None),
        ("trafficDistribution: PreferClose", Locality::Zone, None),
        ("trafficDistribution: PreferSameNode", Locality::Node, node()),
        ("internalTrafficPolicy: Local", Locality::NodeOnly, node()),
        ("internalTrafficPolicy: Local, trafficDistribution: PreferClose", Locality::NodeOnly, node()),
    ] {
        assert_eq!(told(spec), (locality, node, String::new()), "{spec}");
    }
    let (locality, _, reports) = told("trafficDistribution: PreferSameRack");
    assert_eq!(locality, Locality::Spill);
    assert!(
        reports.contains("Service shop/near: spec.trafficDistribution: \"PreferSameRack\" is none of"),
        "{reports}"
    );
}

/// What a slice's endpoint says of its node and zone, whose address no pod has.
#[test]
fn a_slice_says_on_which_node_and_in_which_zone_an_endpoint_is_that_is_no_pods() {
    let told = |endpoint: &str| {
        let world = with(&format!(
            "apiVersion: v1
kind: Service
metadata: {{ name: near, namespace: shop }}
spec: {{ clusterIP: 10.1.0.78, trafficDistribution: PreferSameNode, ports: [{{ port: 80 }}] }}
---
apiVersion: v1
kind: Node
metadata: {{ name: node-1, labels: {{ topology.kubernetes.io/zone: z1 }} }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: near-1, namespace: shop, labels: {{ kubernetes.io/service-name: near }} }}
addressType: IPv4
ports: [{{ port: 8080 }}]
endpoints: [{{ addresses: [192.0.2.7]{endpoint} }}]
"
        ));
        let parent = outbound(&world, "shop", "near:80").parent.into_backend().unwrap();
        let endpoint = world.backend(&parent).unwrap().endpoints[0].clone();
        (endpoint.node.map(|node| node.to_string()), endpoint.zone.to_string())
    };
    assert_eq!(told(""), (None, String::new()));
    assert_eq!(told(", nodeName: node-1"), (Some("node-1".to_owned()), "z1".to_owned()));
    assert_eq!(told(", nodeName: node-2, zone: z2"), (Some("node-2".to_owned()), "z2".to_owned()));
}

fn load_balancer(world: &Snapshot, target: &str) -> LoadBalancer {
    let parent = outbound(world, "shop", target).parent.into_backend().unwrap();
    world.backend(&parent).unwrap().settings.load_balancer.clone()
}

#[test]
fn a_policy_says_how_a_service_is_balanced_whatever_its_session_affinity() {
    let policy = |spec: &str| {
        with(&format!(
            "apiVersion: v1
kind: Service
metadata: {{ name: carts, namespace: shop }}
spec: {{ clusterIP: 10.1.0.77, sessionAffinity: ClientIP, selector: {{ app: api }}, ports: [{{ port: 80 }}] }}
---
apiVersion: remora.dev/v1alpha1
kind: BackendPolicy
metadata: {{ name: carts, namespace: shop }}
spec: {{ targetRefs: [{{ kind: Service, name: carts }}], loadBalancer: {{ {spec} }} }}
"
        ))
    };
    let world = policy("type: RoundRobin");
    assert_eq!(load_balancer(&world, "carts:80"), LoadBalancer::RoundRobin);
    assert_eq!(load_balancer(&world, "api:80"), LoadBalancer::PeakEwma, "its target alone");
    let unreadable = policy("type: RoundRobin, consistentHash: { type: SourceIP }");
    assert_eq!(load_balancer(&unreadable, "carts:80"), LoadBalancer::SourceHash(HashSource::Ip));
}
