//! The certificate as a condition of readiness.

use super::{CLOCK_CHECK, Source};
use crate::{
    admin::Readiness,
    tls::{Credentials, VerifyError},
};
use std::time::SystemTime;
use tokio::time::timeout;

/// What the condition is called.
pub const CERTIFICATE: &str = "certificate";

/// Keeps the condition [`CERTIFICATE`]: met while there is a certificate that has not ended and that peers accept, who trust what we
/// do. Returns when the source does. Cancel-safe.
pub async fn report(readiness: &Readiness, mut source: Source) {
    readiness.waiting(CERTIFICATE, "the identity service has not signed one yet");
    loop {
        let now = SystemTime::now();
        let (end, accepted) = match source.borrow_and_update().as_deref() {
            Some(Credentials { svid, bundle, .. }) => (Some(svid.not_after()), svid.verify(bundle, now)),
            None => (None, Err(VerifyError::NoCertificate)),
        };
        let changed = match end.map(|end| end.duration_since(now).unwrap_or_default()) {
            None => source.changed().await,
            Some(left) if left.is_zero() => {
                readiness.waiting(CERTIFICATE, "it has ended, and the identity service has not signed another");
                source.changed().await
            }
            Some(left) => {
                match accepted {
                    Ok(_) => readiness.ready(CERTIFICATE),
                    Err(error) => {
                        readiness.waiting(CERTIFICATE, format!("peers refuse it, and another is asked for: {error}"));
                    }
                }
                // The wall clock may be set: look now and then.
                timeout(left.min(CLOCK_CHECK), source.changed()).await.unwrap_or(Ok(()))
            }
        };
        if changed.is_err() {
            return;
        }
    }
}
