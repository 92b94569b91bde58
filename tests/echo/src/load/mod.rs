//! Steady load: one request each so often, whatever became of the last one, and what became of each.
//!
//! Open loop: latency counts from when a request was due. Nothing is tried twice, so that a failure here is a failure
//! somewhere; but a kept connection that is known to be closed is not used, as no client would. While it runs, it answers on
//! a loopback port: `/report` (the figures so far) and `/stop` (ends it; the final figures). The last line of its output is
//! the final report.

mod ask;
mod control;
mod report;

use crate::text;
use report::Tally;
use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinSet, LocalSet},
    time::{Instant, sleep_until},
};

/// How long the figures can be asked for once it was stopped.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// More in flight than this means that the other side has stopped: what is due then counts as failed. A load that went on
/// would take the machine away from those who are to answer.
const IN_FLIGHT_MAX: usize = 512;
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// http, https, h2c, grpc or tcp
    url: String,
    /// Requests a second
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// How long; the control port can end it earlier
    #[arg(long = "for", default_value = "1m", value_parser = text::duration)]
    length: Duration,
    /// A connection for each request, rather than kept ones
    #[arg(long)]
    new_connections: bool,
    /// Kept connections are left after this many requests (0: never)
    #[arg(long, default_value_t = 0)]
    requests_per_connection: u32,
    #[arg(long, default_value = "GET")]
    method: String,
    /// NAME:VALUE, repeatable
    #[arg(short = 'H', long = "header", value_parser = text::header, allow_hyphen_values = true)]
    headers: Vec<(String, String)>,
    #[arg(long, default_value = "")]
    body: String,
    /// What an answer must contain
    #[arg(long, default_value = "")]
    expect: String,
    #[arg(long, default_value_t = 200)]
    expect_status: u16,
    #[arg(long, default_value = "10s", value_parser = text::duration)]
    timeout: Duration,
    /// Where it can be asked for the report, and to stop
    #[arg(long, default_value = "127.0.0.1:9999")]
    control: SocketAddr,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    LocalSet::new().run_until(drive(Rc::new(args))).await
}

async fn drive(args: Rc<Args>) -> anyhow::Result<()> {
    anyhow::ensure!(args.rate > 0.0, "a rate of {} asks nothing", args.rate);
    let asker = Rc::new(ask::Asker::new(Rc::clone(&args))?);
    let tally = Rc::new(RefCell::new(Tally::new(&args.url, args.rate)));
    let (stop, mut stopped) = watch::channel(false);
    let (finish, finished) = watch::channel(false);
    let listener = TcpListener::bind(args.control).await?;
    let control = tokio::task::spawn_local(control::serve(listener, Rc::clone(&tally), stop, finished));
    let mut terminate = signal(SignalKind::terminate())?;

    let began = Instant::now();
    let end = began + args.length;
    let (mut tasks, mut number, mut told) = (JoinSet::new(), 0_u32, began);
    loop {
        let due = began + Duration::from_secs_f64(f64::from(number) / args.rate);
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = stopped.wait_for(|&stop| stop) => break,
            () = sleep_until(due.min(end)) => {}
        }
        if due >= end {
            break;
        }
        while tasks.try_join_next().is_some() {}
        number += 1;
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            eprintln!("{}", tally.borrow().line());
        }
        tally.borrow_mut().asked(due);
        if tasks.len() >= IN_FLIGHT_MAX {
            tally.borrow_mut().failed(due, "too many requests are unanswered".into());
            continue;
        }
        let (asker, tally) = (Rc::clone(&asker), Rc::clone(&tally));
        tasks.spawn_local(async move {
            let answered = asker.ask(&tally).await;
            let mut tally = tally.borrow_mut();
            match answered {
                Ok(server) => tally.answered(due, server),
                Err(reason) => tally.failed(due, reason),
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    tally.borrow_mut().done = true;
    finish.send_replace(true);
    println!("{}", tally.borrow().json());
    // Whoever asked it to stop gets the figures, and time to end before this process does: in a pod, a command that was
    // executed beside it is killed with it.
    let more = if *stopped.borrow() { LAST_WORDS } else { Duration::ZERO };
    drop(tokio::time::timeout(more, control).await);
    Ok(())
}
