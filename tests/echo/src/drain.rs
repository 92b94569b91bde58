//! The word to stop, as every connection hears it.

use tokio::sync::watch;

/// Waits for the word. The value behind it is not held on to, so that whoever waits can be sent between threads.
pub(crate) async fn drained(draining: &mut watch::Receiver<bool>) {
    // A server that is gone drains as well.
    drop(draining.wait_for(|&draining| draining).await);
}
