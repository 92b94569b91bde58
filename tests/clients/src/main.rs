//! `tests/clients/run`: real clients against real servers with narrow limits, each once directly and once through two proxies.
//!
//! In: which of them, how many requests. Out: a table (or JSON) of failures and differences, and an exit code: 0 there are none,
//! 1 there are some, or a client or server could not be had, 2 it could not be tried.
//!
//! [`plan`] says what is asked, `programs/` ask it and `servers/` answer ([`tools`] starts both, [`scene`] puts the mesh between
//! them), [`answer`] compares, [`report`] tells.

mod answer;
mod plan;
mod report;
mod scene;
mod tools;

use clap::Parser;
use plan::Plan;
use report::{Cell, Format, Report};
use scene::Scene;
use std::{path::PathBuf, process::ExitCode};
use tools::{Client, Server};

/// Real clients against real servers with narrow limits, directly and through two proxies.
#[derive(Debug, Parser)]
#[command(name = "tests/clients/run", version)]
struct Args {
    /// How often each client asks each server, each way
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..))]
    requests: u32,
    /// These clients only
    #[arg(long, value_enum, value_name = "CLIENT", value_delimiter = ',', default_values_t = Client::ALL)]
    clients: Vec<Client>,
    /// These servers only
    #[arg(long, value_enum, value_name = "SERVER", value_delimiter = ',', default_values_t = Server::ALL)]
    servers: Vec<Server>,
    /// Another seed asks something else
    #[arg(long, default_value_t = 12)]
    seed: u64,
    /// How to print what was seen
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Where the JSON goes as well
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    if let Some(code) = remora_tests::components::play() {
        return code;
    }
    let args = Args::parse();
    let outcome = run(&args).and_then(|report| report.print(args.output));
    match outcome {
        Ok(met) => ExitCode::from(u8::from(!met)),
        Err(error) => {
            eprintln!("remora-clients: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new(args.requests, args.seed);
    let servers: Vec<_> = args.servers.iter().filter_map(|server| report.had(server.name(), *server)).collect();
    let clients: Vec<_> = args.clients.iter().filter_map(|client| report.had(client.name(), *client)).collect();
    // nginx answers with the help of Jetty.
    let scene = Scene::start(&servers)?;
    for client in clients {
        for server in servers.iter().copied().filter(|server| server.speaks(client)) {
            eprint!("{} → {}: ", client.title(), server.title());
            let plan = Plan::new(args.seed, args.requests, client, server);
            match scene.ask(client, server, &plan) {
                Ok(seen) => {
                    let cell = Cell::of(client, server, seen);
                    eprintln!("{}", cell.summary());
                    report.cells.push(cell);
                }
                Err(error) => report.broken(client, server, &error),
            }
            // So that what was seen is kept if the run is ended.
            args.out.as_deref().map_or(Ok(()), |file| report.save(file))?;
        }
    }
    scene.check()?;
    Ok(report)
}
