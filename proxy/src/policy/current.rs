//! The policy of one port as it changes. In: what discovery says. Out: the compiled policy of this moment, and a wake-up
//! for open connections that it allowed.

use super::Policy;
use std::{cell::RefCell, sync::Arc};
use tokio::sync::watch;

/// Compiled once per change, read per request without a lock. One per port and worker.
#[derive(Debug)]
pub(crate) struct Current {
    policy: RefCell<Arc<Policy>>,
    changed: watch::Sender<()>,
}

/// Reports changes. Never ends: a waiting connection holds the port.
#[derive(Debug)]
pub(crate) struct Changes(watch::Receiver<()>);

impl Current {
    /// The policy that holds first. Ports that have the same share it.
    pub(crate) fn new(policy: Arc<Policy>) -> Self {
        Self { policy: RefCell::new(policy), changed: watch::Sender::new(()) }
    }

    /// Sets the current policy. An equal policy wakes no connection.
    pub(crate) fn set(&self, policy: Arc<Policy>) {
        let before = self.policy.replace(policy.clone());
        if **before.inbound() != **policy.inbound() {
            self.changed.send_replace(());
        }
    }

    /// The policy of this moment.
    pub(crate) fn get(&self) -> Arc<Policy> {
        self.policy.borrow().clone()
    }

    /// Changes from now on.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.changed.subscribe())
    }
}

impl Changes {
    /// Returns after a change that was not waited for yet. Cancel safe.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
