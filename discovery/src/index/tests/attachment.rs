//! Where policies of every kind hold, which of several counts, and what each is told (GEP-713).

use super::*;
use remora_model::{Action, MtlsMode};
use serde_json::Value;

fn policy(kind: &str, name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    let (name, created) = name.split_once('@').unwrap_or((name, "1"));
    format!(
        "---
apiVersion: remora.dev/v1alpha1
kind: {kind}
metadata: {{ name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{created}T00:00:00Z' }}
spec: {{ {spec} }}
"
    )
}

fn world(policies: &[String]) -> Snapshot {
    with(policies.concat().trim_start_matches("---\n"))
}

const PORT: &str = "targetRefs: [{ kind: Service, name: api, sectionName: main }]";
const SERVICE: &str = "targetRefs: [{ kind: Service, name: api }]";
const POD: &str = "targetRefs: [{ kind: Pod, name: api-1 }]";
const LABELS: &str = "selector: { matchLabels: { app: api } }";
const NAMESPACE: &str = "targetRefs: [{ kind: Namespace, name: shop }]";
const TYPO: &str = "targetRefs: [{ kind: Service, name: api, sectionName: mian }]";

/// What is said of a policy for a target: `Accepted=True/Accepted`.
fn said(world: &Snapshot, name: &str, target: &str) -> Vec<String> {
    let status = world.statuses.iter().find(|status| status.name == name).unwrap();
    let status = status.to_write("2026-11-28T00:00:00Z").unwrap();
    let ancestors = status["ancestors"].as_array().unwrap();
    let named = |entry: &&Value| {
        let reference = &entry["ancestorRef"];
        let section = reference["sectionName"].as_str().map(|section| format!(":{section}")).unwrap_or_default();
        format!("{}/{}{section}", reference["kind"].as_str().unwrap(), reference["name"].as_str().unwrap()) == target
    };
    let entry = ancestors.iter().find(named).unwrap_or_else(|| panic!("{target}: {status:#}"));
    assert_eq!(entry["controllerName"], status::CONTROLLER);
    let word = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    let shown = |c: &Value| format!("{}={}/{}", word(c, "type"), word(c, "status"), word(c, "reason"));
    entry["conditions"].as_array().unwrap().iter().map(shown).collect()
}

const HOLDS: [&str; 2] = ["Accepted=True/Accepted", "Programmed=True/Programmed"];

#[test]
fn a_policy_of_access_holds_for_its_port_service_pods_namespace_or_mesh() {
    let closed = |namespace: &str, spec: &str| {
        let world = world(&[policy("AuthorizationPolicy", &format!("{namespace}/p"), &format!("{spec}rules: []"))]);
        // 8000 is the port of both of the Service's; 9000 of none.
        let denies = |pod, port| world.inbound("shop", pod, port).unwrap().default_deny;
        (denies("api-1", 8000), denies("api-1", 9000), denies("bare", 8000), world.reports.len())
    };
    let spec = |targets: &str| closed("shop", &format!("{targets}, "));
    assert_eq!(spec(PORT), (true, false, true, 0));
    assert_eq!(spec(SERVICE), (true, false, true, 0));
    assert_eq!(spec(POD), (true, true, false, 0));
    assert_eq!(spec(LABELS), (true, true, true, 0));
    assert_eq!(spec(NAMESPACE), (true, true, true, 0));
    assert_eq!(closed("shop", ""), (true, true, true, 0));
    assert_eq!(closed("remora", ""), (true, true, true, 0), "the control plane's namespace is the mesh");
    assert_eq!(closed("remora", "targetRefs: [{ kind: Namespace, name: remora }], "), (true, true, true, 0));
    assert_eq!(closed("remora", &format!("{LABELS}, ")), (false, false, false, 0), "pods there alone");
    assert_eq!(closed("other", ""), (false, false, false, 0));
}

#[test]
fn a_port_of_a_service_is_that_port_alone() {
    let two = WORLD.replace("targetPort: web", "targetPort: 9000");
    let policy = policy("AuthorizationPolicy", "shop/p", &format!("{PORT}, rules: []"));
    let world = snapshot(&format!("{two}{policy}"));
    let denies = |port| world.inbound("shop", "api-1", port).unwrap().default_deny;
    assert_eq!((denies(8000), denies(9000)), (true, false));
    assert_eq!(said(&world, "p", "Service/api:main"), HOLDS);
}

#[test]
fn a_port_that_its_service_does_not_have_closes_the_service_and_is_told() {
    let inbound = |spec: &str| {
        let web = policy("AuthorizationPolicy", "shop/web", "rules: [{ from: [{ namespaces: [web] }] }]");
        let world = world(&[web, policy("AuthorizationPolicy", "shop/p", &format!("{TYPO}, {spec}"))]);
        let expected =
            "spec.targetRefs[0].sectionName: Service shop/api has no TCP port of the name \"mian\", only main, extra";
        assert!(world.reports.iter().any(|line| line.contains(expected)), "{:?}", world.reports);
        assert_eq!(said(&world, "p", "Service/api:mian"), ["Accepted=False/TargetNotFound"]);
        world.inbound("shop", "api-1", 8000).unwrap()
    };
    let allow = inbound("rules: [{ from: [] }]");
    assert!(allow.default_deny && allow.rules.len() == 1, "it allows nothing itself: {allow:?}");
    let deny = inbound("action: Deny, rules: [{ from: [] }]");
    assert!(deny.rules.iter().any(|rule| rule.action == Action::Deny), "{deny:?}");
    let strict = world(&[policy("MeshTLSPolicy", "shop/p", &format!("{TYPO}, mode: Permissive"))]);
    assert_eq!(strict.inbound("shop", "api-1", 8000).unwrap().mtls, MtlsMode::Strict);
    let settings = world(&[policy("BackendPolicy", "shop/p", &format!("{TYPO}, pendingMax: 3"))]);
    assert_ne!(settings.backend(&backend_id(&("shop".into(), "api".into()), 80)).unwrap().settings.pending_max, 3);
}

#[test]
fn a_port_of_a_service_that_is_not_there_is_not_what_is_to_blame() {
    let targets = PORT.replace("name: api", "name: apy");
    for kind in ["AuthorizationPolicy", "BackendPolicy"] {
        let world = world(&[policy(kind, "shop/p", &targets)]);
        let told = format!("{kind} shop/p: spec.targetRefs[0]: Service shop/apy is not there; it holds once it is");
        assert!(world.reports.len() == 1 && world.reports[0].ends_with(&told), "{:?}", world.reports);
    }
}

#[test]
fn a_port_of_another_protocol_is_none_that_a_policy_could_hold_for() {
    let udp =
        WORLD.replace("{ name: main, port: 80,", "{ name: dns, port: 53, protocol: UDP }, { name: main, port: 80,");
    let policy = policy("AuthorizationPolicy", "shop/p", &format!("{}, rules: []", PORT.replace("main", "dns")));
    let world = snapshot(&format!("{udp}{policy}"));
    assert_eq!(said(&world, "p", "Service/api:dns"), ["Accepted=False/TargetNotFound"]);
    assert!(world.inbound("shop", "api-1", 8000).unwrap().default_deny, "the Service is closed");
}

#[test]
fn a_target_that_cannot_be_meant_closes_what_it_names() {
    for (targets, field) in [
        ("targetRefs: [{ kind: Namespace, name: other }]", "spec.targetRefs[0].name"),
        ("targetRefs: [{ kind: Pod, name: api-1, sectionName: main }]", "spec.targetRefs[0].sectionName"),
        ("targetRefs: [{ kind: Service, name: api, sectionName: '' }]", "spec.targetRefs[0].sectionName"),
        ("targetRefs: [{ kind: Service, name: api, sectionname: main }]", "spec.targetRefs[0].sectionname"),
    ] {
        let world = world(&[
            policy(
                "AuthorizationPolicy",
                "shop/p",
                &format!("{targets}, action: Deny, rules: [{{ from: [{{ namespaces: [x] }}] }}]"),
            ),
            policy("MeshTLSPolicy", "shop/t", &format!("{targets}, mode: Permissive")),
        ]);
        let inbound = world.inbound("shop", "api-1", 8000).unwrap();
        assert!(inbound.rules.len() == 1 && inbound.rules[0].from.is_empty(), "{targets}: {inbound:?}");
        assert_eq!(inbound.mtls, MtlsMode::Strict, "{targets}");
        assert!(world.reports.iter().all(|line| line.contains(field)), "{targets}: {:?}", world.reports);
    }
}

#[test]
fn the_more_specific_mode_counts_and_of_equals_the_strict_one() {
    let mode = |all: &[(&str, &str, &str)]| {
        let all =
            all.iter().map(|(name, targets, mode)| policy("MeshTLSPolicy", name, &format!("{targets}mode: {mode}")));
        let world = world(&all.collect::<Vec<_>>());
        (world.inbound("shop", "api-1", 8000).unwrap().mtls == MtlsMode::Strict, world)
    };
    let [port, service, pod, labels] = [PORT, SERVICE, POD, LABELS].map(|targets| format!("{targets}, "));
    let mesh = ("remora/mesh", "", "Strict");
    assert!(mode(&[mesh]).0);
    let (strict, both) = mode(&[mesh, ("shop/ns", "", "Permissive")]);
    assert!(!strict);
    let told = ["Accepted=True/Accepted", "Programmed=True/PartiallyProgrammed", "Overridden=True/Overridden"];
    assert_eq!(
        (said(&both, "mesh", "Namespace/remora"), said(&both, "ns", "Namespace/shop")),
        (told.map(str::to_owned).into(), HOLDS.map(str::to_owned).into())
    );
    for workload in [&service, &pod, &labels] {
        assert!(mode(&[("shop/ns", "", "Permissive"), ("shop/w", workload, "Strict")]).0);
        assert!(!mode(&[("shop/ns", "", "Strict"), ("shop/w", workload, "Permissive")]).0);
        assert!(!mode(&[("shop/w", workload, "Strict"), ("shop/p", &port, "Permissive")]).0);
    }
    let (strict, both) = mode(&[("shop/a", &service, "Permissive"), ("shop/b", &pod, "Strict")]);
    assert!(strict, "of equals");
    assert_eq!(said(&both, "a", "Service/api"), told, "it is told");
    let (strict, both) = mode(&[("shop/old@1", &service, "Permissive"), ("shop/new@2", &service, "Strict")]);
    assert!(strict, "a conflict opens nothing, whoever is older");
    assert_eq!(said(&both, "old", "Service/api"), ["Accepted=False/Conflicted"]);
    assert_eq!(said(&both, "new", "Service/api"), HOLDS);
}

#[test]
fn each_setting_is_said_by_the_most_specific_policy_and_of_equals_by_the_oldest() {
    let backend = |name: &str, targets: &str, spec: &str| policy("BackendPolicy", name, &format!("{targets}, {spec}"));
    let mesh =
        backend("remora/mesh", "targetRefs: [{ kind: Namespace, name: remora }]", "pendingMax: 1, connectTimeout: 1s");
    let namespace = backend("shop/ns", NAMESPACE, "pendingMax: 2, retryConstraint: { budget: { percent: 5 } }");
    let old = backend("shop/b-old@1", SERVICE, "pendingMax: 3");
    let new = backend("shop/a-new@2", SERVICE, "pendingMax: 4, accrual: { consecutive: 9 }");
    let port = backend("shop/port", PORT, "pendingMax: 5");
    let world = world(&[mesh, namespace, old, new, port]);
    let settings = |port| world.backend(&backend_id(&("shop".into(), "api".into()), port)).unwrap().settings.clone();
    let (main, extra) = (settings(80), settings(90));
    assert_eq!((main.pending_max, extra.pending_max), (5, 3));
    assert_eq!((extra.connect_timeout.as_secs(), extra.accrual.consecutive), (1, 9));
    assert!((extra.retry_ratio - 0.05).abs() < 0.001);
    assert_eq!(said(&world, "port", "Service/api:main"), HOLDS);
    assert_eq!(said(&world, "b-old", "Service/api")[1], "Programmed=True/PartiallyProgrammed", "but for one port");
    assert_eq!(said(&world, "a-new", "Service/api")[1], "Programmed=True/PartiallyProgrammed");
    let younger = [backend("shop/a", SERVICE, "pendingMax: 3"), backend("shop/b", SERVICE, "pendingMax: 4")];
    let world = self::world(&younger);
    assert_eq!(
        said(&world, "b", "Service/api"),
        ["Accepted=True/Accepted", "Programmed=False/Overridden", "Overridden=True/Overridden"]
    );
    assert_eq!(said(&world, "a", "Service/api"), HOLDS, "of one age, by name");
}

#[test]
fn each_target_has_its_own_say_and_kubectl_sees_the_worst() {
    let both = "targetRefs: [{ kind: Service, name: api }, { kind: Service, name: apy }], rules: []";
    let world = world(&[policy("AuthorizationPolicy", "shop/p", both)]);
    assert_eq!(said(&world, "p", "Service/api"), HOLDS);
    assert_eq!(said(&world, "p", "Service/apy"), ["Accepted=False/TargetNotFound"]);
    let status = world.statuses[0].to_write("2026-11-28T00:00:00Z").unwrap();
    assert_eq!(
        (&status["target"], &status["conditions"][0]["reason"]),
        (&"Service/api and 1 more".into(), &"TargetNotFound".into())
    );
    let message = status["conditions"][0]["message"].as_str().unwrap();
    assert_eq!(message, "spec.targetRefs[1]: Service shop/apy is not there; it holds once it is");
}

#[test]
fn what_another_controller_says_of_a_policy_stays_and_a_later_generation_is_not_written_over() {
    let text = |status: &str, generation: u8| {
        format!(
            "apiVersion: remora.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {{ name: p, namespace: shop, generation: {generation} }}
spec: {{ mode: Strict }}
status: {status}
"
        )
    };
    let other =
        serde_json::json!({ "ancestorRef": { "name": "x" }, "controllerName": "example.com/a", "conditions": [] });
    let before = serde_json::json!({ "ancestors": [other] });
    let written = with(&text(&before.to_string(), 3)).statuses[0].to_write("2026-11-28T00:00:00Z").unwrap();
    assert_eq!((&written["ancestors"][0], written["ancestors"].as_array().unwrap().len()), (&other, 2));
    assert_eq!(with(&text(&written.to_string(), 3)).statuses[0].to_write("2027-01-01T00:00:00Z"), None);
    assert!(with(&text(&written.to_string(), 4)).statuses[0].to_write("2027-01-01T00:00:00Z").is_some());
    assert_eq!(with(&text(&written.to_string(), 2)).statuses[0].to_write("2027-01-01T00:00:00Z"), None, "it is behind");
}

#[test]
fn what_a_person_should_hear_of_is_what_became_a_problem_and_what_ceased_to_be_one() {
    let news = |spec: &str, status: &Value| {
        let text = format!("{}status: {status}\n", policy("AuthorizationPolicy", "shop/p", spec));
        let world = with(text.trim_start_matches("---\n"));
        let status = &world.statuses[0];
        let news: Vec<String> =
            status.news().iter().map(|one| format!("{}={}/{}", one.kind, one.holds, one.reason)).collect();
        (news, status.to_write("2026-11-28T00:00:00Z").unwrap_or_default())
    };
    let (first, well) = news("rules: []", &serde_json::json!({}));
    assert_eq!(first, Vec::<String>::new(), "all is well from the beginning");
    let (then, ill) = news("rules: [{}]", &well);
    assert_eq!(then, ["Accepted=false/Invalid"]);
    assert_eq!(news("rules: [{}]", &ill).0, Vec::<String>::new());
    assert_eq!(news("rules: []", &ill).0, ["Accepted=true/Accepted"]);
}

#[test]
fn a_change_of_labels_status_or_version_derives_nothing_anew() {
    let route = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r, namespace: shop }
spec: { parentRefs: [{ group: '', kind: Service, name: api }], rules: [{ backendRefs: [{ name: api, port: 80 }] }] }
";
    let mut world = world(&[policy("BackendPolicy", "shop/p", SERVICE), route.to_owned()]).world;
    let objects: Vec<Object> = [world.facts.policies.unnoted(), world.facts.routes.unnoted()]
        .into_iter()
        .flat_map(|table| table.values().cloned())
        .collect();
    assert_eq!(objects.len(), 2);
    for mut object in objects {
        let id = ObjectId::of(&object);
        match &mut object {
            Object::BackendPolicy(policy) => Arc::make_mut(policy).metadata.resource_version = Some("8".to_owned()),
            Object::HttpRoute(route) => Arc::make_mut(route).metadata.resource_version = Some("8".to_owned()),
            other => panic!("{other:?}"),
        }
        let World { facts, graph, .. } = &mut world;
        Taking { facts, graph }.take(Change::Put(object));
        assert!(tables::changed().is_empty(), "{id:?}");
        assert_eq!(graph.next(|_| false), Some(Cell::Status(id)));
        assert_eq!(graph.next(|_| false), None);
    }
}
