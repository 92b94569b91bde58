//! Large buffers that belong to the worker's thread and are lent: a connection that is idle holds none.

use crate::limits;
use std::cell::RefCell;

thread_local! {
    /// Buffers that nobody holds at the moment.
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of [`limits::RELAY_BYTES_MAX`], given back when dropped. What it holds at first is somebody else's: write
/// before reading.
pub struct Lent(Box<[u8]>);

impl Lent {
    /// A spare one, or a new one.
    pub fn take() -> Self {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        Self(spare.unwrap_or_else(|| vec![0; limits::RELAY_BYTES_MAX].into_boxed_slice()))
    }
}

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lent").finish_non_exhaustive()
    }
}

impl std::ops::Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // While the thread ends there is nothing to give it back to.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < limits::RELAY_BUFFERS_SPARE {
                spare.push(buffer);
            }
        });
    }
}
