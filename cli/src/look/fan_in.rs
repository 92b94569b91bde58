//! The signals of many pods from one place: `/mesh/signals` of discovery's admin port, by one port-forward to each replica.
//!
//! In: which pods. Out: a [`Reply`] for each that a replica knows, as it arrives: a replica knows the proxies whose streams it holds, so all
//! replicas are asked and what they say is put together. Who may do this is RBAC's affair, in the control plane's namespace.

use super::model::Signals;
use crate::{
    admin,
    cluster::{Cluster, forward::PodPort, list, scope::Found},
};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use remora_kube::{client::CallError, names};
use serde::Deserialize;
use std::{cell::RefCell, collections::BTreeMap};

/// So many pods are asked for by name; of more, their whole namespace is, and what was not asked for is passed over.
const NAMED_MAX: usize = 50;
/// So many namespaces are asked for one by one; of more, the whole mesh is.
const NAMESPACES_MAX: usize = 8;

/// What discovery says of a pod.
#[derive(Debug)]
pub(super) enum Reply {
    /// What its proxy answered. `pod` is `namespace/name`.
    Signals { pod: String, signals: Box<Signals> },
    /// Why it did not.
    Silent { pod: String, error: String },
}

/// Why discovery cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("no discovery runs in namespace {0}: say --control-plane-namespace if it is elsewhere")]
    Absent(String),
    #[error("discovery is of an older version and cannot be asked for its proxies")]
    Old,
    #[error("discovery cannot be asked for its proxies: {0}")]
    Call(CallError),
    #[error("discovery cannot be asked for its proxies: {}", crate::chain(.0))]
    Lost(admin::Error),
}

/// One line of the answer.
#[derive(Debug, Deserialize)]
struct Answer {
    namespace: Option<String>,
    pod: Option<String>,
    signals: Option<Box<Signals>>,
    error: Option<String>,
}

/// The same of another version: who it is about can still be read.
#[derive(Debug, Deserialize)]
struct About {
    namespace: String,
    pod: String,
}

/// The paths that ask for `found`, and for little more.
pub(super) fn queries(found: &[Found]) -> Vec<String> {
    const PATH: &str = "/mesh/signals";
    let mut namespaces: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for it in found.iter().filter(|it| !it.namespace.is_empty()) {
        let pod = it.name.split_once('/').map_or(it.name.as_str(), |(_, pod)| pod);
        namespaces.entry(&it.namespace).or_default().push(pod);
    }
    if namespaces.len() > NAMESPACES_MAX {
        return vec![PATH.to_owned()];
    }
    let query = |(namespace, pods): (&str, Vec<&str>)| {
        let pods = if pods.len() > NAMED_MAX { Vec::new() } else { pods };
        let pods: String = pods.iter().map(|pod| format!("&pod={pod}")).collect();
        format!("{PATH}?namespace={namespace}{pods}")
    };
    namespaces.into_iter().map(query).collect()
}

/// Asks every replica. It fails only if none could be asked.
pub(super) async fn ask(
    cluster: &Cluster,
    own: &str,
    queries: &[String],
    take: impl FnMut(Reply),
) -> Result<(), Refused> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), own);
    let of_discovery = ListParams::default().labels(&format!("{}={}", names::PART, names::DISCOVERY));
    let replicas = list::living(&pods, of_discovery).await.map_err(Refused::Call)?;
    let take = RefCell::new(take);
    let asked = replicas.into_iter().filter_map(|it| it.metadata.name).map(|pod| {
        let (client, namespace, port) = (cluster.client.clone(), own.to_owned(), names::DISCOVERY_ADMIN_PORT);
        one(PodPort { client, namespace, pod, port }, queries, &take)
    });
    let mut refused = Refused::Absent(own.to_owned());
    let mut any = false;
    for answer in join_all(asked).await {
        match answer {
            Ok(()) => any = true,
            Err(error) => refused = error,
        }
    }
    if any { Ok(()) } else { Err(refused) }
}

async fn one(port: PodPort, queries: &[String], take: &RefCell<impl FnMut(Reply)>) -> Result<(), Refused> {
    for query in queries {
        let each = |line: &[u8]| {
            if let Some(reply) = read(line) {
                (take.borrow_mut())(reply);
            }
        };
        admin::lines(port.clone().into(), query, each).await.map_err(|error| match error {
            admin::Error::NotAProxy { .. } => Refused::Old,
            error => Refused::Lost(error),
        })?;
    }
    Ok(())
}

/// Reads a line; the last one, which counts the others, is about no pod.
fn read(line: &[u8]) -> Option<Reply> {
    match serde_json::from_slice::<Answer>(line) {
        Ok(Answer { namespace: Some(namespace), pod: Some(pod), signals: Some(signals), .. }) => {
            Some(Reply::Signals { pod: format!("{namespace}/{pod}"), signals })
        }
        Ok(Answer { namespace: Some(namespace), pod: Some(pod), signals: None, error }) => {
            let error = error.unwrap_or_else(|| "discovery says nothing of it".to_owned());
            Some(Reply::Silent { pod: format!("{namespace}/{pod}"), error })
        }
        Ok(_) => None,
        Err(error) => {
            let About { namespace, pod } = serde_json::from_slice(line).ok()?;
            let error = format!("its proxy sent JSON of another shape; is it of another version? ({error})");
            Some(Reply::Silent { pod: format!("{namespace}/{pod}"), error })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Place;

    fn found(name: &str) -> Found {
        Found {
            name: name.to_owned(),
            namespace: name.split_once('/').unwrap().0.to_owned(),
            workload: String::new(),
            admin: Place::Address(([127, 0, 0, 1], 1).into()),
        }
    }

    #[test]
    fn few_pods_are_asked_for_by_name_and_many_by_what_they_are_in() {
        let few = [found("shop/a"), found("shop/b"), found("web/c")];
        assert_eq!(queries(&few), ["/mesh/signals?namespace=shop&pod=a&pod=b", "/mesh/signals?namespace=web&pod=c"]);
        let many: Vec<_> = (0..=NAMED_MAX).map(|n| found(&format!("shop/{n}"))).collect();
        assert_eq!(queries(&many), ["/mesh/signals?namespace=shop"]);
        let wide: Vec<_> = (0..=NAMESPACES_MAX).map(|n| found(&format!("n{n}/a"))).collect();
        assert_eq!(queries(&wide), ["/mesh/signals"]);
    }

    #[test]
    fn what_cannot_be_read_of_one_pod_is_that_pods_and_the_count_is_nobodys() {
        let silent = |line: &str| match read(line.as_bytes()) {
            Some(Reply::Silent { pod, error }) => (pod, error),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            silent(r#"{"namespace":"shop","pod":"a","error":"no answer within 5 s"}"#),
            ("shop/a".to_owned(), "no answer within 5 s".to_owned())
        );
        let (pod, error) = silent(r#"{"namespace":"shop","pod":"a","signals":{"routes":7}}"#);
        assert!(pod == "shop/a" && error.contains("another version"), "{error}");
        assert!(read(br#"{"asked":3,"answered":2}"#).is_none());
        assert!(read(b"").is_none() && read(b"{").is_none());
    }
}
