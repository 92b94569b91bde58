//! Issue, refuse, renew, rotate: over real sockets.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use remora_api::v1::identity_client::IdentityClient;
use remora_api::v1::{CertifyRequest, WatchBundleRequest};
use remora_kube::names::NAMESPACE;
use remora_model::{SpiffeId, TrustDomain};
use remora_runtime::admin::Readiness;
use remora_runtime::tls::{Alpn, TrustBundle, anonymous_client_config, verify_svid};
use remora_runtime::{certify, drain, grpc};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket};
use tonic::Code;
use tonic::transport::Channel;

use super::tokens::{AUDIENCE, Signer, claims};
use crate::authority::Authority;
use crate::issuer::{FORCE_REMOVE, Files, IssuerError, serving_id};
use crate::server::{Parts, serve};
use crate::service::Terms;
use crate::source::directory::Directory;
use crate::source::{Source, SourceError};
use crate::token::Proofs;
use crate::token::jwks::Keys;

const LEAF_LIFETIME: Duration = Duration::from_secs(3600);
/// How long another replica may sign with an issuer that this one has replaced.
const REPLICA: Duration = Duration::from_secs(30);

struct World {
    dir: TempDir,
    signer: Signer,
    authority: Arc<Authority>,
    trust_domain: TrustDomain,
    addr: SocketAddr,
    readiness: Readiness,
    drain: drain::Signal,
}

impl World {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let signer = Signer::new();
        let trust_domain = TrustDomain::new("cluster.local").unwrap();
        let jwks = dir.path().join("jwks.json");
        fs::write(&jwks, signer.jwks()).unwrap();
        let authority = open(&dir, &trust_domain, SystemTime::now());
        let terms = Terms {
            trust_domain: trust_domain.clone(),
            namespace: NAMESPACE.into(),
            audience: AUDIENCE.into(),
            leaf_lifetime: LEAF_LIFETIME,
            skew: Duration::from_secs(60),
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
        };
        tokio::spawn(serve(listener, parts, readiness.clone(), watch));
        Self { dir, signer, authority, trust_domain, addr, readiness, drain }
    }

    fn client(&self) -> IdentityClient<Channel> {
        let bundle = self.authority.issuer().bundle().clone();
        let id = serving_id(&self.trust_domain, NAMESPACE).unwrap();
        let config = move || anonymous_client_config(&bundle, &id, &[Alpn::Grpc]);
        IdentityClient::new(grpc::mtls_channel(&self.addr.to_string(), config).unwrap())
    }

    fn request(&self, name: &str) -> CertifyRequest {
        let key = KeyPair::generate().unwrap();
        let csr_der = CertificateParams::new(["evil.example".to_owned()]).unwrap().serialize_request(&key).unwrap();
        CertifyRequest { csr_der: csr_der.der().to_vec(), token: self.signer.sign(&claims("shop", name)) }
    }

    fn reload(&self, now: SystemTime) -> Result<(), SourceError> {
        reload(&self.authority, &self.dir, now)
    }

    fn issuer_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("issuer")
    }

    /// Old and new anchor in `ca.crt`, or the new alone; the issuer itself new or old.
    fn install(&self, crt_and_key_of: &std::path::Path, anchors_of: &[&std::path::Path]) {
        let anchors: Vec<u8> = anchors_of.iter().flat_map(|dir| fs::read(dir.join("ca.crt")).unwrap()).collect();
        let dir = self.issuer_dir();
        for name in ["tls.crt", "tls.key"] {
            fs::write(dir.join(name), fs::read(crt_and_key_of.join(name)).unwrap()).unwrap();
        }
        fs::write(dir.join("ca.crt"), anchors).unwrap();
    }

    /// A second issuer and a copy of the first, each in a folder.
    fn two_issuers(&self) -> (TempDir, TempDir) {
        let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        Files::read(&self.issuer_dir()).unwrap().unwrap().write(old.path()).unwrap();
        Files::make(&self.trust_domain, SystemTime::now()).unwrap().write(new.path()).unwrap();
        (old, new)
    }
}

fn directory(dir: &TempDir) -> Directory {
    Directory::new(dir.path().join("issuer"))
}

fn open(dir: &TempDir, trust_domain: &TrustDomain, now: SystemTime) -> Arc<Authority> {
    let held = directory(dir).open(trust_domain, now).unwrap();
    Authority::new(held, trust_domain.clone(), LEAF_LIFETIME, now).unwrap()
}

fn reload(authority: &Authority, dir: &TempDir, now: SystemTime) -> Result<(), SourceError> {
    authority.take(directory(dir).look()?, now).map_err(SourceError::Issuer)
}

fn in_use(reloaded: &Result<(), SourceError>) -> bool {
    matches!(reloaded, Err(SourceError::Issuer(IssuerError::AnchorInUse(_))))
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
async fn anchors_and_issuer_rotate_without_reconnecting() {
    let world = World::start().await;
    let mut client = world.client();
    let mut stream = client.watch_bundle(WatchBundleRequest::default()).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().anchors_der.len(), 1);
    client.certify(world.request("web")).await.unwrap();
    let (old, new) = world.two_issuers();

    world.install(old.path(), &[old.path(), new.path()]);
    world.reload(SystemTime::now()).unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().anchors_der.len(), 2);

    world.install(new.path(), &[old.path(), new.path()]);
    world.reload(SystemTime::now()).unwrap();
    let response = client.certify(world.request("web")).await.unwrap().into_inner();
    let new_anchors = TrustBundle::from_pem(world.trust_domain.clone(), &fs::read(new.path().join("ca.crt")).unwrap());
    let chain: Vec<_> = response.chain_der.iter().map(|der| der.as_slice().into()).collect();
    assert!(verify_svid(&chain, &new_anchors.unwrap(), SystemTime::now()).is_ok());

    // The first leaf still chains to the old anchor.
    world.install(new.path(), &[new.path()]);
    let now = SystemTime::now();
    let refused = world.reload(now);
    assert!(in_use(&refused), "{refused:?}");
    world.reload(now + LEAF_LIFETIME + REPLICA).unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().anchors_der.len(), 1);
}

#[tokio::test]
async fn a_restarted_service_keeps_the_old_anchor_for_a_leafs_life() {
    let world = World::start().await;
    let (old, new) = world.two_issuers();
    world.install(new.path(), &[old.path(), new.path()]);
    // A process that signed nothing with the old issuer, and knows nothing of who did.
    let start = SystemTime::now();
    let restarted = open(&world.dir, &world.trust_domain, start);
    world.install(new.path(), &[new.path()]);
    let refused = reload(&restarted, &world.dir, start + LEAF_LIFETIME - Duration::from_secs(1));
    assert!(in_use(&refused), "{refused:?}");
    reload(&restarted, &world.dir, start + LEAF_LIFETIME).unwrap();
    assert_eq!(restarted.issuer().bundle().anchors().len(), 1);
}

#[tokio::test]
async fn what_another_replica_may_have_signed_keeps_the_old_anchor_too() {
    let world = World::start().await;
    let start = SystemTime::now();
    let replica = open(&world.dir, &world.trust_domain, start);
    let (old, new) = world.two_issuers();
    world.install(new.path(), &[old.path(), new.path()]);
    let swapped = start + 2 * LEAF_LIFETIME;
    reload(&replica, &world.dir, swapped).unwrap();
    world.install(new.path(), &[new.path()]);
    assert!(in_use(&reload(&replica, &world.dir, swapped + LEAF_LIFETIME)));
    reload(&replica, &world.dir, swapped + LEAF_LIFETIME + REPLICA).unwrap();
}

#[tokio::test]
async fn expiries_are_shown_per_anchor_and_of_the_issuer_and_go_with_their_anchor() {
    let world = World::start().await;
    let (old, new) = world.two_issuers();
    world.install(new.path(), &[old.path(), new.path()]);
    let now = SystemTime::now();
    world.reload(now).unwrap();
    let text = world.authority.prometheus();
    let count = |text: &str, what: &str| text.lines().filter(|line| line.starts_with(what)).count();
    assert_eq!(count(&text, "remora_identity_issuer_expiry_timestamp_seconds "), 1, "{text}");
    assert_eq!(count(&text, "remora_identity_anchor_expiry_timestamp_seconds{"), 2, "{text}");
    assert_eq!(text.matches("signing=\"true\"").count(), 1, "{text}");
    assert_eq!(count(&text, "remora_identity_anchor_leaves_until_timestamp_seconds{"), 1, "{text}");
    world.install(new.path(), &[new.path()]);
    world.reload(now + LEAF_LIFETIME + REPLICA).unwrap();
    assert_eq!(count(&world.authority.prometheus(), "remora_identity_anchor_expiry_timestamp_seconds{"), 1);
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
async fn a_marker_forces_an_anchor_out() {
    let world = World::start().await;
    world.client().certify(world.request("web")).await.unwrap();
    let (_, new) = world.two_issuers();
    // Written before the swap: the service watches the folder too, and may be first.
    fs::write(world.issuer_dir().join(FORCE_REMOVE), "").unwrap();
    world.install(new.path(), &[new.path()]);
    world.reload(SystemTime::now()).unwrap();
    assert_eq!(world.authority.issuer().bundle().anchors().len(), 1);
}

#[tokio::test]
async fn a_bad_issuer_is_refused_and_the_old_one_goes_on() {
    let world = World::start().await;
    let (old, new) = world.two_issuers();
    // A certificate with another's key, an issuer that does not chain, junk.
    fs::write(world.issuer_dir().join("tls.key"), fs::read(new.path().join("tls.key")).unwrap()).unwrap();
    assert!(world.reload(SystemTime::now()).is_err());
    world.install(new.path(), &[old.path()]);
    assert!(world.reload(SystemTime::now()).is_err());
    fs::write(world.issuer_dir().join("tls.crt"), "junk").unwrap();
    assert!(world.reload(SystemTime::now()).is_err());
    fs::remove_file(world.issuer_dir().join("tls.crt")).unwrap();
    assert!(world.reload(SystemTime::now()).is_err());
    assert!(world.client().certify(world.request("web")).await.is_ok());
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
    world.reload(SystemTime::now()).unwrap();
    let both = |credentials: &Option<Arc<remora_runtime::tls::Credentials>>| {
        credentials.as_ref().is_some_and(|credentials| credentials.bundle.anchors().len() == 2)
    };
    assert!(source.wait_for(both).await.unwrap().as_ref().unwrap().generation > first.generation);
    drop(source);
    task.await.unwrap();
}

#[test]
fn the_key_on_disk_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let trust_domain = TrustDomain::new("td").unwrap();
    Files::make(&trust_domain, SystemTime::now()).unwrap().write(dir.path()).unwrap();
    assert_eq!(fs::metadata(dir.path().join("tls.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Files::read(dir.path()).unwrap().is_some());
    fs::remove_file(dir.path().join("ca.crt")).unwrap();
    assert!(matches!(Files::read(dir.path()), Err(IssuerError::Incomplete(_))));
}
