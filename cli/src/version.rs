//! `remora version`: the versions of this command, of the control plane and of the proxies: how many of each.
//!
//! In: a cluster, if there is one. Out: versions as images' tags say them. Where there is no cluster, this command's version is all there is.

use crate::{
    Look, Outcome, block_on,
    cluster::{self, Cluster, ControlPlane, list, target},
    finish_as,
    inspect::pretty,
    output::Output,
    text::{self, Line, Style},
};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::{Api, ResourceExt as _, api::ListParams};
use remora_kube::{
    client::{self, CallError},
    names,
};
use serde::Serialize;
use std::{collections::BTreeMap, process::ExitCode};

/// This command's.
pub(crate) const OWN: &str = env!("CARGO_PKG_VERSION");
const PARTS: [&str; 3] = [names::IDENTITY, names::DISCOVERY, names::INJECTOR];

/// What `remora version` is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// Only this command's version; no cluster is asked
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    control_plane: ControlPlane,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    cluster: cluster::Args,
}

/// How many pods have each version.
type Counts = BTreeMap<String, usize>;

/// All versions.
#[derive(Debug, Serialize)]
pub(crate) struct Versions {
    client: &'static str,
    /// The API server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<String>,
    /// By part.
    control_plane: BTreeMap<&'static str, Counts>,
    proxies: Counts,
    /// What could not be asked, and why.
    unknown: Vec<String>,
}

/// `remora version`.
pub(crate) fn version(args: &VersionArgs, look: Look) -> ExitCode {
    finish_as(args.output, block_on(run(args, look)))
}

async fn run(args: &VersionArgs, look: Look) -> Outcome {
    let mut versions = Versions {
        client: OWN,
        kubernetes: None,
        control_plane: BTreeMap::new(),
        proxies: Counts::new(),
        unknown: Vec::new(),
    };
    if !args.client {
        match Cluster::connect(&args.cluster).await {
            Ok(cluster) => versions = of_cluster(&cluster, &args.control_plane.namespace).await,
            // What was named and is not there is a mistake; that there is none is not.
            Err(error) if args.cluster.kubeconfig.is_some() || args.cluster.context.is_some() => {
                return Err(error.into());
            }
            Err(error) => versions.unknown.push(crate::chain(&error)),
        }
    }
    match args.output {
        Output::Json => pretty(&versions, true),
        Output::Text => Ok((text::render(&lines(&versions, args.client), look.coloured), true)),
    }
}

/// Asks a cluster; what it does not tell is said to be unknown.
pub(crate) async fn of_cluster(cluster: &Cluster, own: &str) -> Versions {
    let control: Api<Pod> = Api::namespaced(cluster.client.clone(), own);
    let everywhere: Api<Pod> = Api::all(cluster.client.clone());
    let (server, parts, proxies) = tokio::join!(
        client::call(cluster.client.apiserver_version()),
        list::all(&control, ListParams::default().labels(names::PART)),
        list::all(&everywhere, ListParams::default().labels(&target::meshed_selector())),
    );
    let mut unknown = Vec::new();
    let mut told = |what: &str, error: CallError| unknown.push(format!("{what}: {}", crate::chain(&error)));
    let kubernetes = server.map(|it| it.git_version).map_err(|error| told("Kubernetes", error)).ok();
    let parts = parts.map_err(|error| told("control plane", error)).unwrap_or_default();
    let proxies = proxies.map_err(|error| told("proxies", error)).unwrap_or_default();
    let of_part = |part: &'static str| {
        let pods = parts.iter().filter(|pod| pod.labels().get(names::PART).is_some_and(|it| it == part));
        (part, count(pods, part))
    };
    Versions {
        client: OWN,
        kubernetes,
        control_plane: PARTS.map(of_part).into_iter().filter(|(_, counts)| !counts.is_empty()).collect(),
        proxies: count(proxies.iter().filter(|pod| target::meshed(pod)), names::PROXY_CONTAINER),
        unknown,
    }
}

/// How many pods have which version of a container. A part's container is called as it, or is the only one.
fn count<'a>(pods: impl Iterator<Item = &'a Pod>, container: &str) -> Counts {
    let mut counts = Counts::new();
    for spec in pods.filter_map(|pod| pod.spec.as_ref()) {
        *counts.entry(of_container(spec, container)).or_insert(0) += 1;
    }
    counts
}

fn of_container(spec: &PodSpec, name: &str) -> String {
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let found = all.find(|it| it.name == name).or_else(|| spec.containers.first());
    found.and_then(|it| it.image.as_deref()).map_or_else(|| "unknown".to_owned(), of_image)
}

/// The tag of an image, else its digest.
fn of_image(image: &str) -> String {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    // A registry's port is before a slash.
    match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((_, tag)) => tag.to_owned(),
        None => digest.unwrap_or("latest").to_owned(),
    }
}

fn lines(versions: &Versions, client: bool) -> Vec<Line> {
    let line = |name: &str, said: &str| Line::of(Style::Faint, format!("{name:17}  ")).and(Style::Plain, said);
    let counted = |counts: &Counts| {
        let each: Vec<_> = counts.iter().map(|(version, count)| format!("{count} of {version}")).collect();
        if each.is_empty() { "none".to_owned() } else { each.join(", ") }
    };
    let mut lines = vec![line("client", versions.client)];
    if client {
        return lines;
    }
    lines.extend(versions.kubernetes.iter().map(|version| line("kubernetes", version)));
    if versions.kubernetes.is_some() {
        lines.extend(versions.control_plane.iter().map(|(part, counts)| line(part, &counted(counts))));
        if versions.control_plane.is_empty() {
            lines.push(line("control plane", "none"));
        }
        lines.push(line("proxies", &counted(&versions.proxies)));
    }
    lines.extend(versions.unknown.iter().map(|why| Line::of(Style::Warn, why)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::standin::{self, Standin, World};

    #[test]
    fn an_images_version_is_its_tag_and_a_registrys_port_is_none() {
        assert_eq!(of_image("ghcr.io/remora-mesh/remora:0.3.0"), "0.3.0");
        assert_eq!(of_image("localhost:5000/remora"), "latest");
        assert_eq!(of_image("localhost:5000/remora:1@sha256:ab"), "1");
        assert_eq!(of_image("remora@sha256:ab"), "sha256:ab");
    }

    #[tokio::test]
    async fn proxies_are_counted_by_version_and_what_may_not_be_asked_is_said() {
        let mut old = standin::pod("shop", "old", "web");
        old["spec"]["containers"][1]["image"] = "remora:0".into();
        let objects = vec![
            standin::pod("shop", "web-1", "web"),
            standin::pod("shop", "web-2", "web"),
            old,
            standin::replica(names::DISCOVERY, "one"),
        ];
        let server = Standin::start(World { objects, ..World::default() }).await;
        let versions = of_cluster(&server.cluster().await, names::NAMESPACE).await;
        let shown = text::render(&lines(&versions, false), false);
        assert!(shown.contains("1 of 0, 2 of 1") && shown.contains("remora-discovery   1 of 1"), "{shown}");
        assert!(shown.contains("kubernetes         v1.33.0"), "{shown}");
        let forbidden = vec!["/api/v1/pods".to_owned()];
        let server = Standin::start(World { forbidden, ..World::default() }).await;
        let versions = of_cluster(&server.cluster().await, names::NAMESPACE).await;
        assert!(versions.unknown.len() == 1 && versions.unknown[0].starts_with("proxies: "), "{versions:?}");
    }
}
