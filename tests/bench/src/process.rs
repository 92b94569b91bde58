//! Processes in a pod: pinned, unprivileged where it matters, measured, and stopped when dropped.

use crate::{
    pod::Pod,
    tools::{self, DIR},
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// The user of all proxies, whose own connections no rule redirects.
pub(crate) const PROXY_UID: &str = "2102";
/// Of `/proc/PID/stat`: Linux reports in hundredths of a second to user space, whatever its own tick.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where and as whom a process runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// Load generators, backends and control plane: root, core 0.
    Load,
    /// The proxies being measured: their own user, core 1.
    Proxy,
}

/// `program` in `pod`. Every step on the way to it replaces the process, so the child is the program itself.
pub(crate) fn command(pod: Pod, role: Role, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &pod.name(), "taskset", "--cpu-list"]);
    match role {
        Role::Load => command.arg("0"),
        Role::Proxy => {
            command.args(["1", "setpriv", "--reuid", PROXY_UID, "--regid", PROXY_UID, "--clear-groups", "--"])
        }
    };
    command.arg(program).env("PATH", tools::path());
    command
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a process that runs until dropped; what it prints goes to a log for the error message.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let log = PathBuf::from(format!("{DIR}/{name}.log"));
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(file.try_clone().context("share the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Fails, with the end of its log, once the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait().context("ask for a child")? else { return Ok(()) };
        bail!("{} ended by itself ({status}):\n{}", self.name, self.log_end());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// CPU time used so far, in user space and kernel.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let ticks = cpu_ticks(&stat).with_context(|| format!("{path} is not as proc(5) says"))?;
        Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let rollup = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let field = |name: &str| memory_field(&rollup, name).with_context(|| format!("no {name} in {path}"));
        Ok(Memory { resident_kb: field("Rss:")?, anonymous_kb: field("Anonymous:")? })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to stop.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident_kb: f64,
    pub(crate) anonymous_kb: f64,
}

/// Fields 14 and 15 (utime, stime), counted behind the command name, which may hold spaces.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<f64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

fn memory_field(rollup: &str, name: &str) -> Option<f64> {
    let fields: BTreeMap<_, _> = rollup.lines().filter_map(|line| line.split_once(char::is_whitespace)).collect();
    fields.get(name)?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_name_with_spaces() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100";
        assert_eq!(cpu_ticks(stat), Some(300.0));
    }

    #[test]
    fn memory_is_read_from_a_rollup() {
        let rollup = "5581-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  5432 kB\nAnonymous:   512 kB\n";
        assert_eq!(memory_field(rollup, "Rss:"), Some(5432.0));
        assert_eq!(memory_field(rollup, "Anonymous:"), Some(512.0));
        assert_eq!(memory_field(rollup, "Swap:"), None);
    }
}
