//! Conditions, dry runs and what holds by default.

use super::{status::CONTROLLER, *};
use remora_model::{DefaultInbound, Inbound, MtlsMode};

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{ name: {name}, namespace: shop }}
spec: {{ {spec} }}
"
    )
}

fn mesh_tls(name: &str, spec: &str) -> String {
    policy(name, spec).replace("kind: AuthorizationPolicy", "kind: MeshTLSPolicy")
}

fn port(world: &Snapshot) -> Inbound {
    world.inbound("shop", "api-1", 8000).unwrap()
}

/// The names of the rules, with their action; `~` of what decides nothing.
fn rules(inbound: &Inbound) -> Vec<String> {
    let sign = |dry_run| if dry_run { "~" } else { "" };
    inbound.rules.iter().map(|rule| format!("{}{:?} {}", sign(rule.dry_run), rule.action, rule.name)).collect()
}

#[test]
fn every_condition_of_a_rule_is_what_proxies_are_told() {
    let rule = "from: [{ serviceAccounts: [shop/web], trustDomains: [td], except: { namespaces: [old] } }, { authenticated: false }],
        to: [{ hosts: ['API:80'], headers: [{ name: X-A, type: Prefix, values: [b] }], ports: [8000],
        paths: ['/users/{id}/*'], except: { methods: [PUT] } }, { grpc: [{ service: a.B, method: C }, { service: D }] }]";
    let world = with(&policy("p", &format!("rules: [{{ {rule} }}]")));
    assert_eq!(world.reports, Vec::<String>::new());
    let rule = port(&world).rules.remove(0);
    let (from, to) = (&rule.from, &rule.to);
    assert_eq!((from[0].service_accounts[0].to_string(), from[0].trust_domains[0].as_str()), ("shop/web".into(), "td"));
    assert_eq!((&*from[0].except.namespaces[0], from[1].authenticated), ("old", Some(false)));
    assert_eq!((to[0].hosts[0].to_string(), to[0].headers[0].name().as_str()), ("api:80".into(), "x-a"));
    assert_eq!((to[0].paths[0].to_string(), to[0].ports[0]), ("/users/{id}/{**}".into(), 8000));
    assert_eq!(to[0].except.methods[0].as_str(), "PUT");
    assert_eq!(to[1].grpc.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a.B/C", "D/*"]);
}

#[test]
fn what_is_wrong_with_a_condition_is_told_with_its_field() {
    for (rule, said) in [
        ("from: [{ serviceAccounts: [web] }]", ".from[0].serviceAccounts[0]: \"web\" is no service account"),
        ("from: [{ except: { namespaces: [a] } }]", ".from[0].except: stands alone"),
        ("from: [{ authenticated: true, except: {} }]", ".from[0].except: is empty"),
        ("from: [{ authenticated: false, namespaces: [a] }]", ".from[0].authenticated: is false beside"),
        ("to: [{ hosts: ['caf\u{e9}'] }]", ".to[0].hosts[0]: \"caf\u{e9}\" has letters beyond ASCII"),
        ("to: [{ headers: [{ name: Host, values: [a] }] }]", ".to[0].headers[0]: \"Host\" is a header that no rule"),
        ("to: [{ headers: [{ name: cookie, values: [a] }] }]", ".to[0].headers[0]: \"cookie\" is a list"),
        ("to: [{ grpc: [{ service: a, method: b/c }] }]", ".to[0].grpc[0]: is no gRPC method"),
        ("to: [{ ports: [70000] }]", ".to[0].ports[0]: 70000 is no port"),
        ("to: [{ paths: ['/{**}/{**}'] }]", ".to[0].paths[0]: \"/{**}/{**}\" {**} and a star"),
        ("to: [{ except: { methods: [GET] } }]", ".to[0].except: stands alone"),
        ("to: [{ methods: [GET], except: { paths: [a] } }]", ".to[0].except.paths[0]: \"a\" no request can match it"),
    ] {
        let world = with(&policy("p", &format!("action: Deny, rules: [{{ {rule} }}]")));
        let wanted = format!("spec.rules[0]{said}");
        assert!(world.reports[0].contains(&wanted), "{wanted}: {:?}", world.reports);
        assert!(world.reports[0].ends_with("; it denies everything"), "{:?}", world.reports);
        assert_eq!(rules(&port(&world)), ["Deny shop/p rule 0"]);
    }
}

#[test]
fn a_policy_in_dry_run_is_told_as_one_and_opens_and_closes_nothing() {
    let all = "mode: DryRun, rules: [{ from: [] }]";
    let world = with(&[policy("allow", all), policy("deny", &format!("action: Deny, {all}"))].concat());
    let inbound = port(&world);
    assert_eq!(rules(&inbound), ["~Allow shop/allow rule 0", "~Deny shop/deny rule 0"]);
    assert_eq!((inbound.default_deny, inbound.dry_run.allow), (false, vec!["shop/allow".into()]));
    // What cannot be read would deny, and does not.
    let world = with(&policy("p", "mode: DryRun, action: Deny, rules: [{ from: [{ cidrs: [x] }] }]"));
    assert_eq!(rules(&port(&world)), ["~Deny shop/p rule 0"]);
    assert!(world.reports[0].ends_with("; it would deny everything"), "{:?}", world.reports);
    let world = with(&policy("p", "mode: DryRun, action: Audit, rules: [{ from: [] }]"));
    assert!(world.reports[0].contains("spec.mode: DryRun has no meaning"), "{:?}", world.reports);
    assert!(rules(&port(&world)).is_empty());
}

#[test]
fn the_status_of_a_policy_in_dry_run_says_so() {
    for text in [policy("p", "mode: DryRun, rules: [{ from: [] }]"), mesh_tls("p", "mode: DryRun")] {
        let world = with(&text);
        let written = world.statuses[0].to_write("2026-11-30T00:00:00Z").unwrap();
        let ancestors = written["ancestors"].as_array().unwrap();
        assert_eq!(ancestors[0]["controllerName"], CONTROLLER);
        let programmed = &ancestors[0]["conditions"][1];
        assert_eq!((&programmed["type"], &programmed["reason"]), (&"Programmed".into(), &"Programmed".into()));
        assert!(programmed["message"].as_str().unwrap().starts_with("DryRun: it changes no answer"), "{programmed}");
    }
}

#[test]
fn a_mesh_tls_policy_in_dry_run_is_named_where_it_would_make_a_port_strict() {
    let (dry, strict) = (mesh_tls("dry", "mode: DryRun"), mesh_tls("strict", "mode: Strict"));
    let open = mesh_tls("open", "targetRefs: [{ kind: Service, name: api }], mode: Permissive");
    let near = mesh_tls("near", "targetRefs: [{ kind: Service, name: api, sectionName: main }], mode: DryRun");
    for (policies, mode, would) in [
        (vec![&dry], MtlsMode::Permissive, Some("shop/dry")),
        (vec![&dry, &strict], MtlsMode::Strict, None),
        (vec![&dry, &open], MtlsMode::Permissive, None),
        (vec![&dry, &open, &near], MtlsMode::Permissive, Some("shop/near")),
        (vec![&open], MtlsMode::Permissive, None),
    ] {
        let text: String = policies.into_iter().cloned().collect();
        let inbound = port(&with(&text));
        assert_eq!((inbound.mtls, inbound.dry_run.strict.as_deref()), (mode, would), "{text}");
    }
}

/// The world with annotations of the pod and of its namespace, at a mesh-wide default.
fn defaults(pod: Option<&str>, namespace: Option<&str>, mesh_wide: DefaultInbound, more: &str) -> Snapshot {
    let annotation = |word: &str| format!("remora.dev/default-inbound-policy: '{word}'");
    let of_pod =
        pod.map(|word| format!("annotations: {{ {}, ", annotation(word))).unwrap_or("annotations: { ".to_owned());
    let of_namespace = namespace.map(|word| format!("annotations: {{ {} }}", annotation(word))).unwrap_or_default();
    let world = WORLD.replacen("annotations: { ", &of_pod, 1);
    let text =
        format!("{world}---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: shop, {of_namespace} }}\n{more}");
    let mesh = Mesh { default_inbound: mesh_wide, ..mesh() };
    Snapshot::build(parse(&text, "test.yaml").whole().unwrap(), &mesh)
}

#[test]
fn where_no_allow_policy_selects_a_port_the_nearest_default_holds() {
    use DefaultInbound::{Allow, Authenticated, Deny, SameNamespace};
    let name = |word: DefaultInbound| format!("Allow default-inbound-policy {}", word.name());
    for (pod, namespace, mesh_wide, holds) in [
        (None, None, Allow, Allow),
        (None, None, Deny, Deny),
        (None, Some("authenticated"), Deny, Authenticated),
        (Some("same-namespace"), Some("deny"), Allow, SameNamespace),
        (Some("allow"), Some("deny"), Deny, Allow),
        (None, Some("nonsense"), Allow, Deny),
        (Some(" authenticated "), None, Allow, Authenticated),
    ] {
        let world = defaults(pod, namespace, mesh_wide, "");
        let inbound = port(&world);
        let expected = if matches!(holds, Allow | Deny) { Vec::new() } else { vec![name(holds)] };
        assert_eq!((rules(&inbound), inbound.default_deny), (expected, holds != Allow), "{pod:?} {namespace:?}");
        assert!(inbound.rules.iter().all(|rule| rule.by_default));
        let others = world.inbound_default("shop", "api-1").unwrap().inbound;
        assert_eq!((rules(&others), others.default_deny), (rules(&inbound), inbound.default_deny));
        assert_eq!(world.reports.len(), usize::from(namespace == Some("nonsense")), "{:?}", world.reports);
    }
    let namespaces = &port(&defaults(Some("same-namespace"), None, Allow, "")).rules[0].from[0].namespaces;
    assert_eq!(**namespaces, ["shop".into()]);
    let world = defaults(Some("deny all"), None, Allow, "");
    assert!(
        world.reports[0].contains("\"deny all\": is allow, authenticated, same-namespace or deny"),
        "{:?}",
        world.reports
    );
}

#[test]
fn an_allow_policy_takes_the_place_of_the_default_and_others_stand_beside_it() {
    let of = |more: &str| {
        let inbound = port(&defaults(Some("authenticated"), None, DefaultInbound::Allow, more));
        (rules(&inbound), inbound.default_deny)
    };
    let default = "Allow default-inbound-policy authenticated".to_owned();
    assert_eq!(of(&policy("p", "rules: [{ from: [] }]")), (vec!["Allow shop/p rule 0".into()], true));
    assert_eq!(of(&policy("p", "rules: []")), (Vec::new(), true));
    let deny = of(&policy("p", "action: Deny, rules: [{ from: [] }]"));
    assert_eq!(deny, (vec!["Deny shop/p rule 0".into(), default.clone()], true));
    let dry = of(&policy("p", "mode: DryRun, rules: [{ from: [] }]"));
    assert_eq!(dry, (vec!["~Allow shop/p rule 0".into(), default], true), "a dry run takes nobody's place");
    let elsewhere = policy("p", "targetRefs: [{ kind: Pod, name: other }], rules: []");
    assert_eq!(of(&elsewhere).0.len(), 1);
}

/// A default holds for running pods as soon as somebody says it.
#[test]
fn a_default_that_changes_is_told_at_once() {
    let text = |word: &str| {
        let annotations = format!("annotations: {{ remora.dev/default-inbound-policy: {word} }}");
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: shop, {annotations} }}\n")
    };
    let mut world = with(&text("allow")).world;
    let asked = Arc::new(Asked::Inbound(("shop".into(), "api-1".into()), 8000));
    let denies = |answer: &Answer| format!("{answer:?}").contains("default_deny: true");
    assert!(!denies(&world.ask(&asked)));
    let mut told = Vec::new();
    let objects = parse(&format!("{WORLD}---\n{}", text("deny")), "test.yaml").whole().unwrap();
    world.apply(objects.into_iter().map(Change::Put), &mut |_, answer| told.push(denies(&answer)));
    assert_eq!(told, [true]);
}
