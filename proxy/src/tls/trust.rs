//! Whether the certificates of an open connection's peer are still trusted. In: its certificates, and the trust bundle as it changes. Out: a
//! wake-up when no anchor is left that they chain to.
//!
//! An anchor is removed from the bundle because its key is not trusted any more. So the certificates that it has signed are not trusted either,
//! and open connections of their owners must end.

use super::Source;
use crate::limits;
use remora_model::SpiffeId;
use remora_runtime::tls::{TrustBundle, VerifyError, verify_svid};
use rustls::pki_types::CertificateDer;
use std::{fmt, io, net::SocketAddr, time::SystemTime};
use tokio::time::sleep;

/// The cause of connections that end so, in the metric's label.
pub(crate) const UNTRUSTED: &str = "untrusted";

/// What a read or write says of a connection that has ended so.
#[derive(Debug, thiserror::Error)]
#[error("trust anchors have changed: {0}")]
struct Untrusted(VerifyError);

/// Whether a connection to a peer ended because no trust anchor vouches for the peer any more. By its kind, which is all that the libraries
/// above pass on; no socket says that of a connection that is open.
pub(crate) fn is_untrusted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// What a peer showed when it was let in. A kilobyte or two per connection.
pub(crate) struct Trust {
    chain: Vec<CertificateDer<'static>>,
    bundle: TrustBundle,
    source: Source,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

impl Trust {
    /// `chain`, leaf first, was judged by `bundle`; `source` has those that follow.
    pub(super) fn new(chain: Vec<CertificateDer<'static>>, bundle: TrustBundle, source: Source) -> Self {
        Self { chain, bundle, source }
    }

    /// The error of a connection to the peer at `address` that has to end, once it has to. It is counted and logged.
    pub(super) async fn revoked(self, address: SocketAddr, expected: SpiffeId) -> io::Error {
        let error = self.lost().await;
        metrics::counter!("remora_connections_revoked_total", "cause" => UNTRUSTED).increment(1);
        remora_runtime::limited!(info by UNTRUSTED, peer = %expected, %address, cause = UNTRUSTED, %error, "connection ended");
        io::Error::new(io::ErrorKind::PermissionDenied, Untrusted(error))
    }

    /// Returns once no anchor vouches for the peer any more. A bundle that only grew is not looked at; after one that
    /// shrank, connections are judged at different moments within [`limits::TRUST_JITTER`]. Cancel safe.
    pub(crate) async fn lost(&self) -> VerifyError {
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
