//! A mesh on loopback, without root. In: a sentence such as `mesh.proxy("web").spawn()?.ready()?`. Out: identity,
//! discovery and any number of proxies as processes of their own, in explicit mode. Does not: redirect (see
//! [`crate::netns`]), fake any of them, or outlive the test program.
//!
//! ```text
//!  test ─► web 127.1.0.2: outbound ──mTLS──► api 127.1.0.3: inbound ─► a backend of the test on 127.1.0.3
//!                └───────── identity, discovery 127.0.0.1 ─────┘
//! ```
//!
//! Every port is 0: a component logs which it got, and keeps it when it is started again. Each mesh has its files and
//! its ports for itself, so that meshes of several tests run at the same time on the same addresses.

pub mod http;
mod program;
mod proxy;

pub use program::Program;
pub use proxy::{Proxy, ProxySpec};

use crate::{patience::until, tokens::TokenKey};
use anyhow::Context as _;
use program::Spec;
use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, Ordering},
};
use tempfile::TempDir;

/// A thread of a host that is not the one under test: it, and the threads that it starts, take no core that a process here
/// wants. For what plays other machines on this one.
///
/// # Errors
///
/// The system refused to start it.
pub fn thread_elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<anyhow::Result<T>>> {
    std::thread::Builder::new().spawn(move || {
        crate::sys::give_way_here().context("giving way to others at the cores")?;
        work()
    })
}

/// The namespace of workloads, unless told otherwise.
pub const NAMESPACE: &str = "test";

/// Identity, discovery, and the files that they and the proxies share.
#[derive(Debug)]
pub struct Mesh {
    // Fields end in their order: the programs before their files.
    /// The discovery service.
    pub discovery: Program,
    /// The identity service.
    pub identity: Program,
    program: PathBuf,
    key: TokenKey,
    /// The last byte of the next pod's address.
    next: AtomicU8,
    dir: TempDir,
}

/// A mesh to be started.
#[derive(Debug)]
pub struct Builder {
    program: PathBuf,
    identity: Vec<OsString>,
    discovery: Vec<OsString>,
    issuer: Vec<(&'static str, String)>,
}

impl Builder {
    /// With one more flag of the identity service, and its value.
    pub fn identity(mut self, flag: &str, value: &str) -> Self {
        self.identity.extend([flag.into(), value.into()]);
        self
    }

    /// With one more flag of the discovery service, and its value.
    pub fn discovery(mut self, flag: &str, value: &str) -> Self {
        self.discovery.extend([flag.into(), value.into()]);
        self
    }

    /// With an issuer of the test's own: `tls.crt`, `tls.key` and `ca.crt`. Else the identity service makes one.
    pub fn issuer(mut self, files: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.issuer.extend(files);
        self
    }

    /// Starts the control plane and waits until it is ready.
    pub fn start(self) -> anyhow::Result<Mesh> {
        let dir = tempfile::Builder::new().prefix("remora-test-").tempdir().context("making a directory")?;
        let path = dir.path();
        fs::create_dir(path.join("manifests"))?;
        fs::create_dir(path.join("issuer"))?;
        for (name, pem) in self.issuer {
            fs::write(path.join("issuer").join(name), pem)?;
        }
        let key = TokenKey::new(&path.join("jwks.json"))?;
        key.write(&path.join("discovery.token"), "remora", "remora-discovery", "discovery-1")?;

        let mut spec = Spec::new("identity", &self.program, path);
        spec.flag("--listen", "127.0.0.1:0").flag("--admin", "127.0.0.1:0");
        spec.flag("--issuer-dir", path.join("issuer")).flag("--jwks", path.join("jwks.json"));
        spec.flag("--revocations", path.join("manifests")).args(self.identity);
        let identity = Program::start(spec)?;
        identity.keep("--listen", identity.logged(r#"what="grpc""#, "addr")?);
        identity.keep("--admin", identity.logged(r#"what="admin""#, "addr")?);

        let mut spec = Spec::new("discovery", &self.program, path);
        spec.flag("--listen", "127.0.0.1:0").flag("--admin", "127.0.0.1:0");
        spec.flag("--manifests", path.join("manifests")).flag("--token", path.join("discovery.token"));
        spec.flag("--trust-anchors", path.join("issuer/ca.crt"));
        spec.flag("--identity-addr", identity.kept("--listen")?.to_string()).args(self.discovery);
        let discovery = Program::start(spec)?;
        discovery.keep("--admin", discovery.logged("admin server listens", "admin")?);
        discovery.keep("--listen", discovery.logged("serves proxies", "listen")?);
        let mesh = Mesh { discovery, identity, program: self.program, key, next: AtomicU8::new(2), dir };
        mesh.ready(&mesh.discovery)?;
        Ok(mesh)
    }
}

impl Mesh {
    /// A mesh whose processes are copies of `program`, which must begin with [`crate::components::play`]: in an
    /// integration test `env!("CARGO_BIN_EXE_remora-components")`.
    pub fn builder(program: impl Into<PathBuf>) -> Builder {
        Builder { program: program.into(), identity: Vec::new(), discovery: Vec::new(), issuer: Vec::new() }
    }

    /// A mesh with everything by default.
    pub fn start(program: impl Into<PathBuf>) -> anyhow::Result<Self> {
        Self::builder(program).start()
    }

    /// Where the mesh's files are: `issuer/`, `manifests/`, tokens, logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Adds or replaces a file of Kubernetes objects, whole at once. Discovery reads it a moment later: await what you
    /// wrote it for.
    pub fn manifest(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        let (new, whole) = (self.dir().join(format!("{name}.new")), self.manifest_path(name));
        fs::write(&new, yaml)?;
        fs::rename(new, whole).with_context(|| format!("placing the manifest {name}"))
    }

    /// Removes a file of Kubernetes objects.
    pub fn remove_manifest(&self, name: &str) -> anyhow::Result<()> {
        fs::remove_file(self.manifest_path(name)).with_context(|| format!("removing the manifest {name}"))
    }

    fn manifest_path(&self, name: &str) -> PathBuf {
        self.dir().join("manifests").join(format!("{name}.yaml"))
    }

    /// Adds or replaces a Service of [`NAMESPACE`] with these endpoints. An endpoint on the address of a proxy's pod is
    /// that pod's; any other is outside the mesh.
    pub fn service(
        &self,
        name: &str,
        port: u16,
        app_protocol: Option<&str>,
        endpoints: &[SocketAddr],
    ) -> anyhow::Result<()> {
        let app_protocol = app_protocol.map(|it| format!(", appProtocol: {it}")).unwrap_or_default();
        let mut yaml = format!(
            "apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {NAMESPACE} }}
spec:
  clusterIP: None
  ports: [{{ name: main, port: {port}, protocol: TCP{app_protocol} }}]
"
        );
        for (number, endpoint) in endpoints.iter().enumerate() {
            let (ip, port) = (endpoint.ip(), endpoint.port());
            write!(
                yaml,
                "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: {name}-{number}, namespace: {NAMESPACE}, labels: {{ kubernetes.io/service-name: {name} }} }}
addressType: IPv4
ports: [{{ name: main, port: {port}, protocol: TCP }}]
endpoints: [{{ addresses: [{ip}], conditions: {{ ready: true, serving: true, terminating: false }} }}]
"
            )?;
        }
        self.manifest(&format!("service-{name}"), &yaml)
    }

    /// The token of a pod, in a file of its own.
    pub fn token(&self, namespace: &str, account: &str, pod: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir().join(format!("{namespace}-{pod}.token"));
        self.key.write(&path, namespace, account, pod)?;
        Ok(path)
    }

    /// A proxy to be started: the pod `name`, of a service account of the same name.
    pub fn proxy(&self, name: &str) -> ProxySpec<'_> {
        let ip = self.address();
        ProxySpec::new(self, name, ip)
    }

    /// Another process of the mesh's program, called as `arg0`, with its log beside the others': a backend, say.
    pub fn helper(&self, name: &str, arg0: &str, flags: &[(&str, &str)]) -> anyhow::Result<Program> {
        let mut spec = Spec::new(name, &self.program, self.dir());
        spec.component(arg0);
        for (flag, value) in flags {
            spec.flag(flag, value);
        }
        Program::start(spec)
    }

    /// An address that no other pod of this mesh has.
    pub fn address(&self) -> IpAddr {
        Ipv4Addr::new(127, 1, 0, self.next.fetch_add(1, Ordering::Relaxed)).into()
    }

    /// Waits until a part of the control plane says that it is ready.
    pub fn ready(&self, part: &Program) -> anyhow::Result<()> {
        ready(part, part.kept("--admin")?)
    }
}

/// Waits until the admin port of a program says that it is ready.
fn ready(program: &Program, admin: SocketAddr) -> anyhow::Result<()> {
    until(&format!("{} is ready", program.name()), || {
        program.running()?;
        let answer = http::get(admin, &admin.to_string(), "/ready")?;
        anyhow::ensure!(answer.status == 200, "{}", answer.text());
        Ok(Some(()))
    })
    .with_context(|| program.log_end())
}
