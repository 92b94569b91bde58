//! The unit of refusal is the rule: whatever users write, what is sent can be read, and the rest of it goes on.

use super::*;
use crate::index::fuzzing::unreadable;

const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r, namespace: shop }
spec:
  parentRefs: [{ group: '', kind: Service, name: api }]
  rules:
    - matches: [{ path: { value: /good } }]
      backendRefs: [{ name: api, port: 90 }]
    - RULE
";

#[test]
fn an_odd_value_in_one_rule_leaves_the_other_rules_alone() {
    let with_rule = |rule: &str| with(&ROUTES.replace("RULE", rule));
    let check = |rule: &str, field: Option<&str>| {
        let world = with_rule(rule);
        assert_eq!(unreadable(&world), Vec::<String>::new(), "{rule}");
        let rules = outbound(&world, "shop", "api:80").rules;
        assert!(rules[0].backends[0].state == BackendRefState::Valid, "{rule}: {rules:?}");
        let told = field.is_none_or(|field| world.reports.iter().any(|report| report.contains(field)));
        assert!(told && (field.is_some() || world.reports.is_empty()), "{rule}: {:?}", world.reports);
    };
    let rewrite = "type: URLRewrite, urlRewrite";
    check("{ timeouts: { request: 99999h }, backendRefs: [{ name: api, port: 80 }] }", None);
    check("{ timeouts: { request: 99999h99999h99999h99999h }, backendRefs: [{ name: api, port: 80 }] }", None);
    let empty = "path: { type: ReplaceFullPath, replaceFullPath: '' }";
    check(&format!("{{ filters: [{{ {rewrite}: {{ {empty} }} }}], backendRefs: [{{ name: api, port: 80 }}] }}"), None);
    check(&format!("{{ filters: [{{ type: RequestRedirect, requestRedirect: {{ {empty} }} }}] }}"), None);
    check("{ backendRefs: [{ name: api, port: 0 }] }", Some("spec.rules[1].backendRefs[0]: "));
    check("{ backendRefs: [{ name: '', port: 80 }] }", Some("spec.rules[1].backendRefs[0]: "));
    let hostname = "spec.rules[1].filters[0].requestRedirect.hostname: is missing";
    check("{ filters: [{ type: RequestRedirect, requestRedirect: { hostname: '' } }] }", Some(hostname));
    let scheme = "spec.rules[1].filters[0].requestRedirect.scheme: ";
    check("{ filters: [{ type: RequestRedirect, requestRedirect: { scheme: '' } }] }", Some(scheme));
    check(&format!("{{ name: {}, backendRefs: [] }}", "x".repeat(9000)), Some("spec.rules[1].name: is longer than"));
    let long = "/".to_owned() + &"x".repeat(9000);
    let path = "spec.rules[1].matches[0].path.value: is longer than";
    check(&format!("{{ matches: [{{ path: {{ value: {long} }} }}] }}"), Some(path));
    let mirror = "type: RequestMirror, requestMirror: { backendRef: { name: api, port: 80 }";
    let fraction = format!("{{ filters: [{{ {mirror}, fraction: {{ numerator: 3, denominator: 2 }} }} }}] }}");
    check(&fraction, Some("spec.rules[1].filters[0]"));
    let header = "type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: a, value: \"b\\nc\" }] }";
    check(&format!("{{ filters: [{{ {header} }}] }}"), Some("spec.rules[1].filters[0]"));
}

#[test]
fn whatever_stands_in_any_field_what_is_sent_can_be_read() {
    let text = format!("{WORLD}---\n{EVERYTHING}");
    let long = format!("'{}'", "x".repeat(8193));
    let odd = ["''", "0", "-1", "65536", "99999h", "\"\\0\"", "'ä'", "'*'", "'/'", "null", "[]", "{}", "true", &long];
    // Every scalar of every object, replaced by every odd value.
    let ends = |c: char| matches!(c, ' ' | ',' | ':' | '[' | ']' | '{' | '}' | '\n');
    let mut replaced = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let length = rest.find(ends).unwrap_or(rest.len());
        if length == 0 || rest[length..].starts_with(':') || rest.starts_with("---") {
            at += length.max(1);
            continue;
        }
        for value in odd {
            replaced += 1;
            let parsed = parse(&format!("{}{value}{}", &text[..at], &rest[length..]), "test.yaml");
            let world = Snapshot::build(parsed.objects, &mesh());
            assert_eq!(unreadable(&world), Vec::<String>::new(), "{value} at {at}: {}", &rest[..length]);
        }
        at += length;
    }
    assert!(replaced > 900, "{replaced}");
}

#[test]
fn routes_that_do_not_fit_into_a_message_are_refused_the_youngest_first() {
    let route = |name: usize, matches: usize| {
        let matches: Vec<String> = (0..matches).map(|n| format!("{{ path: {{ value: /{name}/{n} }} }}")).collect();
        let rules: Vec<String> = matches
            .chunks(64)
            .map(|some| format!("{{ matches: [{}], backendRefs: [{{ name: api, port: 80 }}] }}", some.join(", ")))
            .collect();
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: r{name}, namespace: shop, creationTimestamp: '2026-01-{:02}T00:00:00Z' }}
spec: {{ parentRefs: [{{ group: '', kind: Service, name: api, port: 80 }}], rules: [{}] }}
",
            name + 1,
            rules.join(", ")
        )
    };
    let text: String = (0..5).rev().map(|name| route(name, 1024)).collect();
    let world = with(&text);
    assert_eq!(unreadable(&world), Vec::<String>::new());
    let outbound = outbound(&world, "shop", "api:80");
    assert_eq!(outbound.matches.len(), 4096);
    assert!(outbound.rules.iter().all(|rule| !rule.label.contains("/r4 ")), "the youngest is not taken");
    assert!(world.reports.iter().any(|report| report.contains("HTTPRoute shop/r4: spec.parentRefs[0]: ")));
    let youngest = world.statuses.iter().find(|status| status.name == "r4").unwrap();
    assert!(youngest.to_write("now").unwrap().to_string().contains("TooManyRules"));
}

#[test]
fn rules_that_do_not_fit_into_a_message_deny() {
    let policy = |name: usize, action: &str| {
        let rules = vec!["{ from: [{ namespaces: [shop] }] }"; 64].join(", ");
        format!(
            "---
apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{ name: p{name}, namespace: shop }}
spec: {{ action: {action}, rules: [{rules}] }}
"
        )
    };
    let of = |action: &str, policies| {
        let text: String = (0..policies).map(|name| policy(name, action)).collect();
        let world = with(&text);
        assert_eq!(unreadable(&world), Vec::<String>::new());
        (world.inbound("shop", "api-1", 8000).unwrap(), world.reports.len())
    };
    assert_eq!((of("Deny", 64).0.rules.len(), of("Deny", 64).1), (4096, 0));
    let (closed, told) = of("Deny", 65);
    assert_eq!((closed.rules.len(), closed.rules[0].from.len(), told), (1, 0, 1), "everything is denied");
    let (kept, _) = of("Allow", 65);
    assert!(kept.rules.len() == 4096 && kept.default_deny, "what allows beyond does not allow");
}
