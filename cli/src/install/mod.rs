//! `remora install`, `remora upgrade`, `remora uninstall`: manifests for `kubectl`, on standard output.
//!
//! They change nothing themselves: what is printed is what is applied, and can be read, kept in Git and compared first.
//! Install asks a cluster, if there is one, whether the namespace is there; the other two ask what runs there. What a person must know goes to standard error, so that
//! it is seen although the output goes into a pipe.

mod manifests;
mod namespace;
mod uninstall;
mod upgrade;

use crate::cluster;
use manifests::Settings;
use remora_injector::pod;
use remora_kube::names;
use remora_model::TrustDomain;
use std::process::ExitCode;

/// `remora install`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Apply it:\n  remora install | kubectl apply --server-side -f -\n\n\
    Other settings are values of the Helm chart, which renders the same objects:\n  \
    helm install remora charts/remora --namespace remora --create-namespace --values my-values.yaml")]
pub(crate) struct InstallArgs {
    /// For production: three replicas of each part, spread over nodes, of which one at a time may be taken away
    #[arg(long)]
    ha: bool,
    /// The control plane's namespace
    #[arg(short, long, value_name = "NAME", default_value = names::NAMESPACE, value_parser = manifests::namespace)]
    #[arg(visible_alias = "control-plane-namespace")]
    namespace: String,
    /// Print the Namespace too where no cluster can be asked; else it is printed if there is none, or if this made it
    #[arg(long)]
    create_namespace: bool,
    /// The name under which all identities stand [default: cluster.local]
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// The suffix of the cluster's own DNS names [default: cluster.local]
    #[arg(long, value_name = "DOMAIN", value_parser = manifests::domain)]
    cluster_domain: Option<String>,
    /// The networks of the cluster's Services and pods [default: found by discovery]
    #[arg(long, value_name = "CIDR,CIDR", value_parser = pod::cluster_networks)]
    cluster_networks: Option<String>,
    /// The image's repository, for example that of a mirror [default: ghcr.io/remora-mesh/remora]
    #[arg(long, value_name = "REPOSITORY", value_parser = manifests::image_part)]
    image: Option<String>,
    /// The image's tag, or its digest (sha256:…) [default: this command's version]
    #[arg(long, value_name = "TAG", value_parser = manifests::image_tag)]
    image_tag: Option<String>,
    #[command(flatten)]
    cluster: cluster::Args,
}

/// `remora upgrade`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Apply it:\n  remora upgrade | kubectl apply --server-side -f -\n\n\
    Namespace, trust domain, image repository and replicas stay as they are, unless said otherwise.")]
pub(crate) struct UpgradeArgs {
    /// Three replicas of each part
    #[arg(long)]
    ha: bool,
    /// Another image repository
    #[arg(long, value_name = "REPOSITORY", value_parser = manifests::image_part)]
    image: Option<String>,
    /// The image's tag, or its digest (sha256:…) [default: this command's version]
    #[arg(long, value_name = "TAG", value_parser = manifests::image_tag)]
    image_tag: Option<String>,
    /// Go back to this command's version although a newer one runs
    #[arg(long)]
    downgrade: bool,
    #[command(flatten)]
    cluster: cluster::Args,
}

/// `remora uninstall`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Carry it out:\n  remora uninstall | kubectl delete -f -\n\n\
    It lists every object of the chart and every object that the parts made, wherever it is.")]
pub(crate) struct UninstallArgs {
    /// Leave the CRDs, and with them the policies that users wrote
    #[arg(long)]
    keep_crds: bool,
    /// List it although pods still have a sidecar: these go on with what they know, but are lost once they restart
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cluster: cluster::Args,
}

/// Prints the manifests.
pub(crate) fn install(args: InstallArgs) -> ExitCode {
    crate::finish(crate::block_on(async {
        let (create_namespace, note) = namespace::create(&args).await?;
        note.iter().for_each(|note| eprintln!("remora: {note}"));
        let InstallArgs { ha, namespace, trust_domain, cluster_domain, cluster_networks, image, image_tag, .. } = args;
        let settings = Settings {
            ha,
            namespace,
            create_namespace,
            trust_domain,
            cluster_domain,
            cluster_networks,
            image,
            image_tag,
        };
        Ok((settings.render(), true))
    }))
}

/// Prints the manifests of this version for what runs.
pub(crate) fn upgrade(args: &UpgradeArgs) -> ExitCode {
    crate::finish(crate::block_on(async {
        let (manifests, notes) = upgrade::run(args).await?;
        notes.iter().for_each(|note| eprintln!("remora: {note}"));
        Ok((manifests, true))
    }))
}

/// Prints what would go.
pub(crate) fn uninstall(args: &UninstallArgs) -> ExitCode {
    crate::finish(crate::block_on(async {
        let (manifests, notes) = uninstall::run(args).await?;
        notes.iter().for_each(|note| eprintln!("remora: {note}"));
        Ok((manifests, true))
    }))
}
