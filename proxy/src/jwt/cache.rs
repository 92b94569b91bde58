//! What is remembered of tokens that were seen, good and bad, so that a signature is checked once. In two generations: when the young one is
//! full, it becomes the old one, and what is asked for moves back. So what is in use stays, at the cost of a look-up.
//!
//! Good and bad tokens have room of their own: a flood of bad ones cannot push out those that are in use.

use super::{Checked, Refusal};
use crate::limits;
use aws_lc_rs::digest::{Context, SHA256};
use serde_json::Value;
use std::{collections::HashMap, mem::size_of, sync::Arc};

/// The digest of a token and of the places that had it. The token itself is not kept.
pub(super) type Key = [u8; 32];

/// Of a token at these places, for the issuers with this number.
pub(super) fn key(token: &str, at: u64, issuers: u64) -> Key {
    let mut digest = Context::new(&SHA256);
    digest.update(&issuers.to_le_bytes());
    digest.update(&at.to_le_bytes());
    digest.update(token.as_bytes());
    let mut key = [0; 32];
    key.copy_from_slice(digest.finish().as_ref());
    key
}

/// What a worker remembers, for all ports.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// The number of those that remember here next.
    next: u64,
    good: Generations<Arc<Checked>>,
    bad: Generations<Refusal>,
}

impl Cache {
    /// A number for issuers, which nobody else has.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn get(&mut self, key: &Key) -> Option<Result<Arc<Checked>, Refusal>> {
        self.good.get(key).map(Ok).or_else(|| self.bad.get(key).map(Err))
    }

    pub(super) fn put(&mut self, key: Key, found: Result<Arc<Checked>, Refusal>) {
        match found {
            Ok(checked) => {
                let weight = checked.token.claims.iter().map(|(name, value)| name.len() + weight(value)).sum::<usize>();
                self.good.put(key, checked, size_of::<Checked>() + weight);
            }
            Err(refusal) => self.bad.put(key, refusal, 0),
        }
    }
}

/// Bytes of memory that a claim takes, about: an entry of a map, and what it leads to.
fn weight(claim: &Value) -> usize {
    let inside = match claim {
        Value::String(text) => text.len(),
        Value::Array(all) => all.iter().map(weight).sum(),
        Value::Object(all) => all.iter().map(|(name, value)| name.len() + weight(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    2 * size_of::<Value>() + size_of::<String>() + inside
}

#[derive(Debug)]
struct Generations<T> {
    young: HashMap<Key, (T, usize)>,
    /// Of the young.
    bytes: usize,
    old: HashMap<Key, (T, usize)>,
}

impl<T> Default for Generations<T> {
    fn default() -> Self {
        Self { young: HashMap::new(), bytes: 0, old: HashMap::new() }
    }
}

impl<T: Clone> Generations<T> {
    fn get(&mut self, key: &Key) -> Option<T> {
        if let Some((found, _)) = self.young.get(key) {
            return Some(found.clone());
        }
        let (found, weight) = self.old.remove(key)?;
        self.put(*key, found.clone(), weight);
        Some(found)
    }

    /// `weight`: the bytes that it takes beside its place here.
    fn put(&mut self, key: Key, value: T, weight: usize) {
        let bytes = weight + 2 * size_of::<(Key, (T, usize))>();
        if self.bytes + bytes > limits::TOKEN_CACHE_BYTES / 4 {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        if self.young.insert(key, (value, weight)).is_none() {
            self.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_token_in_use_stays_whatever_number_of_others_come_and_no_more_are_kept_than_may_be() {
        let mut kept = Generations::default();
        let (in_use, most) = (key("in use", 1, 1), limits::TOKEN_CACHE_BYTES / 2 / 1000);
        kept.put(in_use, 0, 1000);
        for n in 1..10 * most {
            kept.put(key(&n.to_string(), 1, 1), n, 1000);
            assert_eq!(kept.get(&in_use), Some(0));
            assert!(kept.young.len() + kept.old.len() <= most);
        }
        assert_eq!(kept.get(&key("1", 1, 1)), None);
    }

    #[test]
    fn bad_tokens_push_out_no_good_one_and_a_token_is_another_at_another_place() {
        let mut cache = Cache::default();
        let good = Checked {
            token: remora_jose::claims::Verified { issuers: Vec::new(), claims: serde_json::Map::new() },
            issuers: Vec::new(),
            from: Duration::ZERO,
            until: Duration::MAX,
        };
        cache.put(key("good", 1, 1), Ok(Arc::new(good)));
        (0..10_000).for_each(|n| cache.put(key(&n.to_string(), 1, 1), Err(Refusal::Issuer)));
        assert!(cache.get(&key("good", 1, 1)).is_some_and(|found| found.is_ok()));
        assert!(cache.get(&key("good", 2, 1)).is_none() && cache.get(&key("good", 1, 2)).is_none());
        assert_eq!(cache.get(&key("9999", 1, 1)).map(|found| found.is_err()), Some(true));
        let bad = cache.bad.young.len() + cache.bad.old.len();
        assert!(bad * 2 * size_of::<(Key, (Refusal, usize))>() <= limits::TOKEN_CACHE_BYTES / 2, "{bad}");
    }
}
