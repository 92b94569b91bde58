//! Deterministic simulation of the request path: clients, the proxy of their pod, the proxy of the endpoints, and applications, over
//! pipes in memory, on one thread, in virtual time, from one seed. In: a seed. Out: nothing, or what must not have happened with all that
//! led to it.
//!
//! The proxies are the real ones from the accepted connection on, mesh TLS and all; only [`TcpStream`] is another one here, the clock is
//! tokio's paused one, and discovery is played. [`plan`] draws from the seed who asks what and what breaks; [`ledger`] is where the ends
//! write what they told, and compare with it what they hear; `check` says what holds at the end.
//!
//! `REMORA_SEED=n` runs one seed and prints its trace, `REMORA_SEEDS=n` as many seeds as that from `REMORA_SEED_FROM` on.

mod app;
mod app1;
mod app2;
mod check;
mod client;
mod client2;
mod http1;
mod ledger;
mod mesh;
mod net;
mod pipe;
mod plan;
mod proxy;
mod spine;
mod streams;
mod trace;

pub(crate) use net::{Net, PipeId, TcpStream, has_ended, is_over, was_reset};
pub(crate) use proxy::Proxy;
pub(crate) use trace::Trace;

use app::App;
use ledger::{Ledger, Shared};
use mesh::Mesh;
use plan::Plan;
use std::{net::SocketAddr, panic::AssertUnwindSafe, rc::Rc, time::Duration};
use tokio::{
    task::LocalSet,
    time::{Instant, sleep_until},
};

/// What came of a seed: its trace, and what was wrong.
type Course = (Vec<String>, Vec<String>);

/// Runs one seed; `shows`: printing what happens as it does.
fn run(seed: u64, shows: bool) -> Course {
    simulation(seed, shows, async |trace, net| {
        let plan = Plan::of(seed);
        simulate(&Rc::new(Shared { plan, ledger: Ledger::default(), trace, net })).await;
    })
}

/// Runs `what` in a network and a virtual time of its own.
fn simulation(seed: u64, shows: bool, what: impl AsyncFnOnce(Rc<Trace>, Rc<Net>)) -> Course {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let trace = Rc::new(Trace::new(shows));
        let net = Net::enter(seed, &trace);
        what(trace.clone(), net).await;
        Net::leave();
        trace.end()
    })
}

async fn simulate(shared: &Rc<Shared>) {
    let plan = &shared.plan;
    let mesh = Rc::new(Mesh::new(shared));
    for number in 0..plan.endpoints.len() {
        serve(shared, format!("app {number}"), mesh::app(number), false);
    }
    serve(shared, "copies".to_owned(), mesh::mirror(), true);
    let (events, began) = (plan.events.clone(), Instant::now());
    let changes = (mesh.clone(), shared.clone());
    let changing = tokio::task::spawn_local(async move {
        for (at, event) in events {
            sleep_until(began + at).await;
            changes.0.change(&changes.1, event);
        }
    });
    let watching = tokio::task::spawn_local(check::deadlines(shared.clone(), mesh.clone()));
    let mut clients = Vec::new();
    for (number, client) in plan.clients.iter().enumerate() {
        let to = if client.outside { mesh::pod(0) } else { mesh::service() };
        let from = SocketAddr::from(([10, 2, 0, number as u8 + 1], 0));
        clients.push(tokio::task::spawn_local(client::run(shared.clone(), client.clone(), to, from)));
    }
    for client in clients {
        client.await.unwrap();
    }
    watching.abort();
    changing.abort();
    check::at_the_end(shared, &mesh).await;
}

fn serve(shared: &Rc<Shared>, name: String, at: SocketAddr, mirror: bool) {
    let quiet = shared.plan.quiet;
    let incoming = shared.net.listen(at, None, move |rng| Plan::weather(quiet, rng));
    tokio::task::spawn_local(app::serve(Rc::new(App { name, mirror, shared: shared.clone() }), incoming));
}

/// How many seeds, from which on, and whether their traces are wanted.
fn asked() -> (u64, u64, bool) {
    let read = |name: &str| {
        #[allow(clippy::disallowed_methods, reason = "it is for whoever runs the test")]
        std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    match read("REMORA_SEED") {
        Some(seed) => (1, seed, true),
        None => (read("REMORA_SEEDS").unwrap_or(100), read("REMORA_SEED_FROM").unwrap_or(0), false),
    }
}

/// Runs a seed; what was wrong with it, a panic included.
fn verdict(run: fn(u64, bool) -> Course, seed: u64, shows: bool) -> Option<String> {
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| run(seed, shows)));
    Net::leave();
    let (trace, wrong) = ran.unwrap_or_else(|_| (Vec::new(), vec!["it panicked: see above".to_owned()]));
    (!wrong.is_empty()).then(|| format!("seed {seed}:\n  {}\n{}", wrong.join("\n  "), trace.join("\n")))
}

/// Runs the seeds that are asked for. Panics with the shortest trace of those that fail.
fn seeds(run: fn(u64, bool) -> Course) {
    let (count, from, shows) = asked();
    let threads = std::thread::available_parallelism().map_or(1, |it| it.get() as u64).min(count);
    let next = std::sync::atomic::AtomicU64::new(from);
    let failed = std::thread::scope(|scope| {
        let work = || {
            let seeds = std::iter::from_fn(|| {
                let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                (seed < from + count).then_some(seed)
            });
            seeds.filter_map(|seed| Some((seed, verdict(run, seed, shows)?))).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    let seeds: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    if let Some((seed, text)) = failed.iter().min_by_key(|(_, text)| text.len()) {
        panic!("{text}\n\n{} of {count} seeds failed: {seeds:?}; REMORA_SEED={seed} replays this one", seeds.len());
    }
}

/// Runs each of so many seeds twice. Panics with the first difference.
fn repeats(count: u64, run: fn(u64, bool) -> Course) {
    for seed in 0..count {
        let [(first, _), (again, _)] = [run(seed, false), run(seed, false)];
        let differs = first.iter().zip(&again).position(|(one, other)| one != other);
        let differs = differs.or((first.len() != again.len()).then_some(first.len().min(again.len())));
        if let Some(at) = differs {
            let around = |trace: &[String]| trace[at.saturating_sub(3)..trace.len().min(at + 3)].join("\n");
            panic!("seed {seed} differs:\n{}\n--\n{}", around(&first), around(&again));
        }
    }
}

#[test]
fn whatever_breaks_each_request_has_one_true_outcome_and_one_record() {
    seeds(run);
}

#[test]
fn a_seed_takes_the_same_course_each_time() {
    repeats(20, run);
}

/// How long what idles may stay.
const IDLE: Duration = Duration::from_secs(400);
