//! The issuer and its anchors change: in one write, by cert-manager's writes, over restarts; and who follows.

use super::{
    serving::{LEAF_LIFETIME, PUBLISHED, SKEW, World, directory, open},
    tokens::claims,
};
use crate::{
    authority::Authority,
    held::Held,
    issuer::{FORCE_REMOVE, Files, serving_id},
    store::Store,
};
use rcgen::{CertificateParams, KeyPair};
use remora_api::v1::{CertifyResponse, WatchBundleRequest};
use remora_kube::names::NAMESPACE;
use remora_model::{SpiffeId, TrustDomain};
use remora_runtime::{
    admin::Readiness,
    certify,
    tls::{TrustBundle, verify_svid},
};
use std::{
    fs,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

#[tokio::test]
async fn a_root_replaced_in_one_write_changes_the_bundle_then_the_issuer_then_the_bundle_without_reconnecting() {
    let world = World::start().await;
    let mut client = world.client();
    let mut stream = client.watch_bundle(WatchBundleRequest::default()).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().anchors_der.len(), 1);
    let (old, new) = world.two_issuers();
    let bundle = |of: &TempDir| {
        TrustBundle::from_pem(world.trust_domain.clone(), &fs::read(of.path().join("ca.crt")).unwrap()).unwrap()
    };

    world.install(new.path(), &[new.path()]);
    let now = SystemTime::now();
    world.turn(now).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().anchors_der.len(), 2);
    let first = client.certify(world.request("web")).await.unwrap().into_inner();
    let chains_to = |response: &CertifyResponse, of: &TempDir| {
        let chain: Vec<_> = response.chain_der.iter().map(|der| der.as_slice().into()).collect();
        verify_svid(&chain, &bundle(of), SystemTime::now()).is_ok()
    };
    assert!(chains_to(&first, &old), "the old one goes on");

    let later = world.run(now, PUBLISHED).await;
    let second = client.certify(world.request("web")).await.unwrap().into_inner();
    assert!(chains_to(&second, &new));
    assert_eq!(second.bundle.unwrap().anchors_der.len(), 2);
    world.run(later, LEAF_LIFETIME + 2 * PUBLISHED + SKEW).await;
    assert_eq!(stream.message().await.unwrap().unwrap().anchors_der.len(), 1);
}

#[tokio::test]
async fn a_replica_that_starts_alone_publishes_and_signs_what_the_others_did() {
    let world = World::start().await;
    let (old, new) = world.two_issuers();
    world.install(new.path(), &[new.path()]);
    world.turn(SystemTime::now()).await.unwrap();
    let both = world.authority.state().bundle().version();
    // Another process, which finds the new root alone in the folder.
    let other = open(&world.dir, &world.trust_domain, SystemTime::now()).await;
    assert_eq!(other.state().bundle().version(), both);
    let signs = other.issuer(SystemTime::now()).unwrap();
    let old_bundle = TrustBundle::from_pem(world.trust_domain.clone(), &fs::read(old.path().join("ca.crt")).unwrap());
    assert_eq!(signs.anchor(), old_bundle.unwrap().anchors()[0].as_ref(), "with the issuer that the folder lacks");
}

#[tokio::test]
async fn without_a_folder_to_write_the_state_is_in_memory() {
    let dir = TempDir::new().unwrap();
    let trust_domain = TrustDomain::new("cluster.local").unwrap();
    let held = directory(&dir).open(&trust_domain, SystemTime::now()).await.unwrap();
    // A file where the folder should be.
    let store = Store::file(dir.path().join("issuer/tls.crt"));
    let lives = (LEAF_LIFETIME, SKEW);
    let opened = Authority::open(Some(&held), &store, &trust_domain, lives, SystemTime::now()).await.unwrap();
    let authority = opened.with(store);
    assert!(authority.issuer(SystemTime::now()).is_ok());
    let (old, new) = (held, Files::make(&trust_domain, SystemTime::now()).unwrap());
    authority.turn(Some(&Held { files: new, ..old }), SystemTime::now()).await.unwrap();
    assert_eq!(authority.state().bundle().anchors().len(), 2);
}

#[tokio::test]
async fn a_state_that_somebody_spoilt_or_removed_is_made_again_from_what_is_known() {
    let world = World::start().await;
    let (_, new) = world.two_issuers();
    world.install(new.path(), &[new.path()]);
    world.turn(SystemTime::now()).await.unwrap();
    let path = world.issuer_dir().join("issuer-state.json");
    for spoilt in [Some("{\"format\":1}"), Some(""), None] {
        match spoilt {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        world.turn(SystemTime::now() + PUBLISHED / 2).await.unwrap();
        assert_eq!(world.authority.state().bundle().anchors().len(), 2, "{spoilt:?}");
        let again = open(&world.dir, &world.trust_domain, SystemTime::now() + PUBLISHED / 2).await;
        assert_eq!(again.state().bundle().anchors().len(), 2, "{spoilt:?}");
    }
}

#[tokio::test]
async fn expiries_are_shown_per_anchor_and_of_the_issuer_and_go_with_their_anchor() {
    let world = World::start().await;
    let (_, new) = world.two_issuers();
    world.install(new.path(), &[new.path()]);
    let now = SystemTime::now();
    world.turn(now).await.unwrap();
    let text = world.authority.prometheus();
    let count = |text: &str, what: &str| text.lines().filter(|line| line.starts_with(what)).count();
    assert_eq!(count(&text, "remora_identity_issuer_expiry_timestamp_seconds "), 1, "{text}");
    assert_eq!(count(&text, "remora_identity_issuer_waits_until_timestamp_seconds 0"), 0, "{text}");
    assert_eq!(count(&text, "remora_identity_anchor_expiry_timestamp_seconds{"), 2, "{text}");
    assert_eq!(text.matches("signing=\"true\"").count(), 1, "{text}");
    assert_eq!(count(&text, "remora_identity_anchor_leaves_until_timestamp_seconds{"), 1, "{text}");
    world.run(now, LEAF_LIFETIME + 3 * PUBLISHED + SKEW).await;
    let text = world.authority.prometheus();
    assert_eq!(count(&text, "remora_identity_anchor_expiry_timestamp_seconds{"), 1, "{text}");
    assert_eq!(count(&text, "remora_identity_issuer_waits_until_timestamp_seconds 0"), 1, "{text}");
}

#[tokio::test]
async fn a_marker_forces_an_anchor_out_once_the_new_one_signs() {
    let world = World::start().await;
    world.client().certify(world.request("web")).await.unwrap();
    let (_, new) = world.two_issuers();
    // Written before the swap: the service watches the folder too, and may be first.
    fs::write(world.issuer_dir().join(FORCE_REMOVE), "").unwrap();
    world.install(new.path(), &[new.path()]);
    world.run(SystemTime::now(), 2 * PUBLISHED).await;
    assert_eq!(world.authority.state().bundle().anchors().len(), 1);
}

#[tokio::test]
async fn a_bad_issuer_is_refused_and_the_old_one_goes_on() {
    let world = World::start().await;
    let (old, new) = world.two_issuers();
    // A certificate with another's key, an issuer that does not chain, junk.
    fs::write(world.issuer_dir().join("tls.key"), fs::read(new.path().join("tls.key")).unwrap()).unwrap();
    let refused = async || world.turn(SystemTime::now()).await.unwrap_err().to_string();
    assert!(refused().await.contains("is tls.key its key?"));
    world.install(new.path(), &[old.path()]);
    assert!(refused().await.contains("tls.crt chains to no anchor of ca.crt"));
    fs::write(world.issuer_dir().join("tls.crt"), "junk").unwrap();
    assert!(refused().await.contains("tls.crt: line 1: it holds no certificate"));
    fs::remove_file(world.issuer_dir().join("tls.crt")).unwrap();
    assert!(directory(&world.dir).look().is_err());
    assert!(world.client().certify(world.request("web")).await.is_ok());
}

#[tokio::test]
async fn a_part_whose_certificate_chains_to_nothing_renews_at_once_and_is_not_ready_until_it_has() {
    let world = World::start().await;
    let (token_path, anchors_path) = (world.dir.path().join("token"), world.dir.path().join("anchors.pem"));
    fs::write(&token_path, world.signer.sign(&claims("shop", "web"))).unwrap();
    fs::copy(world.issuer_dir().join("ca.crt"), &anchors_path).unwrap();
    let id = SpiffeId::workload(&world.trust_domain, "shop", "web").unwrap();
    let config = certify::CertifyConfig {
        identity_addr: world.addr.to_string(),
        identity_id: serving_id(&world.trust_domain, NAMESPACE).unwrap(),
        token_path: token_path.clone(),
        anchors_path,
        id,
    };
    let (mut source, _task) = certify::start(config).unwrap();
    let readiness = Readiness::new();
    let reported = readiness.clone();
    let condition = tokio::spawn({
        let source = source.clone();
        async move { certify::report(&reported, source).await }
    });
    let first = source.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    // Renewal must fail at first, to be seen: there is no token.
    fs::remove_file(&token_path).unwrap();
    let (_, new) = world.two_issuers();
    fs::write(world.issuer_dir().join(FORCE_REMOVE), "").unwrap();
    world.install(new.path(), &[new.path()]);
    world.run(SystemTime::now(), 2 * PUBLISHED).await;
    let unready = async {
        while !readiness.reasons().iter().any(|reason| reason.contains("certificate: peers refuse it")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), unready).await.expect("it is not ready");
    fs::write(&token_path, world.signer.sign(&claims("shop", "web"))).unwrap();
    let renewed = source.wait_for(|credentials| {
        credentials
            .as_ref()
            .is_some_and(|credentials| credentials.svid.verify(&credentials.bundle, SystemTime::now()).is_ok())
    });
    let renewed = tokio::time::timeout(Duration::from_secs(20), renewed).await.expect("long before a third of an hour");
    assert!(renewed.unwrap().as_ref().unwrap().generation > first.generation);
    let ready = async {
        while !readiness.reasons().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ready).await.expect("it is ready again");
    condition.abort();
}

/// What cert-manager writes into its Secret, write by write, with no cert-manager: each time certificate, key and `ca.crt` at once, where
/// `ca.crt` is the CA's certificate of that moment and nothing else.
#[tokio::test]
async fn whatever_cert_manager_writes_every_live_leaf_is_trusted_and_leaves_live_their_whole_life() {
    let (dir, trust_domain, mut now) =
        (TempDir::new().unwrap(), TrustDomain::new("cluster.local").unwrap(), SystemTime::now());
    let authority = open(&dir, &trust_domain, now).await;
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let params = |name: &str, until: SystemTime| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        params.not_after = until.into();
        params
    };
    // The CA is renewed with its key (`rotationPolicy: Never`), with another (`Always`), and not at all; the issuer each time.
    let mut ca_key = KeyPair::generate().unwrap();
    let mut ca = params("my-ca", now + days(30));
    let mut chains: Vec<(Vec<Vec<u8>>, SystemTime)> = Vec::new();
    for renewal in ["another key", "nothing", "the same key", "another key", "the same key", "nothing"] {
        match renewal {
            "another key" => (ca_key, ca) = (KeyPair::generate().unwrap(), params("my-ca", now + days(30))),
            "the same key" => ca = params("my-ca", now + days(60)),
            _ => {}
        }
        let key = KeyPair::generate().unwrap();
        let signer = rcgen::Issuer::from_params(&ca, &ca_key);
        let certificate = params("remora issuer", now + days(20)).signed_by(&key, &signer).unwrap().pem();
        let files = Files::new(
            certificate.into_bytes(),
            key.serialize_pem().into_bytes(),
            ca.self_signed(&ca_key).unwrap().pem().into_bytes(),
        );
        let held = Held { files, force_remove: false };
        for _ in 0..12 {
            authority.turn(Some(&held), now).await.unwrap();
            let issuer = authority.issuer(now).unwrap();
            let id = SpiffeId::workload(&trust_domain, "shop", "web").unwrap();
            let leaf = issuer.sign(&id, &KeyPair::generate().unwrap(), now, (LEAF_LIFETIME, SKEW)).unwrap();
            assert!(leaf.not_after + Duration::from_secs(2) > now + LEAF_LIFETIME, "{renewal}: a shortened leaf");
            chains.push((leaf.chain, leaf.not_after));
            chains.retain(|(_, until)| *until > now);
            let state = authority.state();
            for (chain, _) in &chains {
                let chain: Vec<_> = chain.iter().map(|der| der.as_slice().into()).collect();
                verify_svid(&chain, state.bundle(), now).expect(renewal);
            }
            now += PUBLISHED / 4;
        }
    }
    assert!(authority.state().bundle().anchors().len() > 2);
}
