//! `remora bug-report`: what somebody needs who is to help, in one file that can be sent.
//!
//! In: a cluster, and the pods that the report is about. Out: a `.tar.gz`, bounded in bytes and time; what could not be read is listed in
//! it and fails nothing. Secrets are never read. Whatever is written went through [`redact`].
//!
//! | module | |
//! |--|--|
//! | [`archive`] | the file and its bounds |
//! | [`collect`] | what goes into it, in which order |
//! | [`proxies`] | of those, the pages and logs of single pods |
//! | [`report`] | the report while it is made |
//! | [`redact`] | what is taken out of all of it |

mod archive;
mod collect;
mod proxies;
mod redact;
mod report;

use crate::{
    Outcome, block_on,
    cluster::{ControlPlane, scope::Scope},
    finish,
};
use archive::{Archive, Made};
use remora_runtime::{settings::duration_within, utc::Utc};
use report::Report;
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long it may take, unless said otherwise.
const WITHIN: &str = "5m";
const WITHIN_MIN: Duration = Duration::from_secs(10);
const WITHIN_MAX: Duration = Duration::from_secs(3600);

/// What the report is about.
#[derive(Debug, clap::Args)]
#[command(after_help = "  remora bug-report                       the control plane and the objects of the mesh\n  \
    remora bug-report deploy/web -n shop    the sidecars of these pods too\n\n\
    Secrets are never read. Environment and arguments of applications' containers are left out; tokens, private keys and\n\
    values of fields that carry credentials are taken out of logs and objects. Look at it before you send it all the same:\n\
    it names namespaces, workloads, addresses and paths of requests that failed.")]
pub(crate) struct BugReportArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    control_plane: ControlPlane,
    /// Where to write it [default: remora-bug-report-TIME.tar.gz in this folder]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How long it may take; what was not read then is left out
    #[arg(long, value_name = "DURATION", default_value = WITHIN, value_parser = within)]
    within: Duration,
}

fn within(text: &str) -> Result<Duration, String> {
    duration_within(WITHIN_MIN, WITHIN_MAX)(text)
}

/// `remora bug-report`.
pub(crate) fn bug_report(args: &BugReportArgs) -> ExitCode {
    finish(block_on(run(args)))
}

async fn run(args: &BugReportArgs) -> Outcome {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let folder = format!("remora-bug-report-{}", Utc::of(now).to_string().replace([':', '-'], ""));
    let path = args.file.clone().unwrap_or_else(|| PathBuf::from(format!("{folder}.tar.gz")));
    let session = args.scope.open().await?;
    let mut report = Report::new(Archive::create(&path, &folder, now)?, args.within);
    collect::all(&mut report, &session, &args.control_plane.namespace).await?;
    let made = report.finish()?;
    Ok((told(&made, &path), true))
}

/// What became of it, in words.
fn told(made: &Made, path: &std::path::Path) -> String {
    let mut text = format!("{}: {} files, {} KiB\n", path.display(), made.files, made.bytes.div_ceil(1024));
    for (title, lines) in [("left out", &made.left_out), ("could not be read", &made.failures)] {
        for line in lines {
            text += &format!("{title}: {line}\n");
        }
    }
    text + "Secrets were not read; credentials were taken out. Look at it before you send it: it names what runs in this cluster.\n"
}

#[cfg(test)]
mod tests;
