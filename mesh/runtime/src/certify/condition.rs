//! The certificate as a condition of readiness.

use std::time::SystemTime;

use tokio::time::timeout;

use super::{CLOCK_CHECK, Source};
use crate::admin::Readiness;

/// What the condition is called.
pub const CERTIFICATE: &str = "certificate";

/// Keeps the condition [`CERTIFICATE`]: met while there is a certificate that has not ended. Returns when the source
/// does. Cancel-safe.
pub async fn report(readiness: &Readiness, mut source: Source) {
    readiness.waiting(CERTIFICATE, "the identity service has not signed one yet");
    loop {
        let end = source.borrow_and_update().as_ref().map(|credentials| credentials.svid.not_after());
        let changed = match end.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default()) {
            None => source.changed().await,
            Some(left) if left.is_zero() => {
                readiness.waiting(CERTIFICATE, "it has ended, and the identity service has not signed another");
                source.changed().await
            }
            Some(left) => {
                readiness.ready(CERTIFICATE);
                // The wall clock may be set: look now and then.
                timeout(left.min(CLOCK_CHECK), source.changed()).await.unwrap_or(Ok(()))
            }
        };
        if changed.is_err() {
            return;
        }
    }
}
