//! A real control plane and real sidecars in pods. In: a [`Network`] and pods. Out: pods whose traffic is redirected
//! through proxies that hold certificates. Does not: touch the pods' applications.
//!
//! The programs are the `remora` binary under each component's name: `REMORA_BIN`, or `target/debug/remora`.

use super::{Network, PROXY_UID, Pod, Process, unshare::stage};
use crate::{patience::until, tokens::TokenKey};
use anyhow::{Context as _, ensure};
use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// The namespace of all pods of a test.
const NAMESPACE: &str = "test";

/// Identity and discovery in a pod of their own, and the files that they and the proxies share.
#[derive(Debug)]
pub struct Mesh {
    // Fields end in their order: the programs before the pod they run in, the files last.
    _discovery: Process,
    _identity: Process,
    control: Pod,
    key: TokenKey,
    dir: TempDir,
}

/// A proxy in a pod.
#[derive(Debug)]
pub struct Sidecar {
    /// The running proxy.
    pub process: Process,
    log: PathBuf,
}

impl Mesh {
    /// Starts the control plane.
    pub fn start(net: &Network) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir().context("making a directory for the mesh")?;
        let path = dir.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        fs::create_dir(path.join("manifests"))?;
        let binary = binary()?;
        for component in ["remora-proxy", "remora-identity", "remora-discovery"] {
            symlink(&binary, path.join(component))?;
        }
        let key = TokenKey::new(&path.join("jwks.json"))?;
        write_token(&key, &path.join("discovery.token"), "remora", "remora-discovery", "discovery-1")?;

        let control = net.pod("control")?;
        let identity = control
            .command(path.join("remora-identity"))
            .args("--listen [::]:4180 --admin [::]:4192")
            .arg("--issuer-dir")
            .arg(path.join("issuer"))
            .arg("--jwks")
            .arg(path.join("jwks.json"))
            .log(File::create(path.join("identity.log"))?)
            .spawn()?
            .listening(4180)
            .with_context(|| log_of(&path.join("identity.log")))?;
        // What a cluster does by a ConfigMap: proxies may read the anchors, not the issuer's key.
        // It listens before it has an issuer.
        until("the identity service makes ca.crt", || {
            Ok(Some(fs::copy(path.join("issuer/ca.crt"), path.join("ca.crt")).context("no ca.crt")?))
        })?;
        fs::set_permissions(path.join("ca.crt"), fs::Permissions::from_mode(0o644))?;
        let discovery = control
            .command(path.join("remora-discovery"))
            .args("--listen [::]:4181 --admin [::]:4193 --identity-addr 127.0.0.1:4180")
            .arg("--manifests")
            .arg(path.join("manifests"))
            .arg("--trust-anchors")
            .arg(path.join("ca.crt"))
            .arg("--token")
            .arg(path.join("discovery.token"))
            .log(File::create(path.join("discovery.log"))?)
            .spawn()?
            .listening(4181)
            .with_context(|| log_of(&path.join("discovery.log")))?;
        await_ready(&control, 4193).with_context(|| log_of(&path.join("discovery.log")))?;
        Ok(Self { _discovery: discovery, _identity: identity, control, key, dir })
    }

    /// Where the mesh's files are: `issuer/`, `ca.crt`, `manifests/`, tokens, logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Tells discovery of the pod, redirects its traffic and starts its proxy; the application serves `ports`.
    pub fn join(&self, pod: &Pod, ports: &[u16]) -> anyhow::Result<Sidecar> {
        self.join_as(pod, pod.name(), ports, &[])
    }

    /// As [`Mesh::join`], with these settings of the proxy.
    pub fn join_with(&self, pod: &Pod, ports: &[u16], settings: &[(&str, &str)]) -> anyhow::Result<Sidecar> {
        self.join_as(pod, pod.name(), ports, settings)
    }

    /// As [`Mesh::join_with`], as a replica of the workload `part`: that is its service account and its label `part`.
    pub fn join_as(&self, pod: &Pod, part: &str, ports: &[u16], settings: &[(&str, &str)]) -> anyhow::Result<Sidecar> {
        let (name, path) = (pod.name(), self.dir.path());
        self.manifest(&format!("pod-{name}"), &pod_manifest(pod, part, ports))?;
        let token = path.join(format!("{name}.token"));
        write_token(&self.key, &token, NAMESPACE, part, name)?;
        pod.redirect()?;
        let log = path.join(format!("{name}.log"));
        let control = self.control.ipv4;
        let proxy = pod
            .command(path.join("remora-proxy"))
            .uid(PROXY_UID)
            .env("REMORA_PROXY_NAMESPACE", NAMESPACE)
            .env("REMORA_PROXY_POD", name)
            .env("REMORA_PROXY_SERVICE_ACCOUNT", part)
            .env("REMORA_PROXY_TRUST_ANCHORS", path.join("ca.crt"))
            .env("REMORA_PROXY_TOKEN", &token)
            .env("REMORA_PROXY_IDENTITY_ADDR", format!("{control}:4180"))
            .env("REMORA_PROXY_DISCOVERY_ADDR", format!("{control}:4181"))
            .env("REMORA_PROXY_LOG", "info,remora_proxy=debug")
            .log(File::create(&log)?);
        let process = settings.iter().fold(proxy, |proxy, (name, value)| proxy.env(name, value)).spawn()?;
        let ready = [4191, 4143, 4140].into_iter().try_fold(process, Process::listening);
        let sidecar = Sidecar { process: ready.with_context(|| log_of(&log))?, log };
        await_ready(pod, 4191)
            .with_context(|| format!("the proxy of {name} does not become ready\n{}", sidecar.log()))?;
        Ok(sidecar)
    }

    /// Adds or replaces a file of Kubernetes objects, whole at once.
    pub fn manifest(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        let manifests = self.dir.path().join("manifests");
        let new = self.dir.path().join("new");
        fs::write(&new, yaml)?;
        fs::rename(new, manifests.join(format!("{name}.yaml"))).context("placing a manifest")
    }
}

impl Sidecar {
    /// The end of what the proxy has logged, for the reader of a failure.
    pub fn log(&self) -> String {
        log_of(&self.log)
    }

    /// What the proxy counted, for Prometheus.
    pub fn metrics(&self, pod: &Pod) -> anyhow::Result<String> {
        pod.command("curl").uid(PROXY_UID).args("-sS --fail http://127.0.0.1:4191/metrics").output()
    }

    /// Whether the proxy has said that it drains.
    pub fn is_draining(&self) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains("draining"))
    }

    /// What the proxy counted, as its admin port tells it.
    pub fn routes(&self, pod: &Pod) -> anyhow::Result<serde_json::Value> {
        let body = pod.command("curl").uid(PROXY_UID).args("-sS --fail http://127.0.0.1:4191/routes").output()?;
        serde_json::from_str(&body).with_context(|| format!("/routes of {}: {body}", pod.name()))
    }
}

/// Waits until the program behind this admin port says that it is ready: it has its certificate then.
fn await_ready(pod: &Pod, port: u16) -> anyhow::Result<()> {
    let curl = pod.command("curl").uid(PROXY_UID).args("-sS --fail --retry 40 --retry-delay 0 --retry-max-time 20");
    curl.arg("--retry-all-errors").arg(format!("http://127.0.0.1:{port}/ready")).output().map(drop)
}

/// The `remora` binary: `REMORA_BIN`, or the one that cargo built beside this test program.
fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("REMORA_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.exists(), "REMORA_BIN: there is no {}", path.display());
        return stage(&path, "remora");
    }
    // target/debug/deps/TEST -> target/debug/remora
    let own = std::env::current_exe().context("finding this test program")?;
    let path = own.ancestors().nth(2).map(|folder| folder.join("remora")).context("this test program has no folder")?;
    ensure!(path.exists(), "{} is missing: cargo build --workspace --bins, or set REMORA_BIN", path.display());
    stage(&path, "remora")
}

/// The last lines of a log.
fn log_of(path: &Path) -> String {
    const LINES: usize = 12;
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("its log ends: {}", lines[lines.len().saturating_sub(LINES)..].join("\n        "))
}

/// A projected service-account token that only the proxy can read.
fn write_token(key: &TokenKey, path: &Path, namespace: &str, account: &str, pod: &str) -> anyhow::Result<()> {
    key.write(path, namespace, account, pod)?;
    chown(path, Some(PROXY_UID), Some(PROXY_UID))
        .with_context(|| format!("giving {} to uid {PROXY_UID}", path.display()))
}

fn pod_manifest(pod: &Pod, part: &str, ports: &[u16]) -> String {
    let Pod { name, ipv4, ipv6 } = pod;
    let ports: Vec<_> = ports.iter().map(|port| format!("{{ containerPort: {port} }}")).collect();
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {NAMESPACE}, labels: {{ part: {part} }}, annotations: {{ remora.dev/injected: \"true\" }} }}
spec:
  serviceAccountName: {part}
  containers:
    - {{ name: app, image: app, ports: [{}] }}
status:
  phase: Running
  podIP: {ipv4}
  podIPs: [{{ ip: {ipv4} }}, {{ ip: \"{ipv6}\" }}]
  conditions: [{{ type: Ready, status: \"True\" }}]
",
        ports.join(", ")
    )
}
