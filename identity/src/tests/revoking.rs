//! Who is revoked gets no certificate, and everybody else does.

use super::serving::World;
use crate::revoked::{Folder, REVOCATIONS, Source, Teller};
use remora_runtime::{admin::Readiness, tls::shown};
use std::{fs, time::Duration};
use tempfile::TempDir;
use tonic::{Code, Status};

/// One RevokedIdentity that says this.
fn one(spec: &str) -> String {
    format!(
        "apiVersion: remora.dev/v1alpha1\nkind: RevokedIdentity\nmetadata: {{ name: stolen, namespace: remora }}\nspec: {{ {spec} }}\n"
    )
}

/// The leaf that `name` gets, in namespace `shop` as pod `web-1`.
async fn ask(world: &World, name: &str) -> Result<Vec<u8>, Status> {
    world.client().certify(world.request(name)).await.map(|response| response.into_inner().chain_der.remove(0))
}

#[tokio::test]
async fn a_certificate_names_the_pod_that_it_is_for() {
    let leaf = ask(&World::start().await, "web").await.unwrap();
    let shown = shown(&leaf.as_slice().into()).unwrap();
    let pod = shown.pod.expect("the pod of the token");
    assert_eq!((&*pod.namespace, &*pod.name, &*pod.uid), ("shop", "web-1", "pod-uid"));
    assert!(shown.serial.is_some() && shown.identity.as_str() == "spiffe://cluster.local/ns/shop/sa/web");
}

#[tokio::test]
async fn a_revoked_identity_gets_no_certificate_and_others_do_not_notice() {
    let world = World::start_with(&one("identity: spiffe://cluster.local/ns/shop/sa/web, reason: a core dump")).await;
    let refused = ask(&world, "web").await.unwrap_err();
    let told = (refused.code(), refused.message());
    assert_eq!(told, (Code::PermissionDenied, "this identity or pod is revoked"), "by what, and why, is for the log");
    ask(&world, "api").await.expect("another identity");
}

#[tokio::test]
async fn a_revocation_that_has_ended_keeps_nobody_out() {
    let ended = "identity: spiffe://cluster.local/ns/shop/sa/web, until: '2026-01-01T00:00:00Z'";
    ask(&World::start_with(&one(ended)).await, "web").await.unwrap();
}

#[tokio::test]
async fn a_revoked_pod_gets_no_certificate_and_another_of_its_name_does() {
    let world = World::start_with(&one("pod: { namespace: shop, name: web-1 }")).await;
    assert_eq!(ask(&world, "web").await.unwrap_err().code(), Code::PermissionDenied);
    ask(&World::start_with(&one("pod: { namespace: shop, name: web-1, uid: another }")).await, "web").await.unwrap();
    ask(&World::start_with(&one("pod: { namespace: other, name: web-1 }")).await, "web").await.unwrap();
}

#[tokio::test]
async fn while_it_is_not_known_who_is_revoked_nobody_gets_a_certificate() {
    let world = World::start_with("kind: [").await;
    let refused = ask(&world, "web").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(world.readiness.reasons().iter().any(|why| why.starts_with("revocations: ") && why.contains("a.yaml")));
}

#[tokio::test]
async fn what_is_written_holds_soon_and_what_cannot_be_read_leaves_what_was_known() {
    let dir = TempDir::new().unwrap();
    let write = |text: &str| fs::write(dir.path().join("a.yaml"), text).unwrap();
    let readiness = Readiness::new();
    let (teller, mut known) = Teller::new(readiness.clone());
    assert!(readiness.reasons()[0].starts_with(REVOCATIONS));
    let source = Source::Folder(Folder::new(dir.path().to_owned(), "remora".to_owned()));
    let follows = tokio::spawn(async move { source.follow(teller).await });
    let mut soon = async |count: usize| {
        let holds = known.wait_for(|known| known.as_ref().is_some_and(|known| known.len() == count));
        tokio::time::timeout(Duration::from_secs(5), holds).await.is_ok_and(|holds| holds.is_ok())
    };
    assert!(soon(0).await && readiness.reasons().is_empty());
    write(&one("serial: '4f'"));
    assert!(soon(1).await, "it is read within seconds");
    write("kind: [");
    // Whoever reads the next one has read this one before.
    write(&format!("{}---\n{}", one("serial: '4f'"), one("serial: '50'").replace("stolen", "too")));
    assert!(soon(2).await && readiness.reasons().is_empty());
    follows.abort();
}
