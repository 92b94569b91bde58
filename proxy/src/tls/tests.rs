//! What a worker makes of certificates that change.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use remora_model::TrustDomain;
use remora_runtime::tls::{Svid, TrustBundle};
use std::time::Duration;

fn credentials(generation: u64) -> Option<Arc<Credentials>> {
    until(generation, SystemTime::now() + Duration::from_secs(3600))
}

fn until(generation: u64, not_after: SystemTime) -> Option<Arc<Credentials>> {
    let key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let anchor = root.self_signed(&key).unwrap();
    let own = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name = DistinguishedName::new();
    leaf.subject_alt_names = vec![SanType::URI("spiffe://td/ns/shop/sa/web".try_into().unwrap())];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.not_after = not_after.into();
    let leaf = leaf.signed_by(&own, &Issuer::from_params(&root, &key)).unwrap();
    let svid = Svid::new([leaf.der().to_vec()], own.serialize_der()).unwrap();
    let bundle = TrustBundle::new(TrustDomain::new("td").unwrap(), [anchor.der().to_vec()]).unwrap();
    Some(Arc::new(Credentials { svid, bundle, generation }))
}

fn client(store: &Store) -> Arc<ClientConfig> {
    let peer = SpiffeId::parse("spiffe://td/ns/shop/sa/api").unwrap();
    store.client(&store.credentials().unwrap(), &peer, Alpn::MeshHttp).unwrap()
}

#[test]
fn the_generation_follows_the_certificate_even_one_that_was_there_before() {
    let (sender, source) = watch::channel(credentials(1));
    let store = Store::new(source, &Account::new(1 << 20));
    assert_eq!(store.generation(), 1);
    sender.send_replace(credentials(2));
    assert_eq!((store.generation(), store.generation()), (2, 2));
    drop(sender);
    assert_eq!(store.generation(), 2, "the last certificate stays when its source is gone");
}

#[test]
fn without_a_certificate_there_is_no_generation_and_no_configuration() {
    let (_sender, source) = watch::channel(None);
    let store = Store::new(source, &Account::new(1 << 20));
    assert_eq!(store.generation(), 0);
    assert!(store.credentials().is_none());
}

#[test]
fn a_certificate_that_has_ended_is_shown_to_nobody() {
    let (_sender, source) = watch::channel(until(1, SystemTime::now() - Duration::from_secs(1)));
    let store = Store::new(source, &Account::new(1 << 20));
    assert_eq!(store.generation(), 1);
    assert!(store.credentials().is_none());
}

#[test]
fn a_configuration_is_made_once_per_peer_and_never_survives_its_certificate() {
    let (sender, source) = watch::channel(credentials(1));
    let store = Store::new(source, &Account::new(1 << 20));
    let first = client(&store);
    assert!(Arc::ptr_eq(&first, &client(&store)));
    let server = store.server(&store.credentials().unwrap()).unwrap();
    sender.send_replace(credentials(2));
    assert!(!Arc::ptr_eq(&first, &client(&store)), "nothing of the old identity is presented or resumed");
    assert!(!Arc::ptr_eq(&server, &store.server(&store.credentials().unwrap()).unwrap()));
}

#[test]
fn every_own_reason_is_on_the_list() {
    assert_eq!(TerminateError::NoCertificate.reason(), "no_certificate_of_ours");
    assert_eq!(TerminateError::Timeout.reason(), "timeout");
    assert_eq!(TerminateError::NoProtocol.reason(), "no_protocol");
    assert_eq!(TerminateError::Failed(io::ErrorKind::ConnectionReset.into()).reason(), "handshake_failed");
}

#[tokio::test]
async fn a_peer_is_lost_with_the_anchor_that_vouches_for_it_and_with_no_other() {
    use futures_util::FutureExt as _;
    let (one, other) = (credentials(1).unwrap(), credentials(2).unwrap());
    let (tell, source) = watch::channel(Some(one.clone()));
    let chain = one.svid.chain().iter().map(|certificate| certificate.clone().into_owned()).collect();
    let trust = Trust::new(chain, one.bundle.clone(), source);
    let publish = |bundle: &TrustBundle| {
        let (svid, bundle) = (one.svid.clone(), bundle.clone());
        tell.send_replace(Some(Arc::new(Credentials { svid, bundle, generation: 3 })));
    };
    let both = one.bundle.union(&other.bundle).unwrap();
    assert!(trust.lost().now_or_never().is_none(), "nothing has changed");
    publish(&both);
    assert!(trust.lost().now_or_never().is_none(), "a bundle that grew takes nobody's trust");
    let mut lost = Box::pin(trust.lost());
    assert!(lost.as_mut().now_or_never().is_none());
    publish(&other.bundle);
    assert!(matches!(lost.await, VerifyError::UnknownIssuer), "whoever waits hears of it");
    // Also who began to wait after the change, as a connection whose handshake was under way then.
    assert!(matches!(trust.lost().await, VerifyError::UnknownIssuer));
}

#[tokio::test]
async fn a_connection_to_a_peer_ends_with_the_anchor_that_vouches_for_it() {
    use tokio::{io::AsyncReadExt as _, net};
    let (one, other) = (credentials(1).unwrap(), credentials(2).unwrap());
    let (tell, source) = watch::channel(Some(one.clone()));
    let account = Account::new(1 << 30);
    let (client, server) = (Store::new(source.clone(), &account), Store::new(source, &account));
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let near = TcpStream::connect(address).await.unwrap();
    let far = Prefixed::new(crate::io::accepted(listener.accept().await.unwrap().0));
    let peer = SpiffeId::parse("spiffe://td/ns/shop/sa/web").unwrap();
    let (near, far) = tokio::join!(client.originate(near, address, &peer, Alpn::MeshTcp), server.terminate(far));
    let (mut near, _far) = (near.unwrap(), far.unwrap());
    let publish = |bundle: &TrustBundle| {
        let (svid, bundle) = (one.svid.clone(), bundle.clone());
        tell.send_replace(Some(Arc::new(Credentials { svid, bundle, generation: 3 })));
    };
    publish(&one.bundle.union(&other.bundle).unwrap());
    assert!(futures_util::poll!(std::pin::pin!(near.read_u8())).is_pending(), "more anchors take nobody's trust");
    publish(&other.bundle);
    let error = near.read_u8().await.unwrap_err();
    assert!(is_untrusted(&error) && !is_over(&error), "{error}");
}

/// Revokes the identity of [`until`], until this second.
fn revoking(until: Option<u64>) -> Arc<Revocations> {
    let identity = SpiffeId::parse("spiffe://td/ns/shop/sa/web").ok();
    let (name, reason) = ("stolen".into(), "".into());
    Arc::new(Revocations::new([remora_model::Revocation { name, reason, until, identity, serial: None, pod: None }]))
}

#[tokio::test]
async fn a_peer_is_lost_when_it_is_revoked_and_not_by_a_revocation_of_another_or_one_that_has_ended() {
    use futures_util::FutureExt as _;
    let one = credentials(1).unwrap();
    let (_tell, source) = watch::channel(Some(one.clone()));
    let (revoke, revoked) = watch::channel(Arc::default());
    let chain = one.svid.chain().iter().map(|certificate| certificate.clone().into_owned()).collect();
    let trust = Trust::new(chain, one.bundle.clone(), source).unless(revoked);
    let mut lost = Box::pin(trust.lost());
    assert!(lost.as_mut().now_or_never().is_none());
    revoke.send_replace(revoking(Some(1)));
    assert!(lost.as_mut().now_or_never().is_none(), "it ended long ago");
    revoke.send_replace(revoking(None));
    assert!(matches!(lost.await, VerifyError::Revoked(_)));
    // Also who begins to wait after it, as a connection whose handshake was under way then.
    assert!(matches!(trust.lost().await, VerifyError::Revoked(_)));
}

#[test]
fn a_configuration_never_survives_the_list_of_the_revoked_that_it_was_made_with() {
    let (_tell, source) = watch::channel(credentials(1));
    let (revoke, revoked) = watch::channel(Arc::default());
    let store = Store::new(source, &Account::new(1 << 20)).refusing(revoked);
    let (first, server) = (client(&store), store.server(&store.credentials().unwrap()).unwrap());
    assert!(Arc::ptr_eq(&first, &client(&store)));
    revoke.send_replace(revoking(None));
    assert!(!Arc::ptr_eq(&server, &store.server(&store.credentials().unwrap()).unwrap()));
    assert!(!Arc::ptr_eq(&first, &client(&store)));
    assert_eq!(store.generation(), 1, "nobody renews a connection for it");
}
