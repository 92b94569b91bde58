//! The demo's processes: started from this same file, ended with it, each with a log of its own.

use crate::sys::{self, Signal};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

/// How many lines of a log explain a failure.
const TAIL_LINES: usize = 5;

/// The file that runs now, whatever became of its name: a demo goes on while its binary is rebuilt or removed.
const OURSELVES: &str = "/proc/self/exe";

/// How to start a process, again and again.
#[derive(Debug, Clone, Default)]
pub(super) struct Spec {
    /// What to call it; also its log's name.
    pub(super) name: String,
    /// `argv[0]`, which selects a component.
    pub(super) program: Option<&'static str>,
    pub(super) args: Vec<OsString>,
    /// Its whole environment: nothing of ours leaks in.
    pub(super) env: Vec<(&'static str, OsString)>,
    /// Whether we read its standard output (else it goes to the log).
    pub(super) piped: bool,
}

/// Why a process could not be handled.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot write the log of {name}")]
    Log { name: String, source: io::Error },
    #[error("cannot start {name} (from {program}); is /proc mounted, and may its file be run?")]
    Start { name: String, program: String, source: io::Error },
    #[error("cannot signal {name}")]
    Signal { name: String, source: io::Error },
}

/// All processes. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Children {
    program: PathBuf,
    logs: PathBuf,
    running: BTreeMap<String, (Spec, Option<Child>)>,
}

impl Children {
    /// None yet; logs will go to the directory `logs`.
    pub(super) fn new(logs: PathBuf) -> Self {
        Self { program: OURSELVES.into(), logs, running: BTreeMap::new() }
    }

    /// Starts a process, or one that ended once more. Hands out its standard output if that is piped.
    pub(super) fn start(&mut self, spec: Spec) -> Result<Option<ChildStdout>, Error> {
        let log_error = |source| Error::Log { name: spec.name.clone(), source };
        let path = self.logs.join(format!("{}.log", spec.name));
        let log = File::options().create(true).append(true).open(path).map_err(log_error)?;
        let stdout = if spec.piped { Stdio::piped() } else { log.try_clone().map_err(log_error)?.into() };
        let mut command = Command::new(&self.program);
        if let Some(program) = spec.program {
            command.arg0(program);
        }
        command.args(&spec.args).env_clear().envs(spec.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(stdout).stderr(log);
        let mut child = sys::tie_to_parent(&mut command).spawn().map_err(|source| Error::Start {
            name: spec.name.clone(),
            program: self.program.display().to_string(),
            source,
        })?;
        let output = child.stdout.take();
        self.running.insert(spec.name.clone(), (spec, Some(child)));
        Ok(output)
    }

    /// Starts a process again that was killed.
    pub(super) fn restart(&mut self, name: &str) -> Result<(), Error> {
        let spec = self.running.get(name).map(|(spec, _)| spec.clone());
        spec.map_or(Ok(()), |spec| self.start(spec).map(drop))
    }

    /// Ends a process with `kill -9`, and waits until it is gone.
    pub(super) fn kill(&mut self, name: &str) -> Result<(), Error> {
        let Some(mut child) = self.running.get_mut(name).and_then(|(_, child)| child.take()) else { return Ok(()) };
        let ended = child.kill().and_then(|()| child.wait());
        ended.map(drop).map_err(|source| Error::Signal { name: name.to_owned(), source })
    }

    /// Sends a signal.
    pub(super) fn signal(&self, name: &str, signal: Signal) -> Result<(), Error> {
        let Some((_, Some(child))) = self.running.get(name) else { return Ok(()) };
        sys::send(child.id(), signal).map_err(|source| Error::Signal { name: name.to_owned(), source })
    }

    /// Whether the process was started and not killed.
    #[cfg(test)]
    pub(super) fn is_running(&self, name: &str) -> bool {
        matches!(self.running.get(name), Some((_, Some(_))))
    }

    /// A process that ended by itself.
    pub(super) fn unexpected_end(&mut self) -> Option<(String, ExitStatus)> {
        for (name, (_, slot)) in &mut self.running {
            if let Some(Ok(Some(status))) = slot.as_mut().map(Child::try_wait) {
                *slot = None;
                return Some((name.clone(), status));
            }
        }
        None
    }

    /// Why a process ended by itself, as far as its log says; a log that cannot be written says nothing.
    pub(super) fn obituary(&self, name: &str, status: ExitStatus) -> anyhow::Error {
        let probe = self.logs.join(".probe");
        let written = fs::write(&probe, [0; 4096]);
        fs::remove_file(&probe).ok();
        match written {
            Err(error) => {
                anyhow::Error::from(error).context(format!("{name} ended ({status}), and cannot write its log"))
            }
            Ok(()) => anyhow::anyhow!("{name} ended by itself ({status}): {}", self.log_tail(name)),
        }
    }

    /// The end of a process's log, on one line.
    pub(super) fn log_tail(&self, name: &str) -> String {
        let text = fs::read(self.logs.join(format!("{name}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)).copied();
        last.collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        let mut children: Vec<Child> = self.running.values_mut().filter_map(|(_, child)| child.take()).collect();
        // All at once first: one that sees another die must not start to complain.
        for child in &mut children {
            child.kill().ok();
        }
        for mut child in children {
            child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn children(dir: &tempfile::TempDir) -> Children {
        let mut children = Children::new(dir.path().to_owned());
        children.program = "/bin/sh".into();
        children
    }

    fn shell(script: &str) -> Spec {
        Spec { name: "it".to_owned(), args: vec!["-c".into(), script.into()], ..Spec::default() }
    }

    #[test]
    fn nothing_is_left_when_the_children_are_dropped() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut children = children(&dir);
        children.start(shell("exec sleep 1000")).expect("started");
        let pid = children.running["it"].1.as_ref().expect("running").id();
        assert!(PathBuf::from(format!("/proc/{pid}")).exists());
        drop(children);
        assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_child_that_fails_is_noticed_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut children = children(&dir);
        let spec = Spec { piped: true, ..shell("echo out of luck >&2; exit 3") };
        let mut output = children.start(spec).expect("started").expect("piped");
        // Its output ends when it does.
        io::copy(&mut output, &mut io::sink()).expect("readable");
        let (name, status) = loop {
            if let Some(end) = children.unexpected_end() {
                break end;
            }
            std::thread::yield_now();
        };
        assert_eq!((name.as_str(), status.code()), ("it", Some(3)));
        assert_eq!(children.obituary(&name, status).to_string(), "it ended by itself (exit status: 3): out of luck");
    }

    #[test]
    fn a_killed_child_is_no_surprise_and_can_return() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut children = children(&dir);
        children.start(shell("exec sleep 1000")).expect("started");
        children.kill("it").expect("killed");
        assert!(children.unexpected_end().is_none() && !children.is_running("it"));
        children.restart("it").expect("started again");
        assert!(children.is_running("it"));
    }
}
