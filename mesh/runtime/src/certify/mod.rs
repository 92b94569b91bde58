//! The workload's own certificate: proves itself to the identity service, renews, follows the trust bundle.
//!
//! In: a token file, an anchors file, an address. Out: a watch of [`Credentials`], `None` until the first certificate.
//! Losing the identity service changes nothing for as long as the leaf lives. A renewal uses a fresh key each time,
//! re-reads the token, and is checked against the bundle before anybody sees it. Deliberately not here: any use of the
//! certificate. Whether there is one that has not ended is a condition of readiness ([`report`]).

mod condition;
mod schedule;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use remora_api::v1::identity_client::IdentityClient;
use remora_api::v1::{Bundle, CertifyRequest, WatchBundleRequest};
use remora_model::SpiffeId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use crate::grpc::mtls_channel;
use crate::tls::{
    Alpn, ClientConfig, Credentials, InvalidBundle, InvalidSvid, Svid, TrustBundle, VerifyError,
    anonymous_client_config,
};

pub use condition::{CERTIFICATE, report};
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

/// Why a certificate could not be had. All are retried; all but the last few are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// The anchors file cannot be read.
    #[error("cannot read trust anchors {path}: {source}")]
    ReadAnchors {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The anchors are unusable.
    #[error("trust anchors {path} are unusable: {source}")]
    Anchors {
        /// Which file.
        path: PathBuf,
        /// What is wrong with them.
        source: InvalidBundle,
    },
    /// The token file cannot be read.
    #[error("cannot read token {path}: {source}")]
    ReadToken {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The token file is empty or far too large.
    #[error("token {path} is {bytes} bytes long; expected 1 to {TOKEN_BYTES_MAX}")]
    TokenSize {
        /// Which file.
        path: PathBuf,
        /// How long it is.
        bytes: usize,
    },
    /// Key or CSR could not be made.
    #[error("cannot make a certificate request: {0}")]
    Request(#[source] rcgen::Error),
    /// The address is no address.
    #[error("identity address {addr} is unusable: {source}")]
    Address {
        /// As configured.
        addr: String,
        /// What is wrong.
        source: tonic::transport::Error,
    },
    /// The identity service did not answer, or refused.
    #[error("identity service refused or failed: {code:?}: {message}")]
    Call {
        /// gRPC code.
        code: tonic::Code,
        /// What it said, with the transport's causes.
        message: String,
    },
    /// No answer within the time allowed.
    #[error("identity service did not answer within {CERTIFY_TIMEOUT:?}")]
    Timeout,
    /// The answer lacks its bundle or holds an unusable one.
    #[error("identity service sent an unusable bundle: {0}")]
    Bundle(#[source] InvalidBundle),
    /// The bundle is for another trust domain.
    #[error("identity service speaks for trust domain {0}, not ours")]
    TrustDomain(String),
    /// The certificate is unusable.
    #[error("identity service sent an unusable certificate: {0}")]
    Svid(#[source] InvalidSvid),
    /// The certificate does not verify against the bundle that came with it.
    #[error("identity service sent a certificate that peers would refuse: {0}")]
    Verify(#[source] VerifyError),
    /// The certificate is somebody else's.
    #[error("identity service certified us as {0}; check namespace and service account")]
    WrongIdentity(SpiffeId),
}

impl CertifyError {
    /// A short stable name for metric labels and log fields.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ReadAnchors { .. } | Self::Anchors { .. } => "anchors",
            Self::ReadToken { .. } | Self::TokenSize { .. } => "token",
            Self::Request(_) => "request",
            Self::Address { .. } => "address",
            Self::Call { code: tonic::Code::Unavailable, .. } => "unavailable",
            Self::Call { .. } => "refused",
            Self::Timeout => "timeout",
            Self::Bundle(_) | Self::TrustDomain(_) => "bundle",
            Self::Svid(_) | Self::Verify(_) | Self::WrongIdentity(_) => "certificate",
        }
    }
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
    /// Version of the anchors file when last used; a change of it means that somebody wants us to look.
    anchors_seen: AtomicU64,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
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
                    issued.due(fastrand::f64()).await;
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
        self.adopt(bundle);
        self.publish(svid.clone());
        Ok(svid)
    }

    async fn keep_bundle(&self, channel: Channel) {
        let mut client = IdentityClient::new(channel);
        let mut failures: u32 = 0;
        loop {
            match self.follow_bundle(&mut client, &mut failures).await {
                Ok(()) => tracing::debug!("bundle stream ended"),
                Err(error) => tracing::debug!(%error, "bundle stream broke"),
            }
            failures = failures.saturating_add(1);
            sleep(retry_after(failures, None, fastrand::f64())).await;
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
                Ok(bundle) => self.adopt(bundle),
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

/// A certificate request for `key`. The name in it is a courtesy to whoever reads it: the CA goes by the token.
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
