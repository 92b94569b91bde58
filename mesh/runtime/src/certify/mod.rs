//! The workload's own certificate: proves itself to the identity service, renews, follows the trust bundle.
//!
//! In: a token file, an anchors file, an address. Out: a watch of [`Credentials`], `None` until the first certificate.
//! Losing the identity service changes nothing for as long as the leaf lives. A renewal uses a fresh key each time,
//! re-reads the token, and is checked against the bundle before anybody sees it. Deliberately not here: any use of the
//! certificate. Whether there is one that has not ended and chains to an anchor is a condition of readiness ([`report`]); one that chains
//! to none any more is renewed at once.

mod condition;
mod error;
mod schedule;

use crate::{
    grpc::mtls_channel,
    tls::{Alpn, ClientConfig, Credentials, Svid, TrustBundle, anonymous_client_config},
};
use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use remora_api::v1::{Bundle, CertifyRequest, WatchBundleRequest, identity_client::IdentityClient};
use remora_model::SpiffeId;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

pub use condition::{CERTIFICATE, report};
pub use error::CertifyError;
pub use schedule::{renew_after, retry_after};

/// One `Certify` call, from dialling to the answer.
const CERTIFY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest sleep between looks at the wall clock, which may be set or may jump when a machine wakes.
const CLOCK_CHECK: Duration = Duration::from_secs(15);
/// A token file larger than this is not a token.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// What a workload needs to get its certificate.
#[derive(Debug, Clone)]
pub struct CertifyConfig {
    /// `host:port` of the identity service.
    pub identity_addr: String,
    /// Who must answer there.
    pub identity_id: SpiffeId,
    /// The projected service-account token; read again for each renewal, because kubelet replaces it.
    pub token_path: PathBuf,
    /// PEM file of trust anchors, for the first contact and whenever it changes.
    pub anchors_path: PathBuf,
    /// Who we are; a certificate for anybody else is refused.
    pub id: SpiffeId,
}

/// The workload's credentials as they change; `None` until the first certificate.
pub type Source = watch::Receiver<Option<Arc<Credentials>>>;

/// Starts the client. The task ends when every receiver is gone; await it after dropping them.
///
/// Errs only on what retrying cannot mend: unreadable anchors, an unusable address.
pub fn start(config: CertifyConfig) -> Result<(Source, JoinHandle<()>), CertifyError> {
    let (credentials, receiver) = watch::channel(None);
    let bundle = read_anchors(&config)?;
    let anchors_seen = bundle.version();
    let shared = Arc::new(Shared {
        bundle: ArcSwap::from_pointee(bundle),
        anchors_seen: AtomicU64::new(anchors_seen),
        credentials,
        config,
        streams: AtomicBool::new(false),
        unchained: Notify::new(),
    });
    let addr = shared.config.identity_addr.clone();
    let dialler = Arc::clone(&shared);
    let channel =
        mtls_channel(&addr, move || dialler.tls()).map_err(|source| CertifyError::Address { addr, source })?;
    let task = tokio::spawn(async move {
        // Not one after the other: the bundle must go on changing while a renewal waits, and the reverse.
        tokio::select! {
            () = shared.credentials.closed() => {}
            () = shared.keep_certified(channel.clone()) => {}
            () = shared.keep_bundle(channel) => {}
        }
    });
    Ok((receiver, task))
}

struct Shared {
    config: CertifyConfig,
    /// The anchors that count now: from the file at first, then from the stream.
    bundle: ArcSwap<TrustBundle>,
    /// Version of the anchors file when last used; a change means that the file must be read again.
    anchors_seen: AtomicU64,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
    /// The stream has spoken and is open: its word on the bundle counts, not that of an answer, which may be older.
    streams: AtomicBool,
    /// Our certificate chains to nothing any more: another is due at once.
    unchained: Notify,
}

impl Shared {
    /// TLS for the next connection to the identity service.
    ///
    /// A process that slept through a rotation holds stale anchors and could never hear of new ones, so a file that
    /// changed since it was last used counts too, until the stream speaks again.
    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let mut bundle = TrustBundle::clone(&self.bundle.load());
        match read_anchors(&self.config) {
            Ok(file) if file.version() != self.anchors_seen.load(Ordering::Relaxed) => {
                bundle = bundle.union(&file).map_err(|e| e.to_string())?;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "keeping the trust anchors in use"),
        }
        anonymous_client_config(&bundle, &self.config.identity_id, &[Alpn::Grpc]).map_err(|e| e.to_string())
    }

    async fn keep_certified(&self, channel: Channel) {
        let mut client = IdentityClient::new(channel);
        let mut failures: u32 = 0;
        let mut life = None;
        loop {
            match timeout(CERTIFY_TIMEOUT, self.certify(&mut client)).await.unwrap_or(Err(CertifyError::Timeout)) {
                Ok(svid) => {
                    failures = 0;
                    let issued = Issued::now(&svid);
                    life = Some(issued.life);
                    metrics::counter!("remora_certificate_renewals_total").increment(1);
                    tokio::select! {
                        () = issued.due(fastrand::f64()) => {}
                        () = self.unchained() => {}
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let wait = retry_after(failures, life, fastrand::f64());
                    let reason = error.reason();
                    metrics::counter!("remora_certificate_renewal_failures_total", "reason" => reason).increment(1);
                    tracing::warn!(%error, reason, failures, ?wait, "cannot get a certificate");
                    sleep(wait).await;
                }
            }
        }
    }

    /// Returns when the certificate that is shown chains to nothing. What was told of an older one does not count: the anchors of an
    /// answer are taken before its certificate is published. Cancel safe.
    async fn unchained(&self) {
        while self.chains() {
            self.unchained.notified().await;
        }
    }

    fn chains(&self) -> bool {
        let bundle = self.bundle.load();
        self.credentials.borrow().as_ref().is_none_or(|shown| shown.svid.verify(&bundle, SystemTime::now()).is_ok())
    }

    async fn certify(&self, client: &mut IdentityClient<Channel>) -> Result<Svid, CertifyError> {
        let token = self.read_token()?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CertifyError::Request)?;
        let csr_der = request(&self.config.id, &key).map_err(CertifyError::Request)?;
        let response = client.certify(CertifyRequest { csr_der, token }).await.map_err(call_error)?.into_inner();
        let bundle = self.bundle_of(response.bundle.unwrap_or_default())?;
        let svid = Svid::new(response.chain_der, key.serialize_der()).map_err(CertifyError::Svid)?;
        svid.verify(&bundle, SystemTime::now()).map_err(CertifyError::Verify)?;
        if *svid.id() != self.config.id {
            return Err(CertifyError::WrongIdentity(svid.id().clone()));
        }
        self.learn(&bundle, &svid)?;
        self.publish(svid.clone());
        Ok(svid)
    }

    /// Takes the anchors that came with `svid`. While the stream is open it alone says which there are: an answer that was made before
    /// its last word would take back an anchor. But what is needed for our own certificate counts until it speaks again.
    fn learn(&self, bundle: &TrustBundle, svid: &Svid) -> Result<(), CertifyError> {
        let current = TrustBundle::clone(&self.bundle.load());
        if !self.streams.load(Ordering::Relaxed) {
            self.adopt(bundle.clone());
        } else if svid.verify(&current, SystemTime::now()).is_err() {
            self.adopt(current.union(bundle).map_err(CertifyError::Bundle)?);
        }
        Ok(())
    }

    async fn keep_bundle(&self, channel: Channel) {
        let mut client = IdentityClient::new(channel);
        let mut failures: u32 = 0;
        loop {
            let followed = self.follow_bundle(&mut client, &mut failures).await;
            self.streams.store(false, Ordering::Relaxed);
            match followed {
                Ok(()) => tracing::debug!("bundle stream ended"),
                Err(error) => tracing::debug!(%error, "bundle stream broke"),
            }
            failures = failures.saturating_add(1);
            // Sooner where certificates are short-lived: an issuer signs a quarter of a life after its anchor is published.
            let life = self.credentials.borrow().as_ref().map(|credentials| life(&credentials.svid));
            sleep(retry_after(failures, None, fastrand::f64()).min(retry_after(failures, life, fastrand::f64()))).await;
        }
    }

    async fn follow_bundle(
        &self,
        client: &mut IdentityClient<Channel>,
        failures: &mut u32,
    ) -> Result<(), CertifyError> {
        let trust_domain = self.config.id.trust_domain_str().to_owned();
        let mut stream =
            client.watch_bundle(WatchBundleRequest { trust_domain }).await.map_err(call_error)?.into_inner();
        while let Some(bundle) = stream.message().await.map_err(call_error)? {
            *failures = 0;
            match self.bundle_of(bundle) {
                Ok(bundle) => {
                    self.streams.store(true, Ordering::Relaxed);
                    self.adopt(bundle);
                }
                Err(error) => tracing::error!(%error, "refusing the new trust bundle, keeping the old"),
            }
        }
        Ok(())
    }

    fn bundle_of(&self, bundle: Bundle) -> Result<TrustBundle, CertifyError> {
        if bundle.trust_domain != self.config.id.trust_domain_str() {
            return Err(CertifyError::TrustDomain(bundle.trust_domain));
        }
        TrustBundle::new(self.config.id.trust_domain(), bundle.anchors_der).map_err(CertifyError::Bundle)
    }

    /// Makes `bundle` the one that counts, for peers and for the identity service.
    fn adopt(&self, bundle: TrustBundle) {
        if let Ok(file) = read_anchors(&self.config) {
            self.anchors_seen.store(file.version(), Ordering::Relaxed);
        }
        if self.bundle.load().version() == bundle.version() {
            return;
        }
        tracing::info!(anchors = bundle.anchors().len(), "trust bundle changed");
        self.bundle.store(Arc::new(bundle.clone()));
        self.credentials.send_if_modified(|credentials| {
            let Some(old) = credentials else { return false };
            let (svid, generation) = (old.svid.clone(), old.generation + 1);
            if let Err(error) = svid.verify(&bundle, SystemTime::now()) {
                tracing::warn!(%error, "our certificate is not accepted by the new trust bundle; asking for another");
                metrics::counter!("remora_certificate_unchained_total").increment(1);
                self.unchained.notify_one();
            }
            *credentials = Some(Arc::new(Credentials { svid, bundle, generation }));
            true
        });
    }

    fn publish(&self, svid: Svid) {
        let not_after = svid.not_after().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        metrics::gauge!("remora_certificate_expiry_timestamp_seconds").set(not_after);
        tracing::info!(id = %svid.id(), not_after, "certified");
        let bundle = TrustBundle::clone(&self.bundle.load());
        self.credentials.send_modify(|credentials| {
            let generation = credentials.as_ref().map_or(1, |old| old.generation + 1);
            *credentials = Some(Arc::new(Credentials { svid, bundle, generation }));
        });
    }

    fn read_token(&self) -> Result<String, CertifyError> {
        let path = &self.config.token_path;
        let token =
            std::fs::read_to_string(path).map_err(|source| CertifyError::ReadToken { path: path.clone(), source })?;
        match token.trim() {
            token if (1..=TOKEN_BYTES_MAX).contains(&token.len()) => Ok(token.to_owned()),
            other => Err(CertifyError::TokenSize { path: path.clone(), bytes: other.len() }),
        }
    }
}

/// When a certificate came, on both clocks: the monotonic one does not run while a machine sleeps, the other may be
/// set back. Whichever says first that renewal is due is believed.
struct Issued {
    wall: SystemTime,
    monotonic: Instant,
    life: Duration,
}

impl Issued {
    fn now(svid: &Svid) -> Self {
        let wall = SystemTime::now();
        let life = svid.not_after().duration_since(wall).unwrap_or_default();
        Self { wall, monotonic: Instant::now(), life }
    }

    async fn due(&self, random: f64) {
        let after = renew_after(self.life, random);
        loop {
            let by_wall = SystemTime::now().duration_since(self.wall).unwrap_or_default();
            let elapsed = by_wall.max(self.monotonic.elapsed());
            match after.checked_sub(elapsed) {
                None | Some(Duration::ZERO) => return,
                Some(left) => sleep(left.min(CLOCK_CHECK)).await,
            }
        }
    }
}

/// How long a certificate lives, from its first moment to its last.
fn life(svid: &Svid) -> Duration {
    svid.not_after().duration_since(svid.not_before()).unwrap_or_default()
}

/// A certificate request for `key`. The name in it is for readers only: the CA takes the identity from the token.
fn request(id: &SpiffeId, key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    Ok(params.serialize_request(key)?.der().to_vec())
}

fn read_anchors(config: &CertifyConfig) -> Result<TrustBundle, CertifyError> {
    let path = &config.anchors_path;
    let pem = std::fs::read(path).map_err(|source| CertifyError::ReadAnchors { path: path.clone(), source })?;
    TrustBundle::from_pem(config.id.trust_domain(), &pem)
        .map_err(|source| CertifyError::Anchors { path: path.clone(), source })
}

/// tonic's messages hide their causes ("transport error"); the operator needs them.
fn call_error(status: tonic::Status) -> CertifyError {
    let mut message = status.message().to_owned();
    let mut cause = std::error::Error::source(&status);
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    CertifyError::Call { code: status.code(), message }
}
