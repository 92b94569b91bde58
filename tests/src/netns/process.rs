//! Programs in pods. In: a pod's name and a command line. Out: what it printed, or a running [`Process`].

use crate::patience::{PATIENCE, until};
use anyhow::{Context as _, anyhow, bail, ensure};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{BufRead as _, BufReader, Read},
    process::{Child, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

/// Bytes of a failed command's output that its failure quotes: `curl --fail-with-body` tells the reason there.
const SAID_MAX: usize = 200;

/// A program to be run in a pod.
#[derive(Debug)]
pub struct Command {
    pod: String,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    uid: u32,
    patience: Duration,
    log: Option<File>,
}

impl Command {
    pub(super) fn new(pod: &str, program: OsString) -> Self {
        Self { pod: pod.to_owned(), program, args: vec![], env: vec![], uid: 0, patience: PATIENCE, log: None }
    }

    /// With one more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// With these arguments, separated by spaces.
    pub fn args(mut self, words: &str) -> Self {
        self.args.extend(words.split_whitespace().map(OsString::from));
        self
    }

    /// With this environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// As this user and group, with no other groups and no capabilities.
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = uid;
        self
    }

    /// With more or less time to end than the usual 30 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// With its standard error (and its output, when [`Command::spawn`]ed) written to this file.
    pub fn log(mut self, file: File) -> Self {
        self.log = Some(file);
        self
    }

    /// Starts it with its standard error readable by [`Process::line`], for programs that talk there.
    pub fn log_lines(self) -> anyhow::Result<Process> {
        let (reader, writer) = std::io::pipe().context("making a pipe")?;
        let name = self.name();
        let mut command = self.build()?;
        let child = command.stdout(Stdio::null()).stderr(writer).spawn().with_context(|| name.clone())?;
        Ok(Process { child, stdout: Some(BufReader::new(Box::new(reader))), name, pod: self.pod })
    }

    fn build(&self) -> anyhow::Result<std::process::Command> {
        let mut command = std::process::Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.pod)).arg("--");
        if self.uid != 0 {
            let uid = self.uid;
            command.args(["setpriv", &format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
            command.args(["--pdeathsig=KILL", "--"]);
        }
        command.arg(&self.program).args(&self.args).envs(self.env.iter().cloned()).stdin(Stdio::null());
        if let Some(log) = &self.log {
            command.stderr(log.try_clone().context("sharing the log file")?);
        }
        Ok(command)
    }

    fn name(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args).map(|word| word.to_string_lossy());
        format!("in pod {}: {}", self.pod, words.collect::<Vec<_>>().join(" "))
    }

    /// Runs it to its end and gives what it printed; fails with what it complained of.
    pub fn output(self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// As [`Command::output`], for output that is no text.
    pub fn bytes(self) -> anyhow::Result<Vec<u8>> {
        let name = self.name();
        let mut command = self.build()?;
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| name.clone())?;
        let (done, outcome) = mpsc::channel();
        let pid = child.id();
        let waiter = std::thread::spawn(move || done.send(child.wait_with_output()));
        let Ok(output) = outcome.recv_timeout(self.patience) else {
            // The waiter owns the child and ends as soon as the child does.
            let _ = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            let _ = waiter.join();
            bail!("{name}: not done after {:?}", self.patience);
        };
        let output = output.with_context(|| name.clone())?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        let said = String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(SAID_MAX)]);
        ensure!(output.status.success(), "{name}: {}: {} {}", output.status, complaint.trim(), said.trim());
        Ok(output.stdout)
    }

    /// Starts it and lets it run until the [`Process`] is dropped.
    pub fn spawn(self) -> anyhow::Result<Process> {
        let name = self.name();
        let mut command = self.build()?;
        if let Some(log) = &self.log {
            command.stdout(log.try_clone().context("sharing the log file")?);
        } else {
            command.stdout(Stdio::piped());
        }
        let mut child = command.spawn().with_context(|| name.clone())?;
        let stdout = child.stdout.take().map(|output| BufReader::new(Box::new(output) as Box<dyn Read + Send>));
        Ok(Process { child, stdout, name, pod: self.pod })
    }
}

/// A program running in a pod; killed when dropped.
pub struct Process {
    child: Child,
    stdout: Option<BufReader<Box<dyn Read + Send>>>,
    name: String,
    pod: String,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} {}", self.child.id(), self.name)
    }
}

impl Process {
    /// Its process id (`nsenter` and `setpriv` become the program, so it is the program's own).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its next line of output.
    pub fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().with_context(|| format!("{}: its output goes to a log", self.name))?;
        stdout.read_line(&mut line).with_context(|| self.name.clone())?;
        ensure!(!line.is_empty(), "{}: ended without a word", self.name);
        Ok(line.trim_end().to_owned())
    }

    /// Waits until something in its pod listens on this TCP port.
    pub fn listening(mut self, port: u16) -> anyhow::Result<Self> {
        until(&format!("{} listens on port {port} of pod {}", self.name, self.pod), || {
            if listens(self.pid(), port)? {
                return Ok(Some(Ok(())));
            }
            let Some(status) = self.child.try_wait()? else { return Ok(None) };
            let complaint = self.rest();
            Ok(Some(Err(anyhow!("{}: {status} before it listened on port {port}: {complaint}", self.name))))
        })??;
        Ok(self)
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal("TERM")
    }

    /// Sends it a signal, by the name that `kill` knows.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = std::process::Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        ensure!(status.context("running kill")?.success(), "{}: cannot be sent SIG{name}", self.name);
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        until(&format!("{} ends", self.name), || Ok(self.child.try_wait()?))
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(kib.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    fn rest(&mut self) -> String {
        let mut rest = String::new();
        if let Some(stdout) = &mut self.stdout {
            let _ = stdout.read_to_string(&mut rest);
        }
        rest
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a socket in the network namespace of this process listens on the port.
fn listens(pid: u32, port: u16) -> anyhow::Result<bool> {
    let wanted = format!(":{port:04X}");
    for table in ["tcp", "tcp6"] {
        let Ok(sockets) = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")) else { continue };
        // Columns: number, local address, remote address, state; 0A is TCP_LISTEN.
        let mut rows = sockets.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        if rows.any(|row| row.len() > 3 && row[1].ends_with(&wanted) && row[3] == "0A") {
            return Ok(true);
        }
    }
    Ok(false)
}
