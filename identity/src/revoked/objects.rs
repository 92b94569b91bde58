//! RevokedIdentities of the Kubernetes API, in the control plane's namespace: listed once, then watched. Right: `list` and `watch` there.

use super::Teller;
use futures_util::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use remora_kube::{
    client::watching,
    revoked::{GROUP, KIND, PLURAL, Spec, VERSION, all},
};
use std::collections::BTreeMap;

/// See the module.
#[derive(Debug)]
pub struct Objects(Api<DynamicObject>);

/// What is known of an object: when it was made, and what it says.
type Found = BTreeMap<String, (Option<String>, Spec)>;

impl Objects {
    /// Those of `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        let (group, version) = (GROUP.to_owned(), VERSION.to_owned());
        let api_version = format!("{GROUP}/{VERSION}");
        let resource = ApiResource { group, version, api_version, kind: KIND.to_owned(), plural: PLURAL.to_owned() };
        Self(Api::namespaced_with(client, namespace, &resource))
    }

    pub(super) async fn follow(&self, teller: &Teller) {
        let mut events = std::pin::pin!(watcher(self.0.clone(), watching()).default_backoff());
        let mut seen = Seen::default();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if let Some(found) = seen.take(event) {
                        let objects = found.iter().map(|(name, (created, spec))| (created.as_deref(), &**name, spec));
                        let (revocations, beyond) = all(objects);
                        if !beyond.is_empty() {
                            tracing::warn!(beyond = beyond.len(), "there are more revocations than hold");
                        }
                        teller.tell(revocations);
                    }
                }
                // A cluster without the CRD: an older chart's, or one that is being installed.
                Err(error) if is_unknown_kind(&error) && !seen.listed => teller.tell(Default::default()),
                Err(error) => teller.lost(&error.to_string()),
            }
        }
    }
}

fn is_unknown_kind(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// What was heard of the objects.
#[derive(Debug, Default)]
struct Seen {
    found: Found,
    /// Of a list that is not whole yet.
    listing: Found,
    listed: bool,
}

impl Seen {
    /// Takes an event; all that is known, where it may be another.
    fn take(&mut self, event: Event<DynamicObject>) -> Option<&Found> {
        match event {
            Event::Init => self.listing = Found::new(),
            Event::InitApply(object) => drop(self.listing.insert(object.name_any(), self.read(&object))),
            Event::InitDone => {
                self.found = std::mem::take(&mut self.listing);
                self.listed = true;
            }
            Event::Apply(object) => drop(self.found.insert(object.name_any(), self.read(&object))),
            Event::Delete(object) => drop(self.found.remove(&object.name_any())),
        }
        self.listed.then_some(&self.found)
    }

    /// What cannot be read leaves what the object said before.
    fn read(&self, object: &DynamicObject) -> (Option<String>, Spec) {
        let created = object.creation_timestamp().map(|time| time.0.to_string());
        let spec = serde_json::from_value(object.data["spec"].clone()).unwrap_or_else(|error| {
            let name = object.name_any();
            tracing::warn!(name, %error, "a RevokedIdentity cannot be read; what it said before stays in force");
            self.found.get(&name).map(|(_, spec)| spec.clone()).unwrap_or_default()
        });
        (created, spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object(name: &str, spec: Value) -> DynamicObject {
        let object = json!({ "metadata": { "name": name, "creationTimestamp": "2026-01-01T00:00:00Z" }, "spec": spec });
        serde_json::from_value(object).unwrap()
    }

    fn names(found: Option<&Found>) -> Option<Vec<String>> {
        let serial = |(name, (_, spec)): (&String, &(Option<String>, Spec))| {
            format!("{name} {}", spec.serial.as_deref().unwrap_or("?"))
        };
        Some(found?.iter().map(serial).collect())
    }

    #[test]
    fn nothing_is_known_before_a_list_is_whole_and_an_object_that_cannot_be_read_says_what_it_said_before() {
        let mut seen = Seen::default();
        let mut take = |event| names(seen.take(event));
        assert_eq!(take(Event::Init), None);
        assert_eq!(take(Event::InitApply(object("a", json!({ "serial": "1" })))), None);
        let known = |all: &[&str]| Some(all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
        assert_eq!(take(Event::InitDone), known(&["a 1"]));
        assert_eq!(take(Event::Apply(object("b", json!({ "serial": "2" })))), known(&["a 1", "b 2"]));
        assert_eq!(take(Event::Apply(object("a", json!({ "serial": ["3"] })))), known(&["a 1", "b 2"]));
        assert_eq!(take(Event::Apply(object("c", json!({ "serial": 4 })))), known(&["a 1", "b 2", "c ?"]));
        assert_eq!(take(Event::Delete(object("a", json!({})))), known(&["b 2", "c ?"]));
        take(Event::Init);
        assert_eq!(take(Event::InitApply(object("d", json!({ "serial": "5" })))), known(&["b 2", "c ?"]));
        assert_eq!(take(Event::InitDone), known(&["d 5"]));
    }
}
