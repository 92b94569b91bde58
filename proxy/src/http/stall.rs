//! What a message holds while it stands still, charged to the [account](crate::account).
//!
//! In: whose message it is, how much of it can be held at most, and when it stands still. Out: nothing, or [`Overloaded`]: then
//! the message is ended. A message that flows holds next to nothing, and costs two additions when it begins to wait.

use crate::{
    account::{Charge, Holder},
    telemetry::Reason,
};
use std::io;

/// Bytes that are held while a message stands still: those that came and are not read, or that wait for a socket.
#[derive(Debug)]
pub(crate) struct Stall {
    holder: Holder,
    bytes: usize,
    charge: Option<Charge>,
}

/// More stands still than fits into the peer's share of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more of this peer's messages stands still than fits into its share of memory")]
pub struct Overloaded;

impl From<Overloaded> for io::Error {
    fn from(overloaded: Overloaded) -> Self {
        Self::new(io::ErrorKind::OutOfMemory, overloaded)
    }
}

impl Stall {
    /// A message that flows, and of which `bytes` are held at most.
    pub(crate) fn new(holder: Holder, bytes: usize) -> Self {
        Self { holder, bytes, charge: None }
    }

    /// Whose message it is.
    pub(crate) fn holder(&self) -> &Holder {
        &self.holder
    }

    /// The message stalls: what comes of it is not read for now.
    pub(crate) fn begin(&mut self) -> Result<(), Overloaded> {
        if self.charge.is_none() && self.bytes > 0 {
            self.charge = Some(hold(&self.holder, self.bytes)?);
        }
        Ok(())
    }

    /// All that came was taken.
    pub(crate) fn end(&mut self) {
        self.charge = None;
    }

    /// Whether it stands still.
    pub(crate) fn is_charged(&self) -> bool {
        self.charge.is_some()
    }
}

/// Charges `bytes` that stand still.
pub(crate) fn hold(holder: &Holder, bytes: usize) -> Result<Charge, Overloaded> {
    holder.charge(bytes).ok_or_else(|| {
        remora_runtime::limited!(info, peer = ?holder.peer(), reason = Reason::Overloaded.as_str(),
            "a message is ended: more of this peer's messages stands still than fits into its share of memory");
        Overloaded
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Account, Peer};

    #[test]
    fn what_stands_still_is_charged_once_and_given_back_when_it_flows() {
        let account = Account::new(100);
        let holder = account.holder(Peer::at([10, 0, 0, 1].into()));
        let mut stall = Stall::new(holder.clone(), 30);
        assert_eq!(account.used(), 0);
        assert_eq!((stall.begin(), stall.begin()), (Ok(()), Ok(())));
        assert_eq!(account.used(), 30);
        let mut other = Stall::new(holder, 30);
        assert_eq!(other.begin(), Err(Overloaded), "half of all is one peer's");
        stall.end();
        assert_eq!(other.begin(), Ok(()));
        drop(other);
        assert_eq!(account.used(), 0);
    }
}
