//! How many connections and requests of one worker wait for discovery. In: a bound. Out: a place, given up when dropped. The
//! control thread learns by [`Wanted`] that a connection waits, so that it does not delay the next stream for long.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;

/// Whether a connection of any worker waits for discovery.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted(Arc<(AtomicUsize, Notify)>);

impl Wanted {
    /// Whether a connection waits now.
    pub(crate) fn is(&self) -> bool {
        self.0.0.load(Relaxed) > 0
    }

    /// Returns when a connection waits, at once if one does. Cancel safe.
    pub(crate) async fn begins(&self) {
        // A connection that was reported before may have ended since.
        while !self.is() {
            self.0.1.notified().await;
        }
    }

    /// Whether a connection began to wait since the last call of this or of [`Self::begins`].
    #[cfg(test)]
    pub(super) fn begun(&self) -> bool {
        use futures_util::FutureExt as _;
        self.0.1.notified().now_or_never().is_some()
    }
}

/// Places to wait in.
#[derive(Debug)]
pub(super) struct Waiting {
    taken: Rc<Cell<usize>>,
    most: usize,
    wanted: Wanted,
}

impl Waiting {
    pub(super) fn new(most: usize, wanted: Wanted) -> Self {
        Self { taken: Rc::default(), most, wanted }
    }

    /// A place, if one is left.
    pub(super) fn enter(&self) -> Option<Place> {
        if self.taken.get() >= self.most {
            return None;
        }
        self.taken.set(self.taken.get() + 1);
        metrics::gauge!("remora_discovery_waiting").increment(1.0);
        let (count, begins) = &*self.wanted.0;
        count.fetch_add(1, Relaxed);
        begins.notify_one();
        Some(Place(self.taken.clone(), self.wanted.clone()))
    }
}

/// A connection begins to wait.
#[derive(Debug)]
pub(super) struct Place(Rc<Cell<usize>>, Wanted);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
        self.1.0.0.fetch_sub(1, Relaxed);
        metrics::gauge!("remora_discovery_waiting").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_may() {
        let wanted = Wanted::default();
        let waiting = Waiting::new(2, wanted.clone());
        let (first, second) = (waiting.enter(), waiting.enter());
        assert!(first.is_some() && waiting.enter().is_none() && wanted.is());
        drop(first);
        assert!(waiting.enter().is_some());
        drop(second);
        assert!(!wanted.is());
    }

    #[test]
    fn who_has_gone_is_not_waited_for() {
        use futures_util::FutureExt as _;
        let wanted = Wanted::default();
        let waiting = Waiting::new(2, wanted.clone());
        drop(waiting.enter());
        assert!(wanted.begins().now_or_never().is_none());
        let _place = waiting.enter();
        assert!(wanted.begins().now_or_never().is_some() && wanted.begins().now_or_never().is_some());
    }
}
