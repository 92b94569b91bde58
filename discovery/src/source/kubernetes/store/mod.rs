//! The objects that the watches have delivered, and whether these are complete. Pure.
//!
//! Nothing is given out before every kind was listed once, because an incomplete set might open a port or remove endpoints.
//! Afterwards a kind that cannot be watched keeps what it last said.

#[cfg(test)]
mod tests;

use crate::{
    index::{self, Key},
    objects::{Metadata, Object, Unreadable, kind::Defined, registry::kinds},
};
use std::collections::{BTreeMap, BTreeSet};

/// The most objects of all kinds together.
pub(super) const OBJECTS_MAX: usize = 200_000;
/// Whether the picture is whole without a kind: an installation may lack the right to read it. Any other trouble with it is as
/// with the others: without the ranges of Services, proxies would take their addresses for outside.
fn is_optional(kind: &str) -> bool {
    kinds().any(|known| known.kind == kind && known.defined == Defined::Later)
}

/// An object that is there, readable or not.
pub(super) type Entry = Result<Object, Box<Unreadable>>;

/// What a watch of one kind tells.
#[derive(Debug)]
pub(super) enum Change {
    Applied(Entry),
    Deleted(Key),
    /// The list is complete: objects that are not in it were deleted.
    Listed(BTreeSet<Key>),
    /// A watch goes on after a trouble, from where it was.
    Resumed,
    /// The API server does not know the kind: its CRD is not installed.
    Absent,
    /// It cannot be listed or watched, and why. What is known of it stays.
    Trouble(String),
    /// The same, because the API server cannot be reached, which is no matter of this kind.
    Away(String),
    /// The same, because we have no right to it.
    Forbidden(String),
}

#[derive(Debug, Default)]
struct Held {
    objects: BTreeMap<Key, Object>,
    /// What is the matter with objects that cannot be read.
    unreadable: BTreeMap<Key, String>,
    /// Which objects stand in for some that never could be read.
    stand_ins: BTreeSet<Key>,
    /// Whether all objects were listed at least once.
    listed: bool,
    trouble: Option<String>,
    /// Whether the API server said that we have no right to it. Until it is listed, nothing else takes that back.
    forbidden: bool,
}

/// What an object is, to what was held in its place.
#[derive(Debug, PartialEq)]
enum Applied {
    Same,
    /// Only what is said of it is other: its status or version.
    Resaid(Object),
    News(Object),
}

/// All objects.
#[derive(Debug)]
pub(super) struct Store {
    kinds: BTreeMap<&'static str, Held>,
    /// Of which only what is said changed. At most one, which the last change was of.
    resaid: Option<Object>,
    /// What the index was not told yet.
    untold: Vec<index::Change>,
}

impl Store {
    /// Nothing is known of `kinds` yet.
    pub(super) fn new(kinds: impl IntoIterator<Item = &'static str>) -> Self {
        let kinds = kinds.into_iter().map(|kind| (kind, Held::default())).collect();
        Self { kinds, resaid: None, untold: Vec::new() }
    }

    /// Takes what a watch of `kind` tells. Whether the objects are others now.
    pub(super) fn take(&mut self, kind: &'static str, change: Change) -> bool {
        let held = self.kinds.entry(kind).or_default();
        self.resaid = None;
        let before = self.untold.len();
        match change {
            Change::Applied(entry) => match held.apply(kind, entry) {
                Applied::Same => false,
                // Who writes a status next must know it, but there is no hurry.
                Applied::Resaid(object) => {
                    self.untold.push(index::Change::Put(object.clone()));
                    self.resaid = Some(object);
                    false
                }
                Applied::News(object) => {
                    self.untold.push(index::Change::Put(object));
                    true
                }
            },
            Change::Deleted(key) => {
                held.unreadable.remove(&key);
                held.stand_ins.remove(&key);
                self.untold.extend(held.objects.remove(&key).map(index::Change::Gone));
                self.untold.len() > before
            }
            Change::Listed(all) => held.listed(|key| all.contains(key), &mut self.untold),
            Change::Absent => held.listed(|_| false, &mut self.untold),
            Change::Resumed => {
                (held.trouble, held.forbidden) = (None, false);
                false
            }
            Change::Trouble(why) | Change::Away(why) => {
                held.trouble = Some(why);
                false
            }
            Change::Forbidden(why) => {
                held.trouble = Some(why);
                // The first snapshot may have waited for this alone.
                !std::mem::replace(&mut held.forbidden, true) && is_optional(kind)
            }
        }
    }

    /// The object that the last change was of, if only its status or version are others.
    pub(super) fn resaid(&self) -> Option<&Object> {
        self.resaid.as_ref()
    }

    /// Of what kinds not everything is known yet, and why.
    pub(super) fn missing(&self) -> Vec<String> {
        let optional = |kind: &str, held: &Held| held.forbidden && is_optional(kind);
        let missing = self.kinds.iter().filter(|(kind, held)| !held.listed && !optional(kind, held));
        missing.map(|(kind, held)| format!("{kind}: {}", held.trouble.as_deref().unwrap_or("not listed yet"))).collect()
    }

    /// Whether `kind` cannot be watched at the moment.
    pub(super) fn in_trouble(&self, kind: &str) -> bool {
        self.kinds.get(kind).is_some_and(|held| held.trouble.is_some())
    }

    /// Every kind with its number of objects.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.kinds.iter().map(|(kind, held)| (*kind, held.objects.len()))
    }

    /// What is the matter with objects that cannot be read.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = String> {
        self.kinds.iter().flat_map(|(kind, held)| {
            held.unreadable
                .iter()
                .map(move |((namespace, name), problem)| format!("{kind} {namespace}/{name}: {problem}"))
        })
    }

    /// What changed since this was asked last. `None` while there are too many objects; it comes later then.
    pub(super) fn changes(&mut self) -> Option<Vec<index::Change>> {
        let all: usize = self.counts().map(|(_, count)| count).sum();
        (all <= OBJECTS_MAX).then(|| std::mem::take(&mut self.untold))
    }
}

impl Held {
    fn apply(&mut self, kind: &str, entry: Entry) -> Applied {
        let key = |metadata: &Metadata| (metadata.namespace.clone(), metadata.name.clone());
        match entry {
            Ok(object) => {
                let key = key(object.metadata());
                self.unreadable.remove(&key);
                self.stand_ins.remove(&key);
                self.put(key, object)
            }
            Err(unreadable) => {
                let key = key(&unreadable.metadata);
                self.unreadable.insert(key.clone(), unreadable.problem.clone());
                let last = self.objects.get(&key).filter(|_| !self.stand_ins.contains(&key));
                let instead = match last {
                    Some(last) => last.kept(&unreadable),
                    None => Object::stand_in(kind, &unreadable),
                };
                let Some(instead) = instead else { return Applied::Same };
                if last.is_none() {
                    self.stand_ins.insert(key.clone());
                }
                self.put(key, instead)
            }
        }
    }

    fn put(&mut self, key: Key, object: Object) -> Applied {
        match self.objects.insert(key, object.clone()) {
            Some(before) if before == object => Applied::Same,
            Some(before) if before.means_the_same(&object) => Applied::Resaid(object),
            _ => Applied::News(object),
        }
    }

    fn listed(&mut self, there: impl Fn(&Key) -> bool, untold: &mut Vec<index::Change>) -> bool {
        let before = untold.len();
        let gone = self.objects.extract_if(.., |key, _| !there(key));
        untold.extend(gone.map(|(_, object)| index::Change::Gone(object)));
        self.unreadable.retain(|key, _| there(key));
        self.stand_ins.retain(|key| there(key));
        self.trouble = None;
        self.forbidden = false;
        !std::mem::replace(&mut self.listed, true) || untold.len() > before
    }
}
