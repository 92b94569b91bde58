//! Which proxies have the revocations in use: `/revocations` of every replica of discovery, by a port-forward to each.

use crate::{
    admin,
    cluster::{Cluster, forward::PodPort, list},
};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use remora_kube::names;
use remora_model::Revocation;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Between two questions. All that is asked is answered from memory.
const LOOK: Duration = Duration::from_millis(100);

/// What a replica says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Page {
    revocations: Vec<Shown>,
    proxies: Proxies,
}

/// A revocation, as a replica has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Shown {
    pub(super) name: String,
    reason: String,
    until: Option<u64>,
    identity: Option<String>,
    serial: Option<String>,
    pod: Option<ShownPod>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
struct ShownPod {
    namespace: String,
    name: String,
    uid: String,
}

impl Shown {
    /// Whether it is this one, as it was written last.
    pub(super) fn says(&self, wanted: &Revocation) -> bool {
        let pod = wanted.pod.as_ref().map(|pod| ShownPod {
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            uid: pod.uid.to_string(),
        });
        self.reason == *wanted.reason
            && self.until == wanted.until
            && self.identity.as_deref() == wanted.identity.as_ref().map(|id| id.as_str())
            && self.serial == wanted.serial.as_ref().map(ToString::to_string)
            && self.pod == pod
    }
}

/// Proxies with a stream, of all replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Proxies {
    /// Which can refuse the revoked.
    pub(super) able: usize,
    /// And have the list of now in use.
    pub(super) held: usize,
    pub(super) unable: Unable,
}

/// Pods whose proxies are too old.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Unable {
    pub(super) count: usize,
    pub(super) first: Vec<String>,
}

/// How far it has come.
#[derive(Debug)]
pub(super) enum Waited {
    /// Discovery could be asked.
    Asked { replicas: usize, proxies: Proxies, known: bool, after: Duration },
    /// It could not, because of this.
    Not(String),
}

impl Waited {
    pub(super) fn all_have_it(&self) -> bool {
        matches!(self, Self::Asked { proxies, known: true, .. } if proxies.held == proxies.able && proxies.unable.count == 0)
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::Not(why) => format!("it is not known which proxies have it: {why}"),
            Self::Asked { known: false, after, .. } => {
                format!(
                    "discovery does not have it after {:.1} s: `kubectl describe` the object says why",
                    after.as_secs_f64()
                )
            }
            Self::Asked { replicas, proxies: Proxies { able, held, .. }, after, .. } => {
                let replicas =
                    if *replicas == 1 { String::new() } else { format!(" of {replicas} replicas of discovery") };
                format!("in use by {held} of {able} proxies{replicas} after {:.1} s", after.as_secs_f64())
            }
        }
    }

    pub(super) fn json(&self) -> Value {
        match self {
            Self::Not(why) => json!({ "error": why }),
            Self::Asked { replicas, proxies, known, after } => json!({
                "discovery_replicas": replicas, "discovery_has_it": known, "able": proxies.able, "held": proxies.held,
                "unable": proxies.unable, "after_s": (after.as_secs_f64() * 1000.0).round() / 1000.0,
            }),
        }
    }
}

/// Asks until every replica has what `known` looks for and all its proxies have the list in use; `within` at the longest.
pub(super) async fn wait(cluster: &Cluster, own: &str, within: Duration, known: impl Fn(&[Shown]) -> bool) -> Waited {
    let began = Instant::now();
    loop {
        let pages = match ask(cluster, own).await {
            Ok(pages) => pages,
            Err(error) => return Waited::Not(crate::chain(&*error)),
        };
        let replicas = pages.len();
        let all_know = pages.iter().all(|page| known(&page.revocations));
        let proxies = sum(pages);
        let done = all_know && proxies.held == proxies.able;
        let after = began.elapsed();
        if done || after >= within {
            return Waited::Asked { replicas, proxies, known: all_know, after };
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How many proxies have the list of now.
pub(super) async fn proxies(cluster: &Cluster, own: &str) -> anyhow::Result<Proxies> {
    ask(cluster, own).await.map(sum)
}

fn sum(pages: Vec<Page>) -> Proxies {
    pages.into_iter().fold(Proxies::default(), |mut all, Page { proxies, .. }| {
        all.able += proxies.able;
        all.held += proxies.held;
        all.unable.count += proxies.unable.count;
        all.unable.first.extend(proxies.unable.first);
        all
    })
}

async fn ask(cluster: &Cluster, own: &str) -> anyhow::Result<Vec<Page>> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), own);
    let of_discovery = ListParams::default().labels(&format!("{}={}", names::PART, names::DISCOVERY));
    let replicas = list::living(&pods, of_discovery).await?;
    anyhow::ensure!(
        !replicas.is_empty(),
        "no discovery runs in namespace {own}: say --control-plane-namespace if it is elsewhere"
    );
    let asked = replicas.into_iter().filter_map(|it| it.metadata.name).map(|pod| {
        let (client, namespace, port) = (cluster.client.clone(), own.to_owned(), names::DISCOVERY_ADMIN_PORT);
        admin::page::<Page>(PodPort { client, namespace, pod, port }, "/revocations")
    });
    Ok(join_all(asked).await.into_iter().collect::<Result<_, _>>()?)
}
