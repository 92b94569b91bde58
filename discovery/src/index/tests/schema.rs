//! What an API server would refuse, or keep though it does not know it, is refused by ourselves as well.

use super::*;
use remora_model::{Action, AuthorizationRule};

const BAD: &str = include_str!("../../../../charts/tests/bad-policies.yaml");
const MISSPELT: &str = include_str!("../../../../charts/tests/misspelt-policies.yaml");
const GOOD: &str = include_str!("../../../../charts/tests/good-policies.yaml");

/// What is said of one manifest, as a file and as an object.
fn told(manifest: &str) -> Vec<String> {
    let parsed = parse(manifest, "test.yaml");
    let mut told: Vec<String> = parsed.mistakes.iter().map(ToString::to_string).collect();
    told.extend(Snapshot::build(parsed.objects, &mesh()).reports);
    told.retain(|line| !line.contains("is not there"));
    told
}

fn documents(text: &str) -> impl Iterator<Item = &str> {
    text.split("---\n").filter(|text| text.contains("kind:"))
}

#[test]
fn every_policy_that_the_crds_refuse_is_refused_in_a_directory_too() {
    assert!(documents(BAD).count() > 40);
    for manifest in documents(BAD).chain(documents(MISSPELT)) {
        assert!(!told(manifest).is_empty(), "{manifest}");
    }
    for manifest in documents(GOOD) {
        assert_eq!(told(manifest), Vec::<String>::new(), "{manifest}");
    }
}

#[test]
fn a_misspelt_policy_closes_what_it_names_and_never_widens_it() {
    for manifest in documents(MISSPELT).filter(|text| !text.contains("BackendPolicy")) {
        let in_shop = manifest.replace("name: bad", "name: bad, namespace: shop").replace("name: a}", "name: api}");
        let in_shop = in_shop.replace("name: a,", "name: api,").replace("{a: b}", "{app: api}");
        let inbound = with(&in_shop).inbound("shop", "api-1", 8000).unwrap();
        let strict = inbound.mtls == remora_model::MtlsMode::Strict;
        let denies = inbound.rules.iter().any(|rule| *rule == AuthorizationRule::deny_everything(rule.name.clone()));
        let allows = inbound.rules.iter().any(|rule| rule.action == Action::Allow);
        assert!(strict || denies || inbound.default_deny, "{manifest}: {inbound:?}");
        assert!(!allows, "{manifest}: {inbound:?}");
    }
}

/// A rule of an HTTPRoute on `shop/api`, and the field that is to be blamed.
fn rule(rule: &str, field: &str) {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: r, namespace: shop }}
spec:
  parentRefs: [{{ group: '', kind: Service, name: api }}]
  rules: [{{ {rule} }}]
"
    );
    let world = with(&text);
    let at = format!("HTTPRoute shop/r: spec.rules[0].{field}");
    assert!(world.reports.iter().any(|report| report.contains(&at)), "{rule}: {:?}", world.reports);
    let rules = outbound(&world, "shop", "api:80").rules;
    assert!(rules.iter().all(|rule| rule.filters.is_empty()), "{rule}: nothing of it is carried out: {rules:?}");
}

#[test]
fn what_the_gateway_apis_crds_refuse_is_not_carried_out_as_something_else() {
    let to = "backendRefs: [{ name: api, port: 80 }]";
    let rewrite = |path: &str| format!("type: URLRewrite, urlRewrite: {{ path: {{ {path} }} }}");
    let full = rewrite("type: ReplaceFullPath, replaceFullPath: /x");
    let prefix = rewrite("type: ReplacePrefixMatch, replacePrefixMatch: /x");
    let redirect = "type: RequestRedirect, requestRedirect: { path: { type: ReplaceFullPath, replaceFullPath: /x } }";
    rule("backendRef: [{ name: api, port: 80 }]", "backendRef: there is no such field");
    rule(&format!("match: [{{ path: {{ value: /a }} }}], {to}"), "match: there is no such field");
    rule(&format!("matches: [{{ method: get }}], {to}"), "matches[0].method: ");
    for path in ["//", "/a//b", "/a/../b", "/a/./b", "/a/..", "/%2Fa", "/a%2fb", "/a#b"] {
        rule(&format!("matches: [{{ path: {{ value: '{path}' }} }}], {to}"), "matches[0].path.value: ");
    }
    rule(&format!("matches: [{{ path: {{ valeu: /a }} }}], {to}"), "matches[0].path.valeu: ");
    rule(
        &format!("matches: [{{ headers: [{{ name: a, value: b, typ: Exact }}] }}], {to}"),
        "matches[0].headers[0].typ",
    );
    rule(&format!("matches: [{{ queryParams: [{{ name: '', value: b }}] }}], {to}"), "matches[0].queryParams[0].name");
    rule(&format!("filters: [{{ {full} }}, {{ {full} }}], {to}"), "filters[1]: URLRewrite may be there once");
    rule(&format!("filters: [{{ {redirect} }}, {{ {full} }}]"), "filters: RequestRedirect and URLRewrite");
    rule(&format!("filters: [{{ {redirect} }}], {to}"), "filters: RequestRedirect and backendRefs");
    let exact = "matches: [{ path: { type: Exact, value: /a } }]";
    rule(&format!("{exact}, filters: [{{ {prefix} }}], {to}"), "filters: replacePrefixMatch needs");
    let two = "matches: [{ path: { value: /a } }, { path: { value: /b } }]";
    rule(&format!("{two}, filters: [{{ {prefix} }}], {to}"), "filters: replacePrefixMatch needs");
    let mixed = rewrite("type: ReplaceFullPath, replacePrefixMatch: /x");
    rule(&format!("filters: [{{ {mixed} }}], {to}"), "filters[0].urlRewrite.path: type ReplaceFullPath");
    let untyped = rewrite("replaceFullPath: /x");
    rule(&format!("filters: [{{ {untyped} }}], {to}"), "filters[0].urlRewrite.path.type: is missing");
    rule(&format!("timeouts: {{ request: 1s, backendRequest: 2s }}, {to}"), "timeouts.backendRequest: ");
    rule(&format!("timeouts: {{ requst: 1s }}, {to}"), "timeouts.requst: ");
    rule("backendRefs: [{ name: api, port: 80, wieght: 3 }]", "backendRefs[0].wieght: ");
    rule("backendRefs: [{ name: api, port: 80, weight: 1000001 }]", "backendRefs[0].weight: ");
}

#[test]
fn a_parent_that_looks_like_a_service_and_is_none_is_told() {
    for parent in ["kind: Service, name: api", "group: '', name: api", "group: '', kind: service, name: api"] {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: r, namespace: shop }}
spec: {{ parentRefs: [{{ {parent} }}] }}
"
        );
        let reports = with(&text).reports;
        assert!(reports.len() == 1 && reports[0].contains("spec.parentRefs[0]: "), "{parent}: {reports:?}");
    }
    let gateway = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r, namespace: shop }
spec: { parentRefs: [{ name: gate }, { kind: Mesh, group: example.com, name: m }] }
";
    assert!(with(gateway).reports.is_empty(), "others' business");
}

#[test]
fn an_annotation_that_cannot_be_read_is_told() {
    for list in ["http", "90-80", "70000", "80;81"] {
        let text = format!(
            "apiVersion: v1
kind: Service
metadata: {{ name: db, namespace: shop, annotations: {{ remora.dev/opaque-ports: '{list}' }} }}
spec: {{ ports: [{{ port: 80 }}] }}
"
        );
        assert!(with(&text).reports[0].contains("metadata.annotations: remora.dev/opaque-ports: "), "{list}");
    }
}
