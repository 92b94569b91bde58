//! One object comes, changes or goes: which of those with its name counts, and what that sets off. Pure.

use super::{ObjectId, given::Taking, kinds, report};
use crate::objects::Object;

/// A change of the objects.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It is new, or another than before.
    Put(Object),
    /// It is no longer where it stood.
    Gone(Object),
}

impl Taking<'_> {
    /// Takes a change. Of objects that are given more than once, the last counts. What makes no sense in the object.
    pub(super) fn take(mut self, change: Change) -> (ObjectId, Vec<String>) {
        let (object, put) = match change {
            Change::Put(object) => (object, true),
            Change::Gone(object) => (object, false),
        };
        let id = ObjectId::of(&object);
        let same_place = |other: &Object| other.metadata().origin == object.metadata().origin;
        let current = kinds::counts(self.facts, &id);
        let mut copies = self.facts.copies.remove(&id).unwrap_or_else(|| current.clone().into_iter().collect());
        copies.retain(|copy| !same_place(copy));
        if put {
            copies.push(object);
            copies.sort_by(|a, b| a.metadata().origin.cmp(&b.metadata().origin));
        }
        let counts = copies.last().cloned();
        let again = |copy: &Object| {
            let last = counts.as_ref().map(Object::metadata)?;
            let problem = format!("is given twice; the one at {} is ignored", copy.metadata().origin);
            Some(report(last, copy.kind(), problem))
        };
        let ignored = copies.len().saturating_sub(1);
        let mut told: Vec<String> = copies.iter().take(ignored).filter_map(again).collect();
        if copies.len() > 1 {
            self.facts.copies.insert(id.clone(), copies);
        }
        told.extend(counts.as_ref().map_or_else(Vec::new, |object| kinds::problems(object, self.facts)));
        let same = |now: &Object| current.as_ref().is_some_and(|before| before.means_the_same(now));
        match counts {
            Some(now) if same(&now) => kinds::resay(&mut self, id.clone(), now),
            counts => kinds::set(&mut self, id.clone(), counts),
        }
        (id, told)
    }
}
