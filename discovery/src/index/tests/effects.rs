//! What holds for whom: membership, inbound ports before and after an address is known, and what statuses say of policies.

use super::*;
use remora_model::{Action, MtlsMode};
use serde_json::Value;

fn policy(kind: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: remora.dev/v1alpha1
kind: {kind}
metadata: {{ name: p, namespace: shop, generation: 2 }}
spec: {{ {spec} }}
"
    )
}

fn snapshot_of_api(text: &str) -> Snapshot {
    // Objects of the API stand in no file.
    Snapshot::build(parse(text, "").whole().unwrap(), &mesh())
}

#[test]
fn a_pod_is_in_the_mesh_by_what_nobody_can_change_of_it() {
    let identity = |metadata: &str, spec: &str, source: fn(&str) -> Snapshot| {
        let text = format!(
            "apiVersion: v1
kind: Pod
metadata: {{ name: web, namespace: shop, {metadata} }}
spec: {{ {spec} }}
status: {{ podIP: 10.1.0.9 }}
"
        );
        let world = source(&text);
        let parent = outbound(&world, "shop", "10.1.0.9:80").parent.into_backend().unwrap();
        world.backend(&parent).unwrap().endpoints[0].identity.is_some()
    };
    let proxy = "name: remora-proxy, restartPolicy: Always, env: [{ name: REMORA_PROXY_LOG, value: info }]";
    let injected = format!("initContainers: [{{ {proxy} }}]");
    let label = "labels: { remora.dev/injected: 'true' }";
    let annotation = "annotations: { remora.dev/proxy-address: '10.1.0.9:4143' }";
    for metadata in ["", label, "labels: { remora.dev/injected: 'false' }", annotation] {
        assert!(identity(metadata, &injected, snapshot_of_api), "{metadata}: a label taken off changes nothing");
        assert!(!identity(metadata, "", snapshot_of_api), "{metadata}: nor one put on");
    }
    for not in [
        injected.replace("Always", "OnFailure"),
        injected.replace("remora-proxy", "remora-other"),
        injected.replace("REMORA_PROXY_LOG", "LOG"),
        injected.replace("initContainers", "containers"),
    ] {
        if not.contains("hostNetwork") {
            assert!(!identity("", &not, snapshot_of_api), "{not}");
        }
    }
    assert!(identity(label, "", snapshot) && identity(annotation, "", snapshot), "by hand both may be said");
}

#[test]
fn where_a_pods_proxy_is_only_a_manifest_by_hand_may_say() {
    let text = "apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop, annotations: { remora.dev/proxy-address: '10.9.9.9:4143' } }
spec: { initContainers: [{ name: remora-proxy, restartPolicy: Always, env: [{ name: REMORA_PROXY_LOG }] }] }
status: { podIP: 10.1.0.9 }
";
    let proxy = |world: &Snapshot| {
        let parent = outbound(world, "shop", "10.1.0.9:80").parent.into_backend().unwrap();
        let endpoint = world.backend(&parent).unwrap().endpoints[0].clone();
        assert!(endpoint.identity.is_some());
        endpoint.proxy
    };
    assert_eq!(proxy(&snapshot_of_api(text)), None, "whoever may annotate it would lead its callers elsewhere");
    assert_eq!(proxy(&snapshot_of_api(&text.replace("10.9.9.9:4143", "nonsense"))), None, "nor leave it out");
    assert_eq!(proxy(&snapshot(text)), Some("10.9.9.9:4143".parse().unwrap()));
}

/// `shop/api` in the state between the start of its sidecar and the kubelet's word of its address.
fn world_without_address(more: &str) -> Snapshot {
    let text = WORLD.replacen("status: { podIP: 10.1.0.1 }\n", "", 1);
    snapshot(&format!("{text}{more}"))
}

#[test]
fn nothing_may_come_in_before_the_pods_address_is_known_and_then_the_services_policies_hold() {
    let policies = policy("AuthorizationPolicy", "targetRefs: [{ kind: Service, name: api }], rules: []")
        + &policy("MeshTLSPolicy", "targetRefs: [{ kind: Service, name: api }], mode: Strict");
    let before = world_without_address(&policies);
    assert_eq!((before.inbound("shop", "api-1", 8000), before.inbound_default("shop", "api-1")), (None, None));
    let after = with(policies.trim_start_matches("---\n"));
    let inbound = after.inbound("shop", "api-1", 8000).unwrap();
    assert!(inbound.default_deny && inbound.mtls == MtlsMode::Strict);
}

#[test]
fn a_services_policy_holds_for_pods_that_it_selects_though_its_slices_do_not_have_them_yet() {
    let slice = "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: api-x, namespace: shop, labels: { kubernetes.io/service-name: api } }
ports: [{ name: main, port: 8000 }]
endpoints: [{ addresses: [10.1.0.2] }]
";
    let policy = policy("AuthorizationPolicy", "targetRefs: [{ kind: Service, name: api }], rules: []");
    let world = with(&format!("{}{policy}", slice.trim_start_matches("---\n")));
    assert!(world.inbound("shop", "api-1", 8000).unwrap().default_deny);
}

#[test]
fn ports_that_nobody_declares_share_what_holds_for_the_whole_pod() {
    let policies = policy("AuthorizationPolicy", "targetRefs: [{ kind: Service, name: api }], rules: []")
        + &policy("MeshTLSPolicy", "mode: Strict");
    let world = WORLD.replace("containerPort: 8000 }", "containerPort: 8000 }, { containerPort: 9000 }");
    let world = world.replacen("annotations: {", "annotations: { remora.dev/opaque-ports: '7000-7001', ", 1);
    let default = snapshot(&format!("{world}{policies}")).inbound_default("shop", "api-1").unwrap();
    assert_eq!(default.declared, [7000, 7001, 8000, 9000]);
    let inbound = &default.inbound;
    assert_eq!((inbound.port, inbound.mtls, inbound.default_deny), (0, MtlsMode::Strict, false));
    let pod = policy("AuthorizationPolicy", "targetRefs: [{ kind: Pod, name: api-1 }], rules: []");
    assert!(with(pod.trim_start_matches("---\n")).inbound_default("shop", "api-1").unwrap().inbound.default_deny);
}

#[test]
fn too_many_ports_never_open_one() {
    let ports: Vec<String> = (1..=600).map(|n| format!("{{ name: p{n}, port: {n} }}")).collect();
    let many = format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: many, namespace: shop }}
spec: {{ selector: {{ app: api }}, ports: [{}] }}
",
        ports.join(", ")
    );
    let default = with(&many).inbound_default("shop", "api-1").unwrap();
    assert_eq!(default.declared.len(), 512);
    assert!(default.inbound.rules.iter().any(|rule| rule.action == Action::Deny && rule.from.is_empty()));
    let opaque = WORLD.replacen("annotations: {", "annotations: { remora.dev/opaque-ports: '1-60000', ", 1);
    let default = snapshot(&opaque).inbound_default("shop", "api-1").unwrap();
    assert_eq!((default.declared.len(), default.inbound.protocol), (512, remora_model::Protocol::Opaque));
}

/// The conditions of the first status of this kind, as `Accepted=True/Accepted: message`.
fn conditions(world: &Snapshot, kind: &str) -> Vec<String> {
    let status = world.statuses.iter().find(|status| status.kind.kind == kind).unwrap();
    let status = status.to_write("2026-11-28T00:00:00Z").unwrap();
    let word = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    let shown = |c: &Value| {
        let [kind, status, reason, message] = ["type", "status", "reason", "message"].map(|field| word(c, field));
        assert_eq!(c["observedGeneration"], 2);
        format!("{kind}={status}/{reason}: {message}")
    };
    status["conditions"].as_array().unwrap().iter().map(shown).collect()
}

#[test]
fn a_policys_status_says_whether_it_holds_as_it_was_meant() {
    let of = |kind: &str, spec: &str| conditions(&with(policy(kind, spec).trim_start_matches("---\n")), kind);
    let starts = |found: Vec<String>, expected: &[&str]| {
        let all =
            found.len() == expected.len() && found.iter().zip(expected).all(|(one, start)| one.starts_with(start));
        assert!(all, "{found:#?} {expected:#?}");
    };
    const HOLDS: [&str; 2] = ["Accepted=True/Accepted: ", "Programmed=True/Programmed: "];
    starts(of("AuthorizationPolicy", "rules: [{ from: [] }]"), &HOLDS);
    starts(of("AuthorizationPolicy", "rules: [{}]"), &["Accepted=False/Invalid: spec.rules[0]: is empty"]);
    starts(of("AuthorizationPolicy", "targetRef: { name: a }"), &["Accepted=False/Invalid: spec.targetRef: there is"]);
    let missing = "targetRefs: [{ kind: Service, name: apy }]";
    starts(
        of("AuthorizationPolicy", missing),
        &["Accepted=False/TargetNotFound: spec.targetRefs[0]: Service shop/apy"],
    );
    starts(of("MeshTLSPolicy", &format!("mode: Strict, {missing}")), &["Accepted=False/TargetNotFound"]);
    starts(
        of("BackendPolicy", "targetRefs: [{ kind: Service, name: api }], connectTimeout: 1 h"),
        &["Accepted=False/Invalid: spec.connectTimeout"],
    );
    let partly = [
        HOLDS[0],
        "Programmed=True/PartiallyProgrammed: spec.connectTimeout",
        "PartiallyInvalid=True/Invalid: spec.co",
    ];
    starts(
        of("BackendPolicy", "targetRefs: [{ kind: Service, name: api }], connectTimeout: 1 h, pendingMax: 3"),
        &partly,
    );
    let partly = [
        HOLDS[0],
        "Programmed=True/PartiallyProgrammed: spec.rules[1]",
        "PartiallyInvalid=True/Invalid: spec.rules[1]",
    ];
    starts(of("AuthorizationPolicy", "rules: [{ from: [] }, {}]"), &partly);
    let deny = "action: Deny, rules: [{ from: [{ namespaces: [evil] }]";
    starts(of("AuthorizationPolicy", &format!("{deny} }}]")), &HOLDS);
    let ignore = format!("{deny}, unidentified: Ignore }}]");
    let plaintext = "Ineffective=True/PlaintextCallers: Pod shop/api-1 takes plaintext";
    starts(of("AuthorizationPolicy", &ignore), &[HOLDS[0], HOLDS[1], plaintext]);
    let strict = policy("AuthorizationPolicy", &ignore) + &policy("MeshTLSPolicy", "mode: Strict");
    let strict = with(strict.trim_start_matches("---\n"));
    starts(conditions(&strict, "AuthorizationPolicy"), &HOLDS);
}

#[test]
fn a_status_names_the_ports_that_a_services_policy_does_not_cover() {
    let world = WORLD.replace("containerPort: 8000 }", "containerPort: 8000 }, { containerPort: 9090 }");
    let policy = policy("AuthorizationPolicy", "targetRefs: [{ kind: Service, name: api }]");
    let world = snapshot(&format!("{world}{policy}"));
    let found = conditions(&world, "AuthorizationPolicy");
    assert!(found[0].starts_with("Accepted=True/Accepted: Service api: pod ports 8000, not 9090,"), "{found:?}");
    assert!(!world.inbound("shop", "api-1", 9090).unwrap().default_deny, "so it is");
}

#[test]
fn the_older_of_two_backend_policies_counts_and_the_younger_is_told() {
    let of = |name: &str, created: &str, spec: &str| {
        format!(
            "---
apiVersion: remora.dev/v1alpha1
kind: BackendPolicy
metadata: {{ name: {name}, namespace: shop, generation: 2, creationTimestamp: '{created}' }}
spec: {{ targetRefs: [{{ kind: Service, name: api }}], {spec} }}
"
        )
    };
    let text = of("a", "2026-01-02T00:00:00Z", "connectTimeout: 9s, pendingMax: 5")
        + &of("b", "2026-01-01T00:00:00Z", "connectTimeout: 2s");
    let world = with(text.trim_start_matches("---\n"));
    let parent = outbound(&world, "shop", "api:80").parent.into_backend().unwrap();
    let settings = world.backend(&parent).unwrap().settings.clone();
    assert_eq!((settings.connect_timeout.as_secs(), settings.pending_max), (2, 5));
    let younger = "BackendPolicy shop/b is older, and says connectTimeout";
    let expected = [
        "Accepted=True/Accepted: ".to_owned(),
        format!("Programmed=True/PartiallyProgrammed: {younger}"),
        format!("Overridden=True/Overridden: {younger}"),
    ];
    assert_eq!(conditions(&world, "BackendPolicy"), expected);
    let text = text.replace(", pendingMax: 5", "");
    let world = with(text.trim_start_matches("---\n"));
    assert_eq!(conditions(&world, "BackendPolicy")[1], format!("Programmed=False/Overridden: {younger}"), "all of it");
}

#[test]
fn a_caller_is_the_pod_that_it_says_only_with_its_account_and_not_from_another_pods_address() {
    let pod = |name: &str, account: &str, status: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: shop }}
spec: {{ serviceAccountName: {account} }}
status: {{ {status} }}
"
        )
    };
    let text =
        pod("a", "web", "podIP: 10.1.0.1") + &pod("b", "web", "podIP: 10.1.0.2") + &pod("c", "web", "phase: Pending");
    let world = snapshot_of_api(&text);
    let prove = |pod: &str, account: &str, ip: &str| world.prove("shop", pod, account, ip.parse().ok());
    assert_eq!(prove("a", "web", "10.1.0.1"), Proof::Proven);
    assert_eq!(prove("a", "web", "192.168.0.1"), Proof::Proven, "translated on the way");
    assert!(matches!(prove("a", "web", "10.1.0.2"), Proof::Refuted(_)));
    assert!(matches!(prove("c", "web", "10.1.0.2"), Proof::Refuted(_)));
    assert!(matches!(prove("a", "api", "10.1.0.1"), Proof::Refuted(_)));
    assert_eq!(prove("d", "web", "10.1.0.1"), Proof::Unknown);
}
