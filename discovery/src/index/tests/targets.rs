use super::*;
use remora_model::Protocol;

fn parent(client: &str, target: &str) -> Option<String> {
    outbound(&with(""), client, target).parent.backend().map(|id| id.to_string())
}

#[test]
fn a_service_is_found_by_every_name_it_has() {
    let api = Some("shop/api:80".to_owned());
    for name in ["api.shop:80", "api.shop.svc:80", "api.shop.svc.cluster.local:80", "10.0.0.1:80"] {
        assert_eq!(parent("other", name), api, "{name}");
    }
    assert_eq!(parent("shop", "api:80"), api);
    assert_eq!(parent("other", "api:80"), None, "a bare name is the client's own namespace's");
    assert_eq!(parent("shop", "api:81"), None, "a port that the Service does not have");
    assert_eq!(parent("shop", "10.0.0.1:81"), None, "nor has its address");
    assert_eq!(parent("shop", "192.0.2.1:80"), None, "an address that nobody has");
}

#[test]
fn both_addresses_of_a_dual_stack_service_lead_to_it() {
    let world = snapshot(
        "apiVersion: v1
kind: Service
metadata: { name: api, namespace: shop }
spec: { clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ports: [{ port: 80 }] }
",
    );
    for target in ["10.0.0.1:80", "[fd00::1]:80"] {
        assert_eq!(outbound(&world, "shop", target).parent.into_backend().unwrap().to_string(), "shop/api:80");
    }
}

#[test]
fn a_pod_is_reached_by_its_address_alone_and_speaks_what_its_services_say() {
    let world = with("");
    assert_eq!(addresses(&world, "shop", "10.1.0.1:9000"), "10.1.0.1:9000");
    assert_eq!(outbound(&world, "shop", "10.1.0.1:9000").protocol, Protocol::Detect);
    let served = outbound(&world, "shop", "10.1.0.1:8000");
    assert_eq!(
        (served.parent.into_backend().unwrap().to_string(), served.protocol),
        ("shop/pod/api-1:8000".into(), Protocol::Http2)
    );
}

#[test]
fn a_headless_service_leads_to_its_pods_by_either_port_and_each_by_its_name() {
    let world = with(
        "apiVersion: v1
kind: Service
metadata: { name: db, namespace: shop }
spec: { clusterIP: None, selector: { app: api }, ports: [{ port: 80, targetPort: 5432 }] }
",
    );
    let pods = "10.1.0.1:5432 10.1.0.2:5432";
    assert_eq!(addresses(&world, "shop", "db:80"), pods);
    assert_eq!(addresses(&world, "shop", "db:5432"), pods, "what DNS gives leads to the pods' own port");
    assert_eq!(addresses(&world, "shop", "api-1.db.shop.svc.cluster.local:5432"), "10.1.0.1:5432");
    assert_eq!(addresses(&world, "shop", "gone.db.shop:5432"), "unknown");
    assert_eq!(addresses(&world, "shop", "api:8000"), "unknown", "a Service with an address has its own ports only");
}

#[test]
fn an_external_name_is_reported_and_known_to_nobody() {
    let world = snapshot(
        "apiVersion: v1
kind: Service
metadata: { name: out, namespace: shop }
spec: { type: ExternalName, externalName: example.com, ports: [{ port: 80 }] }
",
    );
    assert_eq!(addresses(&world, "shop", "out:80"), "unknown");
    assert_eq!(world.reports, ["test.yaml: line 1: Service shop/out: ExternalName is not supported, ignored"]);
}

#[test]
fn of_an_object_given_twice_the_last_counts_and_it_is_said_where_the_other_is() {
    let service = "apiVersion: v1
kind: Service
metadata: { name: api, namespace: shop }
spec: { clusterIP: 10.0.0.1, ports: [{ port: PORT }] }
---
";
    let world = snapshot(&format!("{}{}", service.replace("PORT", "80"), service.replace("PORT", "90")));
    assert!(outbound(&world, "shop", "api:90").parent.backend().is_some());
    let report = "test.yaml: line 6: Service shop/api: is given twice; the one at test.yaml: line 1 is ignored";
    assert_eq!(world.reports, [report]);
}

/// The world in a cluster whose Services are in 10.0.0.0/16 and pods in 10.1.0.0/16.
fn ranged(more: &str) -> Snapshot {
    let mesh = Mesh { networks: vec!["10.0.0.0/15".parse().unwrap()], ..mesh() };
    Snapshot::build(parse(&format!("{WORLD}---\n{more}"), "test.yaml").whole().unwrap(), &mesh)
}

#[test]
fn what_is_in_the_clusters_ranges_and_not_known_is_not_vouched_for() {
    let node = "apiVersion: v1
kind: Pod
metadata: { name: agent, namespace: shop }
spec: { hostNetwork: true }
status: { podIP: 10.1.255.1 }
";
    let world = ranged(node);
    let is = |target: &str| outbound(&world, "shop", target).parent;
    for unknown in ["10.0.0.1:81", "10.0.7.7:80", "10.1.0.77:80", "[::ffff:10.1.0.77]:80"] {
        assert_eq!(is(unknown), Parent::Unknown, "{unknown}");
    }
    assert_eq!(is("[::ffff:10.1.0.1]:8000"), is("10.1.0.1:8000"), "the same pod in either spelling");
    assert_eq!(is("[::ffff:10.0.0.1]:80"), is("10.0.0.1:80"));
    for outside in ["10.2.0.1:80", "1.1.1.1:443", "[2001:db8::1]:443", "10.1.255.1:80"] {
        assert_eq!(is(outside), Parent::Outside, "{outside}");
    }
    assert_eq!(world.networks().iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/15"]);
    // Without ranges nobody can say more than that nothing has the address.
    let world = with("");
    assert!(world.networks().is_empty());
    assert_eq!(outbound(&world, "shop", "10.1.0.77:80").parent, Parent::Outside);
    assert_eq!(outbound(&world, "shop", "10.0.0.1:81").parent, Parent::Unknown, "its Service may get the port");
}

#[test]
fn a_name_that_looks_like_the_clusters_own_is_not_vouched_for() {
    let external = "apiVersion: v1
kind: Service
metadata: { name: ext, namespace: shop }
spec: { type: ExternalName }
";
    let world = with(external);
    let is = |target: &str| outbound(&world, "shop", target).parent;
    for unknown in [
        "apy:80",
        "api:81",
        "apy.shop:80",
        "x.y.svc:80",
        "x.y.svc.cluster.local:80",
        "gone.api.shop:80",
        "a.b.c.d.svc:80",
        "a.cluster.local:80",
        "10-1-0-7.shop.pod.cluster.local:80",
        "10-1-0-7.shop.pod:80",
        "api-1.db.shop.pod.cluster.local:80",
    ] {
        assert_eq!(is(unknown), Parent::Unknown, "{unknown}");
    }
    for outside in [
        "example.com:80",
        "www.example.com:443",
        "localhost:80",
        "ext:80",
        "ext.shop.svc:80",
        "ext.shop.svc.cluster.local:80",
        "a.gone.pod:80",
        "acluster.local:80",
    ] {
        assert_eq!(is(outside), Parent::Outside, "{outside}");
    }
}

#[test]
fn another_cluster_domain_is_the_clusters_own() {
    let mesh = Mesh { cluster_domain: "k8s.example".to_owned(), ..mesh() };
    let world = Snapshot::build(parse(WORLD, "test.yaml").whole().unwrap(), &mesh);
    assert!(outbound(&world, "shop", "api.shop.svc.k8s.example:80").parent.backend().is_some());
    assert_eq!(outbound(&world, "shop", "api.shop.svc.cluster.local:80").parent, Parent::Outside);
}

#[test]
fn ranges_come_from_service_cidrs_and_nodes_and_what_is_beside_them_is_told_too() {
    let more = "apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: { name: kubernetes }
spec: { cidrs: [10.0.0.0/24, 'fd00::/112'] }
---
apiVersion: v1
kind: Node
metadata: { name: node }
spec: { podCIDRs: [10.7.0.0/24], podCIDR: 10.7.0.0/24 }
---
apiVersion: v1
kind: Node
metadata: { name: odd }
spec: { podCIDRs: [nonsense] }
";
    let world = with(more);
    let told: Vec<String> = world.networks().iter().map(ToString::to_string).collect();
    assert_eq!(told, ["10.0.0.0/24", "10.1.0.1/32", "10.1.0.2/32", "10.7.0.0/24", "fd00::/112"]);
    assert!(world.reports.iter().any(|report| report.contains("Node default/odd: spec.podCIDRs: \"nonsense\"")));
}
