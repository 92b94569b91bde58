//! The claims of the fuzz target over random cases, as many as `REMORA_CASES` says.

use super::{
    random::{Chance, Scene},
    *,
};
use std::time::Instant;

/// Cases of each claim where nobody says how many: a second or so.
const CASES: u64 = 10_000;

/// Plays the cases of one claim. What fails is shown, and fails again: the seed is fixed.
fn play(claim: &str, seed: u64, mut case: impl FnMut(&Scene, &Compiled, &random::RawAct, &mut Chance<'_>)) {
    #[allow(clippy::disallowed_methods, reason = "it is for whoever runs the test")]
    let asked = std::env::var("REMORA_CASES");
    let cases = asked.map_or(CASES, |text| text.parse().expect("REMORA_CASES is a number"));
    let (started, mut played) = (Instant::now(), 0);
    let mut chance = Chance::Random(fastrand::Rng::with_seed(seed));
    while played < cases {
        let scene = Scene::random(&mut chance);
        let policy = Compiled::new(Arc::new(scene.inbound()));
        for _ in 0..4 {
            let act = scene.act(&mut chance);
            case(&scene, &policy, &act, &mut chance);
            played += 1;
        }
    }
    let took = started.elapsed();
    println!("{claim}: {played} cases in {took:.1?}, {:.0} a second", played as f64 / took.as_secs_f64());
}

#[test]
fn random_rules_decide_as_the_interpreter_of_the_documentation_does() {
    let mut answers = std::collections::BTreeMap::<&str, u64>::new();
    play("equal to the interpreter", 1, |scene, policy, act, _| {
        let answer = match equal(scene, policy, act) {
            Answer::Plaintext => "plaintext",
            Answer::Denied(_) => "denied",
            Answer::Ambiguous => "ambiguous",
            Answer::NotAllowed => "not allowed",
            Answer::Allowed(None) => "allowed",
            Answer::Allowed(Some(_)) => "allowed by a rule",
        };
        *answers.entry(answer).or_default() += 1;
    });
    println!("{answers:?}");
    assert!(answers.len() == 6 && answers.values().all(|many| *many > 100), "each is met: {answers:?}");
}

#[test]
fn random_rules_never_open_by_what_is_added_unreadable_unknown_or_in_dry_run() {
    play("the properties", 2, |scene, _, act, chance| properties(scene, act, chance));
}
