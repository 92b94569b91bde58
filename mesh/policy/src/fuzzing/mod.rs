//! Fuzz targets of the matcher: what it decides is what an interpreter decides that was written from the documentation, and decisions
//! have the properties that users rely on. In: any bytes, or a seed. Out: nothing, or a panic that shows rules and request. Built for
//! tests and for `cargo fuzz` (which sets `cfg(fuzzing)`) alone.
//!
//! `REMORA_CASES=10000000 cargo test -p remora-policy random -- --nocapture` plays so many random cases of each claim, and prints how
//! long that took.

mod naive;
mod random;
#[cfg(test)]
mod tests;

use crate::{Act, Caller, Compiled, Denial, Noted, Notes};
use random::{Chance, Scene};
use remora_model::{AuthorizationRule, Feature, Features, Inbound, MtlsMode};
use std::{collections::BTreeSet, sync::Arc};

#[cfg(test)]
remora_replay::replays! {
    rules_decide_as_their_documentation_says: authorization_decisions, 2_000;
}

/// The bytes are choices: rules, and requests. All claims are looked at.
pub fn authorization_decisions(data: &[u8]) {
    let mut chance = Chance::of_bytes(data);
    let scene = Scene::random(&mut chance);
    let policy = Compiled::new(Arc::new(scene.inbound()));
    for _ in 0..4 {
        let act = scene.act(&mut chance);
        equal(&scene, &policy, &act);
        properties(&scene, &act, &mut chance);
    }
}

/// What comes of a request, in a word, and the rule that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Plaintext,
    Denied(String),
    Ambiguous,
    NotAllowed,
    /// By the rule that was needed.
    Allowed(Option<String>),
}

impl Answer {
    fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// A decision, and the audit rules that matched.
fn answer(policy: &Compiled, (caller, port, act): (&Caller, u16, Act<'_>)) -> (Answer, BTreeSet<String>) {
    let decision = policy.judge(caller, port, act);
    let answer = match &decision.outcome {
        Ok(rule) => Answer::Allowed(rule.map(ToString::to_string)),
        Err(denial) => refused(denial),
    };
    let guessed = policy.allows(caller, port, act).err().as_ref().map(refused);
    assert_eq!(guessed, decision.outcome.as_ref().err().map(refused), "a guess is as good as a decision");
    let names: Vec<Notes<'_>> = policy.noting().collect();
    let audited = decision.noted.iter().filter(|(_, noted)| *noted == Noted::Matched).filter_map(|(at, _)| {
        let Notes::Audit(name) = names[*at] else { return None };
        Some(name.to_string())
    });
    let audited = audited.collect();
    (answer, audited)
}

fn refused(denial: &Denial) -> Answer {
    match denial {
        Denial::Plaintext { .. } => Answer::Plaintext,
        Denial::Denied { rule } => Answer::Denied(rule.to_string()),
        Denial::NotAllowed { .. } => Answer::NotAllowed,
        Denial::Ambiguous(_) => Answer::Ambiguous,
    }
}

/// What is compiled decides as the interpreter does.
fn equal(scene: &Scene, policy: &Compiled, act: &random::RawAct) -> Answer {
    let read = act.read();
    let (compiled, naive) = (answer(policy, read.asked()), naive::answer(scene, act));
    assert_eq!(compiled, naive, "{act:#?} of {scene:#?}");
    naive.0
}

/// The properties, for rules that are changed in one way each.
fn properties(scene: &Scene, act: &random::RawAct, chance: &mut Chance<'_>) {
    let read = act.read();
    let of = |inbound: &Inbound| answer(&Compiled::new(Arc::new(inbound.clone())), read.asked()).0;
    let inbound = scene.inbound();
    let before = of(&inbound);
    let told = |what: &str, after: &Answer| format!("{what}: {before:?}, then {after:?}: {act:#?} of {inbound:#?}");

    let with =
        |rule: AuthorizationRule| Inbound { rules: [inbound.rules.clone(), vec![rule]].concat(), ..inbound.clone() };
    if inbound.default_deny {
        let after = of(&with(scene.rule(chance, random::ALLOW)));
        assert!(after.is_allowed() || !before.is_allowed(), "{}", told("another allow rule", &after));
    }
    let after = of(&with(scene.rule(chance, random::DENY)));
    assert!(before.is_allowed() || !after.is_allowed(), "{}", told("another deny rule", &after));

    let known: Features = Feature::ALL.into_iter().filter(|_| chance.of(2) == 0).collect();
    let after = of(&inbound.clone().within(known).0);
    assert!(before.is_allowed() || !after.is_allowed(), "{}", told(&format!("a proxy with {known}"), &after));

    let number = chance.of(inbound.rules.len().max(1));
    if let Some(rule) = inbound.rules.get(number) {
        let mut closed = inbound.clone();
        match rule.action {
            remora_model::Action::Deny => {
                closed.rules[number] = AuthorizationRule {
                    dry_run: rule.dry_run,
                    ..AuthorizationRule::deny_everything(rule.name.clone())
                };
            }
            _ => drop(closed.rules.remove(number)),
        }
        let after = of(&closed);
        assert!(before.is_allowed() || !after.is_allowed(), "{}", told("an unreadable rule", &after));
    }
    dry_run(&inbound, &read, &before, act);
}

/// What is in dry run changes no answer, and says what would be if it held.
fn dry_run(inbound: &Inbound, read: &random::Read, before: &Answer, act: &random::RawAct) {
    let judged = |inbound: &Inbound| answer(&Compiled::new(Arc::new(inbound.clone())), read.asked()).0;
    let mut without = inbound.clone();
    without.rules.retain(|rule| !rule.dry_run);
    without.dry_run = Default::default();
    assert_eq!(*before, judged(&without), "a dry run changes no answer: {act:#?} of {inbound:#?}");

    let mut held = inbound.clone();
    held.rules.iter_mut().for_each(|rule| rule.dry_run = false);
    if !inbound.dry_run.allow.is_empty() {
        held.default_deny = true;
        held.rules.retain(|rule| !rule.by_default);
    }
    if inbound.dry_run.strict.is_some() {
        held.mtls = MtlsMode::Strict;
    }
    let after = judged(&Inbound { dry_run: Default::default(), ..held });
    let policy = Compiled::new(Arc::new(inbound.clone()));
    let (caller, port, asked) = read.asked();
    let notes: Vec<Notes<'_>> = policy.noting().collect();
    let decision = policy.judge(caller, port, asked);
    let of_dry_runs = || decision.noted.iter().filter(|(at, _)| matches!(notes[*at], Notes::DryRun(_)));
    let denies = of_dry_runs().any(|(_, noted)| matches!(noted, Noted::Denies | Noted::Ambiguous));
    let allows = of_dry_runs().any(|(_, noted)| *noted == Noted::Allows);
    let would = (before.is_allowed() && !after.is_allowed(), !before.is_allowed() && after.is_allowed());
    let noted = || decision.noted.clone();
    assert_eq!((denies, allows), would, "{before:?}, {after:?}, {:?}: {act:#?} of {inbound:#?}", noted());
}
