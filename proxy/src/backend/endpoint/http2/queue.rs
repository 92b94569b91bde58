//! Who waits for a stream on the connections to one address. In: requests that found no room. Out: a wake for as many as
//! may look again. Bounded: [`limits::STREAM_WAITERS_MAX`].

use crate::limits;
use std::cell::Cell;
use tokio::sync::{Notify, futures::Notified};

/// Who waits for a stream. Shared with the connections, which wake them.
pub(super) struct Queue {
    waiting: Cell<u32>,
    notify: Notify,
    /// What the newest connection turned out to take; before there was one, as many as there may be.
    limit: Cell<u32>,
}

impl Queue {
    /// No request waits, and no connection has announced its limit.
    pub(super) fn new() -> Self {
        Self { waiting: Cell::new(0), notify: Notify::new(), limit: Cell::new(u32::MAX) }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.get()
    }

    /// The next wake. Cancel safe: a wake that was not taken goes to another who waits.
    pub(super) fn notified(&self) -> Notified<'_> {
        self.notify.notified()
    }

    /// What the newest connection turned out to take; before there was one, as many as there may be.
    pub(super) fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// A connection takes so many streams.
    pub(super) fn learned(&self, limit: u32) {
        self.limit.set(limit.max(1));
    }

    /// So many may look again.
    pub(super) fn wake(&self, count: u32) {
        for _ in 0..count.min(self.waiting.get()) {
            self.notify.notify_one();
        }
    }
}

/// One that waits, counted until it is dropped.
pub(super) struct Waiting<'a>(&'a Queue);

impl<'a> Waiting<'a> {
    /// `None`: too many wait.
    pub(super) fn new(queue: &'a Queue) -> Option<Self> {
        if queue.waiting.get() >= limits::STREAM_WAITERS_MAX {
            return None;
        }
        queue.waiting.set(queue.waiting.get() + 1);
        Some(Self(queue))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
