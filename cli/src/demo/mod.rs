//! `remora demo`: a small shop on this machine, every call through the mesh, and a table to watch it by.
//!
//! In: nothing but this file (every process is this program under another name). Out: a live table, a summary, an
//! exit code. All processes end with this one, and the directory they worked in goes too.

pub(crate) mod app;
mod breaks;
mod children;
mod control;
mod judge;
mod layout;
mod manifests;
mod report;
mod run;
mod screen;
mod start;
mod svg;
mod tokens;
mod view;
mod watch;

use crate::{Look, text};
use app::web;
use breaks::Break;
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// `remora demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Break something: in the running demo, or halfway through one started with --for
    #[arg(long = "break", value_name = "WHAT", value_enum)]
    what: Option<Break>,
    /// End by itself after this time, for example 30s, with a summary; the exit code says whether all was well
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// What to print: tables, or one JSON object at the end
    #[arg(short, long, value_enum, default_value_t)]
    output: crate::output::Output,
    /// Requests per second that the shop's front sends
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// What the processes log (a tracing filter); logs lie in the demo's directory while it runs
    #[arg(long, default_value = "info")]
    log: String,
    /// Leave the demo's directory (manifests, certificates, logs) when it ends
    #[arg(long)]
    keep: bool,
    /// Draw the table into this file as an SVG: as it was while something was broken, else at the end
    #[arg(long, value_name = "FILE", hide = true)]
    svg: Option<PathBuf>,
    /// Where a running demo can be found; another place allows a second demo
    #[arg(long, env = "XDG_RUNTIME_DIR", hide_env_values = true)]
    runtime_dir: Option<PathBuf>,
}

/// Runs the demo, or breaks the running one.
pub(crate) fn main(args: Args, look: Look) -> ExitCode {
    let outcome = match (args.what, args.time) {
        (Some(what), None) => control::ask(args.runtime_dir.as_deref(), what)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(text::print(&format!("{text}\n")).map(|()| true)?)),
        _ => run::run(args, look),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("remora demo: {error:#}{}", hint(&error));
            ExitCode::FAILURE
        }
    }
}

/// What to do about causes that people can do something about.
fn hint(error: &anyhow::Error) -> &'static str {
    if error.is::<text::PrintError>() {
        return "";
    }
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    match kind {
        Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => {
            " (free some space there, or set TMPDIR to a directory that has some)"
        }
        Some(std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied) => {
            " (set TMPDIR to a directory that can be written)"
        }
        _ => "",
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("say a whole number and s, m or h, for example 30s".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "it must begin with a whole number, for example 30s".to_owned())?;
    let time = number.checked_mul(seconds).filter(|time| (5..=7 * 24 * 3600).contains(time));
    time.map(Duration::from_secs).ok_or_else(|| "it must be between 5s and a week".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_their_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["30", "s", "1s", "-3s", "99999999999999999999h", "1.5m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_full_disk_comes_with_what_to_do() {
        let full = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::StorageFull)).context("cannot write");
        assert!(hint(&full).contains("TMPDIR"));
    }
}
