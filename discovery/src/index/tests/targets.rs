use super::*;
use remora_model::Protocol;

fn parent(client: &str, target: &str) -> Option<String> {
    outbound(&with(""), client, target).parent.map(|id| id.to_string())
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
        assert_eq!(outbound(&world, "shop", target).parent.unwrap().to_string(), "shop/api:80");
    }
}

#[test]
fn a_pod_is_reached_by_its_address_alone_and_speaks_what_its_services_say() {
    let world = with("");
    assert_eq!(addresses(&world, "shop", "10.1.0.1:9000"), "10.1.0.1:9000");
    assert_eq!(outbound(&world, "shop", "10.1.0.1:9000").protocol, Protocol::Detect);
    let served = outbound(&world, "shop", "10.1.0.1:8000");
    assert_eq!((served.parent.unwrap().to_string(), served.protocol), ("shop/pod/api-1:8000".into(), Protocol::Http2));
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
    assert!(outbound(&world, "shop", "api:90").parent.is_some());
    let report = "test.yaml: line 6: Service shop/api: is given twice; the one at test.yaml: line 1 is ignored";
    assert_eq!(world.reports, [report]);
}
