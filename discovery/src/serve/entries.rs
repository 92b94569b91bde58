//! What one proxy subscribed to, holds, or is subscribed to at the hub, by name. Pure.
//!
//! A list in the order of names, with hardly any room to spare: some sixty entries for each of ten thousand proxies. To put one
//! in moves those behind it, which is a few microseconds for as many as a proxy may have.

use super::{hub::Cell, resource::Resource};
use remora_api::sync::Name;
use remora_model::BackendId;
use std::sync::Arc;

/// The list grows by this share of itself, …
const GROWTH: usize = 8;
/// … and by so many at least.
const GROWTH_MIN: usize = 8;

/// What there is under a name.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Where it is subscribed to at the hub.
    pub(super) cell: Option<Arc<Cell>>,
    /// Of a backend, what we sent, to make deltas from; of a target, what it was at the last look, which says where it leads.
    pub(super) seen: Option<Arc<Resource>>,
    /// The version that the proxy holds; 0 if none.
    pub(super) version: u64,
    /// The proxy subscribed to it.
    pub(super) wanted: bool,
    /// Offered in Hello and not yet looked at: to be confirmed.
    pub(super) offered: bool,
    /// The last message was a delta, which the proxy may be unable to apply.
    pub(super) delta: bool,
}

impl Entry {
    /// The proxy is taken to hold nothing of it.
    pub(super) fn let_go(&mut self) {
        (self.version, self.seen, self.offered, self.delta) = (0, None, false, false);
    }

    /// The backends that it leads to, as of the last look.
    pub(super) fn leads(&self) -> &[BackendId] {
        self.seen.as_deref().map_or(&[], Resource::leads)
    }
}

/// See the module. Names are the cells' own where there is one.
#[derive(Debug, Default)]
pub(super) struct Entries(Vec<(Arc<Name>, Entry)>);

impl Entries {
    fn find(&self, name: &Name) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    pub(super) fn get(&self, name: &Name) -> Option<&Entry> {
        self.find(name).ok().map(|at| &self.0[at].1)
    }

    pub(super) fn get_mut(&mut self, name: &Name) -> Option<&mut Entry> {
        self.find(name).ok().map(|at| &mut self.0[at].1)
    }

    /// What there is, or a new one.
    pub(super) fn at(&mut self, name: Arc<Name>) -> &mut Entry {
        let at = self.find(&name).unwrap_or_else(|at| {
            if self.0.len() == self.0.capacity() {
                self.0.reserve_exact((self.0.len() / GROWTH).max(GROWTH_MIN));
            }
            self.0.insert(at, (name, Entry::default()));
            at
        });
        &mut self.0[at].1
    }

    /// The entry is subscribed to at this cell, whose name it shares from now on.
    pub(super) fn subscribed(&mut self, name: &Name, cell: Arc<Cell>) {
        let name = cell.name.clone().unwrap_or_else(|| Arc::new(name.clone()));
        self.at(Arc::clone(&name)).cell = Some(cell);
        if let Ok(at) = self.find(&name) {
            self.0[at].0 = name;
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().map(|(_, entry)| entry)
    }

    /// Takes out those that are `left`.
    pub(super) fn take(&mut self, mut left: impl FnMut(&Name, &Entry) -> bool) -> Vec<Entry> {
        let taken = self.0.extract_if(.., |(name, entry)| left(name, entry)).map(|(_, entry)| entry).collect();
        if self.0.capacity() > self.0.len() + self.0.len() / GROWTH + GROWTH_MIN {
            self.0.shrink_to_fit();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(port: u16) -> Arc<Name> {
        Arc::new(Name::Inbound(port))
    }

    #[test]
    fn entries_are_found_by_name_in_whatever_order_they_came_and_with_little_room_to_spare() {
        let mut entries = Entries::default();
        for step in 0..1000_u32 {
            let port = u16::try_from(step * 387 % 1000).unwrap();
            entries.at(name(port)).version = u64::from(port) + 1;
            let most = entries.0.len() * (GROWTH + 1) / GROWTH + GROWTH_MIN;
            assert!(entries.0.capacity() <= most, "room for {} of {}", entries.0.capacity(), entries.0.len());
        }
        assert!(
            (0..1000).all(|port| entries.get(&name(port)).is_some_and(|entry| entry.version == u64::from(port) + 1))
        );
        assert!(entries.get(&name(1000)).is_none() && entries.all().count() == 1000);
        entries.at(name(7)).wanted = true;
        let taken = entries.take(|_, entry| !entry.wanted);
        assert_eq!((taken.len(), entries.all().count()), (999, 1));
        assert!(entries.0.capacity() <= GROWTH_MIN + 1 && entries.get_mut(&name(7)).is_some());
    }
}
