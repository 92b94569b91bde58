//! What a request costs among many rules that cannot match it.
//!
//! `cargo test -p remora-policy what_a_request_costs -- --nocapture` prints the table, and a line of JSON for each row.

use super::*;
use std::{hint::black_box, time::Instant};

/// Rules of each kind of world, `many` of them; one of which may match.
fn worlds(many: usize) -> [(&'static str, Inbound); 4] {
    let id = |at: usize| identity(&format!("spiffe://cluster.local/ns/shop/sa/web-{at}"));
    let of = |make: &dyn Fn(usize) -> AuthorizationRule| port((0..many).map(make).collect());
    let path = |at: usize| format!("/a/{at}/*");
    [
        ("identities", of(&|at| rule(Action::Allow, &[id(at)], &[("GET", "/*")]))),
        ("paths", of(&|at| rule(Action::Allow, &[], &[("GET", &path(at))]))),
        ("both", of(&|at| rule(Action::Allow, &[id(at)], &[("GET", &path(at))]))),
        ("denials", of(&|at| rule(Action::Deny, &[id(at)], &[("GET", &path(at))]))),
    ]
}

/// Nanoseconds of one decision: the least of several rounds.
fn nanoseconds(policy: &Compiled, caller: &Caller, path: &str) -> f64 {
    const ROUND: u32 = 2000;
    let round = |_| {
        let started = Instant::now();
        for _ in 0..ROUND {
            black_box(policy.judge(black_box(caller), 80, request(&Method::GET, black_box(path))).outcome.is_ok());
        }
        started.elapsed().as_nanos() as f64 / f64::from(ROUND)
    };
    (0..7).map(round).fold(f64::INFINITY, f64::min)
}

#[test]
fn what_a_request_costs_does_not_grow_with_rules_that_cannot_match_it() {
    let caller = caller_of("spiffe://cluster.local/ns/shop/sa/web-7");
    let mut tables: Vec<(&str, Vec<f64>)> = Vec::new();
    for many in [10, 100, 1000] {
        for (at, (world, inbound)) in worlds(many).into_iter().enumerate() {
            let policy = Compiled::new(Arc::new(inbound));
            assert_eq!(policy.judge(&caller, 80, request(&Method::GET, "/a/7/x")).outcome.is_ok(), world != "denials");
            let took = nanoseconds(&policy, &caller, "/a/7/x");
            println!("{{\"world\": \"{world}\", \"rules\": {many}, \"nanoseconds\": {took:.0}}}");
            match tables.get_mut(at) {
                Some((_, row)) => row.push(took),
                None => tables.push((world, vec![took])),
            }
        }
    }
    println!("{:<12}{:>8}{:>8}{:>8}  ns for 10, 100, 1000 rules", "", 10, 100, 1000);
    for (world, row) in tables {
        println!("{world:<12}{:>8.0}{:>8.0}{:>8.0}", row[0], row[1], row[2]);
        assert!(row[2] < 5.0 * row[0] + 500.0, "{world}: 1000 rules cost {} ns, 10 cost {} ns", row[2], row[0]);
    }
}
