//! The policy of one port: the compiled rules, and what those that decide nothing write to. In: what discovery says of the port.
//! Out: a [`Verdict`] for each request and byte connection, to be recorded.

use super::{Act, Denial, Peer, Permit, record::Counters};
use remora_model::Inbound;
use remora_policy::{Compiled, Noted};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct Policy {
    compiled: Compiled,
    /// By the index of the rule in [`Compiled::noting`].
    pub(super) noting: Vec<(Arc<str>, Counters)>,
}

/// What came of judging one request or connection.
#[derive(Debug)]
#[must_use]
pub(crate) struct Verdict {
    pub decision: Result<Permit, Denial>,
    /// As of [`remora_policy::Decision::noted`].
    pub(super) noted: Vec<(usize, Noted)>,
}

impl Policy {
    /// Compiles the rules.
    pub(crate) fn new(inbound: Arc<Inbound>) -> Self {
        let compiled = Compiled::new(inbound);
        let noting = compiled.noting().map(|rule| (rule.clone(), Counters::new(rule))).collect();
        Self { compiled, noting }
    }

    /// As discovery says it.
    pub(crate) fn inbound(&self) -> &Arc<Inbound> {
        self.compiled.inbound()
    }

    /// As of [`Compiled::admits`].
    pub(crate) fn admits(&self, peer: &Peer) -> Result<(), Denial> {
        self.compiled.admits(peer)
    }

    /// As of [`Compiled::allows`]: it permits nothing.
    pub(crate) fn allows(&self, peer: &Peer, act: Act<'_>) -> Result<(), Denial> {
        self.compiled.allows(peer, act)
    }

    /// Judges `act`. The verdict is to be [recorded](Verdict::record), once.
    pub(crate) fn judge(&self, peer: &Peer, act: Act<'_>) -> Verdict {
        let decision = self.compiled.judge(peer, act);
        Verdict { decision: decision.outcome.map(|_| Permit(())), noted: decision.noted }
    }
}
