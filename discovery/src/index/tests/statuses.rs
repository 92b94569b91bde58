use super::{status::CONTROLLER, *};
use serde_json::{Value, json};

const NOW: &str = "2026-11-21T20:00:00Z";

/// A route of `shop` on these parents, with these rules.
fn route(parents: &str, rules: &str, status: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: r, namespace: shop, generation: 3, resourceVersion: '7' }}
spec: {{ parentRefs: [{parents}], rules: [{rules}] }}
status: {{ parents: [{status}] }}
---
"
    )
}

const API: &str = "{ group: '', kind: Service, name: api }";
const TO_API: &str = "{ backendRefs: [{ name: api, port: 80 }] }";

fn parents(status: Value) -> Option<Vec<Value>> {
    status["parents"].as_array().cloned()
}

fn written(text: &str) -> Option<Vec<Value>> {
    parents(with(text).statuses.first()?.to_write(NOW)?)
}

/// The conditions of our first parent as `Accepted=True/Accepted`, and their messages.
fn conditions(text: &str) -> (Vec<String>, String) {
    let parents = written(text).unwrap();
    let conditions = parents[0]["conditions"].as_array().unwrap();
    let word = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    let shown = |c: &Value| format!("{}={}/{}", word(c, "type"), word(c, "status"), word(c, "reason"));
    (conditions.iter().map(shown).collect(), conditions.iter().map(|c| word(c, "message")).collect())
}

#[test]
fn a_route_that_is_taken_is_told_so_for_the_generation_that_was_read() {
    let parents = written(&route(API, TO_API, "")).unwrap();
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": kind, "message": "", "observedGeneration": 3,
            "lastTransitionTime": NOW})
    };
    let parent = json!({"group": "", "kind": "Service", "namespace": "shop", "name": "api"});
    let conditions = [condition("Accepted"), condition("ResolvedRefs")];
    assert_eq!(parents, [json!({"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions})]);
}

#[test]
fn what_is_wrong_is_told_by_the_reasons_of_the_gateway_api() {
    let taken = "Accepted=True/Accepted";
    let check = |parent: &str, rules: &str, expected: &[&str], said: &str| {
        let (found, message) = conditions(&route(parent, rules, ""));
        assert_eq!(found, expected, "{parent} {rules}");
        assert!(message.contains(said), "{message}");
    };
    let refs = "ResolvedRefs=True/ResolvedRefs";
    for parent in ["name: api, port: 81", "name: apy", "name: api, sectionName: other"] {
        let parent = format!("{{ group: '', kind: Service, {parent} }}");
        check(&parent, TO_API, &["Accepted=False/NoMatchingParent", refs], "Service shop/ap");
    }
    let bad = "{ timeouts: { request: 1 second } }";
    check(API, bad, &["Accepted=False/UnsupportedValue", refs], "Dropped Rule: spec.rules[0].timeouts.request");
    let partly = [taken, refs, "PartiallyInvalid=True/UnsupportedValue"];
    check(API, &format!("{TO_API}, {bad}"), &partly, "Dropped Rule: spec.rules[1].timeouts.request");
    for (backend, reason) in [
        ("name: gone, port: 80", "BackendNotFound"),
        ("name: api, port: 81", "BackendNotFound"),
        ("kind: Bucket, name: api, port: 80", "InvalidKind"),
        ("name: api, namespace: vault, port: 80", "RefNotPermitted"),
    ] {
        let refs = format!("ResolvedRefs=False/{reason}");
        check(API, &format!("{{ backendRefs: [{{ {backend} }}] }}"), &[taken, &refs], "spec.rules[0].backendRefs[0]");
    }
}

#[test]
fn a_headless_parent_is_not_taken_since_its_clients_dial_pods() {
    let headless = "apiVersion: v1
kind: Service
metadata: { name: db, namespace: shop }
spec: { clusterIP: None, ports: [{ port: 80 }] }
---
";
    let parent = "{ group: '', kind: Service, name: db }";
    let (found, message) = conditions(&format!("{headless}{}", route(parent, TO_API, "")));
    assert_eq!(found[0], "Accepted=False/NoMatchingParent");
    assert!(message.contains("headless"), "{message}");
}

#[test]
fn each_parent_has_its_own_say_and_gateways_none() {
    let parents = format!("{API}, {{ name: gate }}, {{ group: '', kind: Service, name: api, port: 90 }}");
    let parents = written(&route(&parents, TO_API, "")).unwrap();
    let named: Vec<&Value> = parents.iter().map(|parent| &parent["parentRef"]["port"]).collect();
    assert_eq!(named, [&Value::Null, &json!(90)]);
    assert!(with(&route("{ name: gate }", TO_API, "")).statuses.is_empty());
}

/// `status.parents` in flow style, as the API would give it back.
fn as_stored(parents: &[Value]) -> String {
    parents.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[test]
fn what_stands_there_already_is_not_written_again() {
    let first = written(&route(API, TO_API, "")).unwrap();
    let world = with(&route(API, TO_API, &as_stored(&first)));
    assert_eq!(world.statuses[0].to_write("2027-01-01T00:00:00Z"), None, "its times stay");
    let changed = route(API, "{ backendRefs: [{ name: gone, port: 80 }] }", &as_stored(&first));
    let second = parents(with(&changed).statuses[0].to_write("2027-01-01T00:00:00Z").unwrap()).unwrap();
    let times: Vec<&Value> =
        second[0]["conditions"].as_array().unwrap().iter().map(|c| &c["lastTransitionTime"]).collect();
    assert_eq!(times, [NOW, "2027-01-01T00:00:00Z"], "only what changed has a new time");
}

#[test]
fn the_words_of_other_controllers_stay_and_ours_go_with_the_parent() {
    let other = json!({"parentRef": {"name": "gate"}, "controllerName": "example.com/gateway", "conditions": []});
    let both = written(&route(API, TO_API, &as_stored(std::slice::from_ref(&other)))).unwrap();
    assert_eq!((&both[0], both.len()), (&other, 2));
    let gone = written(&route("{ name: gate }", TO_API, &as_stored(&both))).unwrap();
    assert_eq!(gone, [other]);
}
