//! `remora install`, `remora upgrade`, `remora uninstall`: manifests for `kubectl`, on standard output.
//!
//! They change nothing themselves: what is printed is what is applied, and can be read, kept in Git and compared first.
//! Install needs no cluster; the other two ask what runs there. What a person must know goes to standard error, so that
//! it is seen although the output goes into a pipe.

mod manifests;
mod uninstall;
mod upgrade;

use std::process::ExitCode;

use remora_kube::names;
use remora_model::TrustDomain;

use crate::cluster;
use manifests::Settings;

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
    #[arg(long, value_name = "NAME", default_value = names::NAMESPACE, value_parser = manifests::namespace)]
    namespace: String,
    /// The name under which all identities stand [default: cluster.local]
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// The image's repository, for example that of a mirror [default: ghcr.io/remora-mesh/remora]
    #[arg(long, value_name = "REPOSITORY", value_parser = manifests::image_part)]
    image: Option<String>,
    /// The image's tag [default: this command's version]
    #[arg(long, value_name = "TAG", value_parser = manifests::image_part)]
    image_tag: Option<String>,
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
    /// The image's tag [default: this command's version]
    #[arg(long, value_name = "TAG", value_parser = manifests::image_part)]
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
    let InstallArgs { ha, namespace, trust_domain, image, image_tag } = args;
    let settings = Settings { ha, namespace, trust_domain, image, image_tag };
    crate::finish(Ok((settings.render(), true)))
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
