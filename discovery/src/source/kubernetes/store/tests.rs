use super::*;
use crate::{
    index::{Mesh, tests::Snapshot},
    objects::{
        Kind, Metadata,
        core::{Service, ServiceCidr},
        policy::{AuthorizationPolicy, MeshTlsPolicy, PolicyAction},
        routes::{GrpcRoute, HttpRoute},
    },
    source::parse::parse,
};
use remora_model::{Action, AuthorizationRule, BackendRefState};

fn service(name: &str, port: u16) -> Object {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ ports: [{{ port: {port} }}] }}\n"
    );
    parse(&text, "").whole().unwrap().remove(0)
}

fn key(name: &str) -> Key {
    ("default".to_owned(), name.to_owned())
}

fn unreadable(name: &str) -> Change {
    unreadable_at(name, "1")
}

fn unreadable_at(name: &str, version: &str) -> Change {
    let metadata = Metadata {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        resource_version: Some(version.to_owned()),
        ..Metadata::default()
    };
    let status = serde_json::json!({ "conditions": [version], "parents": [version] });
    let spec = serde_json::json!({ "parentRefs": [{ "group": "", "kind": "Service", "name": "api" }] });
    Change::Applied(Err(Box::new(Unreadable { metadata, problem: "spec: new".to_owned(), spec, status })))
}

fn route(parent: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: r, namespace: shop }}
spec: {{ parentRefs: [{parent}], rules: [{{ backendRefs: [{{ name: api, port: 80 }}] }}] }}
"
    )
}

fn object(text: &str) -> Object {
    parse(text, "").whole().unwrap().remove(0)
}

/// A Service `shop/api` with a pod, and an Allow policy of its namespace that allows everything.
const ALLOWED: [&str; 3] = [
    "apiVersion: v1
kind: Service
metadata: { name: api, namespace: shop }
spec: { clusterIP: 10.0.0.1, selector: { app: api }, ports: [{ port: 80 }] }
",
    "apiVersion: v1
kind: Pod
metadata: { name: api-1, namespace: shop, labels: { app: api } }
status: { podIP: 10.1.0.1 }
",
    "apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: all, namespace: shop }
spec: { rules: [{ from: [] }] }
",
];

impl Store {
    /// All objects, in the order of kinds and names.
    fn objects(&self) -> Option<Vec<Object>> {
        Some(self.kinds.values().flat_map(|held| held.objects.values().cloned()).collect())
    }
}

fn allowed() -> Store {
    let mut store = Store::new([]);
    for text in ALLOWED {
        let object = object(text);
        store.take(object.kind(), Change::Applied(Ok(object)));
    }
    store
}

fn snapshot(store: &Store) -> Snapshot {
    Snapshot::build(store.objects().unwrap(), &Mesh::default())
}

#[test]
fn nothing_is_whole_until_every_kind_was_listed_or_is_not_there_at_all() {
    let mut store = Store::new([Service::KIND, MeshTlsPolicy::KIND]);
    assert!(store.take(Service::KIND, Change::Applied(Ok(service("a", 80)))));
    assert_eq!(store.missing(), ["MeshTLSPolicy: not listed yet", "Service: not listed yet"]);
    store.take(Service::KIND, Change::Listed([key("a")].into()));
    store.take(MeshTlsPolicy::KIND, Change::Trouble("forbidden".to_owned()));
    assert_eq!(store.missing(), ["MeshTLSPolicy: forbidden"]);
    store.take(MeshTlsPolicy::KIND, Change::Absent);
    assert!(store.missing().is_empty() && !store.in_trouble(MeshTlsPolicy::KIND));
}

#[test]
fn what_is_told_again_is_no_change_and_what_a_list_leaves_out_is_gone() {
    let mut store = Store::new([Service::KIND]);
    store.take(Service::KIND, Change::Applied(Ok(service("a", 80))));
    store.take(Service::KIND, Change::Applied(Ok(service("b", 80))));
    assert!(store.take(Service::KIND, Change::Listed([key("a"), key("b")].into())), "the first list is news");
    assert!(!store.take(Service::KIND, Change::Applied(Ok(service("a", 80)))));
    assert!(!store.take(Service::KIND, Change::Listed([key("a"), key("b")].into())));
    assert!(store.take(Service::KIND, Change::Applied(Ok(service("a", 81)))));
    assert!(store.take(Service::KIND, Change::Listed([key("a")].into())));
    assert_eq!(store.objects().unwrap(), [service("a", 81)]);
    assert!(store.take(Service::KIND, Change::Deleted(key("a"))));
    assert!(!store.take(Service::KIND, Change::Deleted(key("a"))));
}

#[test]
fn a_status_or_a_version_is_no_news_but_is_known_to_whoever_writes_next() {
    let policy = |version: &str, mode: &str, conditions: &str| {
        let text = format!(
            "apiVersion: remora.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {{ name: p, resourceVersion: '{version}' }}
spec: {{ mode: {mode} }}
status: {{ conditions: [{conditions}] }}
"
        );
        Change::Applied(Ok(parse(&text, "").whole().unwrap().remove(0)))
    };
    let mut store = Store::new([MeshTlsPolicy::KIND]);
    assert!(store.take(MeshTlsPolicy::KIND, policy("1", "Strict", "")));
    assert!(!store.take(MeshTlsPolicy::KIND, policy("2", "Strict", "{ type: Accepted }")));
    let objects = store.objects().unwrap();
    assert_eq!(objects[0].metadata().resource_version.as_deref(), Some("2"));
    assert_eq!(store.resaid(), objects.first(), "whoever wants something else said must look at it");
    store.take(MeshTlsPolicy::KIND, policy("2", "Strict", "{ type: Accepted }"));
    assert_eq!(store.resaid(), None);
    assert!(store.take(MeshTlsPolicy::KIND, policy("3", "Permissive", "{ type: Accepted }")));
}

#[test]
fn an_installation_without_the_right_to_service_cidrs_goes_without() {
    let mut store = Store::new([Service::KIND, ServiceCidr::KIND]);
    store.take(Service::KIND, Change::Listed(BTreeSet::new()));
    assert_eq!(store.missing(), ["ServiceCIDR: not listed yet"]);
    assert!(store.take(ServiceCidr::KIND, Change::Forbidden("no".to_owned())), "what waited for it can go on");
    assert!(store.missing().is_empty());
    assert!(!store.take(ServiceCidr::KIND, Change::Forbidden("no".to_owned())));
    store.take(ServiceCidr::KIND, Change::Trouble("busy".to_owned()));
    assert!(store.missing().is_empty() && store.in_trouble(ServiceCidr::KIND));
}

#[test]
fn a_server_that_is_busy_does_not_mean_that_there_are_no_service_cidrs() {
    let mut store = Store::new([Service::KIND, ServiceCidr::KIND]);
    store.take(Service::KIND, Change::Listed(BTreeSet::new()));
    store.take(ServiceCidr::KIND, Change::Trouble("too many requests".to_owned()));
    assert_eq!(store.missing(), ["ServiceCIDR: too many requests"]);
    store.take(ServiceCidr::KIND, Change::Absent);
    assert!(store.missing().is_empty());
}

#[test]
fn while_a_kind_cannot_be_watched_what_it_said_stays() {
    let mut store = Store::new([Service::KIND]);
    store.take(Service::KIND, Change::Applied(Ok(service("a", 80))));
    store.take(Service::KIND, Change::Listed([key("a")].into()));
    assert!(!store.take(Service::KIND, Change::Trouble("gone".to_owned())));
    assert!(store.missing().is_empty() && store.in_trouble(Service::KIND));
    assert_eq!(store.objects().unwrap().len(), 1);
}

#[test]
fn a_policy_that_never_could_be_read_denies_what_another_allows() {
    let mut store = allowed();
    let rules = |store: &Store| snapshot(store).inbound("shop", "api-1", 80).unwrap().rules;
    assert!(rules(&store).iter().all(|rule| rule.action == Action::Allow));
    store.take(AuthorizationPolicy::KIND, unreadable("p"));
    let denies = AuthorizationRule::deny_everything("shop/p rule 0".into());
    assert!(rules(&store).contains(&denies), "{:?}", rules(&store));
    let statuses = snapshot(&store).statuses;
    let status = statuses.iter().find(|status| status.name == "p").unwrap().to_write("").unwrap();
    assert_eq!(status["conditions"][0]["status"], "False");
    let message = status["conditions"][0]["message"].as_str().unwrap();
    assert_eq!(message, "spec: new; it denies everything in its namespace");
}

#[test]
fn a_policy_that_never_could_be_read_but_for_its_targets_closes_these_alone() {
    let never = |spec: serde_json::Value| {
        let mut store = allowed();
        let metadata = Metadata { name: "p".to_owned(), namespace: "shop".to_owned(), ..Metadata::default() };
        let unreadable = Unreadable { metadata, problem: "new".to_owned(), spec, ..Unreadable::default() };
        store.take(AuthorizationPolicy::KIND, Change::Applied(Err(Box::new(unreadable))));
        let inbound = |port| snapshot(&store).inbound("shop", "api-1", port).unwrap();
        [80, 9000].map(|port| inbound(port).rules.iter().any(|rule| rule.action == Action::Deny))
    };
    let api = serde_json::json!({ "kind": "Service", "name": "api" });
    assert_eq!(never(serde_json::json!({ "targetRefs": [api], "rules": 7 })), [true, false]);
    assert_eq!(never(serde_json::json!({ "selector": { "matchLabels": { "app": "web" } }, "rules": 7 })), [false; 2]);
    for whole in [
        serde_json::json!({ "targetRefs": [api, 7] }),
        serde_json::json!({ "targetRefs": [api], "selector": 7 }),
        serde_json::json!(7),
    ] {
        assert_eq!(never(whole.clone()), [true; 2], "{whole}");
    }
}

#[test]
fn a_route_that_never_could_be_read_answers_500_and_one_that_could_stays() {
    let mut store = allowed();
    let rules = |store: &Store| snapshot(store).outbound("shop", &"api:80".parse().unwrap()).rules;
    let conditions = |store: &Store| {
        let written = snapshot(store).statuses.iter().find(|status| status.name == "r").unwrap().to_write("").unwrap();
        written["parents"].as_array().unwrap().last().unwrap()["conditions"].clone()
    };
    let forwards = rules(&store);
    for kind in [HttpRoute::KIND, GrpcRoute::KIND] {
        let mut store = allowed();
        assert!(store.take(kind, unreadable("r")));
        let closed = rules(&store);
        assert!(closed.iter().all(|rule| rule.backends.iter().all(|one| one.state == BackendRefState::Invalid)));
        assert_ne!(closed, forwards);
        assert_eq!(conditions(&store)[0]["reason"], "UnsupportedValue");
        assert_eq!(conditions(&store)[0]["message"], "Dropped Rule: spec: new; it answers 500");
    }
    store.take(HttpRoute::KIND, Change::Applied(Ok(object(&route("{ group: '', kind: Service, name: api }")))));
    let good = rules(&store);
    assert!(store.take(HttpRoute::KIND, unreadable("r")), "its status says so");
    assert_eq!(rules(&store), good);
    let conditions = conditions(&store);
    assert_eq!((&conditions[0]["status"], &conditions[2]["type"]), (&"True".into(), &"PartiallyInvalid".into()));
    assert_eq!(conditions[2]["message"], "Fall Back: spec: new; its last valid content stays in force");
}

#[test]
fn what_stands_in_goes_on_standing_in_and_a_new_version_with_a_new_status_is_no_news() {
    for kind in [AuthorizationPolicy::KIND, MeshTlsPolicy::KIND, HttpRoute::KIND] {
        let mut store = allowed();
        let bare = |store: &Store| {
            let written = snapshot(store).statuses.iter().find(|status| status.name == "x").unwrap().to_write("");
            written.unwrap().to_string().replace(r#""1","#, "").replace(r#""2","#, "")
        };
        store.take(kind, unreadable_at("x", "1"));
        let before = bare(&store);
        assert!(!store.take(kind, unreadable_at("x", "2")), "{kind}");
        assert_eq!(bare(&store), before);
        let objects = store.objects().unwrap();
        let held = objects.iter().find(|object| object.metadata().name == "x").unwrap();
        assert_eq!(held.metadata().resource_version.as_deref(), Some("2"), "whoever writes next must know it");
    }
}

#[test]
fn a_policy_that_cannot_be_read_keeps_its_last_word_or_denies() {
    let mut store = Store::new([AuthorizationPolicy::KIND, Service::KIND]);
    assert!(store.take(AuthorizationPolicy::KIND, unreadable("p")));
    let [Object::AuthorizationPolicy(policy)] = &store.objects().unwrap()[..] else { panic!("none") };
    assert!(policy.spec.target_refs.is_empty());
    assert_eq!(policy.spec.action, PolicyAction::Deny);
    assert_eq!(store.unreadable().collect::<Vec<_>>(), ["AuthorizationPolicy shop/p: spec: new"]);
    let mut good = (**policy).clone();
    good.spec.action = PolicyAction::Audit;
    assert!(store.take(AuthorizationPolicy::KIND, Change::Applied(Ok(good.clone().into()))));
    assert_eq!(store.unreadable().count(), 0);
    assert!(store.take(AuthorizationPolicy::KIND, unreadable("p")), "its status says so");
    assert!(!store.take(AuthorizationPolicy::KIND, unreadable("p")), "once");
    let kept = store.objects().unwrap();
    let [Object::AuthorizationPolicy(kept)] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!(kept.spec, good.spec);
    assert!(
        kept.unreadable.as_ref().is_some_and(|why| why.contains("its last valid content stays in force")),
        "{kept:?}"
    );
    assert!(!store.take(Service::KIND, unreadable("s")), "another kind is left out");
}
