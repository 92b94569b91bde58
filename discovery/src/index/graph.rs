//! Which cells there are, what each has read, and which must run again.
//!
//! Cells run in the order of their names ([`Ord`]): a cell reads only facts that cells before it write. So each runs at most
//! once for a set of changes, and what a cell writes is never out of date for those that read it. Pure.

use super::tables::Fact;
use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

/// A cell's number, given again once it is forgotten.
type Slot = u32;

/// The cells named `N`.
#[derive(Debug)]
pub(super) struct Graph<N> {
    slots: HashMap<N, Slot>,
    /// By slot: its name, and what it has read.
    cells: Vec<Option<(N, Box<[Fact]>)>>,
    free: Vec<Slot>,
    /// Who has read a fact, in the order of slots.
    readers: HashMap<Fact, Vec<Slot>>,
    due: BTreeSet<N>,
}

impl<N: Ord + Hash + Clone> Graph<N> {
    pub(super) fn new() -> Self {
        let (slots, readers) = (HashMap::new(), HashMap::new());
        Self { slots, cells: Vec::new(), free: Vec::new(), readers, due: BTreeSet::new() }
    }

    /// The cell is to run, for the first time or again.
    pub(super) fn wake(&mut self, cell: N) {
        self.due.insert(cell);
    }

    /// All who have read this fact are to run again.
    pub(super) fn changed(&mut self, fact: Fact) {
        let readers = self.readers.get(&fact).into_iter().flatten();
        let names = readers.filter_map(|slot| self.cells.get(*slot as usize)?.as_ref());
        self.due.extend(names.map(|(name, _)| name.clone()));
    }

    /// The next cell to run, of those before `end`.
    pub(super) fn next(&mut self, end: impl Fn(&N) -> bool) -> Option<N> {
        if self.due.first().is_none_or(end) { None } else { self.due.pop_first() }
    }

    /// The cell ran, and read these.
    pub(super) fn ran(&mut self, cell: N, read: Box<[Fact]>) {
        let known = self.slots.get(&cell).and_then(|slot| self.cells.get(*slot as usize)?.as_ref());
        if known.is_some_and(|(_, before)| *before == read) {
            return;
        }
        self.forget(&cell);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.cells.push(None);
            Slot::try_from(self.cells.len() - 1).expect("memory ends before four thousand million cells")
        });
        for fact in &read {
            let readers = self.readers.entry(*fact).or_default();
            if let Err(at) = readers.binary_search(&slot) {
                readers.insert(at, slot);
            }
        }
        self.slots.insert(cell.clone(), slot);
        self.cells[slot as usize] = Some((cell, read));
    }

    /// There is no such cell any more.
    pub(super) fn forget(&mut self, cell: &N) {
        let Some(slot) = self.slots.remove(cell) else { return };
        self.free.push(slot);
        let Some((_, read)) = self.cells[slot as usize].take() else { return };
        for fact in read {
            let Some(readers) = self.readers.get_mut(&fact) else { continue };
            if let Ok(at) = readers.binary_search(&slot) {
                readers.remove(at);
            }
            if readers.is_empty() {
                self.readers.remove(&fact);
            }
        }
    }

    /// How many cells have run and were not forgotten.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}
