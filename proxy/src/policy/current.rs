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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use remora_model::{DryRun, Inbound, MtlsMode, Protocol, TrustDomain};

    fn compiled(mtls: MtlsMode) -> Arc<Policy> {
        let inbound = Inbound {
            port: 80,
            parent: "shop/api:80".into(),
            protocol: Protocol::Detect,
            mtls,
            default_deny: false,
            rules: Vec::new(),
            dry_run: DryRun::default(),
            ending: false,
            trust_domain: TrustDomain::new("cluster.local").unwrap(),
        };
        Arc::new(Policy::new(Arc::new(inbound)))
    }

    #[tokio::test]
    async fn whoever_waits_for_a_change_hears_of_each_and_of_nothing_else() {
        let current = Current::new(compiled(MtlsMode::Permissive));
        let mut changes = current.changes();
        current.set(compiled(MtlsMode::Permissive));
        assert!(changes.next().now_or_never().is_none(), "the same again is no change");
        current.set(compiled(MtlsMode::Strict));
        assert!(changes.next().now_or_never().is_some() && changes.next().now_or_never().is_none());
        let nobody = crate::policy::Peer { identity: None, address: [10, 0, 0, 9].into() };
        assert!(current.get().admits(&nobody).is_err());
    }
}
