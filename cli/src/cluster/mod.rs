//! The cluster that the kubeconfig names: connecting, finding pods, and reading their admin ports.
//!
//! | module | what it gives |
//! |--|--|
//! | [`scope`] | which pods a command is about: the flags that say so, and the pods of a cluster that they mean |
//! | [`target`] | `pod/NAME`, `deploy/NAME`, `ns/NAME` as typed |
//! | [`forward`] | a stream to a port of a pod |
//! | [`list`] | objects of a kind, page by page |
//! | [`policies`] | Remora's own policies, and whether they hold |
//! | [`objects`] | what belongs to Remora: by label, of every kind it makes |

pub(crate) mod forward;
pub(crate) mod list;
pub(crate) mod objects;
pub(crate) mod policies;
pub(crate) mod scope;
#[cfg(test)]
pub(crate) mod standin;
pub(crate) mod target;

use kube::config::{KubeConfigOptions, KubeconfigError};
use remora_kube::{
    client::{self, ClientError},
    names,
};
use std::path::PathBuf;

/// How many pods are asked at once, each by a port-forward of its own: enough for speed, too few for an API server to notice.
pub(crate) const FORWARDS_MAX: usize = 8;
/// The name that the API server's audit log sees.
const AGENT: &str = "remora-cli";

/// Below which `--help` lists them.
pub(crate) const HEADING: &str = "Cluster";

/// Which cluster, and as whom: flags that mean what they mean to kubectl.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The kubeconfig file; else the files that KUBECONFIG names, else ~/.kube/config
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; its current one if not given
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    pub(crate) context: Option<String>,
    /// Act as this user, for example system:serviceaccount:shop:default
    #[arg(long = "as", id = "as", value_name = "USER", help_heading = HEADING)]
    pub(crate) user: Option<String>,
    /// Act as a member of this group; may be repeated
    #[arg(long = "as-group", id = "as-group", value_name = "GROUP", requires = "as", help_heading = HEADING)]
    pub(crate) groups: Vec<String>,
}

/// Where the control plane is.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct ControlPlane {
    /// Where the control plane is
    #[arg(long = "control-plane-namespace", id = "control-plane-namespace", value_name = "NAME", default_value = names::NAMESPACE, value_parser = target::name)]
    pub(crate) namespace: String,
}

/// A cluster to ask.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: kube::Client,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoCluster {
    /// A mistake in what was typed.
    #[error("the kubeconfig has no context {0:?}: `kubectl config get-contexts` lists those it has")]
    Context(String),
    #[error(
        "no cluster to ask: say --kubeconfig FILE, or set KUBECONFIG, and see that `kubectl get --raw /version` works"
    )]
    Away(#[source] ClientError),
}

impl Cluster {
    /// Reads the kubeconfig; nothing is asked of the API server yet.
    pub(crate) async fn connect(args: &Args) -> Result<Self, NoCluster> {
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        // What was named is meant; only without a word may it be the service account of the pod that this runs in.
        let config = match (&args.kubeconfig, &args.context) {
            (None, None) => client::config(&options).await,
            (file, _) => client::config_named(file.as_deref(), &options).await,
        };
        let mut config = config.map_err(|error| refused(args, error))?;
        if let Some(user) = &args.user {
            config.auth_info.impersonate = Some(user.clone());
            config.auth_info.impersonate_groups = Some(args.groups.clone());
        }
        let client = client::client(config, AGENT).map_err(NoCluster::Away)?;
        Ok(Self { client })
    }

    /// The namespace of the kubeconfig's context.
    pub(crate) fn namespace(&self) -> &str {
        self.client.default_namespace()
    }
}

fn refused(args: &Args, error: ClientError) -> NoCluster {
    match (&args.context, &error) {
        (Some(name), ClientError::Kubeconfig(why)) if matches!(**why, KubeconfigError::LoadContext(_)) => {
            NoCluster::Context(name.clone())
        }
        _ => NoCluster::Away(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: here
contexts: [{ name: here, context: { cluster: c, user: u, namespace: shop } }]
clusters: [{ name: c, cluster: { server: 'http://127.0.0.1:1' } }]
users: [{ name: u, user: {} }]
";

    async fn connect(context: Option<&str>, text: &str) -> Result<Cluster, NoCluster> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, text).unwrap();
        let args = Args { kubeconfig: Some(file), context: context.map(str::to_owned), ..Args::default() };
        Cluster::connect(&args).await
    }

    #[tokio::test]
    async fn the_file_that_was_named_is_the_cluster() {
        assert_eq!(connect(None, KUBECONFIG).await.ok().unwrap().namespace(), "shop");
        assert_eq!(connect(Some("here"), KUBECONFIG).await.ok().unwrap().namespace(), "shop");
    }

    #[tokio::test]
    async fn a_context_that_is_not_there_is_no_missing_cluster() {
        let error = connect(Some("nope"), KUBECONFIG).await.err().unwrap();
        assert!(matches!(error, NoCluster::Context(ref name) if name == "nope"), "{error:?}");
        assert!(matches!(connect(None, "a: [").await, Err(NoCluster::Away(_))));
        let missing = Args { kubeconfig: Some("/nowhere/config".into()), ..Args::default() };
        let error = Cluster::connect(&missing).await.err().unwrap();
        assert!(crate::exit::chain(&error).contains("/nowhere/config"), "{error:?}");
    }
}
