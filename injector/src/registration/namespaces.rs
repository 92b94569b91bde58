//! What namespaces say: their annotations and labels of ours, by a watch of metadata alone. A namespace that says nothing
//! is not kept.

use crate::pod::{
    Namespace,
    optin::{Word, word},
};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1 as core;
use kube::{
    Api, Client, ResourceExt as _,
    api::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{Event, watcher},
    },
};
use remora_kube::{
    client::watching,
    names::{ENABLED, INJECT},
};
use remora_runtime::{admin::Readiness, drain};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::watch;

/// The condition of `/ready`.
const CONDITION: &str = "namespaces";
/// What is ours.
const PREFIX: &str = "remora.dev/";

/// What namespaces say. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces(Arc<RwLock<HashMap<String, Namespace>>>);

impl Namespaces {
    /// What `name` says, with the API server's word for whether it is opted in.
    pub(crate) fn get(&self, name: &str, opted_in: bool) -> Namespace {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        Namespace { name: name.to_owned(), opted_in, live: true, ..known.unwrap_or_default() }
    }

    /// Those that are opted in by annotation; a label is seen by a selector.
    pub(crate) fn listed(&self) -> BTreeSet<String> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.values().filter(|namespace| is_listed(namespace)).map(|namespace| namespace.name.clone()).collect()
    }

    fn set(&self, namespace: Namespace) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if namespace.annotations.is_empty() && namespace.labels.is_empty() {
            all.remove(&namespace.name);
        } else {
            all.insert(namespace.name.clone(), namespace);
        }
    }

    fn remove(&self, name: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn retain(&self, names: &BTreeSet<String>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name));
    }

    /// Follows the API server until `drain`; `changed` hears of each change of [`Namespaces::listed`].
    pub(crate) async fn follow(
        self,
        client: Client,
        readiness: Readiness,
        changed: watch::Sender<Option<BTreeSet<String>>>,
        drain: drain::Watch,
    ) {
        readiness.waiting(CONDITION, "not read yet");
        let api: Api<PartialObjectMeta<core::Namespace>> = Api::all(client);
        let mut events = std::pin::pin!(watcher(api, watching()).default_backoff());
        let mut listing = BTreeSet::new();
        loop {
            let event = tokio::select! {
                () = drain.signaled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(Event::Init)) => listing.clear(),
                Some(Ok(Event::InitApply(object))) => {
                    listing.insert(object.name_any());
                    self.set(ours(&object));
                    continue; // half a list is no list
                }
                Some(Ok(Event::InitDone)) => {
                    self.retain(&listing);
                    readiness.ready(CONDITION);
                }
                Some(Ok(Event::Apply(object))) => self.set(ours(&object)),
                Some(Ok(Event::Delete(object))) => self.remove(&object.name_any()),
                Some(Err(error)) => {
                    tracing::debug!(%error, "namespaces are not watched");
                    continue;
                }
                None => return,
            }
            let listed = Some(self.listed());
            changed.send_if_modified(|before| {
                let different = *before != listed;
                *before = listed;
                different
            });
        }
    }
}

/// A label of the same word makes the selector find it; an annotation that says no is heeded by the webhook.
fn is_listed(namespace: &Namespace) -> bool {
    let labelled = namespace.labels.get(INJECT).is_some_and(|value| value == ENABLED);
    !labelled && word(&namespace.annotations, &namespace.labels) == Ok(Some(Word::Enabled))
}

fn ours(object: &PartialObjectMeta<core::Namespace>) -> Namespace {
    let kept = |map: &BTreeMap<String, String>| {
        map.iter().filter(|(key, _)| key.starts_with(PREFIX)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let namespace = Namespace {
        name: object.name_any(),
        annotations: kept(object.annotations()),
        labels: kept(object.labels()),
        ..Namespace::default()
    };
    if let Err(wrong) = word(&namespace.annotations, &namespace.labels) {
        tracing::warn!(namespace = namespace.name, %wrong, "this value does not opt a namespace in");
    }
    namespace
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, annotation: Option<&str>, label: Option<&str>) -> Namespace {
        let map = |value: Option<&str>| value.map(|value| (INJECT.to_owned(), value.to_owned())).into_iter().collect();
        Namespace { name: name.to_owned(), annotations: map(annotation), labels: map(label), ..Namespace::default() }
    }

    #[test]
    fn namespaces_opted_in_by_annotation_are_listed() {
        let all = Namespaces::default();
        for namespace in [
            namespace("annotated", Some("enabled"), None),
            namespace("labelled", None, Some("enabled")),
            namespace("both", Some("enabled"), Some("enabled")),
            namespace("no", Some("disabled"), None),
            namespace("rather", Some("enabled"), Some("disabled")),
            namespace("typo", Some("enable"), None),
            namespace("silent", None, None),
        ] {
            all.set(namespace);
        }
        assert_eq!(all.listed(), BTreeSet::from(["annotated", "rather"].map(str::to_owned)));
        all.remove("annotated");
        all.set(namespace("rather", None, None));
        assert!(all.listed().is_empty());
        assert_eq!(all.0.read().unwrap().len(), 4, "who says nothing is not kept");
    }
}
