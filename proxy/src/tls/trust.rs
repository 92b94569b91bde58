//! Whether the certificates of an open connection's peer are still trusted. In: its certificates, the trust bundle and the revocations as they
//! change. Out: a wake-up when no anchor is left that they chain to, or when their owner is revoked.
//!
//! An anchor is removed from the bundle because its key is not trusted any more. So the certificates that it has signed are not trusted either,
//! and open connections of their owners must end. Who is revoked ends at once: somebody waits for it.

use super::{Revoked, Source};
use crate::limits;
use remora_model::{Revocations, SpiffeId};
use remora_runtime::tls::{TrustBundle, VerifyError, refuse_revoked, verify_svid};
use rustls::pki_types::CertificateDer;
use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, time::sleep};

/// The cause of connections that end so, in the metric's label.
pub(crate) const UNTRUSTED: &str = "untrusted";

/// The same of those whose peer was revoked.
pub(crate) const REVOKED: &str = "revoked";

/// What a read or write says of a connection that has ended so.
#[derive(Debug, thiserror::Error)]
#[error("trust has changed: {0}")]
struct Untrusted(VerifyError);

/// Whether a connection to a peer ended because the peer is revoked, or because no trust anchor vouches for it any more. By its kind, which is all that the libraries
/// above pass on; no socket says that of a connection that is open.
pub(crate) fn is_untrusted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// What a peer showed when it was let in. A kilobyte or two per connection.
pub(crate) struct Trust {
    chain: Vec<CertificateDer<'static>>,
    bundle: TrustBundle,
    source: Source,
    revoked: Revoked,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

impl Trust {
    /// `chain`, leaf first, was judged by `bundle`; `source` has those that follow.
    pub(super) fn new(chain: Vec<CertificateDer<'static>>, bundle: TrustBundle, source: Source) -> Self {
        Self { chain, bundle, source, revoked: watch::channel(Arc::default()).1 }
    }

    /// And until one of `revoked` names the peer.
    pub(super) fn unless(self, revoked: Revoked) -> Self {
        Self { revoked, ..self }
    }

    /// The error of a connection to the peer at `address` that has to end, once it has to. It is counted and logged.
    pub(super) async fn revoked(self, address: SocketAddr, expected: SpiffeId) -> io::Error {
        let error = self.lost().await;
        let cause = cause(&error);
        metrics::counter!("remora_connections_revoked_total", "cause" => cause).increment(1);
        remora_runtime::limited!(info by cause, peer = %expected, %address, cause, %error, "connection ended");
        io::Error::new(io::ErrorKind::PermissionDenied, Untrusted(error))
    }

    /// Returns once the peer is revoked, or no anchor vouches for it any more. Cancel safe.
    pub(crate) async fn lost(&self) -> VerifyError {
        tokio::select! {
            biased;
            error = self.refused() => error,
            error = self.unvouched() => error,
        }
    }

    /// Returns once the peer is revoked.
    async fn refused(&self) -> VerifyError {
        let mut revoked = self.revoked.clone();
        loop {
            // Before the first wait too: it may have been revoked during the handshake.
            let now = revoked.borrow_and_update().clone();
            if let Err(error) = self.judge(&now) {
                return error;
            }
            if revoked.changed().await.is_err() {
                return std::future::pending().await; // the process ends
            }
        }
    }

    fn judge(&self, revoked: &Revocations) -> Result<(), VerifyError> {
        let Some(leaf) = self.chain.first() else { return Ok(()) };
        let now = UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
        refuse_revoked(leaf, revoked, now)
    }

    /// Returns once no anchor vouches for the peer any more. A bundle that only grew is not looked at; after one that
    /// shrank, connections are judged at different moments within [`limits::TRUST_JITTER`].
    async fn unvouched(&self) -> VerifyError {
        let (mut source, mut bundle) = (self.source.clone(), self.bundle.clone());
        loop {
            let now = source.borrow_and_update().as_ref().map(|credentials| credentials.bundle.clone());
            if let Some(now) = now.filter(|now| now.version() != bundle.version()) {
                let shrank = bundle.anchors().iter().any(|anchor| !now.anchors().contains(anchor));
                if shrank {
                    sleep(limits::TRUST_JITTER.mul_f64(fastrand::f64())).await;
                    match verify_svid(&self.chain, &now, SystemTime::now()) {
                        // Its end is the connection's, whatever the anchors.
                        Ok(_) | Err(VerifyError::Expired) => {}
                        Err(error) => return error,
                    }
                }
                bundle = now;
            }
            if source.changed().await.is_err() {
                return std::future::pending().await; // the process ends
            }
        }
    }
}

/// The cause in the metric's label.
pub(crate) const fn cause(error: &VerifyError) -> &'static str {
    match error {
        VerifyError::Revoked(_) => REVOKED,
        _ => UNTRUSTED,
    }
}
