//! How often the server was asked something that has a name of its own (`?uuid=`): what a retry is, and whether a mirror arrived.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Names that are kept; those of before are forgotten all at once.
const NAMES_MAX: usize = 10_000;

/// Requests by name.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HashMap<String, u32>>);

impl Heard {
    /// Counts a request of this name, and says how many came before it.
    pub(super) fn note(&self, name: &str) -> u32 {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES_MAX && !names.contains_key(name) {
            names.clear();
        }
        let count = names.entry(name.to_owned()).or_default();
        *count += 1;
        *count - 1
    }

    /// How many of this name came.
    pub(super) fn count(&self, name: &str) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_counts_for_itself_and_there_is_an_end_to_names() {
        let heard = Heard::default();
        assert_eq!((heard.note("a"), heard.note("a"), heard.note("b"), heard.count("a")), (0, 1, 0, 2));
        for number in 0..2 * NAMES_MAX {
            heard.note(&number.to_string());
        }
        assert!(heard.0.lock().unwrap().len() <= NAMES_MAX && heard.count("a") == 0);
    }
}
