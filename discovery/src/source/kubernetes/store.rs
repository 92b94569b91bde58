//! What the watches have told: the objects, and whether that is all of them. Pure.
//!
//! Nothing is given out before every kind was listed once, for half a picture might open a port or take endpoints away.
//! Afterwards a kind that cannot be watched keeps what it last said.

use super::watched::Unreadable;
use crate::index::Key;
use crate::objects::policy::{AuthorizationPolicy, AuthorizationSpec, MeshTlsPolicy, MeshTlsSpec, Mode, PolicyAction};
use crate::objects::{Kind, Object};
use std::collections::{BTreeMap, BTreeSet};

/// The most objects of all kinds together.
pub(super) const OBJECTS_MAX: usize = 200_000;

/// An object that is there, readable or not.
pub(super) type Entry = Result<Object, Box<Unreadable>>;

/// What a watch of one kind tells.
#[derive(Debug)]
pub(super) enum Change {
    Applied(Entry),
    Deleted(Key),
    /// All that there are were told of: whatever is not among these is gone.
    Listed(BTreeSet<Key>),
    /// The API server does not know the kind: its CRD is not installed.
    Absent,
    /// It cannot be listed or watched, and why. What is known of it stays.
    Trouble(String),
}

#[derive(Debug, Default)]
struct Held {
    objects: BTreeMap<Key, Object>,
    /// What is the matter with objects that cannot be read.
    unreadable: BTreeMap<Key, String>,
    /// Whether all objects were told of at least once.
    listed: bool,
    trouble: Option<String>,
}

/// Everything that was told.
#[derive(Debug)]
pub(super) struct Store(BTreeMap<&'static str, Held>);

impl Store {
    /// Nothing is known of `kinds` yet.
    pub(super) fn new(kinds: impl IntoIterator<Item = &'static str>) -> Self {
        Self(kinds.into_iter().map(|kind| (kind, Held::default())).collect())
    }

    /// Takes what a watch of `kind` tells. Whether the objects are others now.
    pub(super) fn take(&mut self, kind: &'static str, change: Change) -> bool {
        let held = self.0.entry(kind).or_default();
        match change {
            Change::Applied(entry) => held.apply(kind, entry),
            Change::Deleted(key) => {
                held.unreadable.remove(&key);
                held.objects.remove(&key).is_some()
            }
            Change::Listed(all) => held.listed(|key| all.contains(key)),
            Change::Absent => held.listed(|_| false),
            Change::Trouble(why) => {
                held.trouble = Some(why);
                false
            }
        }
    }

    /// Of what kinds not everything is known yet, and why.
    pub(super) fn missing(&self) -> Vec<String> {
        let missing = self.0.iter().filter(|(_, held)| !held.listed);
        missing.map(|(kind, held)| format!("{kind}: {}", held.trouble.as_deref().unwrap_or("not listed yet"))).collect()
    }

    /// Whether `kind` cannot be watched at the moment.
    pub(super) fn in_trouble(&self, kind: &str) -> bool {
        self.0.get(kind).is_some_and(|held| held.trouble.is_some())
    }

    /// Every kind with its number of objects.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.0.iter().map(|(kind, held)| (*kind, held.objects.len()))
    }

    /// What is the matter with objects that cannot be read.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|(kind, held)| {
            held.unreadable
                .iter()
                .map(move |((namespace, name), problem)| format!("{kind} {namespace}/{name}: {problem}"))
        })
    }

    /// All objects, in the order of kinds and names. `None` if they are too many.
    pub(super) fn objects(&self) -> Option<Vec<Object>> {
        let all: Vec<Object> = self.0.values().flat_map(|held| held.objects.values().cloned()).collect();
        (all.len() <= OBJECTS_MAX).then_some(all)
    }
}

impl Held {
    fn apply(&mut self, kind: &str, entry: Entry) -> bool {
        let key = |metadata: &crate::objects::Metadata| (metadata.namespace.clone(), metadata.name.clone());
        match entry {
            Ok(object) => {
                let key = key(object.metadata());
                self.unreadable.remove(&key);
                if self.objects.get(&key) == Some(&object) {
                    return false;
                }
                self.objects.insert(key, object);
                true
            }
            Err(unreadable) => {
                let key = key(&unreadable.metadata);
                self.unreadable.insert(key.clone(), unreadable.problem.clone());
                // What it last said stays.
                if self.objects.contains_key(&key) {
                    return false;
                }
                stand_in(kind, &unreadable).map(|object| self.objects.insert(key, object)).is_some()
            }
        }
    }

    fn listed(&mut self, there: impl Fn(&Key) -> bool) -> bool {
        let before = self.objects.len();
        self.objects.retain(|key, _| there(key));
        self.unreadable.retain(|key, _| there(key));
        self.trouble = None;
        !std::mem::replace(&mut self.listed, true) || self.objects.len() != before
    }
}

/// What holds in the place of a policy that nobody here can read: it denies, in its whole namespace.
fn stand_in(kind: &str, unreadable: &Unreadable) -> Option<Object> {
    let metadata = unreadable.metadata.clone();
    let (target_refs, selector, rules) = (Vec::new(), None, Vec::new());
    match kind {
        AuthorizationPolicy::KIND => {
            let spec = AuthorizationSpec { target_refs, selector, action: PolicyAction::Allow, rules };
            Some(AuthorizationPolicy { metadata, spec }.into())
        }
        MeshTlsPolicy::KIND => {
            Some(MeshTlsPolicy { metadata, spec: MeshTlsSpec { target_refs, mode: Mode::Strict } }.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Metadata;
    use crate::objects::core::Service;
    use crate::source::parse::parse;

    fn service(name: &str, port: u16) -> Object {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ ports: [{{ port: {port} }}] }}\n"
        );
        parse(&text, "").whole().unwrap().remove(0)
    }

    fn key(name: &str) -> Key {
        ("default".to_owned(), name.to_owned())
    }

    fn unreadable(name: &str) -> Change {
        let metadata = Metadata { name: name.to_owned(), namespace: "shop".to_owned(), ..Metadata::default() };
        Change::Applied(Err(Box::new(Unreadable { metadata, problem: "spec: new".to_owned() })))
    }

    #[test]
    fn nothing_is_whole_until_every_kind_was_listed_or_is_not_there_at_all() {
        let mut store = Store::new([Service::KIND, MeshTlsPolicy::KIND]);
        assert!(store.take(Service::KIND, Change::Applied(Ok(service("a", 80)))));
        assert_eq!(store.missing(), ["MeshTLSPolicy: not listed yet", "Service: not listed yet"]);
        store.take(Service::KIND, Change::Listed([key("a")].into()));
        store.take(MeshTlsPolicy::KIND, Change::Trouble("forbidden".to_owned()));
        assert_eq!(store.missing(), ["MeshTLSPolicy: forbidden"]);
        store.take(MeshTlsPolicy::KIND, Change::Absent);
        assert!(store.missing().is_empty() && !store.in_trouble(MeshTlsPolicy::KIND));
    }

    #[test]
    fn what_is_told_again_is_no_change_and_what_a_list_leaves_out_is_gone() {
        let mut store = Store::new([Service::KIND]);
        store.take(Service::KIND, Change::Applied(Ok(service("a", 80))));
        store.take(Service::KIND, Change::Applied(Ok(service("b", 80))));
        assert!(store.take(Service::KIND, Change::Listed([key("a"), key("b")].into())), "the first list is news");
        assert!(!store.take(Service::KIND, Change::Applied(Ok(service("a", 80)))));
        assert!(!store.take(Service::KIND, Change::Listed([key("a"), key("b")].into())));
        assert!(store.take(Service::KIND, Change::Applied(Ok(service("a", 81)))));
        assert!(store.take(Service::KIND, Change::Listed([key("a")].into())));
        assert_eq!(store.objects().unwrap(), [service("a", 81)]);
        assert!(store.take(Service::KIND, Change::Deleted(key("a"))));
        assert!(!store.take(Service::KIND, Change::Deleted(key("a"))));
    }

    #[test]
    fn while_a_kind_cannot_be_watched_what_it_said_stays() {
        let mut store = Store::new([Service::KIND]);
        store.take(Service::KIND, Change::Applied(Ok(service("a", 80))));
        store.take(Service::KIND, Change::Listed([key("a")].into()));
        assert!(!store.take(Service::KIND, Change::Trouble("gone".to_owned())));
        assert!(store.missing().is_empty() && store.in_trouble(Service::KIND));
        assert_eq!(store.objects().unwrap().len(), 1);
    }

    #[test]
    fn a_policy_that_cannot_be_read_keeps_its_last_word_or_denies() {
        let mut store = Store::new([AuthorizationPolicy::KIND, Service::KIND]);
        assert!(store.take(AuthorizationPolicy::KIND, unreadable("p")));
        let [Object::AuthorizationPolicy(policy)] = &store.objects().unwrap()[..] else { panic!("none") };
        assert!(policy.spec.rules.is_empty() && policy.spec.target_refs.is_empty());
        assert_eq!(policy.spec.action, PolicyAction::Allow, "which allows nothing");
        assert_eq!(store.unreadable().collect::<Vec<_>>(), ["AuthorizationPolicy shop/p: spec: new"]);
        let mut good = (**policy).clone();
        good.spec.action = PolicyAction::Audit;
        assert!(store.take(AuthorizationPolicy::KIND, Change::Applied(Ok(good.clone().into()))));
        assert_eq!(store.unreadable().count(), 0);
        assert!(!store.take(AuthorizationPolicy::KIND, unreadable("p")));
        assert_eq!(store.objects().unwrap(), [Object::from(good)]);
        assert!(!store.take(Service::KIND, unreadable("s")), "another kind is left out");
    }
}
