//! The cluster that the kubeconfig names: connecting, finding pods, and reading their admin ports.
//!
//! | module | what it gives |
//! |--|--|
//! | [`forward`] | a stream to a port of a pod |
//! | [`target`] | `pod/NAME`, `deploy/NAME`, a namespace: which pods are meant |
//! | [`objects`] | what belongs to Remora: by label, of every kind it makes |

pub(crate) mod forward;
pub(crate) mod objects;
pub(crate) mod target;

use kube::config::KubeConfigOptions;
use remora_kube::client::{self, ClientError};

/// How many pods are asked at once: enough for speed, too few for an API server to notice.
pub(crate) const POD_REQUESTS_MAX: usize = 32;
/// The name that the API server's audit log sees.
const AGENT: &str = "remora-cli";

/// Which cluster.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The kubeconfig's context; its current one if not given. KUBECONFIG names the file
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// A cluster to ask.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: kube::Client,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[error("no cluster: is KUBECONFIG set, and does `kubectl get --raw /version` work?")]
pub(crate) struct NoCluster(#[source] ClientError);

impl Cluster {
    /// Reads the kubeconfig; nothing is asked of the API server yet.
    pub(crate) async fn connect(args: &Args) -> Result<Self, NoCluster> {
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let config = client::config(&options).await.map_err(NoCluster)?;
        let client = client::client(config, AGENT).map_err(NoCluster)?;
        Ok(Self { client })
    }

    /// The namespace of the kubeconfig's context.
    pub(crate) fn namespace(&self) -> &str {
        self.client.default_namespace()
    }
}
