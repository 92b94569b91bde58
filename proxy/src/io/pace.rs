//! Sharing the worker: a task that has had its turn lets others go first.
//!
//! In: how many bytes a task has read. Out: tokio's cooperative budget, spent by bytes as well as by calls, so that whatever
//! reads in a loop (hyper, rustls, a relay) meets its end. A task that is out of budget is polled again after all tasks
//! that are ready, and after the worker has asked the kernel which others are.

use crate::limits;
use std::{
    cell::Cell,
    pin::pin,
    task::{Context, Poll},
};
use tokio::task::{coop, yield_now};

/// Has this task polled again, after those that are ready and those that the kernel has news for.
pub(crate) fn after_others(cx: &mut Context<'_>) {
    // Its first poll registers the waker; its second is of no use to us.
    let _pending = pin!(yield_now()).poll(cx).is_pending();
}

/// Takes the budget for reading `bytes` from this task. Its reads and writes are pending for want of budget from
/// [`limits::TASK_TURN_BYTES`] on, and it is woken.
pub(crate) fn spend(cx: &mut Context<'_>, bytes: usize) {
    // The call itself has cost one unit.
    for _ in 0..bytes / (limits::TASK_TURN_BYTES / UNITS) {
        match coop::poll_proceed(cx) {
            Poll::Ready(unit) => unit.made_progress(),
            Poll::Pending => return,
        }
    }
}

thread_local! {
    /// Streams of this worker that had more than their turn when they were polled last.
    static BUSY: Cell<usize> = const { Cell::new(0) };
}

/// A stream's part in what all streams of a worker may read between two looks at other connections.
#[derive(Debug, Default)]
pub(crate) struct Part {
    busy: bool,
}

impl Part {
    /// What it may read in one poll: [`limits::RELAY_TURN_BYTES`] shared by those that are busy, and
    /// [`limits::RELAY_TURN_BYTES_MIN`] at least.
    pub(crate) fn turn(&self) -> usize {
        let others = BUSY.get() - usize::from(self.busy);
        (limits::RELAY_TURN_BYTES / (others + 1)).max(limits::RELAY_TURN_BYTES_MIN)
    }

    /// Whether it has used up its turn.
    pub(crate) fn used(&mut self, up: bool) {
        BUSY.set(BUSY.get() - usize::from(self.busy) + usize::from(up));
        self.busy = up;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.used(false);
    }
}

/// What tokio gives a task for one poll.
const UNITS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_are_busy_share_a_turn_and_those_that_are_not_take_nothing_of_it() {
        let (idle, mut parts) = (Part::default(), Vec::new());
        assert_eq!(idle.turn(), limits::RELAY_TURN_BYTES);
        for count in 1..=4 {
            let mut part = Part::default();
            part.used(true);
            part.used(true);
            parts.push(part);
            let each = limits::RELAY_TURN_BYTES / count;
            assert!(parts.iter().all(|part| part.turn() == each.max(limits::RELAY_TURN_BYTES_MIN)), "{count}");
        }
        parts[0].used(false);
        parts.truncate(2);
        assert_eq!(parts[1].turn(), limits::RELAY_TURN_BYTES);
        assert_eq!(idle.turn(), limits::RELAY_TURN_BYTES / 2);
        parts.clear();
        assert_eq!(idle.turn(), limits::RELAY_TURN_BYTES);
    }
}
