use super::*;
use remora_model::{Action, MtlsMode, Protocol};

fn policy(action: &str, spec: &str) -> String {
    format!(
        "apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{ name: p, namespace: shop }}
spec: {{ action: {action}, {spec} }}
---
"
    )
}

#[test]
fn an_unreadable_deny_rule_denies_everything_and_an_unreadable_allow_rule_allows_nothing() {
    let rule = "targetRefs: [{ kind: Service, name: api }], rules: [{ from: [{ cidrs: [nonsense] }] }]";
    let world = with(&policy("Deny", rule));
    let inbound = world.inbound("shop", "api-1", 8000).unwrap();
    assert_eq!(inbound.parent.as_ref(), "shop/api:80");
    assert!(inbound.rules.len() == 1 && inbound.rules[0].from.is_empty() && inbound.rules[0].to.is_empty());
    assert_eq!(inbound.rules[0].action, Action::Deny);
    let said =
        "AuthorizationPolicy shop/p: spec.rules[0].from[0].cidrs[0]: \"nonsense\" is no CIDR; it denies everything";
    assert!(world.reports[0].ends_with(said), "{:?}", world.reports);
    let inbound = with(&policy("Allow", rule)).inbound("shop", "api-1", 8000).unwrap();
    assert!(inbound.rules.is_empty() && inbound.default_deny);
}

#[test]
fn a_deny_policy_with_one_wrong_entry_still_denies_by_its_other_rules() {
    let web = "{ from: [{ identities: ['spiffe://cluster.local/ns/shop/sa/web'] }] }";
    for wrong in [
        "from: [{ namespaces: [''] }]",
        "from: [{ identities: [web] }]",
        "from: [{}]",
        "from: [{ namespaces: null }]",
        "from: null, to: [{ methods: [GET] }]",
        "from: [{ namespaces: [shop] }], to: ",
        "from: [{ namespaces: [shop], cidrs: null }]",
        "from: [{ namespaces: [shop], x: null }]",
        "to: [{ methods: [get] }]",
        "to: [{ paths: ['/a%2Fb'] }]",
        "from: [], unknown: 1",
    ] {
        let world = with(&policy("Deny", &format!("rules: [{web}, {{ {wrong} }}]")));
        let rules = world.inbound("shop", "api-1", 8000).unwrap().rules;
        assert_eq!((rules.len(), rules[0].from.len()), (2, 1), "{wrong}");
        assert_eq!(rules[1], remora_model::AuthorizationRule::deny_everything("shop/p rule 1".into()), "{wrong}");
        assert!(world.reports[0].contains("AuthorizationPolicy shop/p: spec.rules[1]"), "{:?}", world.reports);
        let rules = with(&policy("Audit", &format!("rules: [{web}, {{ {wrong} }}]")));
        assert_eq!(rules.inbound("shop", "api-1", 8000).unwrap().rules.len(), 1, "{wrong}");
    }
}

#[test]
fn a_range_of_ipv4_written_in_ipv6_is_what_callers_are_compared_with() {
    let cidrs = |cidr: &str| {
        let world = with(&policy("Deny", &format!("rules: [{{ from: [{{ cidrs: ['{cidr}'] }}] }}]")));
        let rule = world.inbound("shop", "api-1", 8000).unwrap().rules.remove(0);
        let cidrs: Vec<String> = rule.from.iter().flat_map(|from| &from.cidrs).map(ToString::to_string).collect();
        (cidrs.join(" "), world.reports.len())
    };
    assert_eq!(cidrs("::ffff:10.0.0.0/104"), ("10.0.0.0/8".to_owned(), 0));
    assert_eq!(cidrs("::ffff:10.0.0.0/24"), (String::new(), 1), "it denies everything, and is told");
}

#[test]
fn what_is_null_in_a_policy_is_told_and_never_widens_it() {
    let allow = |spec: &str| {
        let world = with(&policy("Allow", spec));
        let inbound = world.inbound("shop", "api-1", 8000).unwrap();
        (inbound.rules.len(), inbound.default_deny, world.reports.join("; "))
    };
    let (rules, denies, said) = allow("rules: [{ from: null, to: [{ methods: [GET] }] }, { from: [], to: [] }]");
    assert!((rules, denies) == (1, true) && said.contains("spec.rules[0].from: is null"), "{rules} {said}");
    for outside in ["targetRefs: null, rules: [{ from: [] }]", "selector: null, rules: [{ from: [] }]"] {
        let (rules, denies, said) = allow(outside);
        assert!((rules, denies) == (0, true) && said.contains(": is null; leave it out"), "{outside}: {rules} {said}");
    }
    let labels = "selector: { matchLabels: { app: api, tier: null } }, rules: []";
    let mistakes = parse(&policy("Deny", labels), "").whole().unwrap_err();
    assert!(mistakes[0].field.starts_with("spec.selector.matchLabels"), "{mistakes:?}");
}

#[test]
fn every_spelling_of_a_path_in_a_policy_means_the_path_or_is_a_mistake() {
    let paths = |path: &str| {
        let world = with(&policy("Deny", &format!("rules: [{{ to: [{{ paths: ['{path}'] }}] }}]")));
        let rule = world.inbound("shop", "api-1", 8000).unwrap().rules.remove(0);
        let paths: Vec<String> = rule.to.iter().flat_map(|to| &to.paths).map(ToString::to_string).collect();
        (paths.join(" "), world.reports.len())
    };
    for path in ["/admin", "/admin/", "//admin", "/./admin", "/%61dmin", "/admin;v=1", "/admin//"] {
        assert_eq!(paths(path), ("/admin".to_owned(), 0), "{path}");
    }
    for path in [
        "/a%2Fb",
        "/a%5Cb",
        "/a\\b",
        "/%00",
        "/..",
        "/x/../admin",
        "/x/..;/admin",
        "/%2e%2e/a",
        "/%252e",
        "/%c0%ae",
        "/a#b",
        "/a*",
        "a",
        "?x",
    ] {
        assert_eq!(paths(path), (String::new(), 1), "{path}: it denies everything, and is told");
    }
}

#[test]
fn a_pod_that_is_not_ready_keeps_its_policies_and_its_protocol() {
    let rule = policy("Allow", "targetRefs: [{ kind: Service, name: api }], rules: []");
    let ready = with(&rule);
    let unready = WORLD.replace("podIP: 10.1.0.1", "podIP: 10.1.0.1, conditions: [{ type: Ready, status: 'False' }]");
    let unready = snapshot(&format!("{unready}---\n{rule}"));
    let inbound = unready.inbound("shop", "api-1", 8000).unwrap();
    assert!(inbound.default_deny, "what holds for a Service holds for its pods before they are ready");
    assert_eq!(inbound, ready.inbound("shop", "api-1", 8000).unwrap());
    assert_eq!(inbound.protocol, Protocol::Http2);
}

#[test]
fn an_unknown_pod_has_no_policy_so_that_nothing_may_come_in() {
    assert_eq!(with("").inbound("shop", "gone", 80), None);
}

#[test]
fn policies_of_one_name_all_hold() {
    let world = with(&(policy("Deny", "rules: [{}]") + &policy("Allow", "rules: []")));
    let inbound = world.inbound("shop", "api-1", 8000).unwrap();
    assert!(inbound.default_deny && inbound.rules.len() == 1);
}

#[test]
fn a_policy_holds_for_what_it_selects_and_says_when_that_is_not_there() {
    let select = |what: &str| {
        let world = with(&policy("Allow", &format!("{what}, rules: []")));
        let deny = |pod| world.inbound("shop", pod, 8000).unwrap().default_deny;
        (deny("api-1"), deny("bare"), world.reports.len())
    };
    assert_eq!(select("targetRefs: [{ kind: Pod, name: bare }]"), (false, true, 0));
    assert_eq!(select("targetRefs: [{ kind: Service, name: api }]"), (true, true, 0));
    assert_eq!(select("selector: { matchLabels: { app: api } }"), (true, true, 0));
    assert_eq!(select("selector: { matchLabels: { app: web } }"), (false, false, 0));
    assert_eq!(select("targetRefs: [{ kind: Service, name: apy }]"), (false, false, 1));
    assert_eq!(select("targetRefs: []"), (true, true, 0), "the whole namespace");
}

#[test]
fn the_most_specific_tls_policy_wins() {
    let tls = |namespace: &str, mode: &str, targets: &str| {
        format!(
            "apiVersion: remora.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {{ name: tls, namespace: {namespace} }}
spec: {{ mode: {mode}, targetRefs: [{targets}] }}
---
"
        )
    };
    let mode = |text: String| with(&text).inbound("shop", "api-1", 8000).unwrap().mtls;
    let (mesh, own) = (tls("remora", "Strict", ""), tls("shop", "Permissive", ""));
    assert_eq!(mode(mesh.clone()), MtlsMode::Strict);
    assert_eq!(mode(tls("other", "Strict", "")), MtlsMode::Permissive);
    assert_eq!(mode(mesh.clone() + &own), MtlsMode::Permissive);
    assert_eq!(mode(mesh + &own + &tls("shop", "Strict", "{ kind: Service, name: api }")), MtlsMode::Strict);
}
