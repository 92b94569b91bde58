//! How the cases are measured, and the order in which they run.

use crate::{
    build::Plan,
    case::{Case, ERRORS, Figures, Outcome, Sample},
    contender::Contender,
    load::{self, Idle},
    pair::{self, Pair},
    pki,
    pods::Pods,
    process::Memory,
    report::median,
};
use anyhow::{Context, Result, bail};
use std::{collections::BTreeMap, thread, time::Duration};

const IDLE_CONNECTIONS: u32 = 1000;
/// So many connections make their requests at the same time where each request takes a new one.
const NEW_CONNECTIONS: u32 = 64;
/// How long nothing happens before memory is called idle memory. Remora gives some back after 5 to 10 s.
const IDLE: Duration = Duration::from_secs(11);
/// Memory is the same in every round, and takes half a minute each time.
const MEMORY_ROUNDS: u32 = 3;
/// How long a contender is under load before the next one is.
const TURN_SECONDS: u32 = 1;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// Runs everything in the plan: a case after the other within a round, and in each case all contenders side by side.
pub(crate) fn measure_all(plan: &Plan) -> Result<Outcome> {
    pki::create()?;
    let mut pods: Vec<_> = plan.contenders.iter().map(|&contender| Pods::create(contender)).collect::<Result<_>>()?;
    let mut outcome = Outcome::default();
    for round in 1..=plan.rounds {
        for &case in &plan.cases {
            if case == Case::Memory && round > MEMORY_ROUNDS {
                continue;
            }
            for (contender, figures) in side_by_side(&mut outcome, plan, case, round) {
                eprintln!("round {round}, {case:?}, {contender}: {}", shown(&figures));
                outcome.samples.push(Sample { case, contender, round, figures });
            }
            pods.iter_mut().try_for_each(Pods::check)?;
        }
    }
    Ok(outcome)
}

fn shown(figures: &Figures) -> String {
    figures.iter().map(|(name, figure)| format!("{name} {figure:.2}")).collect::<Vec<_>>().join(", ")
}

/// Starts a fresh pair of each contender, and measures them in turns.
fn side_by_side(outcome: &mut Outcome, plan: &Plan, case: Case, round: u32) -> Vec<(Contender, Figures)> {
    let mut failures = Failures { all: &mut outcome.failed, at: format!("round {round}, {case:?}") };
    let mut pairs = Vec::new();
    for &contender in &plan.contenders {
        let nothing_to_see = case == Case::Memory && contender == Contender::None;
        if !nothing_to_see && !failures.has(contender) {
            pairs.extend(failures.keep(contender, pair::start(contender, plan)));
        }
    }
    match load_of(case) {
        Some(load) => take_turns(&mut failures, pairs, load, plan.seconds),
        None => memory(&mut failures, pairs),
    }
}

/// Contenders that failed, while a case is measured.
struct Failures<'a> {
    all: &'a mut Vec<(Contender, String)>,
    at: String,
}

impl Failures<'_> {
    fn has(&self, contender: Contender) -> bool {
        self.all.iter().any(|(other, _)| *other == contender)
    }

    /// What came of a step, if something did; otherwise the contender is out from now on.
    fn keep<T>(&mut self, contender: Contender, result: Result<T>) -> Option<T> {
        result
            .inspect_err(|error| {
                eprintln!("{}, {contender}: {error:#}\ngoing on without {contender}", self.at);
                self.all.push((contender, format!("{}, {contender}: {error:#}", self.at)));
            })
            .ok()
    }

    /// The same for a step of each pair. A proxy that died is the cause of whatever else went wrong.
    fn each<T>(&mut self, pairs: &mut Vec<Pair>, mut step: impl FnMut(&Pair) -> Result<T>) -> Vec<(Contender, T)> {
        let mut done = Vec::new();
        pairs.retain_mut(|pair| {
            let result = step(pair);
            let result = pair.check().and(result).with_context(|| pair.log_ends());
            let kept = self.keep(pair.of, result);
            let stays = kept.is_some();
            done.extend(kept.map(|value| (pair.of, value)));
            stays
        });
        done
    }
}

/// What one turn has a pair do.
#[derive(Clone, Copy, Debug)]
enum Load {
    Http { connections: u32, keep_alive: bool },
    Bulk,
}

/// What came of one turn.
#[derive(Debug)]
struct Turn {
    /// As the load generator tells them.
    figures: Figures,
    /// How much was done: requests, or GiB.
    work: f64,
    /// What the pair took for it; none without a proxy.
    cpu: Option<Duration>,
}

/// What is measured under load; memory is not.
fn load_of(case: Case) -> Option<Load> {
    let http = |connections, keep_alive| Some(Load::Http { connections, keep_alive });
    match case {
        Case::Http1One => http(1, true),
        Case::Http1Many => http(64, true),
        Case::Http1Crowd => http(512, true),
        Case::NewConnections => http(NEW_CONNECTIONS, false),
        Case::Bulk => Some(Load::Bulk),
        Case::Memory => None,
    }
}

impl Load {
    fn turn(self, pair: &Pair) -> Result<Turn> {
        let before = pair.cpu()?;
        let (figures, work) = match self {
            Self::Http { connections, keep_alive } => {
                let http = load::http(pair.of, connections, keep_alive, TURN_SECONDS)?;
                let figures = [
                    ("requests_per_s", http.requests_per_s),
                    ("p50_ms", http.p50_ms),
                    ("p99_ms", http.p99_ms),
                    (ERRORS, http.errors),
                ];
                (Figures::from(figures), http.requests)
            }
            Self::Bulk => {
                let bulk = load::bulk(pair.of, TURN_SECONDS)?;
                (Figures::from([("gbit_per_s", bulk.bits_per_s / 1e9)]), bulk.bytes / GIB)
            }
        };
        let cpu = before.zip(pair.cpu()?).map(|(before, after)| after.saturating_sub(before));
        Ok(Turn { figures, work, cpu })
    }

    /// All turns of a contender in one: errors add up, a cost is that of all its work, the rest are medians.
    fn whole(self, turns: &[Turn]) -> Figures {
        let mut each: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for (name, figure) in turns.iter().flat_map(|turn| &turn.figures) {
            each.entry(*name).or_default().push(*figure);
        }
        let one = |name, values: Vec<f64>| if name == ERRORS { Some(values.iter().sum()) } else { median(values) };
        let mut whole: Figures =
            each.into_iter().filter_map(|(name, values)| Some((name, one(name, values)?))).collect();
        let work: f64 = turns.iter().map(|turn| turn.work).sum();
        let cpu = turns.iter().map(|turn| turn.cpu).sum::<Option<Duration>>();
        if let Some(cpu) = cpu.filter(|_| work > 0.0) {
            let (name, scale) = match self {
                Self::Http { .. } => ("cpu_us_per_request", 1e6),
                Self::Bulk => ("cpu_s_per_gib", 1.0),
            };
            whole.insert(name, cpu.as_secs_f64() * scale / work);
        }
        whole
    }
}

/// A turn of each to warm up, then as many as there are seconds, every other time in reverse order: a machine that is
/// slower for a while is slower for all.
fn take_turns(
    failures: &mut Failures<'_>,
    mut pairs: Vec<Pair>,
    load: Load,
    seconds: u32,
) -> Vec<(Contender, Figures)> {
    failures.each(&mut pairs, |pair| load.turn(pair));
    let mut turns: BTreeMap<Contender, Vec<Turn>> = BTreeMap::new();
    for _ in 0..seconds.div_ceil(TURN_SECONDS) {
        for (contender, turn) in failures.each(&mut pairs, |pair| load.turn(pair)) {
            turns.entry(contender).or_default().push(turn);
        }
        pairs.reverse();
    }
    turns.retain(|contender, _| !failures.has(*contender));
    turns.into_iter().map(|(contender, turns)| (contender, load.whole(&turns))).collect()
}

#[expect(clippy::disallowed_methods, reason = "the passing of time is what is measured")]
fn stay_idle() {
    thread::sleep(IDLE);
}

/// Memory some time after the one request that showed a pair ready, then some time after connections that are idle now
/// made one each.
fn memory(failures: &mut Failures<'_>, mut pairs: Vec<Pair>) -> Vec<(Contender, Figures)> {
    stay_idle();
    let idle: BTreeMap<_, _> = failures.each(&mut pairs, Pair::memory).into_iter().collect();
    let connections = failures.each(&mut pairs, |pair| Idle::open(pair.of, IDLE_CONNECTIONS));
    stay_idle();
    let figures = failures.each(&mut pairs, |pair| {
        let held = pair.memory()?;
        let (Some([client, server]), [client_held, server_held]) = (idle.get(&pair.of).map(Vec::as_slice), &held[..])
        else {
            bail!("memory is measured of pairs only");
        };
        let each = |idle: &Memory, held: &Memory| (held.resident_kb - idle.resident_kb) / f64::from(IDLE_CONNECTIONS);
        Ok(Figures::from([
            ("client_resident_mb", client.resident_kb / 1024.0),
            ("client_anonymous_mb", client.anonymous_kb / 1024.0),
            ("server_resident_mb", server.resident_kb / 1024.0),
            ("server_anonymous_mb", server.anonymous_kb / 1024.0),
            ("client_per_idle_connection_kb", each(client, client_held)),
            ("server_per_idle_connection_kb", each(server, server_held)),
        ]))
    });
    drop(connections);
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_turns_of_a_contender_make_one_figure_each() {
        let turn = |rate: f64, errors: f64, cpu| Turn {
            figures: Figures::from([("requests_per_s", rate), (ERRORS, errors)]),
            work: rate,
            cpu: Some(Duration::from_millis(cpu)),
        };
        let load = Load::Http { connections: 1, keep_alive: true };
        let whole = load.whole(&[turn(1000.0, 0.0, 500), turn(4000.0, 2.0, 900), turn(1000.0, 1.0, 600)]);
        let expected = [("cpu_us_per_request", 2e6 / 6000.0), (ERRORS, 3.0), ("requests_per_s", 1000.0)];
        assert_eq!(whole, Figures::from(expected));
    }

    #[test]
    fn what_used_no_proxy_has_no_cost() {
        let turn = Turn { figures: Figures::from([("gbit_per_s", 9.5)]), work: 1.0, cpu: None };
        assert_eq!(Load::Bulk.whole(&[turn]), Figures::from([("gbit_per_s", 9.5)]));
    }
}
