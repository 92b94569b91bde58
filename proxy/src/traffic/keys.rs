//! The callers that a limit tells apart, each with a count of its own. In: a key, whole. Out: its [`Bucket`].
//!
//! Bound: [`KEYS_MAX`] in a limit and [`ALL_KEYS_MAX`] in the process. Where there are more, the one that was seen least recently leaves, of
//! those that nobody holds; where all are held, new ones are counted together. Identities and addresses are looked for once for each
//! connection, values of header fields once for each request: one lock of a sixteenth of the table, and no allocation for a key that is known.

use super::{
    bucket::Bucket,
    limits::{ALL_KEYS_MAX, KEY_SHARDS, KEYS_MAX},
};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// How many keys all limits of the process have.
#[derive(Debug, Clone, Default)]
pub(crate) struct All(Arc<AtomicUsize>);

/// The keys of one limit.
#[derive(Debug)]
pub(crate) struct Keys {
    shards: [Mutex<Shard>; KEY_SHARDS],
    /// By chance, so that nobody can choose keys of one shard.
    hasher: RandomState,
    all: All,
    /// Of those for which there is no room.
    others: Arc<Bucket>,
}

#[derive(Debug, Default)]
struct Shard {
    known: HashMap<Box<[u8]>, Known>,
    /// How often something was looked for.
    looks: u64,
}

#[derive(Debug)]
struct Known {
    bucket: Arc<Bucket>,
    seen: u64,
}

impl Keys {
    pub(crate) fn new(all: &All) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            all: all.clone(),
            others: Arc::default(),
        }
    }

    /// What is counted for `key`.
    pub(crate) fn of(&self, key: &[u8]) -> Arc<Bucket> {
        let at = self.hasher.hash_one(key) as usize % KEY_SHARDS;
        let mut shard = self.shards[at].lock().unwrap_or_else(PoisonError::into_inner);
        shard.looks += 1;
        let seen = shard.looks;
        if let Some(known) = shard.known.get_mut(key) {
            known.seen = seen;
            return known.bucket.clone();
        }
        let full = shard.known.len() >= KEYS_MAX / KEY_SHARDS || !self.all.enter();
        if full && !shard.forget_one() {
            return self.others.clone();
        }
        let bucket = Arc::<Bucket>::default();
        shard.known.insert(key.into(), Known { bucket: bucket.clone(), seen });
        bucket
    }
}

impl All {
    /// Whether there is room for one more, which is taken.
    fn enter(&self) -> bool {
        let more = |count: usize| (count < ALL_KEYS_MAX).then_some(count + 1);
        self.0.fetch_update(Relaxed, Relaxed, more).is_ok()
    }
}

impl Shard {
    /// Forgets the one that was seen least recently of those that nobody holds. `false`: all are held, or there is none.
    fn forget_one(&mut self) -> bool {
        let free = self.known.iter().filter(|(_, known)| Arc::strong_count(&known.bucket) == 1);
        let Some((key, _)) = free.min_by_key(|(_, known)| known.seen) else { return false };
        let key = key.clone();
        self.known.remove(&key).is_some()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let count: usize = self
            .shards
            .iter_mut()
            .map(|shard| shard.get_mut().unwrap_or_else(PoisonError::into_inner).known.len())
            .sum();
        self.all.0.fetch_sub(count, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(keys: &Keys) -> usize {
        keys.shards.iter().map(|shard| shard.lock().unwrap().known.len()).sum()
    }

    #[test]
    fn each_key_has_its_count_and_a_part_of_another_is_another() {
        let keys = Keys::new(&All::default());
        let a = keys.of(b"spiffe://cluster.local/ns/shop/sa/a");
        assert!(Arc::ptr_eq(&a, &keys.of(b"spiffe://cluster.local/ns/shop/sa/a")));
        for other in [&b"spiffe://cluster.local/ns/shop/sa/"[..], b"spiffe://cluster.local/ns/shop/sa/ab", b""] {
            assert!(!Arc::ptr_eq(&a, &keys.of(other)));
        }
    }

    #[test]
    fn whoever_was_seen_least_recently_leaves_and_never_one_that_is_held() {
        let all = All::default();
        let keys = Keys::new(&all);
        let held = keys.of(b"held");
        let lately = Arc::downgrade(&keys.of(b"lately"));
        for number in 0..3 * KEYS_MAX {
            drop(keys.of(format!("{number}").as_bytes()));
            drop(keys.of(b"lately"));
        }
        assert!(known(&keys) <= KEYS_MAX && all.0.load(Relaxed) == known(&keys), "{}", known(&keys));
        assert!(Arc::ptr_eq(&held, &keys.of(b"held")) && lately.upgrade().is_some());
        drop(keys);
        assert_eq!(all.0.load(Relaxed), 0);
    }

    #[test]
    fn where_nobody_can_leave_new_ones_are_counted_together() {
        let keys = Keys::new(&All::default());
        let mut all: Vec<_> = (0..2 * KEYS_MAX).map(|number| keys.of(format!("{number}").as_bytes())).collect();
        let together = all.iter().filter(|bucket| Arc::ptr_eq(bucket, &keys.others)).count();
        assert!(together >= KEYS_MAX && known(&keys) <= KEYS_MAX, "{together}");
        all.clear();
        assert!(!Arc::ptr_eq(&keys.of(b"new"), &keys.others));
    }

    #[test]
    fn all_limits_together_have_no_more_than_the_process_has_room_for() {
        let all = All::default();
        all.0.store(ALL_KEYS_MAX, Relaxed);
        let keys = Keys::new(&all);
        assert!(Arc::ptr_eq(&keys.of(b"first"), &keys.others));
        all.0.store(ALL_KEYS_MAX - 1, Relaxed);
        let (first, other) = (keys.of(b"first"), keys.of(b"second"));
        assert!(!Arc::ptr_eq(&first, &keys.others) && Arc::ptr_eq(&other, &keys.others));
        all.0.store(1, Relaxed);
    }
}
