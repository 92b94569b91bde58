//! Issue, refuse, renew: over real sockets.

use super::tokens::{AUDIENCE, Signer, claims};
use crate::{
    authority::{Authority, TurnError},
    issuer::{Files, serving_id},
    revoked,
    server::{Parts, serve},
    service::Terms,
    source::{Source, directory::Directory},
    store::Store,
    token::{Proofs, jwks::Keys},
};
use rcgen::{CertificateParams, KeyPair};
use remora_api::v1::{CertifyRequest, WatchBundleRequest, identity_client::IdentityClient};
use remora_kube::names::NAMESPACE;
use remora_model::{SpiffeId, TrustDomain};
use remora_runtime::{
    admin::Readiness,
    certify, drain, grpc,
    tls::{Alpn, TrustBundle, anonymous_client_config, verify_svid},
};
use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpSocket},
};
use tonic::{Code, transport::Channel};

pub(super) const LEAF_LIFETIME: Duration = Duration::from_secs(3600);
pub(super) const SKEW: Duration = Duration::from_secs(60);
/// How long an anchor is published before anything is signed under it.
pub(super) const PUBLISHED: Duration = Duration::from_secs(60);

/// In the folder of a [`World`].
pub(super) const REVOKED: &str = "revoked";

pub(super) struct World {
    pub(super) dir: TempDir,
    pub(super) signer: Signer,
    pub(super) authority: Arc<Authority>,
    pub(super) trust_domain: TrustDomain,
    pub(super) addr: SocketAddr,
    pub(super) readiness: Readiness,
    drain: drain::Signal,
}

impl World {
    pub(super) async fn start() -> Self {
        Self::start_with("").await
    }

    /// What is written of the revoked is this.
    pub(super) async fn start_with(revoked: &str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join(REVOKED)).unwrap();
        fs::write(dir.path().join(REVOKED).join("a.yaml"), revoked).unwrap();
        let signer = Signer::new();
        let trust_domain = TrustDomain::new("cluster.local").unwrap();
        let jwks = dir.path().join("jwks.json");
        fs::write(&jwks, signer.jwks()).unwrap();
        let authority = open(&dir, &trust_domain, SystemTime::now()).await;
        let terms = Terms {
            trust_domain: trust_domain.clone(),
            namespace: NAMESPACE.into(),
            audience: AUDIENCE.into(),
            leaf_lifetime: LEAF_LIFETIME,
            skew: SKEW,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (drain, watch) = drain::channel();
        let readiness = Readiness::new();
        let parts = Parts {
            authority: Arc::clone(&authority),
            source: Source::Directory(directory(&dir)),
            proofs: Proofs::Offline(Keys::open(jwks).unwrap()),
            terms,
            revoked: revocations(&dir),
        };
        tokio::spawn(serve(listener, parts, readiness.clone(), watch));
        Self { dir, signer, authority, trust_domain, addr, readiness, drain }
    }

    pub(super) fn client(&self) -> IdentityClient<Channel> {
        let bundle = self.authority.state().bundle().clone();
        let id = serving_id(&self.trust_domain, NAMESPACE).unwrap();
        let config = move || anonymous_client_config(&bundle, &id, &[Alpn::Grpc]);
        IdentityClient::new(grpc::mtls_channel(&self.addr.to_string(), config).unwrap())
    }

    pub(super) fn request(&self, name: &str) -> CertifyRequest {
        let key = KeyPair::generate().unwrap();
        let csr_der = CertificateParams::new(["evil.example".to_owned()]).unwrap().serialize_request(&key).unwrap();
        CertifyRequest { csr_der: csr_der.der().to_vec(), token: self.signer.sign(&claims("shop", name)) }
    }

    /// Looks, and again at what that wrote, as the watch of the folder makes it do.
    pub(super) async fn turn(&self, now: SystemTime) -> Result<(), TurnError> {
        let held = directory(&self.dir).look().ok();
        self.authority.turn(held.as_ref(), now).await?;
        self.authority.turn(held.as_ref(), now).await
    }

    /// Looks as often as the service does for `time` from `now`, and says what time it is then.
    pub(super) async fn run(&self, now: SystemTime, time: Duration) -> SystemTime {
        let (mut at, end) = (now, now + time);
        while at < end {
            at = (at + PUBLISHED / 4).min(end);
            self.turn(at).await.unwrap();
        }
        end
    }

    pub(super) fn issuer_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("issuer")
    }

    /// Old and new anchor in `ca.crt`, or the new alone; the issuer itself new or old.
    pub(super) fn install(&self, crt_and_key_of: &std::path::Path, anchors_of: &[&std::path::Path]) {
        let anchors: Vec<u8> = anchors_of.iter().flat_map(|dir| fs::read(dir.join("ca.crt")).unwrap()).collect();
        let dir = self.issuer_dir();
        for name in ["tls.crt", "tls.key"] {
            fs::write(dir.join(name), fs::read(crt_and_key_of.join(name)).unwrap()).unwrap();
        }
        fs::write(dir.join("ca.crt"), anchors).unwrap();
    }

    /// A second issuer and a copy of the first, each in a folder.
    pub(super) fn two_issuers(&self) -> (TempDir, TempDir) {
        let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        Files::read(&self.issuer_dir()).unwrap().unwrap().write(old.path()).unwrap();
        Files::make(&self.trust_domain, SystemTime::now()).unwrap().write(new.path()).unwrap();
        (old, new)
    }
}

/// Who is revoked is written in a folder.
fn revocations(dir: &TempDir) -> revoked::Source {
    revoked::Source::Folder(revoked::Folder::new(dir.path().join(REVOKED), NAMESPACE.into()))
}

pub(super) fn directory(dir: &TempDir) -> Directory {
    Directory::new(dir.path().join("issuer"))
}

pub(super) async fn open(dir: &TempDir, trust_domain: &TrustDomain, now: SystemTime) -> Arc<Authority> {
    let held = directory(dir).open(trust_domain, now).await.unwrap();
    let store = Store::file(dir.path().join("issuer"));
    let opened = Authority::open(Some(&held), &store, trust_domain, (LEAF_LIFETIME, SKEW), now).await;
    opened.unwrap().with(store)
}

#[tokio::test]
async fn a_good_token_gets_a_certificate_that_peers_accept_and_nothing_the_csr_asked_for() {
    let world = World::start().await;
    let response = world.client().certify(world.request("web")).await.unwrap().into_inner();
    let bundle = TrustBundle::new(world.trust_domain.clone(), response.bundle.unwrap().anchors_der).unwrap();
    let chain: Vec<_> = response.chain_der.iter().map(|der| der.as_slice().into()).collect();
    let id = verify_svid(&chain, &bundle, SystemTime::now()).unwrap();
    assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    assert!(!response.chain_der.concat().windows(4).any(|window| window == b"evil"));
    assert_eq!(
        verify_svid(&chain, &bundle, SystemTime::now() + Duration::from_secs(7200)).unwrap_err().reason(),
        "expired"
    );
    world.drain.drain().await;
}

#[tokio::test]
async fn refusals_carry_the_rule_and_the_right_code() {
    let world = World::start().await;
    let mut client = world.client();
    let mut request = world.request("web");
    request.token = "junk".into();
    let status = client.certify(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "token is not a JWT"));
    let mut request = world.request("web");
    request.csr_der.push(0);
    assert_eq!(client.certify(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn no_refusal_quotes_much_of_what_was_sent() {
    let world = World::start().await;
    let (mut client, long) = (world.client(), "x".repeat(7000));
    let trust_domain = WatchBundleRequest { trust_domain: long.clone() };
    let bundle = client.watch_bundle(trust_domain).await.unwrap_err();
    let mut claims = claims("shop", "web");
    claims["exp"] = long.clone().into();
    let token = client.certify(CertifyRequest { token: world.signer.sign(&claims), ..world.request("web") }).await;
    let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
    params.subject_alt_names = vec![rcgen::SanType::URI(format!("spiffe://{long}").try_into().unwrap())];
    let csr_der = params.serialize_request(&key).unwrap().der().to_vec();
    let csr = client.certify(CertifyRequest { csr_der, ..world.request("web") }).await;
    for (status, code) in [
        (bundle, Code::NotFound),
        (token.unwrap_err(), Code::Unauthenticated),
        (csr.unwrap_err(), Code::InvalidArgument),
    ] {
        assert_eq!(status.code(), code, "{}", status.message());
        assert!(status.message().len() < 400, "{}", status.message().len());
    }
}

#[tokio::test]
async fn a_workload_that_asks_too_often_is_told_to_wait() {
    let world = World::start().await;
    let mut client = world.client();
    let mut codes = Vec::new();
    for _ in 0..15 {
        codes.push(client.certify(world.request("web")).await.map_or_else(|status| status.code(), |_| Code::Ok));
    }
    assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
    assert!(client.certify(world.request("other")).await.is_ok());
}

#[tokio::test]
async fn a_stranger_who_holds_all_connections_that_he_can_keeps_nobody_out() {
    let world = World::start().await;
    let mut held = Vec::new();
    for _ in 0..grpc::PER_ADDRESS_MAX + 10 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        held.push(socket.connect(world.addr).await.unwrap());
    }
    // The first have a handshake's time to say something; the last are closed at once.
    for turned_away in held.iter_mut().skip(grpc::PER_ADDRESS_MAX) {
        let closed = tokio::time::timeout(Duration::from_secs(2), turned_away.read(&mut [0])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    }
    world.client().certify(world.request("web")).await.unwrap();
}

#[tokio::test]
async fn readiness_names_the_token_keys_while_there_are_none() {
    let world = World::start().await;
    world.client().certify(world.request("web")).await.unwrap();
    assert_eq!(world.readiness.reasons(), Vec::<String>::new());
    fs::write(world.dir.path().join("jwks.json"), "{\"keys\":[]}").unwrap();
    let named = async {
        while !world.readiness.reasons().iter().any(|reason| reason.starts_with("token keys: ")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), named).await.expect("the empty JWKS is named");
}

#[tokio::test]
async fn the_workload_client_certifies_itself_and_follows_the_bundle() {
    let world = World::start().await;
    let token_path = world.dir.path().join("token");
    fs::write(&token_path, world.signer.sign(&claims("shop", "web"))).unwrap();
    let anchors_path = world.dir.path().join("anchors.pem");
    fs::copy(world.issuer_dir().join("ca.crt"), &anchors_path).unwrap();
    let id = SpiffeId::workload(&world.trust_domain, "shop", "web").unwrap();
    let config = certify::CertifyConfig {
        identity_addr: world.addr.to_string(),
        identity_id: serving_id(&world.trust_domain, NAMESPACE).unwrap(),
        token_path,
        anchors_path,
        id: id.clone(),
    };
    let (mut source, task) = certify::start(config).unwrap();
    let first = source.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!((first.svid.id(), first.bundle.anchors().len()), (&id, 1));
    let (old, new) = world.two_issuers();
    world.install(old.path(), &[old.path(), new.path()]);
    world.turn(SystemTime::now()).await.unwrap();
    let both = |credentials: &Option<Arc<remora_runtime::tls::Credentials>>| {
        credentials.as_ref().is_some_and(|credentials| credentials.bundle.anchors().len() == 2)
    };
    assert!(source.wait_for(both).await.unwrap().as_ref().unwrap().generation > first.generation);
    drop(source);
    task.await.unwrap();
}

#[tokio::test]
async fn a_request_is_not_looked_into_before_its_token_and_its_limits() {
    let world = World::start().await;
    let mut client = world.client();
    // Both are bad: it is the token that is told.
    let request = CertifyRequest { csr_der: b"junk".to_vec(), token: "junk".into() };
    assert_eq!(client.certify(request).await.unwrap_err().code(), Code::Unauthenticated);
    let mut bad = world.request("web");
    bad.csr_der = b"junk".to_vec();
    let mut codes = Vec::new();
    for _ in 0..15 {
        codes.push(client.certify(bad.clone()).await.unwrap_err().code());
    }
    assert_eq!(codes.first(), Some(&Code::InvalidArgument));
    assert_eq!(codes.last(), Some(&Code::ResourceExhausted), "and the limit is told before the request");
}

#[tokio::test]
async fn an_address_that_sends_junk_is_limited_without_an_api_server_too() {
    let world = World::start().await;
    let mut client = world.client();
    let junk = CertifyRequest { csr_der: Vec::new(), token: "junk".into() };
    let mut limited = false;
    for _ in 0..600 {
        limited |= client.certify(junk.clone()).await.unwrap_err().code() == Code::ResourceExhausted;
    }
    assert!(limited);
}
