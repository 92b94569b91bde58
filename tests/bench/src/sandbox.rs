//! Namespaces that vanish with the program, however it ends.
//!
//! The program starts itself again in mount, network and PID namespaces of its own. The kernel kills all that runs
//! there when the first process ends, and that one dies with its parent; named network namespaces and all files lie
//! on a tmpfs that only this mount namespace sees. So Ctrl-C, a failure and even `kill -9` leave nothing behind.

use crate::{
    build::Plan,
    measure,
    report::Report,
    tools::{self, DIR, output},
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

/// Measures in a sandbox; the exit code is that of the measurement.
pub(crate) fn enter(plan: &Plan) -> Result<ExitCode> {
    let file = std::env::temp_dir().join(format!("remora-bench-{}.json", std::process::id()));
    fs::write(&file, serde_json::to_vec(plan)?).with_context(|| format!("write {}", file.display()))?;
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().context("find this program")?)
        .arg("inside")
        .arg(&file)
        .env("PATH", tools::path())
        .status()
        .context("start unshare")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The measurement, in its sandbox.
pub(crate) fn inside(file: &Path) -> Result<()> {
    let plan = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    fs::remove_file(file).with_context(|| format!("remove {}", file.display()))?;
    let plan: Plan = serde_json::from_slice(&plan).context("read the plan")?;
    output(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"]))?;
    fs::create_dir_all(DIR).with_context(|| format!("create {DIR}"))?;

    let outcome = measure::measure_all(&plan)?;
    let left_out = outcome.failed.len();
    let report = Report::new(&plan, outcome)?;
    println!("{report}");
    report.write(&plan.out)?;
    println!("written: {}", plan.out.display());
    if left_out > 0 {
        bail!("{left_out} of {} contenders failed", plan.contenders.len());
    }
    Ok(())
}
