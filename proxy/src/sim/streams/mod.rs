//! The same for what is bytes, or becomes so: connections that are no HTTP, upgrades, CONNECT. Each stream has one true outcome and one
//! record: its bytes arrive in order, an end in order arrives as one and only if it was told, a reset arrives as a reset, also where
//! nobody reads.
//!
//! [`plan`] draws the streams, `side` plays either of their sides, [`book`] knows what was said.

mod app;
mod book;
mod client;
mod http2;
mod plan;
mod side;

use super::{
    Course, Trace, check,
    ledger::{Ledger, Shared, answer},
    mesh::{self, Mesh},
    seeds, simulation,
};
use book::{Book, Outcome};
use plan::Plan;
use std::{net::SocketAddr, rc::Rc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};

/// By then every stream has an outcome, whatever the plan.
const PATIENCE: Duration = Duration::from_secs(900);
/// What an application says first that speaks first.
const GREETING: &[u8] = b"\0HI\n";

/// What all parts of a simulation of streams have.
struct World {
    shared: Rc<Shared>,
    plan: Plan,
    book: Book,
}

impl World {
    fn trace(&self) -> &Trace {
        &self.shared.trace
    }

    /// Whether an end in order of `message` was told if it arrives at whoever says `own`.
    ///
    /// Limitation: hyper reads a reset of a stream that has left HTTP by CANCEL or NO_ERROR as its end in order, and behind an end that it has
    /// written itself nothing tells (hyper 1.12, `proto/h2/upgrade.rs`).
    fn tells_ends(&self, message: u64, own: u64) -> bool {
        let extended =
            self.plan.stream(message / MESSAGES).is_some_and(|stream| stream.begins == plan::Begins::Extended);
        !extended || !self.book.has_ended(own)
    }

    /// Whether a side of the stream left before its time.
    fn has_gone(&self, id: u64) -> bool {
        let answers = (0..self.book.times(id)).map(|execution| answer(id, execution));
        answers.chain([question(id)]).any(|message| self.book.is_gone(message))
    }
}

/// What a stream of bytes begins with: no protocol that a proxy knows does.
fn header(id: u64) -> [u8; 8] {
    [0, b'S', b'T', b'R', b'E', b'A', b'M', id as u8]
}

/// The number of what the client of a stream says.
fn question(id: u64) -> u64 {
    id * MESSAGES
}

/// The numbers that a stream has for what is said on it: see [`answer`].
const MESSAGES: u64 = 64;

/// Runs a seed; `shows`: printing what happens as it does.
fn run(seed: u64, shows: bool) -> Course {
    simulation(seed, shows, async |trace, net| {
        let plan = Plan::of(seed);
        let shared = Rc::new(Shared { plan: plan.base.clone(), ledger: Ledger::default(), trace, net });
        simulate(Rc::new(World { shared, plan, book: Book::default() })).await;
    })
}

async fn simulate(world: Rc<World>) {
    let (shared, base) = (&world.shared, &world.plan.base);
    let mesh = Rc::new(Mesh::new(shared));
    for number in 0..base.endpoints.len() {
        let quiet = base.quiet;
        let incoming = shared.net.listen(mesh::app(number), None, move |rng| super::plan::Plan::weather(quiet, rng));
        tokio::task::spawn_local(app::serve(world.clone(), incoming));
    }
    let (events, began) = (base.events.clone(), Instant::now());
    let changes = (mesh.clone(), shared.clone());
    let changing = tokio::task::spawn_local(async move {
        for (at, event) in events {
            sleep_until(began + at).await;
            changes.0.change(&changes.1, event);
        }
    });
    let mut clients = Vec::new();
    for stream in world.plan.streams.clone() {
        let to = if stream.outside { mesh::pod(0) } else { mesh::service() };
        let from = SocketAddr::from(([10, 2, 0, stream.id as u8], 0));
        let world = world.clone();
        clients.push(tokio::task::spawn_local(async move {
            sleep(stream.after).await;
            client::run(&world, &stream, (to, from)).await;
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    changing.abort();
    outcomes(&world);
    check::nothing_stays(shared, &mesh).await;
    records(&world, &mesh);
}

fn outcomes(world: &World) {
    let (book, trace) = (&world.book, world.trace());
    for stream in &world.plan.streams {
        let id = stream.id;
        let Some(outcome) = book.outcome_of(id) else {
            trace.wrong(format_args!("stream {id} has no outcome"));
            continue;
        };
        let goes_wrong = matches!(&outcome, Outcome::Told(_) | Outcome::Broken("connect" | "before it began"));
        // A reset takes with it what has not arrived: the application's answer, too.
        if world.plan.base.quiet && goes_wrong && !world.has_gone(id) {
            trace.wrong(format_args!("nothing broke, but stream {id} came to {outcome:?}"));
        }
        if outcome == Outcome::Whole && book.taken(id) == 0 {
            trace.wrong(format_args!("stream {id} is whole, and no application has taken it"));
        }
        if outcome == Outcome::Refused && stream.begins == plan::Begins::Bytes {
            trace.wrong(format_args!("stream {id} was refused by an application, which cannot refuse bytes"));
        }
    }
}

/// Each stream has one record at each proxy that it came to.
fn records(world: &World, mesh: &Mesh) {
    let (trace, book) = (world.trace(), &world.book);
    for (name, proxy) in [("outbound", &mesh.outbound), ("inbound", &mesh.inbound)] {
        let (begun, ended) = (proxy.counted("requests"), proxy.ended());
        if begun != ended {
            trace.wrong(format_args!("{name} has begun {begun} streams and ended {ended}"));
        }
        trace.say(name, format_args!("{begun} streams, {:?}", proxy.failures()));
    }
    let inside = || world.plan.streams.iter().filter(|stream| !stream.outside);
    let (seen, made) = (mesh.outbound.counted("requests"), inside().count() as u64);
    // Whoever left at once has perhaps not said a word.
    let stayed = inside().filter(|stream| !book.is_gone(question(stream.id))).count() as u64;
    if seen > made || (world.plan.base.quiet && seen < stayed) {
        trace.wrong(format_args!("{made} streams were made, and the outbound proxy has counted {seen}"));
    }
    let whole = |stream: &&plan::Stream| book.outcome_of(stream.id) == Some(Outcome::Whole);
    let is_sent = |stream: &&plan::Stream| !world.has_gone(stream.id) && !book.is_broken(stream.id);
    let whole = inside().filter(whole).filter(is_sent).count() as u64;
    let good = mesh.outbound.counted("success");
    if good < whole {
        trace.wrong(format_args!("{whole} streams are whole, and the outbound proxy has counted {good}"));
    }
}

#[test]
fn whatever_breaks_each_stream_has_one_true_outcome_and_one_record() {
    seeds(run);
}

#[test]
fn a_seed_of_streams_takes_the_same_course_each_time() {
    super::repeats(20, run);
}
