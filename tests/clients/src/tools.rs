//! The clients and servers: what they are, how they are had (`install`), how they are started.

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The folder of this package.
pub(crate) fn here() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Where `install` puts things.
fn cache(name: &str) -> PathBuf {
    Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/remora-tests/clients").join(name)
}

/// Has what this client or server is made of: its version, or why it cannot be had.
pub(crate) fn install(name: &str) -> anyhow::Result<String> {
    let install = Command::new(here().join("install")).arg(name).stdin(Stdio::null()).output().context("install")?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !install.status.success() {
        bail!("{}", said(&install.stderr));
    }
    Ok(said(&install.stdout))
}

/// What asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Client {
    JdkH1,
    JdkH2,
    NodeH1,
    NodeH2,
    HttpxH1,
    HttpxH2,
    GoH1,
    GoH2,
    CurlH1,
    CurlH2,
}

impl Client {
    pub(crate) const ALL: [Self; 10] = [
        Self::JdkH1,
        Self::JdkH2,
        Self::NodeH1,
        Self::NodeH2,
        Self::HttpxH1,
        Self::HttpxH2,
        Self::GoH1,
        Self::GoH2,
        Self::CurlH1,
        Self::CurlH2,
    ];

    /// Whose client it is, for `install`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::JdkH1 | Self::JdkH2 => "jdk",
            Self::NodeH1 | Self::NodeH2 => "node",
            Self::HttpxH1 | Self::HttpxH2 => "httpx",
            Self::GoH1 | Self::GoH2 => "go",
            Self::CurlH1 | Self::CurlH2 => "curl",
        }
    }

    pub(crate) fn title(self) -> String {
        let name = match self.name() {
            "jdk" => "JDK HttpClient",
            "node" => "Node.js",
            "go" => "Go net/http",
            name => name,
        };
        let version = match self {
            Self::JdkH2 => "HTTP/2 by Upgrade: h2c",
            _ if self.version() == "h2" => "HTTP/2",
            _ => "HTTP/1.1",
        };
        format!("{name}, {version}")
    }

    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::JdkH1 | Self::NodeH1 | Self::HttpxH1 | Self::GoH1 | Self::CurlH1 => "h1",
            Self::JdkH2 | Self::NodeH2 | Self::HttpxH2 | Self::GoH2 | Self::CurlH2 => "h2",
        }
    }

    /// Whether its first bytes are HTTP/2: the JDK's are not without TLS.
    pub(crate) fn has_prior_knowledge(self) -> bool {
        self.version() == "h2" && self != Self::JdkH2
    }

    /// Whether it can await 100 before it sends a body.
    pub(crate) fn can_expect(self) -> bool {
        self.version() == "h1" && self != Self::HttpxH1
    }

    /// Whether a body whose length it does not know arrives: the JDK's is lost once `Upgrade: h2c` has led to HTTP/2.
    pub(crate) fn sends_chunks(self) -> bool {
        self != Self::JdkH2
    }

    /// Whether an answer may come before the request's end: httpx takes the RST_STREAM(NO_ERROR) behind it for an error.
    pub(crate) fn bears_early_answers(self) -> bool {
        self != Self::HttpxH2
    }

    /// Whether it can send trailers.
    pub(crate) fn sends_trailers(self) -> bool {
        matches!(self, Self::NodeH1 | Self::NodeH2 | Self::GoH1 | Self::GoH2)
    }

    /// The program that asks, of `http://HOST:PORT` at the address, its resolver told in `hosts`.
    pub(crate) fn command(self, base: &str, address: &str, hosts: &Path) -> Command {
        let file = |name: &str| here().join("programs").join(name).into_os_string();
        let mut hosts_file = OsString::from("-Djdk.net.hosts.file=");
        hosts_file.push(hosts);
        let words = match self.name() {
            "jdk" => vec!["java".into(), hosts_file, file("Ask.java")],
            "node" => vec!["node".into(), file("ask.mjs")],
            "httpx" => vec!["python3".into(), file("ask_httpx.py")],
            "go" => vec![cache("go/ask").into_os_string()],
            _ => vec!["python3".into(), file("ask_curl.py")],
        };
        let mut command = tied(&words);
        command.args([self.version(), base]);
        if self.name() != "jdk" {
            command.arg(address);
        }
        command
    }
}

/// What answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Server {
    Nginx,
    Jetty,
    Gunicorn,
}

impl Server {
    pub(crate) const ALL: [Self; 3] = [Self::Nginx, Self::Jetty, Self::Gunicorn];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Jetty => "jetty",
            Self::Gunicorn => "gunicorn",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Jetty => "Jetty",
            Self::Gunicorn => "gunicorn",
        }
    }

    /// Whether it understands this client at all: gunicorn has no HTTP/2.
    pub(crate) fn speaks(self, client: Client) -> bool {
        self != Self::Gunicorn || !client.has_prior_knowledge()
    }

    pub(crate) fn sends_trailers(self) -> bool {
        self == Self::Jetty
    }
}

/// A command whose process dies with this one.
fn tied(words: &[OsString]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(words).stdin(Stdio::null()).env("PYTHONPATH", cache("python"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// A process of ours, ended with this value.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, its standard error in a file of this name.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> anyhow::Result<Self> {
        let shown = || log.display().to_string();
        let child = command.stderr(File::create(&log).with_context(shown)?).spawn().with_context(shown)?;
        Ok(Self { child, log })
    }

    /// Whether it has ended, and well. The end of its log explains a failure.
    pub(crate) fn ended(&mut self) -> anyhow::Result<bool> {
        match self.child.try_wait()? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                bail!("{}: {status}\n{}", self.log.display(), lines[lines.len().saturating_sub(10)..].join("\n"))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// nginx with the file of its settings, in a folder.
pub(crate) fn nginx(settings: &Path) -> Command {
    let mut command = tied(&["nginx".into(), "-e".into(), "stderr".into(), "-c".into(), settings.into()]);
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin");
    command.env("PATH", path).stdout(Stdio::null());
    command
}

pub(crate) fn jetty(host: &str, port: u16, backend: u16) -> Command {
    let jars = cache("jetty").join("*");
    let mut command = tied(&["java".into(), "-cp".into(), jars.into(), here().join("servers/Answers.java").into()]);
    command.args([host, &port.to_string(), &backend.to_string()]).stdout(Stdio::null());
    command
}

pub(crate) fn gunicorn(address: &str) -> Command {
    let mut command = tied(&["python3".into(), "-m".into(), "gunicorn".into()]);
    command.args(["--worker-class", "gthread", "--threads", "64", "--worker-connections", "1000", "--keep-alive", "2"]);
    command.args(["--no-control-socket", "--bind", address, "--chdir"]).arg(here().join("servers"));
    command.arg("answers:application").stdout(Stdio::null());
    command
}
