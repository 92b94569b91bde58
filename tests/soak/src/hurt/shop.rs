//! The mesh under load: a client's proxy `web`, and pods of the Service `api`, each a proxy and a backend.

use super::backend;
use anyhow::{Context as _, ensure};
use remora_tests::{
    local::{Mesh, Program, Proxy, ProxySpec, http},
    patience::until,
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Instant,
};

/// What clients call.
pub(crate) const AUTHORITY: &str = "api:80";

/// One pod of `api`.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) proxy: Proxy,
    app: Program,
    address: SocketAddr,
}

impl Pod {
    /// Sets how the backend behaves from now on.
    pub(crate) fn behave(&self, delay_ms: u64, status: u16) -> anyhow::Result<()> {
        let answer = http::get(self.address, "backend", &format!("/-/set/{delay_ms}/{status}"))?;
        ensure!(answer.status == 200, "{}: {}", self.name, answer.head);
        Ok(())
    }

    /// Requests that reached the backend since it was started.
    pub(crate) fn count(&self) -> anyhow::Result<u64> {
        let answer = http::get(self.address, "backend", "/-/count")?;
        answer.text().parse().with_context(|| format!("{}: no count: {}", self.name, answer.text()))
    }

    /// SIGKILL to the pod: its proxy and its backend.
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        self.app.kill()?;
        self.proxy.program.kill()
    }

    /// Starts the pod again; returns when it is ready.
    pub(crate) fn restart(&self) -> anyhow::Result<Instant> {
        self.app.restart()?;
        self.proxy.program.restart()?;
        until("the backend listens", || Ok(self.count().ok()))?;
        self.proxy.await_ready()?;
        Ok(Instant::now())
    }

    /// SIGSTOP to the pod: connections stay open, and nothing answers.
    pub(crate) fn stall(&self) -> anyhow::Result<()> {
        self.app.stop()?;
        self.proxy.program.stop()
    }

    /// Lets the pod go on.
    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        self.app.cont()?;
        self.proxy.program.cont()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shop {
    // Fields end in their order: processes before the mesh that has their files.
    pub(crate) pods: Vec<Pod>,
    pub(crate) web: Proxy,
    pub(crate) mesh: Mesh,
    keep: Option<PathBuf>,
}

impl Shop {
    /// Starts so many pods, all in service, and waits until a request is answered. Logs are copied to `keep` at the end.
    pub(crate) fn open(pods: usize, keep: Option<&Path>) -> anyhow::Result<Self> {
        Self::open_with(pods, keep, |web| web)
    }

    /// With a change to the client's proxy.
    pub(crate) fn open_with(
        pods: usize,
        keep: Option<&Path>,
        web: impl for<'a> FnOnce(ProxySpec<'a>) -> ProxySpec<'a>,
    ) -> anyhow::Result<Self> {
        let mesh = Mesh::start(std::env::current_exe().context("finding this program")?)?;
        let web = web(mesh.proxy("web").env("LOG", "info")).spawn()?;
        let pods = (1..=pods).map(|number| pod(&mesh, number)).collect::<anyhow::Result<Vec<_>>>()?;
        let shop = Self { pods, web: web.ready()?, mesh, keep: keep.map(Path::to_owned) };
        for pod in &shop.pods {
            pod.proxy.await_ready()?;
        }
        shop.serve(&(0..shop.pods.len()).collect::<Vec<_>>())?;
        until("a request is answered", || {
            let answer = shop.web.get(AUTHORITY, "/")?;
            ensure!(answer.status == 200, "{}{}", answer.head, answer.text());
            Ok(Some(()))
        })
        .with_context(|| shop.web.program.log_end())?;
        Ok(shop)
    }

    /// Puts these pods, and no others, behind the Service.
    pub(crate) fn serve(&self, which: &[usize]) -> anyhow::Result<()> {
        let addresses: Vec<SocketAddr> = which.iter().map(|index| self.pods[*index].address).collect();
        self.mesh.service("api", 80, None, &addresses)
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let Some(keep) = &self.keep else { return };
        let logs = std::fs::read_dir(self.mesh.dir()).into_iter().flatten().flatten();
        for log in logs.filter(|entry| entry.path().extension().is_some_and(|ext| ext == "log")) {
            if let Err(error) =
                std::fs::create_dir_all(keep).and_then(|()| std::fs::copy(log.path(), keep.join(log.file_name())))
            {
                eprintln!("tests/soak: cannot keep {}: {error}", log.path().display());
            }
        }
    }
}

fn pod(mesh: &Mesh, number: usize) -> anyhow::Result<Pod> {
    let name = format!("api-{number}");
    let proxy = mesh.proxy(&name).service_account("api").env("LOG", "info").spawn()?;
    let listen = format!("{}:0", proxy.ip);
    let app = mesh.helper(&format!("app-{number}"), backend::NAME, &[("--name", &name), ("--listen", &listen)])?;
    let address = app.logged("listens", "address")?;
    app.keep("--listen", address);
    Ok(Pod { name, proxy, app, address })
}
