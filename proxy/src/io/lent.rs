//! Buffers that belong to the worker's thread and are lent: a connection that is idle holds none. How large they are is
//! for the [account](crate::account) to say.

use crate::{
    account::{Charge, Holder},
    limits,
};
use std::cell::RefCell;

/// How large a buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Size {
    /// [`limits::RELAY_BYTES_MIN`], which every connection may have.
    Min,
    /// [`limits::RELAY_BYTES_MORE`]
    More,
    /// [`limits::RELAY_BYTES_MAX`]
    Max,
}

impl Size {
    /// In bytes.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Min => limits::RELAY_BYTES_MIN,
            Self::More => limits::RELAY_BYTES_MORE,
            Self::Max => limits::RELAY_BYTES_MAX,
        }
    }

    /// The next larger one.
    const fn larger(self) -> Self {
        match self {
            Self::Min => Self::More,
            Self::More | Self::Max => Self::Max,
        }
    }
}

/// How much one reader takes at once: it grows while there is more than it takes, as far as its share of the account goes,
/// and holds no share while it rests.
#[derive(Debug)]
pub(crate) struct Appetite {
    size: Size,
    /// For all beyond [`Size::Min`].
    charge: Option<Charge>,
    /// What the last reads would have filled.
    wanted: Size,
    /// How many buffers of this size may be held at a time.
    buffers: usize,
}

impl Appetite {
    /// The least, for a reader that holds at most so many `buffers` of its size.
    pub(crate) const fn new(buffers: usize) -> Self {
        Self { size: Size::Min, charge: None, wanted: Size::Min, buffers }
    }

    /// How much to take now. Without a holder it is the least.
    pub(crate) fn size(&mut self, holder: Option<&Holder>) -> Size {
        if self.size < self.wanted {
            match holder.and_then(|holder| holder.charge(self.buffers * self.wanted.bytes())) {
                Some(charge) => (self.size, self.charge) = (self.wanted, Some(charge)),
                None => self.wanted = self.size,
            }
        }
        self.size
    }

    /// After a read that filled its buffer.
    pub(crate) fn grow(&mut self) {
        self.wanted = self.size.larger();
    }

    /// Gives the share back: nothing larger than the least is held by now. What `bytes` of work would have filled is asked
    /// for at once when there is more.
    pub(crate) fn rest(&mut self, bytes: usize) {
        if bytes <= limits::RELAY_BYTES_MIN {
            self.wanted = Size::Min;
        } else if bytes <= limits::RELAY_BYTES_MORE {
            self.wanted = self.wanted.min(Size::More);
        }
        (self.size, self.charge) = (Size::Min, None);
    }
}

thread_local! {
    /// Buffers that are free at the moment, by size.
    static SPARE: RefCell<[Vec<Box<[u8]>>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// A buffer, given back when dropped. At first it holds another caller's bytes: write before reading.
pub(crate) struct Lent(Box<[u8]>, Size);

impl Lent {
    /// A spare one, or a new one.
    pub(crate) fn take(size: Size) -> Self {
        let spare = SPARE.with_borrow_mut(|spare| spare[size as usize].pop());
        Self(spare.unwrap_or_else(|| vec![0; size.bytes()].into_boxed_slice()), size)
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
        let (buffer, size) = (std::mem::take(&mut self.0), self.1);
        // While the thread ends there is nothing to give it back to.
        let _ = SPARE.try_with(|spare| {
            let spare = &mut spare.borrow_mut()[size as usize];
            if spare.len() < limits::RELAY_BUFFERS_SPARE {
                spare.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Account, Peer};

    #[test]
    fn a_reader_grows_with_what_there_is_as_far_as_its_share_goes_and_gives_it_back() {
        let account = Account::new(4 * 2 * limits::RELAY_BYTES_MAX);
        let holder = account.holder(Peer::at([10, 0, 0, 1].into()));
        let mut readers: Vec<_> = (0..100).map(|_| Appetite::new(2)).collect();
        for reader in &mut readers {
            for _ in 0..3 {
                reader.grow();
                reader.size(Some(&holder));
            }
        }
        let of = |size| readers.iter().filter(|reader| reader.size == size).count();
        assert!(of(Size::Max) > 0 && of(Size::Min) > 50, "{} {} {}", of(Size::Min), of(Size::More), of(Size::Max));
        assert!(account.used() <= 2 * 2 * limits::RELAY_BYTES_MAX);
        let other = account.holder(Peer::at([10, 0, 0, 2].into()));
        let mut honest = Appetite::new(2);
        honest.grow();
        assert_eq!(honest.size(Some(&other)), Size::More, "another peer has room");
        readers.iter_mut().chain([&mut honest]).for_each(|reader| reader.rest(limits::RELAY_BYTES_MAX));
        assert_eq!(account.used(), 0);
        assert_eq!(honest.size(Some(&other)), Size::More, "it goes on as it was");
        honest.rest(1);
        assert_eq!(honest.size(Some(&other)), Size::Min);
        let mut nobodys = Appetite::new(2);
        nobodys.grow();
        assert_eq!(nobodys.size(None), Size::Min);
    }
}
