//! The mesh in the cluster: whether it is there, and what its sidecars say.

use super::{Cluster, Scope, scope::has_sidecar};
use anyhow::{Context as _, ensure};
use remora_kube::names;
use serde_json::Value;

/// Whether the tests' pods have a sidecar: the same tests must pass without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meshed {
    Yes,
    No,
}

/// The parts of the control plane, each a Deployment.
pub(super) const PARTS: [&str; 3] = [names::IDENTITY, names::DISCOVERY, names::INJECTOR];

impl Cluster {
    /// The namespace of the control plane.
    pub fn control(&self) -> String {
        std::env::var_os("REMORA_NAMESPACE").map_or(names::NAMESPACE.into(), |set| set.to_string_lossy().into())
    }

    /// Fails unless the control plane stands.
    pub(super) fn require_mesh(&self) -> anyhow::Result<()> {
        for part in PARTS {
            let deployment = self.object(&self.control(), "apps/v1/deployments", part);
            let deployment = deployment.context(
                "Remora is not installed: remora install | kubectl apply -f - (REMORA_CLUSTER_MESHED=0 runs the tests bare)",
            )?;
            let available = deployment.pointer("/status/availableReplicas").and_then(Value::as_i64).unwrap_or(0);
            ensure!(available > 0, "{part} is not available: {}", self.pods_said(&self.control()));
        }
        Ok(())
    }
}

impl Scope<'_> {
    /// Fails unless each pod of a selector has a sidecar exactly if the run is meshed.
    pub fn expect_sidecars(&self, selector: &str) -> anyhow::Result<()> {
        let pods = self.pods(selector)?;
        ensure!(!pods.is_empty(), "no pod of {selector}");
        for pod in pods {
            let name = &pod["metadata"]["name"];
            ensure!(has_sidecar(&pod) == self.cluster.is_meshed(), "{name}: sidecar {}", has_sidecar(&pod));
        }
        Ok(())
    }

    /// What a pod's sidecar answers on its admin port, asked from inside the pod.
    pub fn admin(&self, pod: &str, container: &str, path: &str) -> anyhow::Result<String> {
        let url = format!("http://127.0.0.1:4191{path}");
        Ok(self.exec(pod, container, &["client", &url])?.well()?.body())
    }
}
