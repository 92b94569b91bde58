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
    let said = "AuthorizationPolicy shop/p: spec.rules[0].from.cidrs: \"nonsense\" is no CIDR; it denies";
    assert!(world.reports[0].ends_with(said), "{:?}", world.reports);
    let inbound = with(&policy("Allow", rule)).inbound("shop", "api-1", 8000).unwrap();
    assert!(inbound.rules.is_empty() && inbound.default_deny);
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
