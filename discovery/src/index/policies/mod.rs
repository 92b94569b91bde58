//! Policies of all kinds, read: what of them holds where, and what is to be said of them.
//!
//! **An error never widens.** The unit of refusal is the rule: a deny rule that cannot be read denies everything, an allow
//! rule allows nothing. An error outside of the rules (a misspelt `targetRefs`) makes every rule unreadable, for whatever
//! the policy still names; a MeshTLSPolicy is strict then. A port that its Service does not have closes the Service.

pub(super) mod attach;
mod conditions;
mod cover;
mod jwt;
mod precedence;
mod rule;

use super::{
    ObjectId,
    derived::{Authorization, Hold, Place, ReadIssuer, ReadPolicy, Says, TlsMode},
    facts::Facts,
    report, settings,
    status::{Ancestor, Condition, Findings, Judged, ObjectStatus},
};
use crate::objects::{
    Object,
    jwks::{AllowedHost, JwksUrl},
    kind::Kind as _,
    policy::{AnyPolicy as _, AuthorizationPolicy, MeshTlsPolicy, Mode, PolicyAction, PolicyMode},
};
use attach::{Target, check};
use precedence::Beaten;
use remora_api::convert::LIST_MAX as RULES_MAX;
use remora_model::{Action, AuthorizationRule, Unidentified};
use std::{collections::BTreeSet, sync::Arc};

impl Facts {
    /// Reads a policy.
    pub(super) fn read_policy(&self, id: &ObjectId) -> Option<ReadPolicy> {
        let object = self.policies.get(id)?;
        let policy = object.as_policy()?;
        let mut places = self.places(object.metadata(), policy);
        let says = match object {
            Object::AuthorizationPolicy(policy) => {
                let of_mesh = self.issuers_of_mesh(policy);
                let context = (&*self.mesh.jwks_hosts, &*of_mesh);
                Says::Authorization(read_authorization(policy, context, &mut Findings::default()))
            }
            Object::MeshTlsPolicy(policy) => Says::MeshTls(read_mesh_tls(policy, &mut Findings::default())),
            Object::BackendPolicy(policy) => {
                // It forbids nothing that could be closed.
                places.retain(|_, hold| *hold == Hold::Said);
                Says::Backend(Arc::clone(policy))
            }
            Object::RateLimitPolicy(policy) => {
                places.retain(|_, hold| *hold == Hold::Said);
                self.read_limits(policy)
            }
            Object::FaultPolicy(policy) => {
                places.retain(|_, hold| *hold == Hold::Said);
                self.read_faults(policy)
            }
            _ => return None,
        };
        Some(ReadPolicy { places, selector: policy.targets().selector.cloned(), says })
    }

    /// The issuers that policies of the control plane's namespace name, for a policy that asks for tokens.
    fn issuers_of_mesh(&self, policy: &AuthorizationPolicy) -> Vec<ReadIssuer> {
        let mut sources = policy.spec.rules.iter().flat_map(|rule| rule.from.iter().flatten());
        if sources.all(|source| source.jwt.is_none()) {
            return Vec::new();
        }
        let ids = self.policies_in.get(&(AuthorizationPolicy::KIND, self.mesh.namespace.clone()));
        let policies = ids.filter_map(|id| match self.policies.get(id)? {
            Object::AuthorizationPolicy(policy) => Some(policy),
            _ => None,
        });
        let read = |policy: &Arc<AuthorizationPolicy>| {
            let dry_run = policy.spec.mode == PolicyMode::DryRun;
            jwt::issuers(&policy.metadata, &policy.spec.jwt, (&self.mesh.jwks_hosts, dry_run)).unwrap_or_default()
        };
        policies.flat_map(read).filter(|one| !one.issuer.dry_run).collect()
    }

    /// Why the keys of an issuer are not known.
    fn unfetched(&self, one: &ReadIssuer) -> Option<String> {
        let why = match self.jwks.get(one.url.as_ref()?) {
            Some(Ok(_)) => return None,
            Some(Err(why)) => why,
            None => "they are being fetched",
        };
        Some(format!("{}: its keys are not known: {why}; its tokens are refused", one.issuer.name))
    }

    /// Makes known what a policy says and where it is attached.
    pub(super) fn take_policy(&mut self, id: &ObjectId, now: Option<ReadPolicy>) {
        let before = self.read_policies.unnoted().get(id).cloned();
        let at = |read: Option<&ReadPolicy>| -> BTreeSet<((&'static str, Place), ObjectId)> {
            let places = read.into_iter().flat_map(|read| read.places.keys());
            places.map(|place| ((id.kind, place.clone()), id.clone())).collect()
        };
        self.policies_on.replace(&at(before.as_deref()), &at(now.as_ref()));
        self.want_keys(id, before.as_deref(), now.as_ref());
        self.read_policies.put(id.clone(), now.map(Arc::new));
    }

    /// Notes which URLs of keys a policy names.
    fn want_keys(&mut self, id: &ObjectId, before: Option<&ReadPolicy>, now: Option<&ReadPolicy>) {
        let urls = |read: Option<&ReadPolicy>| -> Vec<JwksUrl> {
            let Some(Says::Authorization(says)) = read.map(|read| &read.says) else { return Vec::new() };
            says.issuers.iter().filter_map(|one| one.url.clone()).collect()
        };
        for url in urls(before) {
            if let Some(wanting) = self.wanted_jwks.get_mut(&url) {
                wanting.remove(id);
            }
        }
        for url in urls(now) {
            self.wanted_jwks.entry(url).or_default().insert(id.clone());
        }
        self.wanted_jwks.retain(|_, wanting| !wanting.is_empty());
    }

    /// What is to be said of a policy.
    pub(super) fn judge_policy(&self, id: &ObjectId) -> Option<Judged> {
        let object = self.policies.get(id)?;
        let (policy, meta) = (object.as_policy()?, object.metadata());
        let mut found = Findings::default();
        found.invalid.extend(policy.unreadable().map(str::to_owned));
        let mut targets = self.targets_of(meta, policy.targets());
        targets.iter_mut().for_each(|target| self.find_pod(target));
        match object {
            Object::AuthorizationPolicy(policy) => {
                let of_mesh = self.issuers_of_mesh(policy);
                let read = read_authorization(policy, (&self.mesh.jwks_hosts, &of_mesh), &mut found);
                found.partly.extend(read.issuers.iter().filter_map(|one| self.unfetched(one)));
                found.partly.extend(read.rules.iter().filter_map(|rule| {
                    let problem = self.lacked(rule.needs(), effect((policy.spec.action, policy.spec.mode)))?;
                    Some(format!("{}: {problem}", rule.name))
                }));
                self.uncovered(&targets, &mut found.notes);
                let passes = read.rules.iter().any(passes_the_unidentified);
                found.dry_run = policy.spec.mode == PolicyMode::DryRun;
                found.ineffective =
                    passes.then(|| self.permissive(meta, &targets, policy.spec.selector.as_ref())).flatten();
            }
            Object::MeshTlsPolicy(policy) => {
                found.dry_run = read_mesh_tls(policy, &mut found) == TlsMode::DryRun;
                self.uncovered(&targets, &mut found.notes);
            }
            Object::BackendPolicy(policy) => {
                settings::judge(&meta.namespace, &policy.spec, &mut found);
                found.partly.extend(self.lacked(settings::needs(&policy.spec), "the default holds"));
            }
            Object::RateLimitPolicy(policy) => {
                self.judge_limits(policy, &mut found);
                self.uncovered(&targets, &mut found.notes);
            }
            Object::FaultPolicy(policy) => self.judge_faults(policy, &mut found),
            _ => return None,
        }
        let seen: Vec<Seen> = targets.into_iter().map(|target| self.see(id, object, target)).collect();
        let problems = found.invalid.iter().chain(&found.partly);
        let missing = seen.iter().filter(|seen| seen.target.missing.is_some()).filter_map(Seen::refusal);
        let told = problems.cloned().chain(missing.map(|(_, problem)| problem));
        let told = told.map(|problem| report(meta, id.kind, problem)).collect();
        Some((Some(status(object, &found, seen)), told))
    }

    fn see(&self, id: &ObjectId, object: &Object, mut target: Target) -> Seen {
        if let Some(missing) = &mut target.missing
            && target.lacks_port
        {
            *missing = format!("{missing}; {}", closed(object));
        }
        Seen { beaten: self.beaten(id, object, &target), target }
    }

    /// What is to be said of the policies of a namespace together.
    pub(super) fn judge_namespace(&self, namespace: &str) -> Vec<String> {
        let all = self.policies_in.get(&(AuthorizationPolicy::KIND, namespace.to_owned()));
        let all = all.filter_map(|id| self.read_policies.get(id));
        let rules: usize =
            all.map(|read| if let Says::Authorization(one) = &read.says { one.rules.len() } else { 0 }).sum();
        let problem = "that select one pod: of those beyond, allow rules allow nothing, a deny rule denies all";
        let too_many = rules > RULES_MAX;
        let told = || format!("namespace {namespace}: has {rules} rules, and {RULES_MAX} may be {problem}");
        too_many.then(told).into_iter().chain(self.too_many_limits(namespace)).collect()
    }
}

/// A target, and what others take from a policy there.
#[derive(Debug)]
struct Seen {
    target: Target,
    beaten: Beaten,
}

impl Seen {
    /// Why the policy is not accepted there: a reason of GEP-713, and in words.
    fn refusal(&self) -> Option<(&'static str, String)> {
        let missing =
            || Some(("TargetNotFound", format!("{}: {}", self.target.field(), self.target.missing.as_ref()?)));
        let conflict = || Some(("Conflicted", format!("{}: {}", self.target.field(), self.beaten.conflict.as_ref()?)));
        missing().or_else(conflict)
    }
}

/// The status of a policy: for each target, and for all together.
fn status(object: &Object, found: &Findings, seen: Vec<Seen>) -> ObjectStatus {
    let refusals: Vec<_> = seen.iter().filter_map(Seen::refusal).collect();
    let texts = refusals.iter().map(|(_, problem)| problem.as_str()).collect::<Vec<_>>().join("; ");
    let refusal = refusals.first().map(|(reason, _)| (*reason, texts));
    let mut by: Vec<String> = Vec::new();
    for one in seen.iter().flat_map(|seen| &seen.beaten.by).filter(|one| !one.is_empty()) {
        if !by.contains(one) {
            by.push(one.clone());
        }
    }
    let wholly = !seen.is_empty() && seen.iter().all(|seen| seen.beaten.wholly);
    let all = conditions(found, refusal, &Beaten { conflict: None, by, wholly });
    let short: Vec<String> = seen.iter().map(|seen| seen.target.short()).collect();
    let target = match &short[..] {
        [first, _, rest @ ..] => format!("{first} and {} more", rest.len() + 1),
        [first] => first.clone(),
        [] => String::new(),
    };
    let ancestors = seen.into_iter().map(|seen| {
        let conditions = conditions(found, seen.refusal(), &seen.beaten);
        Ancestor { reference: seen.target.reference(), conditions }
    });
    ObjectStatus::of_policy(object, all, ancestors.collect(), &target)
}

/// What the status of a policy in dry run says.
const DRY_RUN: &str =
    "DryRun: it changes no answer; what it would refuse or let in is counted (remora_policy_dry_run_total)";

/// The conditions of GEP-713.
fn conditions(found: &Findings, refusal: Option<(&'static str, String)>, beaten: &Beaten) -> Vec<Condition> {
    let refused = match (&found.invalid[..], refusal) {
        ([], None) => None,
        ([], refusal) => refusal,
        (invalid, _) => Some(("Invalid", invalid.join("; "))),
    };
    let partly = found.partly.join("; ");
    let is_partly = || Condition::new("PartiallyInvalid", true, "Invalid", partly.clone());
    if let Some((reason, problem)) = refused {
        let refused = Condition::new("Accepted", false, reason, problem);
        return std::iter::once(refused).chain((!partly.is_empty()).then(is_partly)).collect();
    }
    let by = beaten.by.join("; ");
    let (holds, reason) = match (beaten.wholly, by.is_empty() && partly.is_empty()) {
        (true, _) => (false, "Overridden"),
        (false, true) => (true, "Programmed"),
        (false, false) => (true, "PartiallyProgrammed"),
    };
    let dry_run = if found.dry_run { DRY_RUN } else { "" };
    let why: Vec<&str> = [dry_run, by.as_str(), partly.as_str()].into_iter().filter(|why| !why.is_empty()).collect();
    let mut all = vec![
        Condition::new("Accepted", true, "Accepted", found.notes.join("; ")),
        Condition::new("Programmed", holds, reason, why.join("; ")),
    ];
    all.extend((!partly.is_empty()).then(is_partly));
    all.extend((!by.is_empty()).then(|| Condition::new("Overridden", true, "Overridden", by.clone())));
    all.extend(
        found.ineffective.iter().map(|why| Condition::new("Ineffective", true, "PlaintextCallers", why.clone())),
    );
    all
}

/// What a policy does while its Service has no port of the name that it gives.
fn closed(object: &Object) -> &'static str {
    match object {
        Object::AuthorizationPolicy(policy) => match (policy.spec.action, policy.spec.mode) {
            (_, PolicyMode::DryRun) => "until it has, its dry run is of all of its ports",
            (PolicyAction::Allow, _) => "until it has, it allows nothing on any of its ports",
            (PolicyAction::Deny, _) => "until it has, it denies on all of its ports",
            (PolicyAction::Audit, _) => "until it has, it audits nothing",
        },
        Object::MeshTlsPolicy(policy) if policy.spec.mode == Mode::DryRun => {
            "until it has, its dry run is of all of its ports"
        }
        Object::MeshTlsPolicy(_) => "until it has, it is Strict for all of its ports",
        _ => "until it has, it holds for nothing",
    }
}

/// `of_mesh`: the issuers that policies of the mesh name, for rules whose own policy names none of that name.
fn read_authorization(
    policy: &AuthorizationPolicy,
    (hosts, of_mesh): (&[AllowedHost], &[ReadIssuer]),
    found: &mut Findings,
) -> Authorization {
    let (meta, spec) = (&policy.metadata, &policy.spec);
    let kind = (spec.action, spec.mode);
    let dry_run = spec.mode == PolicyMode::DryRun;
    let everything = |name| AuthorizationRule { dry_run, ..AuthorizationRule::deny_everything(name) };
    let outside = check(&meta.namespace, policy.targets());
    let outside = outside.and_then(|()| match kind {
        (PolicyAction::Audit, PolicyMode::DryRun) => {
            Err("spec.mode: DryRun has no meaning in an Audit policy, which decides nothing".to_owned())
        }
        _ => Ok(()),
    });
    let issuers = jwt::issuers(meta, &spec.jwt, (hosts, dry_run));
    let (own, unreadable) = issuers.map_or_else(|problem| (Vec::new(), Some(problem)), |own| (own, None));
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    for (i, rule) in spec.rules.iter().enumerate() {
        let name: Arc<str> = format!("{}/{} rule {i}", meta.namespace, meta.name).into();
        let read = match &outside {
            Err(_) => Err(None),
            Ok(()) if i >= conditions::LIST_MAX => Err(Some(": is one of more than 64".to_owned())),
            Ok(()) => rule::read(Arc::clone(&name), kind, (rule, &own, of_mesh)).map_err(Some),
        };
        match read {
            Ok(rule) => rules.push(rule),
            Err(problem) => {
                problems.extend(problem.map(|e| format!("spec.rules[{i}]{e}; {}", effect(kind))));
                rules.extend((spec.action == PolicyAction::Deny).then(|| everything(name)));
            }
        }
    }
    let all = !problems.is_empty() && problems.len() == spec.rules.len();
    if all {
        found.invalid.extend(problems)
    } else {
        found.partly.extend(problems)
    }
    if let Err(problem) = outside {
        found.invalid.push(format!("{problem}; {}", effect(kind).replace("it ", "every rule ")));
        // A deny policy without rules denies nothing; with an error, what it would deny is unknown.
        if spec.action == PolicyAction::Deny && rules.is_empty() {
            rules.push(everything(format!("{}/{}", meta.namespace, meta.name).into()));
        }
    }
    let name: Arc<str> = format!("{}/{}", meta.namespace, meta.name).into();
    if let Some(problem) = unreadable {
        found.invalid.push(format!("{problem}; it {} everything", if dry_run { "would deny" } else { "denies" }));
        rules = vec![everything(Arc::clone(&name))];
    }
    Authorization { name, action: rule::model(spec.action), dry_run, rules, issuers: own }
}

fn read_mesh_tls(policy: &MeshTlsPolicy, found: &mut Findings) -> TlsMode {
    let outside = check(&policy.metadata.namespace, policy.targets());
    let mode = match (&outside, policy.spec.mode) {
        (_, Mode::DryRun) => TlsMode::DryRun,
        (Err(_), _) | (Ok(()), Mode::Strict) => TlsMode::Strict,
        (Ok(()), Mode::Permissive) => TlsMode::Permissive,
    };
    let holds = if mode == TlsMode::DryRun { "its dry run is of" } else { "it is Strict for" };
    found.invalid.extend(outside.err().map(|problem| format!("{problem}; {holds} what it names")));
    mode
}

fn effect(kind: (PolicyAction, PolicyMode)) -> &'static str {
    match kind {
        (PolicyAction::Allow, PolicyMode::Enforce) => "it allows nothing",
        (PolicyAction::Deny, PolicyMode::Enforce) => "it denies everything",
        (PolicyAction::Allow, PolicyMode::DryRun) => "it would allow nothing",
        (PolicyAction::Deny, PolicyMode::DryRun) => "it would deny everything",
        (PolicyAction::Audit, _) => "it audits nothing",
    }
}

/// Whether the rule denies by identity and lets callers without one pass.
fn passes_the_unidentified(rule: &AuthorizationRule) -> bool {
    let names = |source: &remora_model::Source| source.asks_identity() || source.excepts_identity();
    rule.unidentified == Unidentified::Ignore && !rule.dry_run && rule.from.iter().any(names)
}

impl Authorization {
    /// Whether callers that no allow rule names are denied.
    pub(super) fn denies_the_rest(&self) -> bool {
        self.action == Action::Allow && !self.dry_run
    }

    /// Whether they would be.
    pub(super) fn would_deny_the_rest(&self) -> bool {
        self.action == Action::Allow && self.dry_run
    }
}
