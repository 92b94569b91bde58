//! What a cluster has and a directory of manifests need not: nodes, namespaces, uids, sidecars, two address families.

use super::*;
use remora_model::{Endpoint, Protocol};

fn endpoints(snapshot: &Snapshot, target: &str) -> Vec<Endpoint> {
    let parent = outbound(snapshot, "shop", target).parent.into_backend().unwrap();
    snapshot.backend(&parent).unwrap().endpoints.clone()
}

fn slice(endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: api-1, namespace: shop, labels: {{ kubernetes.io/service-name: api }} }}
ports: [{{ name: main, port: 8000 }}]
endpoints: [{endpoints}]
---
"
    )
}

#[test]
fn an_injected_pod_says_so_by_label_or_annotation_and_one_in_its_nodes_network_never_is() {
    let identity = |meta: &str, spec: &str| {
        let pod = format!(
            "apiVersion: v1
kind: Pod
metadata: {{ name: api-2, namespace: shop, {meta} }}
spec: {{ {spec} }}
status: {{ podIP: 10.1.0.3 }}
---
"
        );
        let to = slice("{ addresses: [10.1.0.3], targetRef: { kind: Pod, name: api-2 } }");
        let world = with(&format!("{pod}{to}"));
        (
            endpoints(&world, "api:80")[0].identity.is_some(),
            outbound(&world, "shop", "10.1.0.3:8000").parent.backend().is_some(),
        )
    };
    assert_eq!(identity("labels: { remora.dev/injected: 'true' }", ""), (true, true));
    assert_eq!(identity("annotations: { remora.dev/injected: 'true' }", ""), (true, true));
    assert_eq!(identity("labels: { remora.dev/injected: 'false' }", ""), (false, true));
    let host = identity("labels: { remora.dev/injected: 'true' }", "hostNetwork: true");
    assert_eq!(host, (false, false), "and its node's address is nobody's");
}

#[test]
fn ports_that_bypass_the_proxy_of_an_injected_pod_are_reached_in_plaintext() {
    let pod = "apiVersion: v1
kind: Pod
metadata: { name: api-2, namespace: shop, labels: { remora.dev/injected: 'true' } }
spec:
  initContainers:
    - { name: other, args: ['--skip-inbound-ports=8000'] }
    - { name: remora-init, args: ['--skip-inbound-ports=25,5000-5010'] }
status: { podIP: 10.1.0.3 }
---
";
    let world = with(pod);
    let meshed = |port: u16| {
        let parent = outbound(&world, "shop", &format!("10.1.0.3:{port}")).parent.into_backend().unwrap();
        world.backend(&parent).unwrap().endpoints[0].identity.is_some()
    };
    assert!(meshed(8000) && meshed(5011) && meshed(80));
    assert!(!meshed(25) && !meshed(5005));
    assert!(!meshed(4191), "the sidecar's metrics");
}

#[test]
fn an_endpoint_is_of_the_pod_that_is_meant_not_of_one_that_had_its_name_before() {
    let world = WORLD.replace("name: api-1, namespace: shop,", "name: api-1, namespace: shop, uid: new,");
    let found = |uid: &str| {
        let to = slice(&format!("{{ addresses: [10.1.0.1], targetRef: {{ kind: Pod, name: api-1{uid} }} }}"));
        endpoints(&snapshot(&format!("{world}---\n{to}")), "api:80").len()
    };
    assert_eq!(found(", uid: new"), 1);
    assert_eq!(found(""), 1, "by hand, nobody says which");
    assert_eq!(found(", uid: old"), 0, "the old one may have been outside of the mesh");
}

#[test]
fn an_address_is_its_latest_pods() {
    let pod = |name: &str, meta: &str| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: shop, {meta} }}
status: {{ podIP: 10.1.0.9 }}
---
"
        )
    };
    let holder = |one: &str, other: &str| {
        let world = with(&(pod("a", one) + &pod("b", other)));
        outbound(&world, "shop", "10.1.0.9:80").parent.into_backend().unwrap().name.to_string()
    };
    let (early, late) = ("creationTimestamp: '2026-01-01T00:00:00Z'", "creationTimestamp: '2026-01-02T00:00:00Z'");
    assert_eq!(holder(early, late), "b");
    assert_eq!(holder(late, early), "a");
    let going = format!("{late}, deletionTimestamp: '2026-01-03T00:00:00Z'");
    assert_eq!(holder(&going, early), "b", "one that goes before one that stays");
}

#[test]
fn the_zone_is_the_hints_then_the_slices_then_the_nodes_then_the_pods_own() {
    let node = "apiVersion: v1
kind: Node
metadata: { name: node-1, labels: { topology.kubernetes.io/zone: of-node } }
---
";
    let placed =
        WORLD.replace("spec: { serviceAccountName: api,", "spec: { serviceAccountName: api, nodeName: node-1,");
    let placed = placed.replace(
        "labels: { app: api }, annotations",
        "labels: { app: api, topology.kubernetes.io/zone: own }, annotations",
    );
    let zone = |node: &str, more: &str| {
        let to = slice(&format!("{{ addresses: [10.1.0.1], targetRef: {{ kind: Pod, name: api-1 }}{more} }}"));
        let world = snapshot(&format!("{placed}---\n{node}{to}"));
        assert_eq!(world.zone("shop", "api-1"), Some(if node.is_empty() { "own" } else { "of-node" }));
        endpoints(&world, "api:80")[0].zone.to_string()
    };
    assert_eq!(zone("", ""), "own");
    assert_eq!(zone(node, ""), "of-node");
    assert_eq!(zone(node, ", zone: of-slice"), "of-slice");
    assert_eq!(zone(node, ", zone: of-slice, hints: { forZones: [{ name: hinted }] }"), "hinted");
    assert_eq!(with("").zone("shop", "gone"), None);
}

#[test]
fn of_a_pod_with_two_families_the_services_own_counts() {
    let both = WORLD.replace("podIP: 10.1.0.1", "podIP: 10.1.0.1, podIPs: [{ ip: 10.1.0.1 }, { ip: 'fd00::1' }]");
    assert_eq!(addresses(&snapshot(&both), "shop", "api:80"), "10.1.0.1:8000 10.1.0.2:8000");
    let six = both.replace("clusterIP: 10.0.0.1", "clusterIP: 'fd01::1'");
    assert_eq!(addresses(&snapshot(&six), "shop", "api:80"), "10.1.0.2:8000 [fd00::1]:8000", "or what there is");
    let to = slice("{ addresses: [10.1.0.1], targetRef: { kind: Pod, name: api-1 } }, { addresses: [192.0.2.1] }")
        + &slice("{ addresses: ['fd00::1'], targetRef: { kind: Pod, name: api-1 } }, { addresses: ['fd00::9'] }")
            .replace("name: api-1, namespace", "name: api-2, namespace");
    let world = snapshot(&format!("{both}---\n{to}"));
    assert_eq!(addresses(&world, "shop", "api:80"), "10.1.0.1:8000 192.0.2.1:8000 [fd00::9]:8000");
    let inbound = |port| world.inbound("shop", "api-1", port).unwrap().parent.to_string();
    assert_eq!(inbound(8000), "shop/api:80", "policies hold at either address");
}

#[test]
fn a_named_port_may_be_a_sidecars_but_not_an_init_containers_nor_udp() {
    let found = |containers: &str| {
        let world = WORLD.replace("containers: [{ ports: [{ name: web, containerPort: 8000 }] }]", containers);
        addresses(&snapshot(&world), "shop", "api:90")
    };
    let init = |policy: &str| format!("initContainers: [{{ {policy}ports: [{{ name: web, containerPort: 8001 }}] }}]");
    assert_eq!(found(&init("restartPolicy: Always, ")), "10.1.0.1:8001");
    assert_eq!(found(&init("")), "");
    assert_eq!(found("containers: [{ ports: [{ name: web, containerPort: 8000, protocol: UDP }] }]"), "");
}

#[test]
fn a_namespace_makes_ports_opaque_where_the_object_itself_says_nothing() {
    let namespace = "apiVersion: v1
kind: Namespace
metadata: { name: shop, annotations: { remora.dev/opaque-ports: '90,7000' } }
";
    let world = with(namespace);
    let protocol = |world: &Snapshot, target: &str| outbound(world, "shop", target).protocol;
    assert_eq!(protocol(&world, "api:90"), Protocol::Opaque);
    assert_eq!(protocol(&world, "api:80"), Protocol::Http2);
    assert_eq!(world.inbound("shop", "api-1", 7000).unwrap().protocol, Protocol::Opaque);
    let own = "metadata: { name: api, namespace: shop, annotations: { remora.dev/opaque-ports: '80' } }";
    let world =
        snapshot(&format!("{}---\n{namespace}", WORLD.replace("metadata: { name: api, namespace: shop }", own)));
    assert_eq!((protocol(&world, "api:90"), protocol(&world, "api:80")), (Protocol::Detect, Protocol::Opaque));
}

#[test]
fn policies_for_the_whole_mesh_stand_in_the_control_planes_namespace() {
    let strict = |namespace: &str| {
        let text = format!(
            "{WORLD}---
apiVersion: remora.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {{ name: strict, namespace: {namespace} }}
spec: {{ mode: Strict }}
"
        );
        let mesh = Mesh { namespace: "elsewhere".to_owned(), ..mesh() };
        let world = Snapshot::build(parse(&text, "").whole().unwrap(), &mesh);
        world.inbound("shop", "api-1", 8000).unwrap().mtls == remora_model::MtlsMode::Strict
    };
    assert!(strict("elsewhere") && !strict("remora"));
}

#[test]
fn what_did_not_change_is_the_same_value_and_is_not_told_again() {
    let mut world = with("").world;
    let backend = |world: &World, target: &str| {
        let parent = world.facts.outbound("shop", &target.parse().unwrap()).parent.into_backend().unwrap();
        world.facts.backend(&parent).unwrap()
    };
    for target in ["api:80", "api:90", "api.shop:80"] {
        world.ask(&Arc::new(Asked::Outbound("shop".to_owned(), target.parse().unwrap())));
    }
    let asked = [80, 90].map(|port| Asked::Backend(backend_id(&("shop".to_owned(), "api".to_owned()), port)));
    asked.iter().for_each(|asked| drop(world.ask(&Arc::new(asked.clone()))));
    let before = ["api:80", "api:90"].map(|target| backend(&world, target));
    let text = WORLD.replace("containerPort: 8000", "containerPort: 8001");
    let mut told = Vec::new();
    let changes = parse(&text, "test.yaml").whole().unwrap().into_iter().map(Change::Put);
    world.apply(changes, &mut |asked, _| told.push(asked.clone()));
    let same = |at: usize, target: &str| Arc::ptr_eq(&before[at], &backend(&world, target));
    assert!(same(0, "api:80") && !same(1, "api:90"));
    assert_eq!(told, [asked[1].clone()]);
}

/// Not a bound but a look: `cargo test -- --nocapture`.
#[test]
fn five_hundred_services_are_indexed_in_a_moment() {
    let mut text = String::new();
    for service in 0..500 {
        text += &format!(
            "apiVersion: v1
kind: Service
metadata: {{ name: s{service}, namespace: shop }}
spec: {{ clusterIP: 10.0.{}.{}, selector: {{ app: s{service} }}, ports: [{{ port: 80 }}] }}
---
",
            service / 250,
            service % 250
        );
        for pod in 0..4 {
            text += &format!(
                "apiVersion: v1
kind: Pod
metadata: {{ name: s{service}-{pod}, namespace: shop, labels: {{ app: s{service}, remora.dev/injected: 'true' }} }}
status: {{ podIP: 10.1.{}.{} }}
---
",
                service / 60,
                service % 60 * 4 + pod
            );
        }
    }
    let objects = parse(&text, "").whole().unwrap();
    let began = std::time::Instant::now();
    let mut world = World::new(mesh());
    world.apply(objects.iter().cloned().map(Change::Put), &mut |_, _| {});
    let (first, began) = (began.elapsed(), std::time::Instant::now());
    for object in &objects {
        world.apply([Change::Gone(object.clone())], &mut |_, _| {});
        world.apply([Change::Put(object.clone())], &mut |_, _| {});
    }
    let each = began.elapsed() / u32::try_from(2 * objects.len()).unwrap();
    println!(
        "500 Services with 2 000 pods: {first:?} at first, {each:?} for each change of one; {} cells",
        world.cells()
    );
    assert_eq!(world.counts(), (500, 2000, 500));
}
