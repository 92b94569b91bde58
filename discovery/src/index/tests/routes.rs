use super::*;
use http::Method;
use remora_model::{Filter, GrpcCodes, PathMatch, Retry, Rule, Timeouts};
use std::time::Duration;

/// A second Service of `shop`, and one of `vault`.
const MORE: &str = "apiVersion: v1
kind: Service
metadata: { name: next, namespace: shop }
spec: { clusterIP: 10.0.0.2, ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: safe, namespace: vault }
spec: { clusterIP: 10.0.0.3, ports: [{ port: 80 }] }
---
";

/// A route on `shop/api`, with its rules in flow style.
fn route(kind: &str, name: &str, more: &str, rules: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{ name: {name}, namespace: {namespace}{more} }}
spec:
  parentRefs: [{{ group: '', kind: Service, name: api, namespace: shop }}]
  rules: [{rules}]
---
"
    )
}

/// The names of the rules in the order in which their matches are tried.
fn order(snapshot: &Snapshot, client: &str) -> Vec<String> {
    let outbound = outbound(snapshot, client, "api.shop:80");
    let name = |rule: usize| outbound.rules[rule].label.rsplit(' ').next().unwrap().to_owned();
    outbound.matches.iter().map(|found| name(found.rule)).collect()
}

fn check(rules: &[&str], expected: &[&str]) {
    // In the wrong order, so that nothing is right by chance.
    let rules: Vec<&str> = rules.iter().rev().copied().collect();
    assert_eq!(order(&with(&route("HTTPRoute", "r", "", &rules.join(", "))), "shop"), expected);
}

#[test]
fn http_matches_come_in_the_order_of_the_gateway_api() {
    check(
        &[
            "{ name: exact, matches: [{ path: { type: Exact, value: /a } }] }",
            "{ name: regex, matches: [{ path: { type: RegularExpression, value: /a.* } }] }",
            "{ name: longest, matches: [{ path: { value: /a/b/c } }] }",
            "{ name: method, matches: [{ path: { value: /a/b }, method: GET }] }",
            "{ name: headers2, matches: [{ path: { value: /a/b }, headers: [{ name: x, value: v }, { name: z, value: v }] }] }",
            "{ name: headers1, matches: [{ path: { value: /a/b }, headers: [{ name: x, value: v }], queryParams: [{ name: q, value: q }] }] }",
            "{ name: query2, matches: [{ path: { value: /a/b }, queryParams: [{ name: p, value: p }, { name: q, value: q }] }] }",
            "{ name: query1, matches: [{ path: { value: /a/b }, queryParams: [{ name: q, value: q }] }] }",
            "{ name: plain, matches: [{ path: { value: /a/b } }] }",
            "{ name: short, matches: [{ path: { value: /a } }] }",
            "{ name: any }",
        ],
        &["exact", "regex", "longest", "method", "headers2", "headers1", "query2", "query1", "plain", "short", "any"],
    );
}

#[test]
fn a_header_named_twice_counts_once() {
    check(
        &[
            "{ name: two, matches: [{ headers: [{ name: x, value: v }, { name: z, value: v }] }] }",
            "{ name: one, matches: [{ headers: [{ name: x, value: v }, { name: X, value: z }, { name: x, value: w }] }] }",
        ],
        &["two", "one"],
    );
}

#[test]
fn grpc_matches_come_in_the_order_of_the_gateway_api() {
    let rules = [
        "{ name: any }",
        "{ name: header, matches: [{ headers: [{ name: x, value: v }] }] }",
        "{ name: method, matches: [{ method: { method: Get } }] }",
        "{ name: service, matches: [{ method: { service: a.B } }] }",
        "{ name: service-header, matches: [{ method: { service: a.B }, headers: [{ name: x, value: v }] }] }",
        "{ name: both, matches: [{ method: { service: a.B, method: Get } }] }",
        "{ name: longer, matches: [{ method: { service: a.BBB } }] }",
    ];
    let world = with(&route("GRPCRoute", "r", "", &rules.join(", ")));
    assert_eq!(order(&world, "shop"), ["longer", "both", "service-header", "service", "method", "header", "any"]);
}

#[test]
fn grpc_methods_become_paths() {
    let path = |method: &str| {
        let rule = format!("{{ matches: [{{ method: {{ {method} }} }}] }}");
        outbound(&with(&route("GRPCRoute", "r", "", &rule)), "shop", "api:80").matches[0].path.clone().unwrap()
    };
    assert_eq!(path("service: a.B, method: Get"), PathMatch::Exact("/a.B/Get".into()));
    assert_eq!(path("service: a.B"), PathMatch::Prefix("/a.B".into()));
    let PathMatch::Pattern(any_service) = path("method: Get") else { panic!("no pattern") };
    assert!(any_service.matches(b"/a.B/Get") && !any_service.matches(b"/a.B/Got") && !any_service.matches(b"/a/b/Get"));
    let PathMatch::Pattern(regex) = path("type: RegularExpression, service: a|b, method: Get.*") else { panic!() };
    assert!(regex.matches(b"/a/GetAll") && regex.matches(b"/b/Get") && !regex.matches(b"/a"));
    let rule = "{ matches: [{ method: { type: RegularExpression, service: 'a)(?:b', method: Get } }] }";
    let world = with(&route("GRPCRoute", "r", "", rule));
    assert!(
        world.reports[0].contains(".method.service: \"a)(?:b\" is no usable regular expression"),
        "{:?}",
        world.reports
    );
}

#[test]
fn ties_go_to_the_oldest_route_then_by_alphabet_then_to_the_first_rule() {
    let born = |time: &str| format!(", creationTimestamp: '{time}'");
    let same = "{ name: NAME }";
    let tie = |name: &str, time: &str, rule: &str| route("HTTPRoute", name, time, &same.replace("NAME", rule));
    let world = with(
        &(tie("a", "", "undated-a")
            + &tie("b", &born("2026-01-02T00:00:00Z"), "younger")
            + &tie("c", &born("2026-01-01T00:00:00Z"), "older")
            + &route("HTTPRoute", "b2", "", "{ name: undated-b-first }, { name: undated-b-second }")),
    );
    assert_eq!(order(&world, "shop"), ["older", "younger", "undated-a", "undated-b-first", "undated-b-second"]);
    // "a-b/r" comes before "a/r": the alphabet is that of the whole text.
    let text = tie("a/r", "", "slash") + &tie("a-b/r", "", "dash");
    let attached: Vec<_> = with(&text).ruled.unnoted().values().flat_map(|ruled| ruled.attached.clone()).collect();
    let mut ranks: Vec<_> = attached.iter().map(|one| (&one.matches[0].0, &*one.rule.label)).collect();
    ranks.sort();
    assert!(ranks[0].1.ends_with("dash"), "{ranks:?}");
}

#[test]
fn a_consumers_route_is_for_its_own_callers_and_there_in_the_place_of_the_producers() {
    let world = with(
        &(route("HTTPRoute", "r", "", "{ name: producer }") + &route("HTTPRoute", "web/r", "", "{ name: consumer }")),
    );
    assert_eq!(order(&world, "shop"), ["producer"]);
    assert_eq!(order(&world, "third"), ["producer"]);
    assert_eq!(order(&world, "web"), ["consumer"]);
}

#[test]
fn of_several_route_types_only_the_most_specific_counts() {
    let grpc = route("GRPCRoute", "g", "", "{ name: grpc }");
    let world = with(&(route("HTTPRoute", "h", "", "{ name: http }") + &grpc));
    assert_eq!(order(&world, "shop"), ["grpc"], "GEP-1426: GRPCRoute before HTTPRoute");
    let world = with(&(route("HTTPRoute", "web/h", "", "{ name: http }") + &grpc));
    assert_eq!(order(&world, "web"), ["http"], "a consumer's routes are compared among themselves");
}

/// On which ports of `shop/api` a route with this parent is.
fn ports(parent: &str) -> (Vec<u16>, Vec<String>) {
    let world = with(&format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: r, namespace: shop }}
spec: {{ parentRefs: [{{ {parent} }}], rules: [{{ backendRefs: [{{ name: api, port: 80 }}] }}] }}
"
    ));
    let mut ports: Vec<u16> = world.ruled.unnoted().keys().map(|id| id.port).collect();
    ports.sort_unstable();
    (ports, world.reports)
}

#[test]
fn a_parent_is_all_ports_of_a_service_or_the_one_that_is_named_by_number_or_name() {
    let attached = |more: &str| ports(&format!("group: '', kind: Service, name: api{more}")).0;
    assert_eq!(attached(""), [80, 90]);
    assert_eq!(attached(", port: 90"), [90]);
    assert_eq!(attached(", sectionName: main"), [80]);
    assert_eq!(attached(", sectionName: main, port: 80"), [80]);
    assert_eq!(attached(", sectionName: main, port: 90"), [] as [u16; 0], "both must agree");
}

#[test]
fn a_parent_that_is_not_there_is_reported_and_a_gateway_is_others_business() {
    for wrong in ["name: api, port: 81", "name: apy", "name: api, namespace: other", "name: api, sectionName: other"] {
        let (ports, reports) = ports(&format!("group: '', kind: Service, {wrong}"));
        assert!(ports.is_empty() && reports.len() == 1, "{wrong}: {reports:?}");
        assert!(reports[0].contains("HTTPRoute shop/r: spec.parentRefs[0]: "), "{reports:?}");
    }
    assert_eq!(ports("name: api"), (vec![], vec![]), "without a kind it is a Gateway");
}

#[test]
fn hostnames_have_no_meaning_on_a_service_and_that_is_said() {
    let text =
        route("HTTPRoute", "r", "", "{ name: rule }").replace("  rules:", "  hostnames: [example.com]\n  rules:");
    let world = with(&text);
    assert_eq!(order(&world, "shop"), ["rule"]);
    assert!(world.reports.iter().any(|report| report.contains("spec.hostnames")), "{:?}", world.reports);
}

/// The backends of a route's only rule: `shop/api:80 x1`, or `invalid x1`.
fn backends(text: &str, client: &str) -> Vec<String> {
    let outbound = outbound(&with(&format!("{MORE}{text}")), client, "api.shop:80");
    let [rule] = &outbound.rules[..] else { panic!("{:?}", outbound.rules) };
    let shown = |backend: &BackendRef| match backend.state {
        BackendRefState::Valid => format!("{} x{}", backend.backend, backend.weight),
        BackendRefState::Invalid => format!("invalid x{}", backend.weight),
    };
    rule.backends.iter().map(shown).collect()
}

fn to(name: &str, backends: &str) -> String {
    route("HTTPRoute", name, "", &format!("{{ backendRefs: [{backends}] }}"))
}

#[test]
fn a_missing_backend_takes_its_share_and_answers_500() {
    let shared = to(
        "r",
        "{ name: next, port: 80, weight: 3 }, { name: gone, port: 80, weight: 1 }, { name: next, port: 80, weight: 0 }",
    );
    assert_eq!(backends(&shared, "shop"), ["shop/next:80 x3", "invalid x1", "shop/next:80 x0"]);
    assert_eq!(backends(&to("r", "{ name: next, port: 81 }"), "shop"), ["invalid x1"], "a port that is not there");
    assert_eq!(backends(&to("r", "{ name: next }"), "shop"), ["invalid x1"], "a Service needs a port");
    assert_eq!(backends(&to("r", "{ kind: Bucket, name: next, port: 80 }"), "shop"), ["invalid x1"]);
    assert_eq!(backends(&to("r", ""), "shop"), ["invalid x1"], "a rule that leads nowhere");
    assert_eq!(backends(&route("HTTPRoute", "r", "", ""), "shop"), ["invalid x1"], "a route without rules");
}

#[test]
fn a_redirect_needs_no_backend() {
    let filter = "{ filters: [{ type: RequestRedirect, requestRedirect: { hostname: there } }] }";
    assert_eq!(backends(&route("HTTPRoute", "r", "", filter), "shop"), [] as [&str; 0]);
}

#[test]
fn a_producers_route_into_another_namespace_needs_that_namespaces_grant() {
    let grant = |from: &str, to: &str, namespace: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{ name: g, namespace: {namespace} }}
spec:
  from: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {from} }}]
  to: [{{ group: '', kind: Service{to} }}]
---
"
        )
    };
    let into = to("r", "{ name: safe, namespace: vault, port: 80 }");
    let granted = |grant: String| backends(&(grant + &into), "shop");
    let (yes, no) = (["vault/safe:80 x1"], ["invalid x1"]);
    assert_eq!(granted(String::new()), no);
    assert_eq!(granted(grant("shop", "", "vault")), yes);
    assert_eq!(granted(grant("shop", ", name: safe", "vault")), yes);
    assert_eq!(granted(grant("shop", ", name: other", "vault")), no);
    assert_eq!(granted(grant("other", "", "vault")), no);
    assert_eq!(granted(grant("shop", "", "shop")), no, "only the namespace itself can grant");
    let grpc = grant("shop", "", "vault").replace("HTTPRoute", "GRPCRoute");
    assert_eq!(granted(grpc), no, "the grant is for another kind");
    for (misspelt, field) in [
        (grant("shop", ", nmae: other", "vault"), "spec.to[0].nmae"),
        (grant("shop, names: x", "", "vault"), "spec.from[0].names"),
        (grant("shop", "", "vault").replace("spec:", "spec:\n  only: x"), "spec.only"),
    ] {
        let told = format!("ReferenceGrant vault/g: {field}: there is no such field");
        let reports = with(&format!("{misspelt}{into}")).reports;
        assert!(reports.iter().any(|report| report.contains(&told)), "{told}: {reports:?}");
        assert_eq!(granted(misspelt), no, "what {field} was to narrow, nobody knows");
    }
    let beside = grant("shop", ", nmae: x }, { group: '', kind: Service, name: safe", "vault");
    assert_eq!(granted(beside), yes, "the other entries stay");
}

#[test]
fn a_misspelt_field_of_a_parent_refuses_that_parent_and_one_of_a_route_is_told() {
    let route = |parents: &str, more: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: r, namespace: shop }}
spec: {{ parentRefs: [{parents}], rules: [{{ backendRefs: [] }}]{more} }}
"
        )
    };
    let attached = |text: &str| {
        let world = with(text);
        let to = |port: u16| world.ruled.contains_key(&backend_id(&("shop".to_owned(), "api".to_owned()), port));
        (to(80), to(90), world.reports.join("; "))
    };
    let misspelt = "{ group: '', kind: Service, name: api, sectionname: main }";
    let (main, extra, told) = attached(&route(misspelt, ""));
    assert!(!main && !extra && told.contains("spec.parentRefs[0]: sectionname: there is no such field"), "{told}");
    let both = format!("{misspelt}, {{ group: '', kind: Service, name: api, port: 90 }}");
    let (main, extra, _) = attached(&route(&both, ""));
    assert!(!main && extra, "the other parent stays");
    let lost = route("", ", parentRef: { group: '', kind: Service, name: api }");
    let (main, extra, told) = attached(&lost);
    assert!(!main && !extra && told.contains("spec.parentRef: there is no such field"), "{told}");
    let gateways = attached(&route("{ name: gate }", ", useDefaultGateways: All")).2;
    assert_eq!(gateways, "", "which is others' business");
}

#[test]
fn a_consumers_route_needs_no_grant_since_it_moves_only_its_own_requests() {
    let back = to("web/r", "{ name: api, namespace: shop, port: 80 }, { name: safe, namespace: vault, port: 80 }");
    assert_eq!(backends(&back, "web"), ["shop/api:80 x1", "vault/safe:80 x1"]);
}

#[test]
fn a_rule_that_makes_no_sense_answers_500_and_says_where_it_is() {
    for (rule, field) in [
        ("timeouts: { request: 1 second }", "timeouts.request"),
        ("retry: { codes: [42] }", "retry.codes"),
        ("filters: [{ type: ExtensionRef }]", "filters[0]"),
        ("filters: [{ type: URLRewrite }]", "filters[0]"),
        (
            "filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: 'a b', value: c }] } }]",
            "filters[0]",
        ),
        ("backendRefs: [{ name: next, port: 80, filters: [{ type: Nonsense }] }]", "backendRefs[0].filters[0]"),
    ] {
        let text = route("HTTPRoute", "r", "", &format!("{{ {rule} }}"));
        assert_eq!(backends(&text, "shop"), ["invalid x1"], "{rule}");
        let reports = with(&text).reports;
        let at = format!("HTTPRoute shop/r: spec.rules[0].{field}");
        assert!(reports.iter().any(|report| report.contains(&at)), "{rule}: {reports:?}");
    }
}

/// The first rule of a route of `kind` with these annotations, and what is reported of it.
fn annotated(kind: &str, annotations: &str) -> (Rule, Vec<String>) {
    let text =
        route(kind, "r", &format!(", annotations: {{ {annotations} }}"), "{ backendRefs: [{ name: api, port: 80 }] }");
    let world = with(&text);
    (outbound(&world, "shop", "api:80").rules[0].clone(), world.reports.clone())
}

#[test]
fn annotations_of_a_grpc_route_say_what_an_http_route_has_fields_for() {
    let (rule, told) = annotated("GRPCRoute", "");
    assert_eq!((rule.timeouts, rule.retry, told), (Timeouts::default(), None, Vec::new()));
    let (rule, told) = annotated(
        "GRPCRoute",
        "remora.dev/retry-codes: 'unavailable, resource-exhausted', remora.dev/retry-attempts: '3', \
         remora.dev/retry-backoff: 100ms, remora.dev/timeouts-request: 2s, remora.dev/timeouts-backend-request: 0s",
    );
    let retry = Retry {
        attempts: 3,
        codes: Vec::new(),
        grpc_codes: GrpcCodes::parse("resource-exhausted,unavailable").unwrap(),
        backoff: Duration::from_millis(100),
        any_method: false,
    };
    let timeouts = Timeouts { request: Some(Duration::from_secs(2)), backend_request: None };
    assert_eq!((rule.timeouts, rule.retry, told), (timeouts, Some(retry), Vec::new()));
    let (rule, _) = annotated("GRPCRoute", "remora.dev/retry-codes: unavailable");
    assert_eq!(rule.retry.map(|retry| (retry.attempts, retry.backoff)), Some((1, Duration::from_millis(25))));
}

#[test]
fn an_annotation_of_a_grpc_route_that_makes_no_sense_closes_it_and_is_no_http_routes() {
    for (annotation, wrong) in [
        ("remora.dev/retry-codes: 'unavailable,ok'", "retry-codes: \"ok\" is no gRPC status of a failure"),
        ("remora.dev/retry-attempts: '-1'", "retry-attempts: \"-1\" is no number"),
        ("remora.dev/timeouts-request: 1 second", "timeouts-request: \"1 second\" is no duration"),
    ] {
        let (rule, told) = annotated("GRPCRoute", annotation);
        assert_eq!(rule.backends[0].state, BackendRefState::Invalid, "{annotation}");
        let at = format!("GRPCRoute shop/r: metadata.annotations: remora.dev/{wrong}");
        assert!(told.len() == 1 && told[0].contains(&at) && told[0].ends_with("it answers 500"), "{told:?}");
    }
    let (rule, told) = annotated("HTTPRoute", "remora.dev/retry-codes: unavailable");
    assert_eq!((rule.retry, rule.backends[0].state), (None, BackendRefState::Valid));
    assert!(told.len() == 1 && told[0].contains("an HTTPRoute has spec.rules[].retry.codes"), "{told:?}");
}

#[test]
fn a_match_that_makes_no_sense_matches_nothing_and_its_rule_stays() {
    let world = with(&route(
        "HTTPRoute",
        "r",
        "",
        "{ name: half, matches: [{ path: { type: RegularExpression, value: '(' } }, { method: GET }, { path: { value: a } }] }",
    ));
    let outbound = outbound(&world, "shop", "api:80");
    assert_eq!(outbound.matches.len(), 1);
    assert_eq!(outbound.matches[0].method, Some(Method::GET));
    let at = |index: usize| world.reports.iter().any(|r| r.contains(&format!("spec.rules[0].matches[{index}].path")));
    assert!(at(0) && at(2), "{:?}", world.reports);
}

#[test]
fn a_mirror_that_leads_nowhere_is_left_out_and_the_rule_goes_on() {
    let mirror = |name: &str| {
        let filter =
            format!("{{ type: RequestMirror, requestMirror: {{ backendRef: {{ name: {name}, port: 80 }} }} }}");
        let text = route(
            "HTTPRoute",
            "r",
            "",
            &format!("{{ filters: [{filter}], backendRefs: [{{ name: next, port: 80 }}] }}"),
        );
        outbound(&with(&format!("{MORE}{text}")), "shop", "api:80").rules[0].clone()
    };
    assert!(matches!(mirror("next").filters[..], [Filter::Mirror { numerator: 100, denominator: 100, .. }]));
    let rule = mirror("gone");
    assert!(rule.filters.is_empty() && rule.backends[0].state == BackendRefState::Valid);
}
