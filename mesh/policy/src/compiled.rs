//! What discovery says of a port, in the form in which it is asked for every request: rules by action, deny first.

use super::{Act, Caller, Denial};
use http::Method;
use remora_model::{Action, AuthorizationRule, Inbound, MtlsMode, Operation, Source, SpiffeId, Unidentified, path};
use std::{borrow::Cow, sync::Arc};

/// The policy of a port.
#[derive(Debug)]
pub struct Compiled {
    inbound: Arc<Inbound>,
    deny: Vec<Rule>,
    allow: Vec<Rule>,
    audit: Vec<Rule>,
    /// Whether a rule that decides names paths: then a path without a canonical form is refused.
    judges_paths: bool,
    audits_paths: bool,
}

/// A rule with its namespaces bound to their trust domain.
#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    action: Action,
    from: Vec<Source>,
    to: Vec<Operation>,
    /// Whether a caller without an identity counts as named. Only ever of deny rules.
    unidentified: bool,
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

/// What a rule that decides nothing says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    Matched,
    /// It names paths, and this one has no canonical form.
    Ambiguous,
}

/// A caller as rules name it.
struct Named<'a> {
    caller: &'a Caller,
    /// Its namespace, if it is of the rules' own trust domain.
    namespace: Option<&'a str>,
}

/// A path in the form that rules are compared with.
enum Compared<'a> {
    /// No rule asks for it, or it is `*`.
    None,
    Path(Cow<'a, str>),
    Ambiguous(path::Ambiguous),
}

impl Compiled {
    /// Sorts the rules.
    pub fn new(inbound: Arc<Inbound>) -> Self {
        let names_paths = |rule: &&AuthorizationRule| rule.to.iter().any(|to| !to.paths.is_empty());
        let with = |action| inbound.rules.iter().filter(move |rule| rule.action == action);
        let compile = |action| with(action).map(Rule::new).collect();
        Self {
            deny: compile(Action::Deny),
            allow: compile(Action::Allow),
            audit: compile(Action::Audit),
            judges_paths: with(Action::Deny).chain(with(Action::Allow)).any(|rule| names_paths(&rule)),
            audits_paths: with(Action::Audit).any(|rule| names_paths(&rule)),
            inbound,
        }
    }

    /// The names of the rules that decide nothing.
    pub fn noting(&self) -> impl Iterator<Item = &Arc<str>> {
        self.audit.iter().map(|rule| &rule.name)
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

    /// Whether `caller` may do `act`: a guess, or a second look at what goes on already. It leaves no trace.
    ///
    /// A caller that may send bytes may send every request (whose path has a form): bytes count as any operation for a deny rule
    /// and as none that an allow rule names.
    pub fn allows(&self, caller: &Caller, act: Act<'_>) -> Result<(), Denial> {
        self.admits(caller)?;
        self.decide(&self.named(caller), act, &compared(act, self.judges_paths)).map(drop)
    }

    /// Judges `act`.
    pub fn judge(&self, caller: &Caller, act: Act<'_>) -> Decision<'_> {
        if let Err(denial) = self.admits(caller) {
            return Decision { outcome: Err(denial), noted: Vec::new() };
        }
        let (caller, path) = (self.named(caller), compared(act, self.judges_paths || self.audits_paths));
        let noted = self.noted(&caller, act, &path);
        Decision { outcome: self.decide(&caller, act, &path), noted }
    }

    fn named<'a>(&self, caller: &'a Caller) -> Named<'a> {
        let own = caller.identity.as_ref().filter(|id| id.member_of(&self.inbound.trust_domain));
        Named { caller, namespace: own.and_then(SpiffeId::namespace) }
    }

    /// Deny rules come first; where anything is allowed by rule, the rest is denied.
    fn decide(&self, caller: &Named<'_>, act: Act<'_>, path: &Compared<'_>) -> Result<Option<&Arc<str>>, Denial> {
        if let Some(rule) = self.deny.iter().find(|rule| rule.matches(caller, act, path)) {
            return Err(Denial::Denied { rule: rule.name.clone() });
        }
        if let (true, Compared::Ambiguous(why)) = (self.judges_paths, path) {
            return Err(Denial::Ambiguous(*why));
        }
        if !self.inbound.default_deny {
            return Ok(None);
        }
        let allows = self.allow.iter().find(|rule| rule.matches(caller, act, path));
        let refused = || Denial::NotAllowed { parent: self.inbound.parent.clone() };
        allows.map(|rule| Some(&rule.name)).ok_or_else(refused)
    }

    fn noted(&self, caller: &Named<'_>, act: Act<'_>, path: &Compared<'_>) -> Vec<(usize, Noted)> {
        let outcome = |rule: &Rule| match path {
            _ if rule.matches(caller, act, path) => Some(Noted::Matched),
            Compared::Ambiguous(_) if rule.might_match(caller, act) => Some(Noted::Ambiguous),
            _ => None,
        };
        self.audit.iter().enumerate().filter_map(|(index, rule)| Some((index, outcome(rule)?))).collect()
    }
}

/// `*` is no path (RFC 9112 §3.2.4), and policies that name paths do not mean it.
fn compared(act: Act<'_>, wanted: bool) -> Compared<'_> {
    match act {
        Act::Request { method, path } if wanted && !(path == "*" && method == Method::OPTIONS) => {
            path::canonical(path).map_or_else(Compared::Ambiguous, Compared::Path)
        }
        Act::Request { .. } | Act::Bytes => Compared::None,
    }
}

impl Rule {
    fn new(rule: &AuthorizationRule) -> Self {
        Self {
            name: rule.name.clone(),
            action: rule.action,
            from: rule.from.clone(),
            to: rule.to.clone(),
            unidentified: rule.action == Action::Deny && rule.unidentified == Unidentified::Match,
        }
    }

    fn matches(&self, caller: &Named<'_>, act: Act<'_>, path: &Compared<'_>) -> bool {
        self.names(caller) && (self.to.is_empty() || self.to.iter().any(|to| self.means(to, act, path)))
    }

    /// Whether it would match if the path, which has no canonical form, were one that it names.
    fn might_match(&self, caller: &Named<'_>, act: Act<'_>) -> bool {
        let Act::Request { method, .. } = act else { return false };
        self.names(caller) && self.to.iter().any(|to| !to.paths.is_empty() && self.means_method(to, method))
    }

    fn names(&self, caller: &Named<'_>) -> bool {
        self.from.is_empty() || self.from.iter().any(|source| self.names_by(source, caller))
    }

    fn names_by(&self, source: &Source, caller: &Named<'_>) -> bool {
        let identity = caller.caller.identity.as_ref();
        let unidentified = self.unidentified && identity.is_none();
        (source.identities.is_empty() || unidentified || identity.is_some_and(|id| source.identities.contains(id)))
            && (source.namespaces.is_empty()
                || unidentified
                || caller.namespace.is_some_and(|own| source.namespaces.iter().any(|namespace| **namespace == *own)))
            && (source.cidrs.is_empty() || source.cidrs.iter().any(|cidr| cidr.contains(&caller.caller.address)))
    }

    /// Bytes might be the very request that a deny rule forbids, in a disguise: a deny rule counts them as it, another rule
    /// does not.
    fn means(&self, to: &Operation, act: Act<'_>, path: &Compared<'_>) -> bool {
        let Act::Request { method, .. } = act else {
            return self.action == Action::Deny || (to.methods.is_empty() && to.paths.is_empty());
        };
        self.means_method(to, method)
            && (to.paths.is_empty()
                || matches!(path, Compared::Path(path) if to.paths.iter().any(|pattern| pattern.matches(path))))
    }

    /// Methods are case-sensitive (RFC 9110 §9.1), and servers are lenient; HEAD is GET without the content (§9.3.2). So a
    /// deny rule means what some server may take for the method that it names, any other rule the method alone.
    fn means_method(&self, to: &Operation, method: &Method) -> bool {
        let lenient = |denied: &Method| {
            denied.as_str().eq_ignore_ascii_case(method.as_str())
                || (*denied == Method::GET && method.as_str().eq_ignore_ascii_case("HEAD"))
        };
        to.methods.is_empty()
            || to.methods.contains(method)
            || (self.action == Action::Deny && to.methods.iter().any(lenient))
    }
}
