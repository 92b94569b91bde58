//! What is typed, what it makes, and what is told of it.

use super::*;
use crate::cluster::standin::{Standin, World, pod, replica};
use clap::Parser;
use remora_kube::names;

#[derive(Parser)]
struct Typed {
    #[command(subcommand)]
    command: Command,
}

fn typed(words: &str) -> Result<Command, String> {
    let words = std::iter::once("identity").chain(words.split(' '));
    Typed::try_parse_from(words).map(|typed| typed.command).map_err(|error| error.to_string())
}

fn revoking(words: &str) -> RevokeArgs {
    match typed(&format!("revoke {words}")) {
        Ok(Command::Revoke(args)) => args,
        other => panic!("{other:?}"),
    }
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const PLAIN: Look = Look { coloured: false };

#[tokio::test]
async fn a_dry_run_prints_the_manifest_that_discovery_reads_and_asks_no_cluster() {
    let args = revoking(&format!("{WEB} --reason stolen --until 2030-01-01T00:00:00Z --dry-run --kubeconfig /nowhere"));
    let (text, good) = revoke(&args, PLAIN).await.unwrap();
    let objects = remora_discovery::source::parse::parse(&text, "a.yaml").whole().unwrap();
    let remora_discovery::objects::Object::RevokedIdentity(object) = &objects[0] else { panic!("{objects:?}") };
    assert_eq!((&*object.metadata.name, &*object.metadata.namespace), ("identity.shop.web", "remora"));
    let read = read("r", &object.spec);
    let revocation = read.revocation.unwrap();
    assert_eq!((read.problems.len(), revocation.until, good), (0, seconds("2030-01-01T00:00:00Z"), true));
    let pod = revoking("pod/web-1 -n shop --uid any --dry-run --kubeconfig /nowhere -o json");
    let (text, _) = revoke(&pod, PLAIN).await.unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap()["spec"],
        json!({ "pod": { "namespace": "shop", "name": "web-1" } })
    );
}

#[tokio::test]
async fn the_control_planes_own_identity_is_not_revoked_by_a_slip() {
    let own = "spiffe://cluster.local/ns/remora/sa/remora-discovery --dry-run";
    let error = revoke(&revoking(own), PLAIN).await.unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    revoke(&revoking(&format!("{own} --force")), PLAIN).await.unwrap();
}

#[test]
fn what_is_typed_is_read_and_what_cannot_be_meant_is_told() {
    for words in [
        "revoke serial/4F:0a",
        "revoke pod/web-1",
        "unrevoke identity.shop.web serial/4f0a",
        "unrevoke --ended",
        "list -o json",
    ] {
        assert!(typed(words).is_ok(), "{words}");
    }
    let long = "x".repeat(300);
    for (words, told) in [
        ("revoke shop/web", "say spiffe://DOMAIN"),
        ("revoke spiffe://cluster.local/ns//sa/web", "empty segment"),
        ("revoke serial/xyz", "no serial number"),
        ("revoke pod/Web", "no name in Kubernetes"),
        ("revoke pod/web --for 1h --until 2030-01-01T00:00:00Z", "cannot be used with"),
        ("revoke pod/web --for 1d", "is a number with a unit"),
        ("revoke pod/web --until tomorrow", "is a time such as"),
        (&format!("revoke pod/web --reason {long}"), "256 bytes"),
        ("unrevoke", "required"),
    ] {
        let error = typed(words).unwrap_err();
        assert!(error.contains(told), "{words}: {error}");
    }
}

#[test]
fn two_targets_never_have_one_name() {
    let identity = |text: &str| Spec { identity: Some(text.to_owned()), ..Spec::default() };
    let pod = |namespace: &str, name: &str, uid: Option<&str>| {
        let pod = PodSpec {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.map(str::to_owned),
            ..PodSpec::default()
        };
        Spec { pod: Some(pod), ..Spec::default() }
    };
    let long = format!("spiffe://cluster.local/ns/shop/sa/{}", "a".repeat(260));
    let all = [
        identity(WEB),
        identity("spiffe://other.example/ns/shop/sa/web"),
        identity("spiffe://cluster.local/ns/shop/sa/Web"),
        identity("spiffe://cluster.local/ns/shop/sa/web/x"),
        identity(&long),
        pod("shop", "web", None),
        pod("shop", "web", Some("u")),
        pod("shop", "web", Some("U")),
        Spec { serial: Some("4f:0a".into()), ..Spec::default() },
    ];
    let names: std::collections::BTreeSet<String> = all.iter().map(what::name).collect();
    assert_eq!(names.len(), all.len(), "{names:?}");
    assert!(names.iter().all(|name| target::name(name).is_ok()), "{names:?}");
}

/// A cluster where the object is there already, as an apply answers it, and discovery says this.
async fn standin(spec: Value, pages: &[(&'static str, Value)]) -> Standin {
    let object = json!({ "apiVersion": "remora.dev/v1alpha1", "kind": KIND, "metadata": { "name": "identity.shop.web", "namespace": "remora" }, "spec": spec });
    let mut objects = vec![object, pod("shop", "web-1", "web")];
    objects.extend(pages.iter().map(|(name, _)| replica(names::DISCOVERY, name)));
    let pages: Vec<(&'static str, String)> = pages.iter().map(|(name, page)| (*name, page.to_string())).collect();
    let port = move |pod: &str, _: u16, path: &str| {
        let (_, name) = pod.split_once('/')?;
        let page = pages.iter().find(|(replica, _)| *replica == name && path == "/revocations")?;
        Some((200, page.1.clone()))
    };
    Standin::start(World { objects, forbidden: Vec::new(), port: Box::new(port) }).await
}

fn page(revocations: Value, able: usize, held: usize, unable: &[&str]) -> Value {
    json!({ "version": "1", "revocations": revocations, "proxies": { "able": able, "held": held, "unable": { "count": unable.len(), "first": unable } } })
}

fn shown() -> Value {
    json!([{ "name": "identity.shop.web", "reason": "", "until": null, "identity": WEB, "serial": null, "pod": null }])
}

async fn told(standin: &Standin, words: &str) -> (String, bool) {
    let mut args = revoking(words);
    args.cluster = standin.args();
    args.wait = Duration::ZERO;
    revoke(&args, PLAIN).await.unwrap()
}

#[tokio::test]
async fn it_is_told_when_all_proxies_of_all_replicas_have_it() {
    let all = [("one", page(shown(), 3, 3, &[])), ("two", page(shown(), 2, 2, &[]))];
    let (text, good) = told(&standin(json!({ "identity": WEB }), &all).await, WEB).await;
    assert!(good && text.contains("in use by 5 of 5 proxies of 2 replicas"), "{text}");
    let behind = [("one", page(shown(), 3, 3, &[])), ("two", page(json!([]), 2, 2, &[]))];
    let (text, good) = told(&standin(json!({ "identity": WEB }), &behind).await, WEB).await;
    assert!(!good && text.contains("discovery does not have it"), "{text}");
    let old = [("one", page(shown(), 3, 3, &["shop/old-1"]))];
    let (text, good) = told(&standin(json!({ "identity": WEB }), &old).await, WEB).await;
    assert!(!good && text.contains("1 proxies are too old") && text.contains("shop/old-1"), "{text}");
    let (text, good) = told(&standin(json!({ "identity": WEB }), &[]).await, WEB).await;
    assert!(!good && text.contains("no discovery runs in namespace remora"), "{text}");
}

#[tokio::test]
async fn an_object_that_revokes_somebody_else_is_not_overwritten() {
    let standin = standin(json!({ "serial": "4f" }), &[]).await;
    let mut args = revoking(WEB);
    args.cluster = standin.args();
    let error = revoke(&args, PLAIN).await.unwrap_err();
    assert!(error.to_string().contains("revokes certificate 4f"), "{error}");
}

#[test]
fn what_is_taken_back_is_named_by_its_object_or_by_whom_it_revokes() {
    let there = [
        ("a".to_owned(), Spec { identity: Some(WEB.into()), ..Spec::default() }),
        ("b".to_owned(), Spec { serial: Some("4F:0A".into()), ..Spec::default() }),
        ("c".to_owned(), Spec { identity: Some(WEB.into()), ..Spec::default() }),
    ];
    assert_eq!(what::meant("b", "shop", &there).unwrap(), ["b"]);
    assert_eq!(what::meant(WEB, "shop", &there).unwrap(), ["a", "c"]);
    assert_eq!(what::meant("serial/4f0a", "shop", &there).unwrap(), ["b"]);
    assert!(what::meant("pod/web-1", "shop", &there).is_err());
}
