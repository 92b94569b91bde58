//! Tables of facts that know who reads them.
//!
//! A cell of the [`graph`](super::graph) is a function of facts. While it runs, every look into a table is noted as a [`Fact`],
//! a table and a key; so a cell cannot read what it does not depend on. Likewise what is written is noted where it became another.
//! Both are hashes: two facts that share one cost a computation too many, never an answer.

use std::{
    borrow::Borrow,
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher as _},
};

/// A table and a key of it, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Fact(u64);

impl Fact {
    fn of(table: &'static str, key: &(impl Hash + ?Sized)) -> Self {
        let mut hasher = DefaultHasher::new();
        table.hash(&mut hasher);
        key.hash(&mut hasher);
        Self(hasher.finish())
    }
}

thread_local! {
    /// What the cell that runs on this thread has read; `None` while none runs.
    static READ: RefCell<Option<Vec<Fact>>> = const { RefCell::new(None) };
    /// Facts of tables of this thread that became others.
    static CHANGED: RefCell<Vec<Fact>> = const { RefCell::new(Vec::new()) };
}

/// Runs a cell. Gives what it made and which facts it read, each once.
pub(super) fn reading<T>(cell: impl FnOnce() -> T) -> (T, Box<[Fact]>) {
    READ.set(Some(Vec::new()));
    let made = cell();
    let mut read = READ.take().unwrap_or_default();
    read.sort_unstable();
    read.dedup();
    (made, read.into())
}

/// Which facts became others since this was asked last, in any table.
pub(super) fn changed() -> Vec<Fact> {
    CHANGED.take()
}

fn change(fact: Fact) {
    CHANGED.with_borrow_mut(|changed| changed.push(fact));
}

fn note(fact: impl FnOnce() -> Fact) {
    READ.with_borrow_mut(|read| read.as_mut().map(|read| read.push(fact())));
}

/// One value for a key.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    name: &'static str,
    held: BTreeMap<K, V>,
}

impl<K: Ord + Hash, V: PartialEq> Table<K, V> {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, held: BTreeMap::new() }
    }

    pub(super) fn get<Q: Ord + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        note(|| Fact::of(self.name, key));
        self.held.get(key)
    }

    pub(super) fn contains_key<Q: Ord + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Sets or removes a value. Whether it is another now.
    pub(super) fn put(&mut self, key: K, value: Option<V>) -> bool {
        if self.held.get(&key) == value.as_ref() {
            return false;
        }
        change(Fact::of(self.name, &key));
        match value {
            Some(value) => drop(self.held.insert(key, value)),
            None => drop(self.held.remove(&key)),
        }
        true
    }

    /// Sets a value that says nothing else to whoever reads it.
    pub(super) fn resay(&mut self, key: K, value: V) {
        self.held.insert(key, value);
    }

    /// All of it, for those whom no change of it concerns.
    pub(super) fn unnoted(&self) -> &BTreeMap<K, V> {
        &self.held
    }
}

/// Many values for a key, each put there by whoever has it.
#[derive(Debug)]
pub(super) struct Relation<K, V> {
    name: &'static str,
    held: BTreeMap<K, BTreeSet<V>>,
}

impl<K: Ord + Hash + Clone, V: Ord + Clone> Relation<K, V> {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, held: BTreeMap::new() }
    }

    /// The values, in their order.
    pub(super) fn get<'a, Q: Ord + Hash + ?Sized>(
        &'a self,
        key: &Q,
    ) -> impl DoubleEndedIterator<Item = &'a V> + use<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        note(|| Fact::of(self.name, key));
        self.held.get(key).into_iter().flatten()
    }

    /// From what somebody had put to what it puts now, both without doubles.
    pub(super) fn replace(&mut self, before: &BTreeSet<(K, V)>, after: &BTreeSet<(K, V)>) {
        for (key, value) in before.difference(after) {
            self.remove(key, value);
        }
        for (key, value) in after.difference(before) {
            self.add(key, value);
        }
    }

    pub(super) fn add(&mut self, key: &K, value: &V) {
        if self.held.entry(key.clone()).or_default().insert(value.clone()) {
            change(Fact::of(self.name, key));
        }
    }

    pub(super) fn remove(&mut self, key: &K, value: &V) {
        let Some(values) = self.held.get_mut(key) else { return };
        if values.remove(value) {
            change(Fact::of(self.name, key));
        }
        if values.is_empty() {
            self.held.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_depends_on_what_it_read_there_or_not_and_on_nothing_else() {
        let mut table: Table<String, u8> = Table::new("numbers");
        let mut relation: Relation<String, u8> = Relation::new("sets");
        table.put("a".to_owned(), Some(1));
        let (_, read) = reading(|| (table.get("a").is_some(), table.get("b"), relation.get("a").count()));
        assert_eq!(read.len(), 3, "the same key in another table is another fact");
        table.get("c");
        drop(changed());
        assert!(!table.put("a".to_owned(), Some(1)) && changed().is_empty(), "it is the same");
        table.put("b".to_owned(), Some(2));
        relation.add(&"a".to_owned(), &7);
        relation.add(&"a".to_owned(), &7);
        let changed = changed();
        assert!(changed.len() == 2 && changed.iter().all(|fact| read.contains(fact)));
        relation.remove(&"a".to_owned(), &7);
        assert!(relation.held.is_empty());
    }
}
