//! The control plane: an identity service that makes the CA, and the discovery that is measured.

use crate::{
    args::Args,
    pki,
    process::{Process, free_port},
    world::Shape,
};
use anyhow::{Context as _, Result, bail};
use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// How long a start may take: 50 000 pods of YAML are read first.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(20);

/// Identity and discovery, with their files.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) discovery: Process,
    /// Where discovery serves proxies.
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The manifests.
    pub(crate) manifests: PathBuf,
    /// The CA.
    pub(crate) issuer: PathBuf,
    /// How long it took until it was ready, and the CPU that this took.
    pub(crate) ready: (Duration, Duration),
    program: PathBuf,
    arguments: Vec<(&'static str, OsString)>,
    _identity: Process,
    dir: tempfile::TempDir,
}

impl Control {
    pub(crate) fn start(args: &Args, shape: Shape) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("remora-scale").tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let (manifests, issuer) = (at("manifests"), at("issuer"));
        fs::create_dir(&manifests)?;
        fs::create_dir(&issuer)?;
        shape.write(&manifests)?;
        pki::tokens(dir.path())?;
        let here = std::env::current_exe()?;
        let beside = |name: &str| here.with_file_name(name);
        let [identity_addr, identity_admin, address, admin] = free_addresses()?;
        let mut identity = Process::start(
            dir.path(),
            "identity",
            &beside("remora-identity"),
            &[
                ("--listen", identity_addr.to_string().into()),
                ("--admin", identity_admin.to_string().into()),
                ("--issuer-dir", issuer.clone().into_os_string()),
                ("--jwks", at("jwks.json").into_os_string()),
            ],
        )?;
        wait("identity", &mut identity, || {
            issuer.join("ca.crt").exists() && TcpStream::connect(identity_addr).is_ok()
        })?;
        let began = Instant::now();
        let program = args.discovery.clone().unwrap_or_else(|| beside("remora-discovery"));
        let arguments = vec![
            ("--listen", address.to_string().into()),
            ("--admin", admin.to_string().into()),
            ("--manifests", manifests.clone().into_os_string()),
            ("--identity-addr", identity_addr.to_string().into()),
            ("--trust-anchors", issuer.join("ca.crt").into_os_string()),
            ("--token", at("token").into_os_string()),
            ("--cluster-networks", "10.0.0.0/8".into()),
            ("--log", "warn".into()),
        ];
        let mut discovery = Process::start(dir.path(), "discovery", &program, &arguments)?;
        ready(&mut discovery, admin)?;
        let took = (began.elapsed(), discovery.cpu()?);
        let (ready, _identity) = (took, identity);
        Ok(Self { discovery, address, admin, manifests, issuer, ready, program, arguments, _identity, dir })
    }

    /// Ends discovery without a word, and starts it again. How long it was until it was ready, from its end.
    pub(crate) fn restart(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.discovery.kill();
        self.discovery = Process::start(self.dir.path(), "discovery", &self.program, &self.arguments)?;
        ready(&mut self.discovery, self.admin)?;
        Ok(began.elapsed())
    }

    /// A counter or gauge of discovery.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let text = get(self.admin, "/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map_or(Ok(0.0), |value| value.trim().parse())?)
    }
}

fn ready(discovery: &mut Process, admin: SocketAddr) -> Result<()> {
    wait("discovery", discovery, || get(admin, "/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")))
}

fn free_addresses() -> Result<[SocketAddr; 4]> {
    let mut ports = [0; 4];
    for port in &mut ports {
        *port = free_port()?;
    }
    Ok(ports.map(|port| (Ipv4Addr::LOCALHOST, port).into()))
}

fn wait(name: &str, process: &mut Process, mut done: impl FnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !done() {
        process.check()?;
        if began.elapsed() > PATIENCE {
            bail!("{name} is not ready after {PATIENCE:?}");
        }
        thread::park_timeout(LOOK);
    }
    Ok(())
}

/// What a server answers, head and body, on a connection of its own as a kubelet's probe has.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the answer")?;
    Ok(answer)
}
