//! Reads a running component's admin port and prints it: `remora routes`, `remora identity`, `remora check`.

use std::net::SocketAddr;
use std::process::ExitCode;

use crate::admin::{self, Routes};
use crate::table::{Align, Table};

/// Which admin port to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct Admin {
    /// The admin port, for example 127.0.0.1:4191
    address: SocketAddr,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Which admin ports to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// An admin port; may be given several times
    #[arg(long = "admin", required = true)]
    addresses: Vec<SocketAddr>,
}

/// For people or for scripts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// A table
    #[default]
    Text,
    /// One JSON value
    Json,
}

/// `remora routes`.
pub(crate) fn routes(args: &Admin) -> ExitCode {
    finish(ask(args.address, "/routes").and_then(|body| match args.output {
        Output::Json => Ok((String::from_utf8_lossy(&body).into_owned(), true)),
        Output::Text => {
            let routes: Routes = admin::parse(args.address, &body)?;
            Ok((table(&routes).lines(usize::MAX).join("\n"), true))
        }
    }))
}

/// `remora identity`: the certificate's part of the component's `/config`.
pub(crate) fn identity(args: &Admin) -> ExitCode {
    finish(ask(args.address, "/config").and_then(|body| {
        let config: serde_json::Value = admin::parse(args.address, &body)?;
        let part = ["certificate", "identity"].iter().find_map(|key| config.get(key)).unwrap_or(&config);
        Ok(match (args.output, part.as_object()) {
            (Output::Text, Some(fields)) => {
                let mut table = Table::new(&[("field", Align::Left), ("value", Align::Left)]);
                for (name, value) in fields {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    table.row([name.clone(), text]);
                }
                (table.lines(usize::MAX).join("\n"), true)
            }
            _ => (part.to_string(), true),
        })
    }))
}

/// `remora check`.
pub(crate) fn check(args: &CheckArgs) -> ExitCode {
    let mut all_ready = true;
    let mut table = Table::new(&[("admin", Align::Left), ("ready", Align::Left), ("why", Align::Left)]);
    for &address in &args.addresses {
        let (ready, why) = match block_on(admin::get(address, "/ready")) {
            Ok(answer) => (answer.status.is_success(), String::from_utf8_lossy(&answer.body).trim().to_owned()),
            Err(error) => (false, error.to_string()),
        };
        all_ready &= ready;
        table.row([address.to_string(), if ready { "yes" } else { "no" }.to_owned(), why.replace('\n', "; ")]);
    }
    finish(Ok((table.lines(usize::MAX).join("\n"), all_ready)))
}

fn table(routes: &Routes) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("direction", Left),
        ("target", Left),
        ("route", Left),
        ("peer", Left),
        ("tls", Left),
        ("protocol", Left),
        ("requests", Right),
        ("rps", Right),
        ("success", Right),
        ("p50", Right),
        ("p95", Right),
        ("p99", Right),
        ("retries", Right),
        ("failures", Left),
    ]);
    for route in &routes.routes {
        let failures = route.failures.iter().map(|(reason, count)| format!("{reason}={count}"));
        table.row([
            route.direction.clone(),
            route.parent.clone(),
            route.route.clone(),
            route.peer.clone(),
            route.tls.clone(),
            route.protocol.clone(),
            route.requests.to_string(),
            format!("{:.1}", route.rps),
            admin::percent(route.success, route.requests),
            admin::millis(route.p50_ms),
            admin::millis(route.p95_ms),
            admin::millis(route.p99_ms),
            route.retries.to_string(),
            failures.collect::<Vec<_>>().join(" "),
        ]);
    }
    table
}

fn ask(address: SocketAddr, path: &str) -> Result<Vec<u8>, admin::Error> {
    let answer = block_on(admin::get(address, path))?;
    if answer.status.is_success() { Ok(answer.body) } else { Err(admin::Error::status(address, path, answer.status)) }
}

fn block_on<T>(work: impl Future<Output = Result<T, admin::Error>>) -> Result<T, admin::Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(admin::Error::Runtime)?.block_on(work)
}

fn finish(outcome: Result<(String, bool), admin::Error>) -> ExitCode {
    match outcome {
        Ok((text, good)) => {
            println!("{text}");
            if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("remora: {}", crate::chain(&error));
            ExitCode::FAILURE
        }
    }
}
