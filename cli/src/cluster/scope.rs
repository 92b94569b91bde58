//! Which pods a command is about: targets, `-n`, `-A` and `-l`, as kubectl has them, and the pods of a cluster that they mean.
//!
//! In: flags. Out: [`Found`] pods that have a sidecar, in the order of names. A workload's pods are found by its own selector, so what
//! `kubectl` counts as its pods is what is asked.

use super::{
    Args, Cluster, NoCluster,
    forward::PodPort,
    list,
    target::{self, Target, Workload},
};
use crate::admin::Place;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::Job,
        core::v1::{Pod, Service},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{Api, api::ListParams, core::Selector};
use remora_kube::{
    client::{self, CallError},
    names,
};
use std::collections::BTreeMap;

/// Which pods.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub(crate) struct Scope {
    /// pod/NAME, deploy/NAME, sts/NAME, ds/NAME, job/NAME, svc/NAME, ns/NAME, or several of them; or HOST:PORT of an admin port, for example
    /// 127.0.0.1:4191. Without any, every pod of the namespace that has a sidecar
    #[arg(value_name = "TARGET", value_parser = target::parse)]
    pub(crate) targets: Vec<Target>,
    /// The namespace of the pods; the kubeconfig's if not given
    #[arg(short, long, value_name = "NAME", value_parser = target::name)]
    pub(crate) namespace: Option<String>,
    /// The pods of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "targets"])]
    pub(crate) all_namespaces: bool,
    /// Only pods with these labels, for example app=web,tier!=cache
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    #[command(flatten)]
    pub(crate) cluster: Args,
}

/// Why no pod was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cluster(#[from] NoCluster),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("there is no {what} in namespace {namespace} (say -n NAMESPACE for another one)")]
    Absent { what: String, namespace: String },
    #[error(
        "pod {namespace}/{pod} has no sidecar: opt in by `kubectl annotate namespace {namespace} \
         remora.dev/inject=enabled`, then restart it"
    )]
    NotMeshed { namespace: String, pod: String },
    #[error("no pod of {what} in namespace {namespace} has a sidecar: `remora check --namespace {namespace}` says why")]
    NoneMeshed { what: String, namespace: String },
    #[error("no pod in namespace {0} has a sidecar: `remora check --namespace {0}` says why")]
    NoneInNamespace(String),
    #[error(
        "no pod of the cluster has a sidecar: `kubectl annotate namespace NAMESPACE remora.dev/inject=enabled`, and restart its pods"
    )]
    NoneAtAll,
    #[error("no pod with a sidecar has the labels {selector} in {place}")]
    NoneSelected { selector: String, place: String },
    #[error("{0} selects no pods itself: name the workload behind it")]
    Selectorless(String),
    #[error("say a pod's name or a selector, not both: pod/{0} is one pod")]
    PodAndSelector(String),
}

/// Something with a sidecar's admin port.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// `namespace/name`, or the address.
    pub(crate) name: String,
    /// Empty of an address.
    pub(crate) namespace: String,
    /// The workload that it belongs to: `deploy/web`, or `pod/NAME` where nothing owns it. Empty of an address.
    pub(crate) workload: String,
    /// Its proxy's admin port.
    pub(crate) admin: Place,
}

/// A scope, and the cluster that it is in.
pub(crate) struct Session<'a> {
    pub(crate) scope: &'a Scope,
    /// None where only addresses were named.
    pub(crate) cluster: Option<Cluster>,
}

impl Scope {
    /// The one address that was named, if nothing else was.
    pub(crate) fn address(&self) -> Option<std::net::SocketAddr> {
        match self.targets.as_slice() {
            [Target::Address(address)] => Some(*address),
            _ => None,
        }
    }

    /// Connects, if a cluster is needed.
    pub(crate) async fn open(&self) -> Result<Session<'_>, Error> {
        let outside = !self.targets.is_empty() && self.targets.iter().all(|it| matches!(it, Target::Address(_)));
        let cluster = if outside { None } else { Some(Cluster::connect(&self.cluster).await?) };
        Ok(Session { scope: self, cluster })
    }
}

impl Session<'_> {
    /// Finds what is meant: at least one, in the order of names, nothing twice.
    pub(crate) async fn find(&self) -> Result<Vec<Found>, Error> {
        let mut all = Vec::new();
        for target in &self.scope.targets {
            match (target, &self.cluster) {
                (Target::Address(address), _) => all.push(Found {
                    name: address.to_string(),
                    namespace: String::new(),
                    workload: String::new(),
                    admin: Place::Address(*address),
                }),
                (target, Some(cluster)) => all.extend(of_target(cluster, self.scope, target).await?),
                (_, None) => {}
            }
        }
        if let (true, Some(cluster)) = (self.scope.targets.is_empty(), &self.cluster) {
            all = match self.scope.all_namespaces {
                true => everywhere(cluster, self.scope).await?,
                false => of_namespace(cluster, self.scope, self.namespace()).await?,
            };
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        Ok(all)
    }

    /// The namespace of what was named without one.
    pub(crate) fn namespace(&self) -> &str {
        let own = self.cluster.as_ref().map_or("default", Cluster::namespace);
        self.scope.namespace.as_deref().unwrap_or(own)
    }
}

async fn of_target(cluster: &Cluster, scope: &Scope, target: &Target) -> Result<Vec<Found>, Error> {
    let namespace = scope.namespace.as_deref().unwrap_or(cluster.namespace());
    let absent = |what: String| Error::Absent { what, namespace: namespace.to_owned() };
    match target {
        Target::Address(_) => Ok(Vec::new()),
        Target::Namespace(name) => of_namespace(cluster, scope, name).await,
        Target::Pod(name) if scope.selector.is_some() => Err(Error::PodAndSelector(name.clone())),
        Target::Pod(name) => {
            let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
            let pod = client::call(pods.get_opt(name)).await?.ok_or_else(|| absent(format!("pod {name}")))?;
            if !target::meshed(&pod) {
                return Err(Error::NotMeshed { namespace: namespace.to_owned(), pod: name.clone() });
            }
            Ok(vec![found(cluster, &pod.metadata)])
        }
        Target::Workload(kind, name) => {
            let what = format!("{kind:?} {name}");
            let selector = selector(cluster, namespace, *kind, name).await?.ok_or_else(|| absent(what.clone()))?;
            if selector.is_empty() {
                return Err(Error::Selectorless(what));
            }
            let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
            let all = meshed(cluster, &pods, &[&selector, scope.selector.as_deref().unwrap_or_default()]).await?;
            match (all.is_empty(), &scope.selector) {
                (false, _) => Ok(all),
                (true, None) => Err(Error::NoneMeshed { what, namespace: namespace.to_owned() }),
                (true, Some(selector)) => Err(Error::NoneSelected { selector: selector.clone(), place: what }),
            }
        }
    }
}

async fn of_namespace(cluster: &Cluster, scope: &Scope, name: &str) -> Result<Vec<Found>, Error> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), name);
    let all = meshed(cluster, &pods, &[scope.selector.as_deref().unwrap_or_default()]).await?;
    match (all.is_empty(), &scope.selector) {
        (false, _) => Ok(all),
        (true, None) => Err(Error::NoneInNamespace(name.to_owned())),
        (true, Some(selector)) => {
            Err(Error::NoneSelected { selector: selector.clone(), place: format!("namespace {name}") })
        }
    }
}

async fn everywhere(cluster: &Cluster, scope: &Scope) -> Result<Vec<Found>, Error> {
    let pods: Api<Pod> = Api::all(cluster.client.clone());
    let all = meshed(cluster, &pods, &[scope.selector.as_deref().unwrap_or_default()]).await?;
    match (all.is_empty(), &scope.selector) {
        (false, _) => Ok(all),
        (true, None) => Err(Error::NoneAtAll),
        (true, Some(selector)) => {
            Err(Error::NoneSelected { selector: selector.clone(), place: "any namespace".to_owned() })
        }
    }
}

/// The living pods with a sidecar that all of `selectors` take.
async fn meshed(cluster: &Cluster, pods: &Api<Pod>, selectors: &[&str]) -> Result<Vec<Found>, CallError> {
    let meshed = target::meshed_selector();
    let all: Vec<&str> =
        [meshed.as_str()].into_iter().chain(selectors.iter().copied()).filter(|it| !it.is_empty()).collect();
    let pods = list::living(pods, ListParams::default().labels(&all.join(","))).await?;
    Ok(pods.iter().map(|pod| found(cluster, &pod.metadata)).collect())
}

fn found(cluster: &Cluster, meta: &ObjectMeta) -> Found {
    let (namespace, pod) = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    let port =
        PodPort { client: cluster.client.clone(), namespace: namespace.clone(), pod, port: names::PROXY_ADMIN_PORT };
    Found { name: format!("{namespace}/{}", port.pod), workload: workload(meta), namespace, admin: Place::Pod(port) }
}

/// What a pod belongs to, as it can be named: the Deployment of its ReplicaSet, or its other controller, or itself.
pub(crate) fn workload(meta: &ObjectMeta) -> String {
    let owner = meta.owner_references.iter().flatten().find(|it| it.controller == Some(true));
    let Some(owner) = owner else { return format!("pod/{}", meta.name.as_deref().unwrap_or_default()) };
    let hash = meta.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    match (owner.kind.as_str(), deployment) {
        ("ReplicaSet", Some(name)) => format!("deploy/{name}"),
        ("StatefulSet", _) => format!("sts/{}", owner.name),
        ("DaemonSet", _) => format!("ds/{}", owner.name),
        ("Job", _) => format!("job/{}", owner.name),
        (kind, _) => format!("{}/{}", kind.to_ascii_lowercase(), owner.name),
    }
}

/// The selector of a workload's pods as the API server takes it, empty if it has none; `None` if there is no such workload.
async fn selector(cluster: &Cluster, namespace: &str, kind: Workload, name: &str) -> Result<Option<String>, Error> {
    let client = cluster.client.clone();
    let of_labels = |it: LabelSelector| -> Result<String, Error> {
        let what = || Error::Selectorless(format!("{kind:?} {name}"));
        Ok(Selector::try_from(it).map_err(|_| what())?.to_string())
    };
    let found = match kind {
        Workload::Deployment => {
            let found = client::call(Api::<Deployment>::namespaced(client, namespace).get_opt(name)).await?;
            found.and_then(|it| it.spec).map(|spec| spec.selector)
        }
        Workload::StatefulSet => {
            let found = client::call(Api::<StatefulSet>::namespaced(client, namespace).get_opt(name)).await?;
            found.and_then(|it| it.spec).map(|spec| spec.selector)
        }
        Workload::DaemonSet => {
            let found = client::call(Api::<DaemonSet>::namespaced(client, namespace).get_opt(name)).await?;
            found.and_then(|it| it.spec).map(|spec| spec.selector)
        }
        Workload::Job => {
            let found = client::call(Api::<Job>::namespaced(client, namespace).get_opt(name)).await?;
            found.and_then(|it| it.spec).and_then(|spec| spec.selector)
        }
        Workload::Service => {
            let found = client::call(Api::<Service>::namespaced(client, namespace).get_opt(name)).await?;
            return Ok(found.map(|it| equal(&it.spec.and_then(|spec| spec.selector).unwrap_or_default())));
        }
    };
    found.map(of_labels).transpose()
}

/// Labels as a selector that wants each of them.
fn equal(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
#[path = "scope_tests.rs"]
mod tests;
