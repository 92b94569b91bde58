//! Two pods and a mesh between them. In: what starts an application. Out: the same question asked directly and through
//! two redirected proxies. Does not: judge answers beyond their bytes.

use super::{
    APP_UID, Command, Network, Pod, Process,
    mesh::{Mesh, Sidecar},
};
use anyhow::{Context as _, ensure};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};
use tempfile::TempDir;

/// A client pod, and a server pod whose application listens; no mesh yet.
#[derive(Debug)]
pub struct Scene {
    // Fields end in their order: programs, then pods, then their network and files.
    _app: Process,
    /// Where clients run.
    pub client: Pod,
    /// Where the application runs.
    pub server: Pod,
    /// What the pods are plugged into.
    pub net: Network,
    /// The application's folder.
    pub dir: TempDir,
}

impl Scene {
    /// Makes the pods and starts the application in one of them.
    pub fn new(start: impl FnOnce(&Pod, &Path) -> anyhow::Result<Process>) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        // Programs of other users look into it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let net = Network::new("scene")?;
        let (client, server) = (net.pod("client")?, net.pod("server")?);
        let app = start(&server, dir.path())?;
        Ok(Self { _app: app, client, server, net, dir })
    }

    /// What the client gets from each address of the server.
    pub fn ask(&self, question: impl Fn(&Pod, IpAddr) -> Command) -> anyhow::Result<Vec<Vec<u8>>> {
        self.server.addresses().into_iter().map(|ip| question(&self.client, ip).uid(APP_UID).bytes()).collect()
    }

    /// Puts both pods into a mesh; the server's application serves `ports`.
    pub fn mesh(&self, ports: &[u16]) -> anyhow::Result<Meshed> {
        self.mesh_with(ports, &[])
    }

    /// As [`Scene::mesh`], with these manifests (name, YAML) in force from the start.
    pub fn mesh_with(&self, ports: &[u16], manifests: &[(&str, &str)]) -> anyhow::Result<Meshed> {
        let mesh = Mesh::start(&self.net)?;
        for (name, yaml) in manifests {
            mesh.manifest(name, yaml)?;
        }
        let server = mesh.join(&self.server, ports)?;
        let client = mesh.join(&self.client, &[])?;
        Ok(Meshed { client, server, mesh })
    }

    /// Asks directly, then through the mesh, and compares every byte; the server's proxy must have seen mutual TLS.
    pub fn compare(&self, ports: &[u16], question: impl Fn(&Pod, IpAddr) -> Command) -> anyhow::Result<Meshed> {
        let direct = self.ask(&question).context("directly")?;
        ensure!(direct.iter().all(|answer| !answer.is_empty()), "the server says nothing, even directly");
        let meshed = self.mesh(ports)?;
        let through = meshed.context(self.ask(&question).context("through the mesh"))?;
        if direct != through {
            let shown = |answers: &[Vec<u8>]| answers.iter().map(|answer| shortened(answer)).collect::<Vec<_>>();
            return meshed.context(Err(anyhow::anyhow!(
                "the bytes through the mesh are not those of the direct path:\n{:#?}\ndirectly:\n{:#?}",
                shown(&through),
                shown(&direct)
            )));
        }
        meshed.saw_mtls(self)?;
        Ok(meshed)
    }
}

/// Both pods in the mesh.
#[derive(Debug)]
pub struct Meshed {
    /// The proxy of the client's pod.
    pub client: Sidecar,
    /// The proxy of the server's pod.
    pub server: Sidecar,
    /// The control plane.
    pub mesh: Mesh,
}

impl Meshed {
    /// Fails with both proxies' logs.
    pub fn context<T>(&self, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        outcome.with_context(|| format!("client proxy: {}\nserver proxy: {}", self.client.log(), self.server.log()))
    }

    /// Checks that what was asked did come through the mesh: the server's proxy counted mutual TLS.
    pub fn saw_mtls(&self, scene: &Scene) -> anyhow::Result<()> {
        let routes = self.server.routes(&scene.server)?;
        let mtls = |routes: &Vec<serde_json::Value>| routes.iter().any(|route| route["tls"] == "mtls");
        ensure!(routes["routes"].as_array().is_some_and(mtls), "the server's proxy saw no mutual TLS: {routes}");
        Ok(())
    }
}

/// A URL of an address.
pub fn url(scheme: &str, ip: IpAddr, port: u16, path: &str) -> String {
    format!("{scheme}://{}{path}", SocketAddr::from((ip, port)))
}

/// An answer as far as a person would read it.
fn shortened(answer: &[u8]) -> String {
    const SHOWN: usize = 2000;
    let text = String::from_utf8_lossy(&answer[..answer.len().min(SHOWN)]).into_owned();
    if answer.len() > SHOWN { format!("{text}… ({} bytes)", answer.len()) } else { text }
}
