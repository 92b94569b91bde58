//! A process from its command line to its exit code, the same for every part of the control plane.

use crate::{EX_USAGE, idle, log, settings::Mistakes, sys};
use std::{fmt::Display, process::ExitCode, time::Duration};

/// The shortest turns that Linux gives.
const TURN: Duration = Duration::from_micros(100);

/// Parses the command line and the environment into `R`, has `read` judge it, starts the log that `log` names, and runs
/// `run` on this thread until it ends, which gives memory back while it is [`idle`]. What is wrong with the settings goes to standard error, with [`EX_USAGE`].
/// The last lines of the log are waited for, within bounds.
pub fn main<R, C, E, F>(
    name: &str,
    read: impl FnOnce(R) -> Result<C, Mistakes>,
    log: impl FnOnce(&C) -> (String, log::Format),
    run: impl FnOnce(C, log::Handle) -> F,
) -> ExitCode
where
    R: clap::Parser,
    E: Display,
    F: Future<Output = Result<(), E>>,
{
    let raw = match R::try_parse() {
        Ok(raw) => raw,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
            return error.print().map_or(ExitCode::FAILURE, |()| code);
        }
    };
    let config = match read(raw) {
        Ok(config) => config,
        Err(mistakes) => {
            eprint!("{name}: {mistakes}");
            return ExitCode::from(EX_USAGE);
        }
    };
    let (filter, format) = log(&config);
    let handle = match log::init(&filter, format) {
        Ok(handle) => handle,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::FAILURE;
        }
    };
    // From here on by the log: eprintln panics where standard error takes no more.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start the runtime: {error}");
            log::flush();
            return ExitCode::FAILURE;
        }
    };
    let served = async {
        let idle = tokio::spawn(idle::watch());
        let outcome = run(config, handle).await;
        idle.abort();
        outcome
    };
    let code = match runtime.block_on(served) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    };
    log::flush();
    code
}

/// Has the calling thread run soon after it is woken, however busy the others of its cgroup are. For one that does little each time
/// and is waited for, such as the admin server's. Where the kernel does not do so the thread runs as any other.
pub fn run_promptly() {
    if let Err(error) = sys::set_turns(TURN) {
        tracing::debug!(%error, "this thread cannot have short turns");
    }
}
