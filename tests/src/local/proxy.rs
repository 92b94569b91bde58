//! A pod with a proxy in explicit mode: its address is its own, the test plays its application.

use super::{
    Mesh, NAMESPACE, http,
    program::{Program, Spec},
};
use anyhow::{Context as _, ensure};
use std::{
    ffi::{OsStr, OsString},
    net::{IpAddr, SocketAddr},
};

const OUTBOUND: &str = "REMORA_PROXY_OUTBOUND_LISTEN";
const INBOUND: &str = "REMORA_PROXY_INBOUND_LISTEN";
const ADMIN: &str = "REMORA_PROXY_ADMIN_LISTEN";

/// A proxy to be started.
#[derive(Debug)]
pub struct ProxySpec<'a> {
    mesh: &'a Mesh,
    name: String,
    namespace: String,
    account: String,
    ip: IpAddr,
    known: bool,
    descriptors: Option<u64>,
    gives_way: bool,
    env: Vec<(String, OsString)>,
}

impl<'a> ProxySpec<'a> {
    pub(super) fn new(mesh: &'a Mesh, name: &str, ip: IpAddr) -> Self {
        let (name, account) = (name.to_owned(), name.to_owned());
        Self {
            mesh,
            name,
            namespace: NAMESPACE.to_owned(),
            account,
            ip,
            known: true,
            descriptors: None,
            gives_way: false,
            env: Vec::new(),
        }
    }

    /// The pod's address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// In another namespace than [`NAMESPACE`].
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Of another service account than the pod's name.
    pub fn service_account(mut self, account: &str) -> Self {
        account.clone_into(&mut self.account);
        self
    }

    /// With a setting: `.env("DRAIN_GRACE", "1s")`.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((format!("REMORA_PROXY_{name}"), value.as_ref().to_owned()));
        self
    }

    /// With at most so many open descriptors.
    pub fn descriptors(mut self, count: u64) -> Self {
        self.descriptors = Some(count);
        self
    }

    /// On a host of its own, as far as one machine can show that: it takes no core that a process here wants.
    pub fn elsewhere(mut self) -> Self {
        self.gives_way = true;
        self
    }

    /// Without telling discovery of the pod.
    pub fn unknown(mut self) -> Self {
        self.known = false;
        self
    }

    /// Starts it, waits until it listens, and tells discovery of its pod. [`Proxy::ready`] waits for the rest.
    pub fn spawn(self) -> anyhow::Result<Proxy> {
        let Self { mesh, name, namespace, account, ip, known, descriptors, gives_way, env } = self;
        let token = mesh.token(&namespace, &account, &name)?;
        let mut spec = Spec::new(&name, &mesh.program, mesh.dir());
        spec.component("remora-proxy");
        for listener in [OUTBOUND, INBOUND, ADMIN] {
            spec.env(listener, format!("{ip}:0"));
        }
        spec.env("REMORA_PROXY_MODE", "explicit")
            .env("REMORA_PROXY_NAMESPACE", &namespace)
            .env("REMORA_PROXY_POD", &name)
            .env("REMORA_PROXY_SERVICE_ACCOUNT", &account)
            .env("REMORA_PROXY_APP_HOST", ip.to_string())
            .env("REMORA_PROXY_TRUST_ANCHORS", mesh.dir().join("issuer/ca.crt"))
            .env("REMORA_PROXY_TOKEN", token)
            .env("REMORA_PROXY_IDENTITY_ADDR", mesh.identity.kept("--listen")?.to_string())
            .env("REMORA_PROXY_DISCOVERY_ADDR", mesh.discovery.kept("--listen")?.to_string())
            .env("REMORA_PROXY_WORKERS", "1")
            .env("REMORA_PROXY_LOG", "info,remora_proxy=debug");
        for (name, value) in env {
            spec.env(&name, value);
        }
        if let Some(count) = descriptors {
            spec.descriptors(count);
        }
        if gives_way {
            spec.give_way();
        }
        let program = Program::start(spec)?;
        program.keep(ADMIN, program.logged("run: admin", "address")?);
        program.keep(OUTBOUND, program.logged(r#"setting="OUTBOUND_LISTEN""#, "address")?);
        program.keep(INBOUND, program.logged(r#"setting="INBOUND_LISTEN""#, "address")?);
        let proxy = Proxy {
            outbound: program.kept(OUTBOUND)?,
            inbound: program.kept(INBOUND)?,
            admin: program.kept(ADMIN)?,
            identity: format!("spiffe://cluster.local/ns/{namespace}/sa/{account}"),
            ip,
            program,
        };
        if known {
            mesh.manifest(&format!("pod-{namespace}-{name}"), &manifest(&name, &namespace, &account, &proxy))?;
        }
        Ok(proxy)
    }
}

fn manifest(name: &str, namespace: &str, account: &str, proxy: &Proxy) -> String {
    let Proxy { ip, inbound, .. } = proxy;
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{ app: {name} }}
  annotations: {{ remora.dev/proxy-address: \"{inbound}\" }}
spec:
  serviceAccountName: {account}
  containers: [{{ name: app, image: app }}]
status:
  phase: Running
  podIP: {ip}
  podIPs: [{{ ip: {ip} }}]
  conditions: [{{ type: Ready, status: \"True\" }}]
"
    )
}

/// A pod's proxy.
#[derive(Debug)]
pub struct Proxy {
    /// The process: kill, stop, continue, restart it.
    pub program: Program,
    /// The pod's address; the application that the test plays binds here.
    pub ip: IpAddr,
    /// Where the application sends its requests, by their authority.
    pub outbound: SocketAddr,
    /// Where other proxies connect.
    pub inbound: SocketAddr,
    /// Where it tells about itself.
    pub admin: SocketAddr,
    /// The SPIFFE ID that it will be certified as.
    pub identity: String,
}

impl Proxy {
    /// Waits until it is ready: certified, and answered by discovery.
    pub fn ready(self) -> anyhow::Result<Self> {
        self.await_ready()?;
        Ok(self)
    }

    /// Waits until it is ready (again).
    pub fn await_ready(&self) -> anyhow::Result<()> {
        super::ready(&self.program, self.admin)
    }

    /// Its process id.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.program.pid()
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        self.program.log()
    }

    /// A page of its admin port, which must answer 200.
    pub fn admin(&self, path: &str) -> anyhow::Result<String> {
        let answer = http::get(self.admin, &self.admin.to_string(), path)?;
        ensure!(answer.status == 200, "{path} of {}: {}{}", self.program.name(), answer.head, answer.text());
        Ok(answer.text())
    }

    /// What it counted, per route.
    pub fn routes(&self) -> anyhow::Result<serde_json::Value> {
        let text = self.admin("/routes")?;
        serde_json::from_str(&text).with_context(|| format!("/routes: {text}"))
    }

    /// What it counted, for Prometheus.
    pub fn metrics(&self) -> anyhow::Result<String> {
        self.admin("/metrics")
    }

    /// The sum of all series of a metric whose labels contain each of `labels` (as `name="value"`); none is 0.
    pub fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let metrics = self.metrics()?;
        let series = metrics.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && labels.iter().all(|label| line.contains(label))
        });
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// A GET by the pod's application: through this proxy's outbound listener.
    pub fn get(&self, authority: &str, path: &str) -> anyhow::Result<http::Answer> {
        http::get(self.outbound, authority, path)
    }
}
