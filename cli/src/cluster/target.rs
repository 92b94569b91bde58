//! What a person names: `pod/NAME`, `deploy/NAME` and its like, `ns/NAME`, or an address.
//!
//! In: words, as kubectl takes them: short, long and plural names of kinds, with or without their group. Out: [`Target`]s. [`super::scope`]
//! finds the pods that they mean.

use crate::admin;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use remora_kube::names;
use std::{fmt, net::SocketAddr};

/// What a person may name.
pub(crate) const EXAMPLES: &str = "pod/NAME, deploy/NAME, sts/NAME, ds/NAME, job/NAME, svc/NAME, ns/NAME or HOST:PORT";

/// What was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// An admin port that can be reached from here.
    Address(SocketAddr),
    /// A pod by name.
    Pod(String),
    /// The pods of a workload, or those that a Service selects.
    Workload(Workload, String),
    /// All pods of a namespace.
    Namespace(String),
}

/// A kind that selects pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    Service,
}

/// A kind: its names, and the API groups that a name may carry (`deployments.apps`, `deployments.v1.apps`).
type Kind = (&'static [&'static str], &'static str, fn(String) -> Target);

const KINDS: &[Kind] = &[
    (&["pod", "pods", "po"], "", Target::Pod),
    (&["namespace", "namespaces", "ns"], "", Target::Namespace),
    (&["deploy", "deployment", "deployments"], "apps", |name| Target::Workload(Workload::Deployment, name)),
    (&["sts", "statefulset", "statefulsets"], "apps", |name| Target::Workload(Workload::StatefulSet, name)),
    (&["ds", "daemonset", "daemonsets"], "apps", |name| Target::Workload(Workload::DaemonSet, name)),
    (&["job", "jobs"], "batch", |name| Target::Workload(Workload::Job, name)),
    (&["svc", "service", "services"], "", |name| Target::Workload(Workload::Service, name)),
];

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Pod(name) => write!(f, "pod/{name}"),
            Self::Namespace(name) => write!(f, "ns/{name}"),
            Self::Workload(kind, name) => {
                let short = match kind {
                    Workload::Deployment => "deploy",
                    Workload::StatefulSet => "sts",
                    Workload::DaemonSet => "ds",
                    Workload::Job => "job",
                    Workload::Service => "svc",
                };
                write!(f, "{short}/{name}")
            }
        }
    }
}

/// Reads a target as typed.
pub(crate) fn parse(text: &str) -> Result<Target, String> {
    // No name that Kubernetes takes has a colon; every address has one.
    if text.contains(':') {
        return admin::address(text).map(Target::Address);
    }
    let Some((kind, name)) = text.split_once('/') else {
        return Err(format!("say which kind it is: {EXAMPLES}"));
    };
    if name.is_empty() {
        return Err(format!("say which {kind}: {EXAMPLES}"));
    }
    let (word, group) = kind.split_once('.').unwrap_or((kind, ""));
    let group = group.strip_prefix("v1").map_or(group, |rest| rest.trim_start_matches('.'));
    let (_, _, target) = KINDS
        .iter()
        .find(|(words, its, _)| words.contains(&word) && (group.is_empty() || group == *its))
        .ok_or_else(|| format!("{kind:?} is no kind that has pods: {EXAMPLES}"))?;
    Ok(target(self::name(name)?))
}

/// Reads the name of an object (RFC 1123): the API server would refuse all others.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.len() > 253 || !text.chars().all(plain) || !text.starts_with(ends) || !text.ends_with(ends) {
        return Err(format!("{text:?} is no name in Kubernetes: these are of lower-case letters, digits, '-' and '.'"));
    }
    Ok(text.to_owned())
}

/// The label selector of pods that have a sidecar.
pub(crate) fn meshed_selector() -> String {
    format!("{}=true", names::INJECTED)
}

/// Whether it has a sidecar that may be running.
pub(crate) fn meshed(pod: &Pod) -> bool {
    pod.labels().get(names::INJECTED).is_some_and(|it| it == "true") && !ended(pod)
}

/// Whether its containers have ended for good.
pub(crate) fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_kubectl_has_for_them() {
        let workload = |kind, name: &str| Ok(Target::Workload(kind, name.to_owned()));
        for text in ["pod/web-1", "po/web-1", "pods/web-1", "pods.v1/web-1"] {
            assert_eq!(parse(text), Ok(Target::Pod("web-1".into())), "{text}");
        }
        for text in
            ["deploy/web", "deployment/web", "deployments/web", "deployment.apps/web", "deployments.v1.apps/web"]
        {
            assert_eq!(parse(text), workload(Workload::Deployment, "web"), "{text}");
        }
        assert_eq!(parse("statefulset.apps/db"), workload(Workload::StatefulSet, "db"));
        assert_eq!(parse("ds/log"), workload(Workload::DaemonSet, "log"));
        assert_eq!(parse("jobs.batch/once"), workload(Workload::Job, "once"));
        assert_eq!(parse("service/web"), workload(Workload::Service, "web"));
        assert_eq!(parse("namespace/shop"), Ok(Target::Namespace("shop".into())));
        assert_eq!(parse("ns/shop").unwrap().to_string(), "ns/shop");
    }

    #[test]
    fn addresses_are_told_from_objects() {
        let address = Target::Address(SocketAddr::from(([127, 0, 0, 1], 4191)));
        for text in ["127.0.0.1:4191", "http://127.0.0.1:4191", "http://127.0.0.1:4191/routes"] {
            assert_eq!(parse(text), Ok(address.clone()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_told_what_can() {
        for text in ["web", "deploy/", "cm/web", "deployment.batch/web", ""] {
            assert!(parse(text).unwrap_err().contains("deploy/NAME"), "{text}");
        }
        for text in ["pod/Web", "pod/a/b", "pod/-a", "ns/a_b"] {
            assert!(parse(text).unwrap_err().contains("lower-case letters"), "{text}");
        }
    }

    #[test]
    fn a_pod_that_has_ended_has_no_sidecar_to_ask() {
        let pod = |phase: &str| -> Pod {
            let labels = serde_json::json!({ names::INJECTED: "true" });
            serde_json::from_value(
                serde_json::json!({ "metadata": { "labels": labels }, "status": { "phase": phase } }),
            )
            .unwrap()
        };
        assert!(meshed(&pod("Running")));
        assert!(!meshed(&pod("Succeeded")));
        assert!(!meshed(&Pod::default()));
    }
}
