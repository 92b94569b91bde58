use super::*;
use crate::source::parse::parse;
use remora_model::{MtlsMode, TrustDomain};

const WORLD: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: api-1, namespace: shop, labels: { app: api }, annotations: { remora.dev/proxy-address: "10.1.0.1:4143" } }
spec: { serviceAccountName: api, containers: [{ ports: [{ name: web, containerPort: 8000 }] }] }
status: { podIP: 10.1.0.1 }
---
apiVersion: v1
kind: Pod
metadata: { name: bare, namespace: shop, labels: { app: api } }
status: { podIP: 10.1.0.2 }
---
apiVersion: v1
kind: Service
metadata: { name: api, namespace: shop }
spec: { clusterIP: 10.0.0.1, selector: { app: api }, ports: [{ port: 80, targetPort: 8000, appProtocol: grpc }] }
---
apiVersion: remora.dev/v1alpha1
kind: MeshTLSPolicy
metadata: { name: strict, namespace: shop }
spec: { mode: Strict }
---
apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: broken, namespace: shop }
spec: { targetRefs: [{ kind: Service, name: api }], action: Deny, rules: [{ from: [{ cidrs: [nonsense] }] }] }
---
"#;

fn build(more: &str) -> Snapshot {
    let trust_domain = TrustDomain::new("cluster.local").unwrap();
    Snapshot::build(parse(&format!("{WORLD}{more}")).unwrap(), &trust_domain)
}

fn parent(client: &str, target: &str) -> Option<String> {
    build("").outbound(client, &target.parse().unwrap()).parent.map(|id| id.to_string())
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
    assert_eq!(parent("shop", "10.1.0.1:9000"), Some("shop/pod/api-1:9000".to_owned()));
}

#[test]
fn only_a_meshed_pod_has_an_identity() {
    let snapshot = build("");
    let backend = snapshot.backend(&snapshot.outbound("shop", &"api:80".parse().unwrap()).parent.unwrap()).unwrap();
    let ids: Vec<_> = backend.endpoints.iter().map(|e| e.identity.as_ref().map(ToString::to_string)).collect();
    assert_eq!(ids, [Some("spiffe://cluster.local/ns/shop/sa/api".to_owned()), None]);
    assert_eq!(backend.endpoints[0].proxy, "10.1.0.1:4143".parse().ok());
    assert_eq!(backend.protocol, remora_model::Protocol::Http2);
}

#[test]
fn an_unreadable_deny_rule_denies_everything() {
    let inbound = build("").inbound("shop", "api-1", 8000).unwrap();
    assert_eq!((inbound.parent.as_ref(), inbound.mtls), ("shop/api:80", MtlsMode::Strict));
    assert!(inbound.rules.len() == 1 && inbound.rules[0].from.is_empty() && inbound.rules[0].to.is_empty());
}

#[test]
fn rules_come_in_the_order_of_the_gateway_api() {
    let route = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r, namespace: shop }
spec:
  parentRefs: [{ group: '', kind: Service, name: api }]
  rules:
    - { name: any, backendRefs: [{ name: api, port: 80 }] }
    - { name: short, matches: [{ path: { value: /a } }], backendRefs: [{ name: api, port: 80 }] }
    - { name: long, matches: [{ path: { value: /a/b } }], backendRefs: [{ name: gone, port: 80 }] }
    - { name: header, matches: [{ path: { value: /a }, headers: [{ name: x, value: y }] }], backendRefs: [] }
    - { name: method, matches: [{ path: { value: /a }, method: GET }], backendRefs: [] }
    - { name: exact, matches: [{ path: { type: Exact, value: /a } }], backendRefs: [] }
";
    let outbound = build(route).outbound("shop", &"api:80".parse().unwrap());
    let order: Vec<&str> =
        outbound.matches.iter().map(|m| outbound.rules[m.rule].label.rsplit(' ').next().unwrap()).collect();
    assert_eq!(order, ["exact", "long", "method", "header", "short", "any"]);
    assert_eq!(outbound.rules[2].backends[0].state, BackendRefState::Invalid, "its Service is not there");
    assert_eq!(outbound.rules[0].label.as_ref(), "HTTPRoute/shop/r rule any");
}

#[test]
fn durations_are_those_of_gep_2257() {
    let millis = |text| values::duration(text).ok().map(|time| time.as_millis());
    assert_eq!(millis("1h30m"), Some(5_400_000));
    assert_eq!(millis("10s5ms"), Some(10_005));
    for wrong in ["", "1", "s", "1.5s", "1s1h", "100000s", "-1s"] {
        assert_eq!(millis(wrong), None, "{wrong}");
    }
}
