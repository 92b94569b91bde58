//! A real cluster for tests. In: `KUBECONFIG`, or the project's own cluster (`tests/cluster/run`). Out: namespaces that
//! go when the test ends, objects applied and waited for, commands in pods, loads with their reports. Does not: install
//! the mesh, or start the cluster.
//!
//! Everything here blocks, so that tests read from top to bottom; every wait has a deadline and says what it waited for.

mod exec;
mod load;
mod mesh;
mod node;
mod objects;
mod run;
mod scope;

pub use exec::Said;
pub use load::{Load, Report};
pub use mesh::Meshed;
pub use node::{Part, Paused};
pub use run::{NotTried, Test, run};
pub use scope::Scope;

use anyhow::Context as _;
use kube::{Client, Config};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::runtime::Runtime;

/// For one answer of the API server.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a pod may take on a busy machine.
pub const POD_PATIENCE: Duration = Duration::from_secs(90);

/// The cluster under test.
pub struct Cluster {
    runtime: Runtime,
    client: Client,
    /// Whether the tests' pods have a sidecar.
    meshed: Meshed,
    images: Images,
}

/// What the tests' pods run.
#[derive(Debug, Clone)]
struct Images {
    echo: String,
    nginx: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("meshed", &self.meshed).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Connects to the cluster that the environment names.
    fn connect() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(async {
            let mut config = Config::infer().await.context("no cluster: KUBECONFIG names none")?;
            config.read_timeout = None; // commands in pods may be silent for long
            config.connect_timeout = Some(ASK_TIMEOUT);
            Client::try_from(config).context("a client for the cluster")
        })?;
        let name =
            |variable, usual: &str| std::env::var_os(variable).map_or(usual.into(), |set| set.to_string_lossy().into());
        let images = Images {
            echo: name("REMORA_TEST_ECHO", "local/echo:dev"),
            nginx: name("REMORA_TEST_NGINX", "local/nginx:dev"),
        };
        let meshed = if run::is("REMORA_CLUSTER_MESHED", "0") { Meshed::No } else { Meshed::Yes };
        Ok(Self { runtime, client, meshed, images })
    }

    /// The API server's client, for what has no function here.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Whether pods get a sidecar in this run.
    pub fn is_meshed(&self) -> bool {
        self.meshed == Meshed::Yes
    }

    /// For tests that say nothing without a mesh.
    ///
    /// # Errors
    ///
    /// [`NotTried`] where pods get no sidecar.
    pub fn needs_mesh(&self) -> Result<(), NotTried> {
        if self.is_meshed() { Ok(()) } else { Err(NotTried("needs a mesh")) }
    }

    /// Waits for one answer of the API server.
    pub fn ask<T, E>(&self, asked: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let answered = self.runtime.block_on(async { tokio::time::timeout(ASK_TIMEOUT, asked).await });
        Ok(answered.context("no answer of the API server")??)
    }
}

/// The tool that started the project's own cluster.
fn tool() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/run")
}
