//! The pods that people may ask about, by what runs them. Nothing that a proxy is sent follows from it.
//!
//! What made a pod is known by the labels that Kubernetes's own controllers give it, and by the name that they make of theirs: so no
//! other object is read for it. A pod that has none of these, or another name than they give, counts to its service account.

use super::World;
use crate::objects::{Metadata, core::Pod};
use std::fmt;

/// What runs a pod. As `remora` takes it: `deploy/web`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    pub kind: &'static str,
    pub name: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// A pod, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub namespace: String,
    pub pod: String,
    pub account: String,
    pub workload: Workload,
    /// Whether it has a proxy.
    pub meshed: bool,
}

impl World {
    /// All pods that have not ended, in the order of their names.
    pub fn members(&self) -> Vec<Member> {
        let pods = self.facts.pods.unnoted().values();
        let running = pods.filter(|pod| !matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")));
        running.map(|pod| member(pod, self.facts.is_member(pod))).collect()
    }
}

fn member(pod: &Pod, meshed: bool) -> Member {
    let meta = &pod.metadata;
    let account = pod.spec.service_account_name.as_deref().unwrap_or("default").to_owned();
    let made_by = made_by(meta).filter(|workload| !workload.name.is_empty());
    let workload = made_by.unwrap_or_else(|| Workload { kind: "sa", name: account.clone() });
    Member { namespace: meta.namespace.clone(), pod: meta.name.clone(), account, workload, meshed }
}

fn made_by(meta: &Metadata) -> Option<Workload> {
    let (label, named) = (|name: &str| meta.labels.get(name), meta.name.rsplit_once('-').map(|(before, _)| before));
    let made = |kind, name: &str| Some(Workload { kind, name: name.to_owned() });
    if let Some(hash) = label("pod-template-hash") {
        return made("deploy", named?.strip_suffix(hash.as_str())?.strip_suffix('-')?);
    }
    if label("statefulset.kubernetes.io/pod-name").is_some_and(|name| *name == meta.name) {
        return made("sts", named?);
    }
    if let Some(job) = label("batch.kubernetes.io/job-name").or_else(|| label("job-name")) {
        return made("job", job);
    }
    label("controller-revision-hash")?;
    made("ds", named?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, labels: &[(&str, &str)]) -> String {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let metadata = Metadata { name: name.to_owned(), labels, ..Metadata::default() };
        let pod = Pod { metadata, spec: Default::default(), status: Default::default() };
        member(&pod, true).workload.to_string()
    }

    #[test]
    fn a_pod_is_named_by_what_made_it_and_else_by_its_account() {
        assert_eq!(of("web-6c5d-x2x7q", &[("pod-template-hash", "6c5d")]), "deploy/web");
        assert_eq!(of("a-b-6c5d-x2x7q", &[("pod-template-hash", "6c5d")]), "deploy/a-b");
        let revision = ("controller-revision-hash", "db-7d9");
        assert_eq!(of("db-0", &[revision, ("statefulset.kubernetes.io/pod-name", "db-0")]), "sts/db");
        assert_eq!(of("log-x2x7q", &[revision]), "ds/log");
        assert_eq!(of("mail-28-x2x7q", &[("job-name", "mail-28")]), "job/mail-28");
        assert_eq!(of("api-1", &[("app", "api")]), "sa/default");
    }

    #[test]
    fn labels_that_its_name_does_not_bear_out_name_nothing() {
        for name in ["web", "web-x2x7q", "6c5d-x2x7q", "-6c5d-x2x7q"] {
            assert_eq!(of(name, &[("pod-template-hash", "6c5d")]), "sa/default", "{name}");
        }
        assert_eq!(of("db-0", &[("statefulset.kubernetes.io/pod-name", "other-0")]), "sa/default");
    }
}
