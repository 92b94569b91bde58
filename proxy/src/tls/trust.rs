//! Whether the certificates of an open connection's peer are still trusted. In: its certificates, and the trust bundle as it changes. Out: a
//! wake-up when no anchor is left that they chain to.
//!
//! An anchor is removed from the bundle because its key is not trusted any more. So the certificates that it has signed are not trusted either,
//! and open connections of their owners must end.

use super::Source;
use crate::limits;
use remora_runtime::tls::{TrustBundle, VerifyError, verify_svid};
use rustls::pki_types::CertificateDer;
use std::{fmt, time::SystemTime};
use tokio::time::sleep;

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
