//! The policy of one port: the compiled rules, and what those that decide nothing write to. In: what discovery says of the port.
//! Out: a [`Verdict`] for each request and byte connection, to be recorded.

use super::{Act, Denial, Peer, Permit, record::Noting};
use crate::jwt::{self, Issuers};
use remora_model::Inbound;
use remora_policy::{Compiled, Noted};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct Policy {
    compiled: Compiled,
    /// By the index of the rule in [`Compiled::noting`].
    pub(super) noting: Vec<Noting>,
    /// Whose tokens requests may carry, if any are named; and those in dry run.
    issuers: Option<Issuers>,
    tried: Option<Issuers>,
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
    /// Compiles the rules. Issuers whose keys are not known keep those that they had `before`.
    pub(crate) fn new(inbound: Arc<Inbound>, tokens: &jwt::Memory, before: Option<&Self>) -> Self {
        let before: Vec<&Issuers> = before.into_iter().flat_map(|it| it.issuers.iter().chain(&it.tried)).collect();
        let issuers = |dry_run: bool| {
            let these: Vec<_> = inbound.issuers.iter().filter(|issuer| issuer.dry_run == dry_run).collect();
            let sources = inbound.rules.iter().flat_map(|rule| &rule.from);
            Issuers::new(&these, sources.filter_map(|source| source.jwt.as_ref()), tokens, &before)
        };
        let (issuers, tried) = (issuers(false), issuers(true));
        let compiled = Compiled::new(inbound);
        let noting = compiled.noting().map(Noting::new).collect();
        Self { compiled, noting, issuers, tried }
    }

    /// Whose tokens requests may carry, if any are named.
    pub(crate) fn issuers(&self) -> Option<&Issuers> {
        self.issuers.as_ref()
    }

    /// Those in dry run, which refuse nothing and leave every field alone.
    pub(crate) fn tried_issuers(&self) -> Option<&Issuers> {
        self.tried.as_ref()
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
    pub(crate) fn allows(&self, (peer, port): (&Peer, u16), act: Act<'_>) -> Result<(), Denial> {
        self.compiled.allows(peer, port, act)
    }

    /// Judges `act` at a port of the pod. The verdict is to be [recorded](Verdict::record), once.
    pub(crate) fn judge(&self, (peer, port): (&Peer, u16), act: Act<'_>) -> Verdict {
        let decision = self.compiled.judge(peer, port, act);
        Verdict { decision: decision.outcome.map(|_| Permit(())), noted: decision.noted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_model::{Action, AuthorizationRule, DryRun, MtlsMode, Protocol, TrustDomain};

    #[test]
    fn what_decides_nothing_is_counted_and_the_verdict_is_the_same() {
        let rule =
            |action, dry_run| AuthorizationRule { dry_run, ..AuthorizationRule::of("shop/p rule 0".into(), action) };
        let mut inbound = Inbound {
            port: 80,
            parent: "shop/api:80".into(),
            protocol: Protocol::Detect,
            mtls: MtlsMode::Permissive,
            default_deny: false,
            rules: vec![rule(Action::Audit, false), rule(Action::Deny, true)],
            dry_run: DryRun { strict: Some("shop/strict".into()), allow: Vec::new() },
            issuers: Vec::new(),
            traffic: Default::default(),
            ending: false,
            trust_domain: TrustDomain::new("cluster.local").unwrap(),
        };
        let peer = Peer { identity: None, address: [10, 0, 0, 9].into() };
        let judged = |inbound: &Inbound| {
            let policy = Policy::new(Arc::new(inbound.clone()), &Default::default(), None);
            let verdict = policy.judge((&peer, 80), Act::Bytes);
            let noted = verdict.noted.clone();
            (verdict.record(&policy, (&peer, 80), Act::Bytes).is_ok(), noted)
        };
        assert_eq!(judged(&inbound), (true, vec![(0, Noted::Matched), (1, Noted::Denies), (2, Noted::Denies)]));
        inbound.rules.push(rule(Action::Deny, false));
        assert_eq!(judged(&inbound), (false, vec![(0, Noted::Matched), (1, Noted::Matched)]));
    }
}
