//! What is found in manifests, with its place.

use super::*;
use std::fs;

/// A Service and a pod of it in `shop`.
const SHOP: &str = "apiVersion: v1
kind: Service
metadata: { name: api, namespace: shop }
spec: { clusterIP: 10.0.0.1, selector: { app: api }, ports: [{ name: main, port: 80 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: api-1, namespace: shop, labels: { app: api, remora.dev/injected: 'true' } }
spec: { serviceAccountName: api }
status: { podIP: 10.1.0.1 }
---
";

/// `LINE LEVEL CODE` of what is found in a file, and the messages.
fn found(text: &str) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, text).unwrap();
    let manifests = read::read(&[dir.path().to_owned()]).unwrap();
    let found = find(&manifests, &Mesh::default());
    assert!(found.iter().all(|one| one.file == file.display().to_string()), "{found:?}");
    let short = |one: &Finding| format!("{} {} {}", one.line, one.level.word(), one.code);
    found.iter().map(|one| (short(one), format!("{}: {}", one.object, one.message))).collect()
}

/// Of a policy in `shop`, which begins at line 12.
fn policy(spec: &str) -> Vec<(String, String)> {
    found(&format!(
        "{SHOP}apiVersion: remora.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{ name: p, namespace: shop }}\nspec: {{ {spec} }}\n"
    ))
}

fn one(found: &[(String, String)], short: &str, says: &str) {
    let [(place, message)] = found else { panic!("{found:?}") };
    assert!(place == short && message.contains(says), "{place}: {message}");
}

#[test]
fn what_is_as_it_should_be_is_found_to_be_so() {
    assert_eq!(policy("targetRefs: [{ kind: Service, name: api }], rules: [{ from: [{ namespaces: [web] }] }]"), []);
    assert_eq!(found(SHOP), []);
}

#[test]
fn what_discovery_refuses_is_an_error_in_its_words() {
    one(&policy("rules: [{ form: [] }]"), "12 error Invalid", "spec.rules[0]");
    one(
        &policy("rules: [{ from: [{ namespaces: [web] }] }, { from: [{ identities: [web] }] }]"),
        "12 error Invalid",
        "spec.rules[1]",
    );
    let misspelt =
        found("apiVersion: remora.dev/v1alpha1\nkind: AuthorisationPolicy\nmetadata: { name: p }\nspec: {}\n");
    one(&misspelt, "1 error Unreadable", "has no kind");
    let broken = found("a: [\n");
    assert!(broken.len() == 1 && broken[0].0.ends_with("error Unreadable"), "{broken:?}");
    let elsewhere = "apiVersion: remora.dev/v1alpha1\nkind: RevokedIdentity\nmetadata: { name: r, namespace: shop }\nspec: { serial: '4f' }\n";
    one(&found(elsewhere), "1 error NotAllowed", "control plane's namespace");
    let wrong = SHOP.replace(
        "metadata: { name: api, namespace: shop }",
        "metadata: { name: api, namespace: shop, annotations: { remora.dev/opaque-ports: x } }",
    );
    one(&found(&wrong), "1 error Invalid", "opaque-ports");
}

#[test]
fn what_names_something_that_is_not_in_the_files_is_no_error() {
    one(
        &policy("targetRefs: [{ kind: Service, name: web }], rules: [{ from: [] }]"),
        "12 warning TargetNotFound",
        "web",
    );
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r, namespace: shop }\nspec: { parentRefs: [{ group: '', kind: Service, name: PARENT }], rules: [{ backendRefs: [{ name: BACKEND, port: 80 }] }] }\n";
    let route = |parent: &str, backend: &str| {
        found(&format!("{SHOP}{}", route.replace("PARENT", parent).replace("BACKEND", backend)))
    };
    assert_eq!(route("api", "api"), []);
    one(&route("api", "gone"), "12 note BackendNotFound", "gone");
    assert!(route("gone", "api").iter().any(|(place, _)| place == "12 note NoMatchingParent"));
}

#[test]
fn a_policy_without_rules_says_what_that_means() {
    one(&policy("action: Allow"), "12 warning NoRules", "allows nothing");
    one(&policy("action: Deny"), "12 warning NoRules", "denies nothing");
}

#[test]
fn a_rule_that_decides_nothing_is_named_with_the_one_that_decides() {
    let get = "{ to: [{ methods: [GET] }] }";
    let twice = policy(&format!("rules: [{get}, {{ from: [{{ namespaces: [web] }}] }}, {get}]"));
    one(&twice, "12 warning Unused", "spec.rules[2]: decides nothing by itself: rule 0 of shop/p");
    let wide = policy(&format!("rules: [{get}, {{ from: [] }}]"));
    one(&wide, "12 warning Unused", "spec.rules[0]: decides nothing by itself: rule 1 of shop/p");
    let deny = "---\napiVersion: remora.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: { name: d, namespace: shop }\nspec: { action: Deny, rules: [{ from: [{ namespaces: [web, x] }] }] }\n";
    let allow = "apiVersion: remora.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: { name: a, namespace: shop }\nspec: { rules: [{ from: [{ namespaces: [web] }], to: [{ methods: [GET] }] }] }\n";
    one(
        &found(&format!("{SHOP}{allow}{deny}")),
        "12 warning Shadowed",
        "spec.rules[0]: never allows anything: rule 0 of shop/d",
    );
}

#[test]
fn a_deny_rule_that_lets_plaintext_pass_is_told_of() {
    let found = policy(
        "action: Deny, rules: [{ from: [{ identities: ['spiffe://cluster.local/ns/web/sa/web'] }], unidentified: Ignore }]",
    );
    one(&found, "12 warning PlaintextCallers", "");
}

#[test]
fn what_holds_for_the_whole_mesh_is_told_of() {
    let mesh = "apiVersion: remora.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: { name: strict, namespace: remora }\nspec: { mode: Strict }\n";
    one(&found(mesh), "1 note WholeMesh", "MeshTLSPolicy remora/strict: is attached");
}

#[test]
fn a_misspelt_annotation_is_found_where_it_stands_on_workloads_too() {
    let workload = "apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: shop }
spec:
  template:
    metadata:
      annotations:
        remora.dev/opaqe-ports: '3306'
        remora.dev/log-level: debug
        example.com/other: x
";
    let told = "Deployment shop/web: spec.template.metadata.annotations: nothing reads remora.dev/opaqe-ports; the nearest that is read is remora.dev/opaque-ports";
    one(&found(workload), "8 warning Misspelt", told);
}

#[test]
fn folders_are_read_with_those_within_and_what_is_not_there_is_said_to_be_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("in/.git")).unwrap();
    fs::write(dir.path().join("in/a.yml"), SHOP).unwrap();
    fs::write(dir.path().join("in/.git/b.yaml"), "a: [").unwrap();
    fs::write(dir.path().join("notes.txt"), "a: [").unwrap();
    let manifests = read::read(&[dir.path().to_owned()]).unwrap();
    assert_eq!((manifests.files, manifests.objects.len(), manifests.mistakes.len()), (1, 2, 0));
    let absent = read::read(&[dir.path().join("gone")]).unwrap_err();
    assert!(absent.to_string().contains("gone") && crate::exit::Exit::of(&absent) == crate::exit::Exit::Absent);
}
