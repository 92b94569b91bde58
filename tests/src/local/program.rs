//! A component as a process that can be hurt: killed, stopped, continued, started again on the same ports.

use crate::{patience::until, sys};
use anyhow::{Context as _, bail};
use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

/// How many lines of a log explain a failure.
const TAIL_LINES: usize = 12;

/// How to start a component, again and again.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// What it is called in messages; its log is `NAME.log`.
    name: String,
    program: PathBuf,
    arg0: String,
    flags: Vec<OsString>,
    env: Vec<(String, OsString)>,
    log: PathBuf,
    /// The most descriptors that it may have open.
    descriptors: Option<u64>,
    /// Whether it runs on what others leave of the cores.
    gives_way: bool,
}

impl Spec {
    /// The component `remora-NAME`, a copy of `program`, with its log in `dir`.
    pub(super) fn new(name: &str, program: &Path, dir: &Path) -> Self {
        let log = dir.join(format!("{name}.log"));
        let arg0 = format!("remora-{name}");
        let (name, program) = (name.to_owned(), program.to_owned());
        Self { name, program, arg0, flags: Vec::new(), env: Vec::new(), log, descriptors: None, gives_way: false }
    }

    pub(super) fn descriptors(&mut self, count: u64) -> &mut Self {
        self.descriptors = Some(count);
        self
    }

    pub(super) fn give_way(&mut self) -> &mut Self {
        self.gives_way = true;
        self
    }

    /// Of another component than its name says.
    pub(super) fn component(&mut self, component: &str) -> &mut Self {
        self.arg0 = component.to_owned();
        self
    }

    pub(super) fn flag(&mut self, flag: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.flags.extend([flag.into(), value.as_ref().to_owned()]);
        self
    }

    pub(super) fn args(&mut self, args: Vec<OsString>) -> &mut Self {
        self.flags.extend(args);
        self
    }

    /// Sets a variable; the process has no others.
    pub(super) fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The value of a setting: of a flag if it begins with `--`, else of a variable.
    fn setting(&mut self, name: &str) -> Option<&mut OsString> {
        if name.starts_with("--") {
            let at = self.flags.iter().position(|flag| flag == name)?;
            return self.flags.get_mut(at + 1);
        }
        self.env.iter_mut().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

/// A component, running or not.
#[derive(Debug)]
pub struct Program(Mutex<State>);

#[derive(Debug)]
struct State {
    spec: Spec,
    child: Option<Child>,
    /// Where in the log the latest start begins.
    from: usize,
}

impl Program {
    pub(super) fn start(spec: Spec) -> anyhow::Result<Self> {
        let mut state = State { spec, child: None, from: 0 };
        state.start()?;
        Ok(Self(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is called.
    pub fn name(&self) -> String {
        self.state().spec.name.clone()
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> anyhow::Result<u32> {
        let state = self.state();
        state.child.as_ref().map(Child::id).with_context(|| format!("{} does not run", state.spec.name))
    }

    /// Fails if it ended without being told to.
    pub fn running(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        let name = state.spec.name.clone();
        match state.child.as_mut().with_context(|| format!("{name} does not run"))?.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{name} ended: {status}"),
        }
    }

    /// Ends it with SIGKILL, and waits until it is gone.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.state().end(libc::SIGKILL).map(drop)
    }

    /// Ends it with SIGTERM, and waits until it has: its exit code, if it has one.
    pub fn terminate(&self) -> anyhow::Result<Option<i32>> {
        Ok(self.state().end(libc::SIGTERM)?.and_then(|status| status.code()))
    }

    /// Stops it with SIGSTOP: it holds its connections and does nothing.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// Lets it go on after [`Program::stop`].
    pub fn cont(&self) -> anyhow::Result<()> {
        self.signal(libc::SIGCONT)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) -> anyhow::Result<()> {
        let pid = self.pid()?;
        sys::send(pid, signal).with_context(|| format!("signalling {}", self.name()))
    }

    /// Kills it, if it runs, and starts it again with the same ports, files and settings.
    pub fn restart(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        state.end(libc::SIGKILL)?;
        state.start()
    }

    /// Changes a flag (`--leaf-lifetime`) or variable for the next start. It must have been set.
    pub fn set(&self, name: &str, value: impl AsRef<OsStr>) -> anyhow::Result<()> {
        let mut state = self.state();
        let setting = state.spec.setting(name).with_context(|| format!("{name} was not set"))?;
        value.as_ref().clone_into(setting);
        Ok(())
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        let path = self.state().spec.log.clone();
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// The end of its log, for the reader of a failure.
    pub fn log_end(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        format!(
            "the log of {} ends: {}",
            self.name(),
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n        ")
        )
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(kib.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()?))?.count())
    }

    /// Waits for a line of this start's log that has `mark` in it: the address in its field `field`.
    pub fn logged(&self, mark: &str, field: &str) -> anyhow::Result<SocketAddr> {
        let field = format!("{field}=");
        until(&format!("{} logs {mark}", self.name()), || {
            self.running()?;
            let log = self.log();
            let line = log.get(self.state().from..).and_then(|new| new.lines().find(|line| line.contains(mark)));
            let value = line.and_then(|line| line.split(' ').find_map(|word| word.strip_prefix(&field)));
            value.map(|value| value.parse().with_context(|| format!("{value:?} is no address"))).transpose()
        })
        .with_context(|| self.log_end())
    }

    /// Has a listener's setting name the address that it got, for the next start and for whoever asks.
    pub fn keep(&self, setting: &str, address: SocketAddr) {
        if let Some(value) = self.state().spec.setting(setting) {
            *value = address.to_string().into();
        }
    }

    /// The address in a listener's setting.
    pub fn kept(&self, setting: &str) -> anyhow::Result<SocketAddr> {
        let mut state = self.state();
        let value = state.spec.setting(setting).with_context(|| format!("{setting} was not set"))?;
        value.to_string_lossy().parse().with_context(|| format!("{setting} is no address"))
    }
}

impl State {
    fn start(&mut self) -> anyhow::Result<()> {
        let Spec { name, program, arg0, flags, env, log, descriptors, gives_way } = &self.spec;
        let file = File::options().create(true).append(true).open(log).context("opening a log")?;
        self.from = usize::try_from(file.metadata()?.len())?;
        let mut command = Command::new(program);
        command.arg0(arg0).args(flags).env_clear().envs(env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        if let Some(count) = descriptors {
            sys::limit_descriptors(&mut command, *count);
        }
        if *gives_way {
            sys::give_way(&mut command);
        }
        let child = spawn(command).with_context(|| format!("starting {name} from {}", program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    fn end(&mut self, signal: libc::c_int) -> anyhow::Result<Option<ExitStatus>> {
        let (Some(mut child), mut signalled) = (self.child.take(), false) else { return Ok(None) };
        let name = &self.spec.name;
        let status = until(&format!("{name} ends by signal {signal}"), || {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if !signalled {
                sys::send(child.id(), signal)?;
                signalled = true;
            }
            Ok(None)
        })?;
        Ok(Some(status))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a process from a thread that lives as long as this program: a child dies with the thread that started it, and
/// a test's thread may end before another test has done with the mesh that they share.
fn spawn(command: Command) -> io::Result<Child> {
    type Request = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Request>> = LazyLock::new(|| {
        let (sender, receiver) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(sys::tie_to_parent(&mut command).spawn());
            }
        });
        sender
    });
    let (answer, answered) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    SPAWNER.send((command, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}
