//! Which cells there are, what each has read, and which must run again.
//!
//! Cells run in the order of their names ([`Ord`]): a cell reads only facts that cells before it write. So each runs at most
//! once for a set of changes, and what a cell writes is never out of date for those that read it. Pure.

use super::tables::Fact;
use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
};

/// A cell's number, given again once it is forgotten.
type Slot = u32;

/// A cell that ran: its name, and what it has read, in order.
type Ran<N> = (Arc<N>, Box<[Fact]>);

/// The cells named `N`.
#[derive(Debug)]
pub(super) struct Graph<N> {
    slots: HashMap<Arc<N>, Slot>,
    /// By slot.
    cells: Vec<Option<Ran<N>>>,
    free: Vec<Slot>,
    /// Who has read a fact, in the order of slots.
    readers: Readers,
    due: BTreeSet<N>,
}

impl<N: Ord + Hash + Clone> Graph<N> {
    pub(super) fn new() -> Self {
        let (slots, readers) = (HashMap::new(), Readers::default());
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
        self.due.extend(names.map(|(name, _)| N::clone(name)));
    }

    /// The next cell to run, of those before `end`.
    pub(super) fn next(&mut self, end: impl Fn(&N) -> bool) -> Option<N> {
        if self.due.first().is_none_or(end) { None } else { self.due.pop_first() }
    }

    /// The cell ran, and read these, each named once and in order. Costs what it did not read before, or reads no more.
    pub(super) fn ran(&mut self, cell: N, read: Box<[Fact]>) {
        let slot = self.slots.get(&cell).copied().unwrap_or_else(|| self.begin(cell));
        let Some((_, known)) = &mut self.cells[slot as usize] else { return };
        let before = std::mem::replace(known, read);
        let Some((_, read)) = &self.cells[slot as usize] else { return };
        for (fact, reads) in apart(&before, read) {
            match reads {
                true => join(&mut self.readers, fact, slot),
                false => leave(&mut self.readers, fact, slot),
            }
        }
    }

    fn begin(&mut self, cell: N) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.cells.push(None);
            Slot::try_from(self.cells.len() - 1).expect("memory ends before four thousand million cells")
        });
        let cell = Arc::new(cell);
        self.slots.insert(Arc::clone(&cell), slot);
        self.cells[slot as usize] = Some((cell, Box::default()));
        slot
    }

    /// There is no such cell any more.
    pub(super) fn forget(&mut self, cell: &N) {
        let Some(slot) = self.slots.remove(cell) else { return };
        self.free.push(slot);
        let Some((_, read)) = self.cells[slot as usize].take() else { return };
        read.iter().for_each(|fact| leave(&mut self.readers, *fact, slot));
    }

    /// How many cells have run and were not forgotten.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

type Readers = HashMap<Fact, Vec<Slot>, BuildHasherDefault<Hashed>>;

fn join(readers: &mut Readers, fact: Fact, slot: Slot) {
    let readers = readers.entry(fact).or_default();
    if let Err(at) = readers.binary_search(&slot) {
        readers.insert(at, slot);
    }
}

fn leave(all: &mut Readers, fact: Fact, slot: Slot) {
    let Some(readers) = all.get_mut(&fact) else { return };
    if let Ok(at) = readers.binary_search(&slot) {
        readers.remove(at);
    }
    if readers.is_empty() {
        all.remove(&fact);
    }
}

/// What is in one of two lists alone, each in order and without doubles; and whether it is the second.
fn apart<'a>(before: &'a [Fact], after: &'a [Fact]) -> impl Iterator<Item = (Fact, bool)> + 'a {
    let (mut before, mut after) = (before.iter().copied().peekable(), after.iter().copied().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (before.peek(), after.peek()) {
                (Some(was), Some(is)) => was.cmp(is),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            match order {
                Ordering::Equal => drop((before.next(), after.next())),
                Ordering::Less => return before.next().map(|fact| (fact, false)),
                Ordering::Greater => return after.next().map(|fact| (fact, true)),
            }
        }
    })
}

/// A fact is a hash already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, fact: u64) {
        self.0 = fact;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tables::{Table, changed, reading},
        *,
    };

    /// What a cell reads that looks at these names.
    fn looks(table: &Table<u8, u8>, at: &[u8]) -> Box<[Fact]> {
        reading(|| at.iter().filter(|at| table.contains_key(*at)).count()).1
    }

    #[test]
    fn a_cell_that_reads_something_else_runs_for_that_and_no_longer_for_what_it_left() {
        let (mut table, mut graph) = (Table::new("numbers"), Graph::new());
        graph.ran("steady", looks(&table, &[2]));
        let mut woken_by = |graph: &mut Graph<&'static str>, at: u8| {
            let next = table.unnoted().get(&at).map_or(1, |value: &u8| value + 1);
            table.put(at, Some(next));
            changed().into_iter().for_each(|fact| graph.changed(fact));
            std::iter::from_fn(|| graph.next(|_| false)).collect::<Vec<_>>()
        };
        let other = Table::new("numbers");
        for (reads, wakes) in
            [(&[1, 2, 3][..], [true, true, true, false]), (&[2, 4], [false, true, false, true]), (&[], [false; 4])]
        {
            graph.ran("moving", looks(&other, reads));
            for (at, wakes) in (1..=4).zip(wakes) {
                let woken = woken_by(&mut graph, at);
                assert_eq!((woken.contains(&"moving"), woken.contains(&"steady")), (wakes, at == 2), "{reads:?} {at}");
            }
        }
        graph.forget(&"moving");
        graph.forget(&"steady");
        assert!(graph.readers.is_empty() && graph.len() == 0);
    }
}
