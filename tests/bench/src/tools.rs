//! What must be on the machine, and how to get what is not.

use anyhow::{Context, Result, bail};
use std::{
    env::{split_paths, var_os},
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Everything the run writes, but for its result.
pub(crate) const DIR: &str = "/run/remora-bench";

/// The packages that hold [`PROGRAMS`].
const PACKAGES: &str = include_str!("../apt-packages.txt");
const PROGRAMS: [&str; 10] =
    ["ip", "iperf3", "mount", "nft", "nginx", "setpriv", "sysctl", "taskset", "unshare", "wrk"];
/// Sets no trap for an ordinary user's PATH, where these are often missing.
const ADMIN_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The PATH that everything runs with.
pub(crate) fn path() -> OsString {
    let given = var_os("PATH").unwrap_or_default();
    let folders = split_paths(&given).chain(ADMIN_FOLDERS.iter().map(PathBuf::from));
    std::env::join_paths(folders).unwrap_or(given)
}

/// Fails with everything that is missing at once.
pub(crate) fn check() -> Result<()> {
    let mut missing = Vec::new();
    if !is_root()? {
        missing.push("root (network namespaces and redirection need it): run it with sudo".to_owned());
    }
    let cores = std::thread::available_parallelism().context("count the cores")?.get();
    if cores < 2 {
        missing.push(format!("two cores (one for load and backend, one for the proxies): here is {cores}"));
    }
    let path = path();
    let absent: Vec<_> = PROGRAMS.into_iter().filter(|program| !is_in(&path, program)).collect();
    if !absent.is_empty() {
        let packages = PACKAGES.split_whitespace().collect::<Vec<_>>().join(" ");
        missing.push(format!("{}: apt-get install {packages}", absent.join(", ")));
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("cannot measure here; missing\n  - {}", missing.join("\n  - "))
}

/// Runs a program to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.env("PATH", path()).stdin(Stdio::null()).output().with_context(|| format!("start {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("no Uid in /proc/self/status")?;
    Ok(uids.split_whitespace().nth(1) == Some("0"))
}

fn is_in(path: &OsString, program: &str) -> bool {
    split_paths(path).any(|folder: PathBuf| Path::new(&folder).join(program).is_file())
}
