//! Every reason to refuse a certificate, once as a pure judgement and once through a real handshake.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use remora_model::{SpiffeId, TrustDomain};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

struct Root {
    params: CertificateParams,
    key: KeyPair,
    bundle: TrustBundle,
}

impl Root {
    fn new(trust_domain: &str) -> Self {
        let trust_domain = TrustDomain::new(trust_domain).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let anchor = params.self_signed(&key).unwrap().der().to_vec();
        Self { params, key, bundle: TrustBundle::new(trust_domain, [anchor]).unwrap() }
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> CertificateDer<'static> {
        params.signed_by(key, &Issuer::from_params(&self.params, &self.key)).unwrap().der().clone()
    }

    fn credentials(&self, params: &CertificateParams) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let leaf = self.sign(params, &key);
        let svid = Svid::new([leaf.to_vec()], key.serialize_der()).unwrap();
        Credentials { svid, bundle: self.bundle.clone(), generation: 1 }
    }

    fn judge(&self, change: impl FnOnce(&mut CertificateParams)) -> Result<SpiffeId, &'static str> {
        let mut params = leaf("spiffe://td/ns/shop/sa/web");
        change(&mut params);
        let leaf = self.sign(&params, &KeyPair::generate().unwrap());
        verify_svid(&[leaf], &self.bundle, SystemTime::now()).map_err(|error| error.reason())
    }
}

fn leaf(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_proper_svid_is_accepted() {
    assert_eq!(Root::new("td").judge(|_| {}), Ok(SpiffeId::parse("spiffe://td/ns/shop/sa/web").unwrap()));
}

#[test]
fn every_broken_rule_has_its_own_reason() {
    let root = Root::new("td");
    let hour = Duration::from_secs(3600);
    assert_eq!(root.judge(|p| p.not_after = (SystemTime::now() - Duration::from_secs(1)).into()), Err("expired"));
    assert_eq!(root.judge(|p| p.not_before = (SystemTime::now() + hour / 2).into()), Err("not_yet_valid"));
    assert_eq!(root.judge(|p| p.subject_alt_names.clear()), Err("no_uri_san"));
    assert_eq!(root.judge(|p| p.subject_alt_names.push(uri("spiffe://td/x"))), Err("multiple_uri_sans"));
    assert_eq!(root.judge(|p| p.subject_alt_names = vec![uri("https://td/x")]), Err("invalid_id"));
    assert_eq!(root.judge(|p| p.subject_alt_names = vec![uri("spiffe://td")]), Err("no_path"));
    assert_eq!(root.judge(|p| p.subject_alt_names = vec![uri("spiffe://other/x")]), Err("trust_domain"));
    assert_eq!(root.judge(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Err("ca_as_leaf"));
    assert_eq!(root.judge(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), Err("key_usage"));
    assert_eq!(root.judge(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)), Err("key_usage"));
    assert_eq!(root.judge(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]), Err("key_usage"));
    assert_eq!(root.judge(|p| p.key_usages.clear()), Err("key_usage"));
    assert_eq!(root.judge(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]), Err("key_usage"));
    assert!(root.judge(|p| p.subject_alt_names.push(SanType::DnsName("web.shop".try_into().unwrap()))).is_ok());
    assert!(root.judge(|p| p.extended_key_usages.clear()).is_ok());
}

#[test]
fn chains_to_strangers_and_non_certificates_are_refused() {
    let (root, stranger) = (Root::new("td"), Root::new("td"));
    let svid = stranger.sign(&leaf("spiffe://td/ns/shop/sa/web"), &KeyPair::generate().unwrap());
    let judge = |chain: &[CertificateDer<'_>]| {
        verify_svid(chain, &root.bundle, SystemTime::now()).map_err(|error| error.reason())
    };
    assert_eq!(judge(std::slice::from_ref(&svid)), Err("unknown_issuer"));
    let own = leaf("spiffe://td/ns/shop/sa/web").self_signed(&KeyPair::generate().unwrap()).unwrap();
    assert_eq!(judge(std::slice::from_ref(own.der())), Err("self_signed"));
    assert_eq!(judge(&[]), Err("no_certificate"));
    assert_eq!(judge(&[CertificateDer::from(b"junk".to_vec())]), Err("malformed"));
    assert_eq!(judge(&vec![svid; CHAIN_CERTIFICATES_MAX + 1]), Err("chain_too_long"));
}

#[test]
fn a_key_of_another_certificate_is_no_svid() {
    let root = Root::new("td");
    let cert = root.sign(&leaf("spiffe://td/x"), &KeyPair::generate().unwrap());
    let other = KeyPair::generate().unwrap();
    assert!(matches!(Svid::new([cert.to_vec()], other.serialize_der()), Err(InvalidSvid::Mismatch(_))));
}

#[test]
fn equal_sets_of_anchors_have_equal_versions_in_any_order() {
    let (a, b) = (Root::new("td").bundle, Root::new("td").bundle);
    let (ab, ba) = (a.union(&b).unwrap(), b.union(&a).unwrap());
    assert_eq!((ab.version(), ab.anchors().len()), (ba.version(), 2));
    assert_ne!(ab.version(), a.version());
    assert_eq!(a.union(&a).unwrap().version(), a.version());
    assert!(matches!(TrustBundle::new(a.trust_domain().clone(), Vec::<Vec<u8>>::new()), Err(InvalidBundle::Empty)));
}

/// Whom each side learnt of, and whether key exchange and cipher are those that we prefer.
type Ends = (Result<Option<SpiffeId>, Failure>, Result<(Option<SpiffeId>, bool), Failure>);

async fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Ends {
    let (a, b) = tokio::io::duplex(64 * 1024);
    let connect = TlsConnector::from(client).connect(server_name(), a);
    let (client, server) = tokio::join!(connect, TlsAcceptor::from(server).accept(b));
    let id = |connection: &rustls::CommonState| peer(connection).map(|peer| peer.id);
    let client = client.map(|io| id(io.get_ref().1)).map_err(|error| Failure::of(&error));
    let server = server.map_err(|error| Failure::of(&error)).map(|io| {
        let connection = io.get_ref().1;
        let group = connection.negotiated_key_exchange_group().map(|group| group.name());
        let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
        let preferred = group == Some(rustls::NamedGroup::X25519MLKEM768)
            && suite == Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        (id(connection), preferred)
    });
    (client, server)
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is_over_a_post_quantum_exchange_and_aes_128() {
    let root = Root::new("td");
    let (web, api) = (root.credentials(&leaf("spiffe://td/web")), root.credentials(&leaf("spiffe://td/api")));
    let client = client_config(&web, api.svid.id(), &[Alpn::MeshHttp]).unwrap();
    let server = server_config(&api, &[Alpn::MeshHttp, Alpn::MeshTcp]).unwrap();
    let ends = handshake(client, server).await;
    assert_eq!(ends, (Ok(Some(api.svid.id().clone())), Ok((Some(web.svid.id().clone()), true))));
}

#[tokio::test]
async fn an_identity_other_than_the_expected_is_refused_by_the_client() {
    let root = Root::new("td");
    let (web, api) = (root.credentials(&leaf("spiffe://td/web")), root.credentials(&leaf("spiffe://td/api")));
    let client = client_config(&web, web.svid.id(), &[Alpn::MeshTcp]).unwrap();
    let (client, server) = handshake(client, server_config(&api, &[Alpn::MeshTcp]).unwrap()).await;
    assert_eq!(client.unwrap_err().reason(), "identity_mismatch");
    assert_eq!(server.unwrap_err(), Failure::ByPeer, "the refusal was not the server's");
}

#[tokio::test]
async fn a_client_without_certificate_or_of_a_stranger_is_refused_by_the_server() {
    let (root, stranger) = (Root::new("td"), Root::new("other"));
    let api = root.credentials(&leaf("spiffe://td/api"));
    let server = server_config(&api, &[Alpn::Grpc]).unwrap();
    let anonymous = anonymous_client_config(&root.bundle, api.svid.id(), &[Alpn::Grpc]).unwrap();
    let (_, refused) = handshake(anonymous, Arc::clone(&server)).await;
    assert_eq!(refused.unwrap_err(), Failure::Refused(VerifyError::NoCertificate));
    let mut mallory = stranger.credentials(&leaf("spiffe://other/web"));
    mallory.bundle = root.bundle.clone();
    let client = client_config(&mallory, api.svid.id(), &[Alpn::Grpc]).unwrap();
    let (_, refused) = handshake(client, server).await;
    assert_eq!(refused.unwrap_err().reason(), "trust_domain");
}

#[tokio::test]
async fn a_peer_without_a_common_protocol_is_told_apart_from_one_that_refuses() {
    let root = Root::new("td");
    let (web, api) = (root.credentials(&leaf("spiffe://td/web")), root.credentials(&leaf("spiffe://td/api")));
    let client = client_config(&web, api.svid.id(), &[Alpn::Grpc]).unwrap();
    let (client, server) = handshake(client, server_config(&api, &[Alpn::MeshTcp]).unwrap()).await;
    assert_eq!((client, server), (Err(Failure::NoProtocol), Err(Failure::NoProtocol)));
}

/// A certificate of version 1, as `openssl x509 -req -signkey` makes them, and its key.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBGDCBvwIUVDaqby7fzofZnCejg+x1r+o6Xc0wCgYIKoZIzj0EAwIwDjEMMAoG
A1UEAwwDb2xkMCAXDTI2MTEyOTEyNTQxOFoYDzIxMjYxMTA1MTI1NDE4WjAOMQww
CgYDVQQDDANvbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAS073G1PB7f7ZUE
O4YUUadxcCALc36+dBONwJO21bB/aoJkEF7AzOOBV7djfkdDXaeRvsYQPaLH29NT
4mczJCBGMAoGCCqGSM49BAMCA0gAMEUCIQCz/2VWEKJ90UVwsGDUsbJ5Yt5BCYho
IEHDUOb7OAmSOgIgHjhEVE2zmQYyg9J5DZ7m34fD7kvI8rYy8jA68E+MpSg=
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBmqDTiCdPEbYfx1U
haMyyChpn9RqllUKbyuDRBI1652hRANCAAS073G1PB7f7ZUEO4YUUadxcCALc36+
dBONwJO21bB/aoJkEF7AzOOBV7djfkdDXaeRvsYQPaLH29NT4mczJCBG
-----END PRIVATE KEY-----
";

#[tokio::test]
async fn a_probe_reads_no_certificate_so_any_will_do() {
    let certificate = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = ServerConfig::builder_with_provider(provider::provider()).with_protocol_versions(&[version]);
        let server = server.unwrap().with_no_client_auth().with_cert_resolver(resolver.clone());
        let (a, b) = tokio::io::duplex(64 * 1024);
        let connect = TlsConnector::from(danger_unverified_client_config().unwrap()).connect(server_name(), a);
        let (client, server) = tokio::join!(connect, TlsAcceptor::from(Arc::new(server)).accept(b));
        assert!(client.is_ok() && server.is_ok(), "{version:?}: {client:?} {server:?}");
    }
}

#[tokio::test]
async fn no_session_is_resumed_so_every_connection_proves_who_it_is_anew() {
    let root = Root::new("td");
    let (web, api) = (root.credentials(&leaf("spiffe://td/web")), root.credentials(&leaf("spiffe://td/api")));
    let client = client_config(&web, api.svid.id(), &[Alpn::MeshTcp]).unwrap();
    let server = server_config(&api, &[Alpn::MeshTcp]).unwrap();
    for _ in 0..3 {
        let (a, b) = tokio::io::duplex(64 * 1024);
        let connect = TlsConnector::from(Arc::clone(&client)).connect(server_name(), a);
        let (mut a, mut b) = tokio::try_join!(connect, TlsAcceptor::from(Arc::clone(&server)).accept(b)).unwrap();
        // A ticket would come with the first bytes from the server.
        tokio::io::AsyncWriteExt::write_all(&mut b, b"x").await.unwrap();
        tokio::io::AsyncReadExt::read_u8(&mut a).await.unwrap();
        let full = Some(rustls::HandshakeKind::Full);
        assert_eq!((a.get_ref().1.handshake_kind(), b.get_ref().1.handshake_kind()), (full, full));
        assert_eq!(a.get_ref().1.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn after_an_identity_change_the_old_name_is_refused_on_the_next_connection() {
    let root = Root::new("td");
    let web = root.credentials(&leaf("spiffe://td/web"));
    let (api, other) = (root.credentials(&leaf("spiffe://td/api")), root.credentials(&leaf("spiffe://td/other")));
    // One client configuration, as a proxy keeps it for a peer: what it learned of the first server must not count.
    let client = client_config(&web, api.svid.id(), &[Alpn::MeshTcp]).unwrap();
    let ends = handshake(Arc::clone(&client), server_config(&api, &[Alpn::MeshTcp]).unwrap()).await;
    assert_eq!(ends.0, Ok(Some(api.svid.id().clone())));
    let ends = handshake(client, server_config(&other, &[Alpn::MeshTcp]).unwrap()).await;
    assert_eq!(ends.0.unwrap_err().reason(), "identity_mismatch");
}

#[test]
fn reasons_are_a_closed_set_without_doubles() {
    let all = VerifyError::REASONS.iter().chain(&Failure::REASONS).map(|(reason, _)| *reason);
    let mut reasons: Vec<_> = all.collect();
    let count = reasons.len();
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons.len(), count);
}

fn revoked(all: impl IntoIterator<Item = remora_model::Revocation>) -> Arc<remora_model::Revocations> {
    Arc::new(remora_model::Revocations::new(all))
}

#[tokio::test]
async fn a_revoked_identity_certificate_or_pod_is_refused_by_both_ends_and_others_are_not() {
    use remora_model::{PodName, Revocation};
    let root = Root::new("td");
    let pod = PodName::new("shop", "web-1", "u-7").unwrap();
    let mut named = leaf("spiffe://td/ns/shop/sa/web");
    named.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&POD_EXTENSION, pod_extension(&pod))];
    let (web, api) = (root.credentials(&named), root.credentials(&leaf("spiffe://td/ns/shop/sa/api")));
    let shown = shown(&web.svid.chain()[0]).unwrap();
    assert_eq!(shown.pod.as_ref(), Some(&pod));
    let none =
        Revocation { name: "r".into(), reason: "why".into(), until: None, identity: None, serial: None, pod: None };
    let other_pod = PodName::new("shop", "web-1", "u-8");
    for (revocation, refused) in [
        (Revocation { identity: Some(web.svid.id().clone()), ..none.clone() }, true),
        (Revocation { serial: shown.serial.clone(), ..none.clone() }, true),
        (Revocation { pod: Some(pod.clone()), ..none.clone() }, true),
        (Revocation { pod: PodName::new("shop", "web-1", ""), ..none.clone() }, true),
        (Revocation { pod: Some(pod.clone()), until: Some(1), ..none.clone() }, false),
        (Revocation { pod: other_pod, ..none.clone() }, false),
        (Revocation { serial: "4f".parse().ok(), ..none.clone() }, false),
    ] {
        let list = revoked([revocation.clone()]);
        let server = server_config_refusing(&api, &[Alpn::MeshTcp], &list).unwrap();
        let (_, server) = handshake(client_config(&web, api.svid.id(), &[Alpn::MeshTcp]).unwrap(), server).await;
        let told = Err(Failure::Refused(VerifyError::Revoked("RevokedIdentity r (why)".to_owned())));
        assert_eq!(server.map(drop), if refused { told } else { Ok(()) }, "{revocation:?}");
        let dialler = client_config_refusing(&api, web.svid.id(), &[Alpn::MeshTcp], &list).unwrap();
        let (client, _) = handshake(dialler, server_config(&web, &[Alpn::MeshTcp]).unwrap()).await;
        assert_eq!(client.is_err(), refused, "{revocation:?}");
    }
}
