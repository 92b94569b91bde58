//! The gRPC service: `Certify` and `WatchBundle`. Every issuance and every refusal leaves a line in the audit log.

use crate::{
    authority::Authority,
    csr::{self, CsrError},
    issuer::IssuerError,
    rate::{Limited, Limiter},
    revoked::Known,
    token::{Proofs, Rules, TokenError, Workload, cut, review::ReviewError},
};
use futures_util::stream::{Stream, StreamExt as _};
use remora_api::v1::{Bundle, CertifyRequest, CertifyResponse, WatchBundleRequest, identity_server::Identity};
use remora_kube::client::CallError;
use remora_model::{PodName, TrustDomain};
use remora_runtime::{drain, grpc::Peer, tls::TrustBundle};
use std::{
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

/// How leaves are made and for whom.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Ours.
    pub trust_domain: TrustDomain,
    /// Where this service runs: part of its own identity.
    pub namespace: String,
    /// Audience that tokens must be for.
    pub audience: String,
    /// How long leaves live.
    pub leaf_lifetime: Duration,
    /// How far clocks may be apart.
    pub skew: Duration,
}

/// Why a certificate is not issued.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The token breaks a rule.
    #[error("{0}")]
    Token(#[source] TokenError),
    /// The request breaks a rule.
    #[error("{0}")]
    Csr(#[source] CsrError),
    /// Too often.
    #[error("rate limit of {0}; retry with backoff")]
    Limited(&'static str),
    /// Too many at once.
    #[error("too many tokens are waiting to be reviewed; retry with backoff")]
    Busy,
    /// The token could not be verified now.
    #[error("cannot review the token: {0}; retry with backoff")]
    Review(#[source] CallError),
    /// Operators trust it no more.
    #[error("{0}")]
    Revoked(String),
    /// It is not known yet who is revoked.
    #[error("it is not known yet who is revoked; retry with backoff")]
    Unread,
    /// Our fault.
    #[error("issuer cannot sign: {0}")]
    Issuer(#[source] IssuerError),
    /// No issuer can sign now.
    #[error("issuer cannot sign: {0}; retry with backoff")]
    Unable(String),
}

impl Refusal {
    fn reason(&self) -> &'static str {
        match self {
            Self::Token(error) => error.reason(),
            Self::Csr(error) => error.reason(),
            Self::Limited(_) => "rate_limit",
            Self::Busy => "token_review_busy",
            Self::Review(_) => "token_review",
            Self::Revoked(_) => "revoked",
            Self::Unread => "revocations_unread",
            Self::Issuer(_) | Self::Unable(_) => "issuer",
        }
    }

    fn status(&self) -> Status {
        let message = self.to_string();
        match self {
            // By what, and why, is for the log.
            Self::Revoked(_) => Status::permission_denied("this identity or pod is revoked"),
            Self::Token(_) => Status::unauthenticated(message),
            Self::Csr(_) => Status::invalid_argument(message),
            Self::Limited(_) | Self::Busy => Status::resource_exhausted(message),
            // The caller tries again.
            Self::Review(_) | Self::Unread | Self::Issuer(_) | Self::Unable(_) => Status::unavailable(message),
        }
    }
}

/// Answers `remora.v1.Identity`.
#[derive(Debug)]
pub struct Service {
    authority: Arc<Authority>,
    proofs: Arc<Proofs>,
    terms: Terms,
    workloads: Mutex<Limiter<String>>,
    addresses: Mutex<Limiter<IpAddr>>,
    revoked: Known,
    started: Instant,
    drain: drain::Watch,
}

impl Service {
    /// Over `authority` and `proofs`, for all but the `revoked`, until `drain`.
    #[must_use]
    pub fn new(
        authority: Arc<Authority>,
        proofs: Arc<Proofs>,
        terms: Terms,
        revoked: Known,
        drain: drain::Watch,
    ) -> Self {
        let (workloads, addresses) = (Mutex::new(Limiter::workloads()), Mutex::new(Limiter::addresses()));
        Self { authority, proofs, terms, workloads, addresses, revoked, started: Instant::now(), drain }
    }

    async fn issue(&self, request: &CertifyRequest, peer: Option<&Peer>) -> Result<CertifyResponse, Refusal> {
        let rules =
            Rules { audience: &self.terms.audience, trust_domain: &self.terms.trust_domain, skew: self.terms.skew };
        // Cheapest first: junk is refused before it costs a signature or a call. What was well asked is given back
        // below, so that pods behind one address do not take each other's share.
        let from = peer.map(|peer| peer.addr.ip().to_canonical());
        if let Some(from) = from {
            lock(&self.addresses).take(from, self.started.elapsed()).map_err(|limited| match limited {
                Limited::One => Refusal::Limited("this address"),
                Limited::Everybody => Refusal::Limited("all addresses"),
            })?;
        }
        let workload =
            self.proofs.check(&request.token, rules, SystemTime::now()).await.map_err(|error| match error {
                ReviewError::Token(error) => Refusal::Token(error),
                ReviewError::Busy => Refusal::Busy,
                ReviewError::Away(error) => Refusal::Review(error),
            })?;
        let now = SystemTime::now();
        let by = format!("{} {}", workload.id, workload.pod.uid);
        lock(&self.workloads).take(by, self.started.elapsed()).map_err(|limited| match limited {
            Limited::One => Refusal::Limited("this workload"),
            Limited::Everybody => Refusal::Limited("the service"),
        })?;
        let pod = self.not_revoked(&workload, now)?;
        let asked = csr::read(&request.csr_der).map_err(Refusal::Csr)?;
        let key = asked.key_for(&workload.id).map_err(Refusal::Csr)?;
        let issuer = self.authority.issuer(now).map_err(Refusal::Unable)?;
        let mut lifetime = self.terms.leaf_lifetime;
        if workload.proven.recalled {
            metrics::counter!("remora_identity_recalled_total").increment(1);
            lifetime = lifetime.min(workload.proven.token_ends.duration_since(now).unwrap_or_default());
        }
        let whom = (&workload.id, pod.as_ref());
        let leaf = issuer.sign_for(whom, &key, now, (lifetime, self.terms.skew)).map_err(Refusal::Issuer)?;
        self.proofs.certified(&request.token, &workload, (now, leaf.not_after));
        if let Some(from) = from {
            lock(&self.addresses).give_back(&from);
        }
        let not_after = leaf.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // The audit line: one per issuance, always these fields.
        tracing::info!(
            target: "audit",
            id = %workload.id,
            pod = workload.pod.name,
            pod_uid = workload.pod.uid,
            serial = leaf.serial,
            not_after,
            recalled = workload.proven.recalled,
            peer = peer.map(|peer| peer.addr.to_string()),
            "issued"
        );
        Ok(CertifyResponse {
            chain_der: leaf.chain,
            bundle: Some(message(self.authority.state().bundle())),
            not_after: i64::try_from(not_after).unwrap_or(i64::MAX),
        })
    }

    /// The pod that the certificate will name, if neither it nor the identity is revoked. The serial of a certificate that a caller has is
    /// unknown here, and revoked alone.
    fn not_revoked(&self, workload: &Workload, now: SystemTime) -> Result<Option<PodName>, Refusal> {
        let namespace = workload.id.namespace().unwrap_or_default();
        let pod = PodName::new(namespace, &workload.pod.name, &workload.pod.uid);
        let known = self.revoked.borrow().clone().ok_or(Refusal::Unread)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let by = known.of_identity(&workload.id, now).or_else(|| known.of_pod(pod.as_ref()?, now));
        match by {
            Some(by) => {
                Err(Refusal::Revoked(format!("{} of pod {} is revoked by {by}", workload.id, workload.pod.name)))
            }
            None => Ok(pod),
        }
    }
}

#[tonic::async_trait]
impl Identity for Service {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        match self.issue(request.get_ref(), peer.as_ref()).await {
            Ok(response) => {
                metrics::counter!("remora_identity_issued_total").increment(1);
                Ok(Response::new(response))
            }
            Err(refusal) => {
                let reason = refusal.reason();
                metrics::counter!("remora_identity_refused_total", "reason" => reason).increment(1);
                let peer = peer.map(|peer| peer.addr.to_string());
                tracing::warn!(target: "audit", reason, %refusal, peer, "refused");
                Err(refusal.status())
            }
        }
    }

    type WatchBundleStream = Pin<Box<dyn Stream<Item = Result<Bundle, Status>> + Send>>;

    async fn watch_bundle(
        &self,
        request: Request<WatchBundleRequest>,
    ) -> Result<Response<Self::WatchBundleStream>, Status> {
        let wanted = &request.get_ref().trust_domain;
        if !wanted.is_empty() && wanted != self.terms.trust_domain.as_str() {
            return Err(Status::not_found(format!("no bundle for trust domain {:?} here", cut(wanted))));
        }
        let drain = self.drain.clone();
        let mut last = None;
        // A watch holds one value: a slow reader skips to the latest.
        let bundles = WatchStream::new(self.authority.watch())
            .filter_map(move |state| {
                let bundle = state.bundle();
                let changed = last.replace(bundle.version()) != Some(bundle.version());
                std::future::ready(changed.then(|| Ok(message(bundle))))
            })
            .take_until(async move { drain.signaled().await });
        Ok(Response::new(Box::pin(bundles)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn message(bundle: &TrustBundle) -> Bundle {
    Bundle {
        trust_domain: bundle.trust_domain().to_string(),
        version: bundle.version(),
        anchors_der: bundle.anchors().iter().map(|anchor| anchor.to_vec()).collect(),
    }
}
