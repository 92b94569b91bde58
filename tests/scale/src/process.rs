//! Processes on loopback: measured, and stopped when dropped.

use anyhow::{Context as _, Result, bail};
use std::{
    ffi::OsStr,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Of `/proc/PID/stat`: Linux reports in hundredths of a second to user space, whatever its own tick.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program that runs until dropped; what it prints goes to a log in `dir`.
    pub(crate) fn start(
        dir: &Path,
        name: &'static str,
        program: &Path,
        args: &[(&str, impl AsRef<OsStr>)],
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(program);
        for (flag, value) in args {
            command.arg(flag).arg(value);
        }
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        Ok(Self { name, child, log })
    }

    /// Fails, with the end of its log, once the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(20)..].join("\n");
        bail!("{} ended by itself ({status}):\n{end}", self.name)
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to stop.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// CPU time used so far, in user space and kernel.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let ticks = cpu_ticks(&stat).with_context(|| format!("{path} is not as proc(5) says"))?;
        Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
    }

    /// What is in memory now.
    pub(crate) fn resident_kb(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        resident(&status).with_context(|| format!("no VmRSS in {path}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody has at the moment.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Fields 14 and 15 (utime, stime), counted behind the command name, which may hold spaces.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<f64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_memory_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_ticks("7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100"), Some(300.0));
        assert_eq!(resident("Name:\tx\nVmRSS:\t    5432 kB\n"), Some(5432.0));
    }
}
