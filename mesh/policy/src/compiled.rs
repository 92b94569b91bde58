//! What discovery says of a port, in the form in which it is asked for every request: rules by what they do, deny first.

use super::{
    Act, Caller, Denial, Noted,
    dry_run::DryRuns,
    index::Set,
    rule::{Asking, Compared, Rule},
};
use remora_model::{Action, AuthorizationRule, Inbound, MtlsMode};
use std::sync::Arc;

/// The policy of a port.
#[derive(Debug)]
pub struct Compiled {
    inbound: Arc<Inbound>,
    deny: Set,
    allow: Set,
    audit: Set,
    dry_runs: DryRuns,
    /// Whether a deny rule names paths: then a path without a canonical form is refused, for it may be one of them.
    denies_paths: bool,
    /// Whether an allow rule does: what no other allows is refused for that.
    allows_paths: bool,
    notes_paths: bool,
    names_hosts: bool,
}

/// What comes of judging one request or connection.
#[derive(Debug)]
#[must_use]
pub struct Decision<'a> {
    /// The allow rule that let it in, where one was needed; or why it is refused.
    pub outcome: Result<Option<&'a Arc<str>>, Denial>,
    /// What rules that decide nothing say of it, by their index in [`Compiled::noting`].
    pub noted: Vec<(usize, Noted)>,
}

/// What decides nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notes<'a> {
    /// A rule of an Audit policy, by its name.
    Audit(&'a Arc<str>),
    /// A rule in dry run, or a policy in dry run as a whole, by its name.
    DryRun(&'a Arc<str>),
}

impl Compiled {
    /// Sorts the rules.
    pub fn new(inbound: Arc<Inbound>) -> Self {
        let compile = |wanted: &dyn Fn(&AuthorizationRule) -> bool| {
            let rules = inbound.rules.iter().filter(|rule| wanted(rule));
            Set::new(rules.filter_map(|rule| Rule::new(rule, inbound.port)).collect())
        };
        let deny = compile(&|rule| rule.action == Action::Deny && rule.decides());
        let allow = compile(&|rule| rule.action == Action::Allow && rule.decides());
        let audit = compile(&|rule| rule.action == Action::Audit);
        let dry_runs = DryRuns::new(
            &inbound,
            compile(&|rule| rule.action == Action::Deny && rule.dry_run),
            compile(&|rule| rule.action == Action::Allow && rule.dry_run),
            deny.rules().iter().any(Rule::names_paths),
        );
        let paths = |set: &Set| set.rules().iter().any(Rule::names_paths);
        let hosts = |set: &Set| set.rules().iter().any(Rule::names_hosts);
        let names_hosts = [&deny, &allow, &audit].into_iter().chain(dry_runs.sets()).any(hosts);
        Self {
            denies_paths: paths(&deny),
            allows_paths: paths(&allow),
            notes_paths: paths(&audit) || dry_runs.sets().any(paths),
            names_hosts,
            deny,
            allow,
            audit,
            dry_runs,
            inbound,
        }
    }

    /// What decides nothing.
    pub fn noting(&self) -> impl Iterator<Item = Notes<'_>> {
        let audit = self.audit.rules().iter().map(|rule| Notes::Audit(&rule.name));
        audit.chain(self.dry_runs.names().map(Notes::DryRun))
    }

    /// As discovery says it.
    pub fn inbound(&self) -> &Arc<Inbound> {
        &self.inbound
    }

    /// Whether a connection may exist at all: the mTLS mode of the port.
    pub fn admits(&self, caller: &Caller) -> Result<(), Denial> {
        match (self.inbound.mtls, &caller.identity) {
            (MtlsMode::Strict, None) => Err(Denial::Plaintext { port: self.inbound.port }),
            _ => Ok(()),
        }
    }

    /// Whether `caller` may do `act` at `port` of the pod: a guess, or a second look at what goes on already. It leaves no trace.
    ///
    /// A caller that may send bytes may send every request (whose path has a form): bytes count as any operation for a deny rule
    /// and as none that an allow rule names.
    pub fn allows(&self, caller: &Caller, port: u16, act: Act<'_>) -> Result<(), Denial> {
        self.admits(caller)?;
        self.decide(&self.asking(caller, port, act, self.denies_paths || self.allows_paths)).map(drop)
    }

    /// Judges `act` at `port` of the pod, which [`Inbound`] leaves open where it is that of several.
    pub fn judge(&self, caller: &Caller, port: u16, act: Act<'_>) -> Decision<'_> {
        if let Err(denial) = self.admits(caller) {
            return Decision { outcome: Err(denial), noted: Vec::new() };
        }
        let asking = self.asking(caller, port, act, self.denies_paths || self.allows_paths || self.notes_paths);
        let (outcome, mut noted) = (self.decide(&asking), Vec::new());
        self.audited(&asking, &mut noted);
        self.dry_runs.note(&asking, &outcome, self.audit.rules().len(), &mut noted);
        Decision { outcome, noted }
    }

    fn asking<'a>(&self, caller: &'a Caller, port: u16, act: Act<'a>, paths: bool) -> Asking<'a> {
        Asking::new((caller, &self.inbound.trust_domain), port, act, (paths, self.names_hosts))
    }

    /// Deny rules come first; where anything is allowed by rule, the rest is denied.
    fn decide(&self, asking: &Asking<'_>) -> Result<Option<&Arc<str>>, Denial> {
        if let Some(rule) = self.deny.first(asking) {
            return Err(Denial::Denied { rule: rule.name.clone() });
        }
        let ambiguous = match &asking.path {
            Compared::Ambiguous(why) => Some(Denial::Ambiguous(*why)),
            Compared::None | Compared::Path(_) => None,
        };
        if let Some(denial) = ambiguous.clone().filter(|_| self.denies_paths) {
            return Err(denial);
        }
        if !self.inbound.default_deny {
            return Ok(None);
        }
        let refused = || Denial::NotAllowed { parent: self.inbound.parent.clone() };
        let refused = || ambiguous.filter(|_| self.allows_paths).unwrap_or_else(refused);
        self.allow.first(asking).map(|rule| Some(&rule.name)).ok_or_else(refused)
    }

    fn audited(&self, asking: &Asking<'_>, noted: &mut Vec<(usize, Noted)>) {
        let matched = self.audit.all(asking);
        if matches!(asking.path, Compared::Ambiguous(_)) {
            let might = |(at, rule): &(usize, &Rule)| {
                rule.might_match(asking) && !matched.iter().any(|one| *one as usize == *at)
            };
            let rules = self.audit.rules().iter().enumerate();
            noted.extend(rules.filter(might).map(|(at, _)| (at, Noted::Ambiguous)));
        }
        noted.extend(matched.into_iter().map(|at| (at as usize, Noted::Matched)));
        noted.sort_unstable_by_key(|(at, _)| *at);
    }
}
