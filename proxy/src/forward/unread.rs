//! Whether a connection that is not read has been reset, or what is left of it stands still. A read would tell; but a relay does not read
//! what it cannot write, and not behind an end in order.
//!
//! In: the connections that are not read now. Out: which of them has broken, within twice [`limits::ABANDONED_LOOK`], or takes nothing of what came
//! before both ends for [`limits::RELAY_LINGER`]. A relay that flows pays for one timer at most, however often it waits for a moment.

use super::Side;
use crate::{limits, sys::Asked};
use remora_runtime::seldom::Seldom;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::time::{Instant, Sleep, sleep};

/// A look at the connections of one relay that are not read, now and then.
#[derive(Debug, Default)]
pub(super) struct Look {
    timer: Option<Seldom<Sleep>>,
    /// How much had been relayed when it was first seen to stand still behind both ends, and when that was.
    still: Option<(u64, Instant)>,
}

impl Look {
    /// Ready once one of the connections, downstream and upstream, that are not read has been reset, or takes nothing behind an end: which. `relayed`
    /// counts what was. Otherwise the task of `cx` is woken in time to ask again.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, unread: [Option<Asked>; 2], relayed: u64) -> Poll<Side> {
        if let Some(timer) = &mut self.timer {
            ready!(Pin::new(timer).poll(cx));
            self.timer = None;
            for (asked, side) in unread.into_iter().zip([Side::Downstream, Side::Upstream]) {
                if asked.is_some_and(Asked::was_reset) {
                    return Poll::Ready(side);
                }
                // What it said is all there will be, and the other side does not take it.
                if asked.is_some_and(Asked::is_over) && self.stands_still(relayed) {
                    return Poll::Ready(side.other());
                }
            }
        }
        if unread.iter().any(Option::is_some) {
            let timer = self.timer.insert(Seldom::new(sleep(limits::ABANDONED_LOOK)));
            // Set now, it has not run out; it knows whom to wake.
            let _pending = Pin::new(timer).poll(cx);
        }
        Poll::Pending
    }

    fn stands_still(&mut self, relayed: u64) -> bool {
        match self.still {
            Some((before, since)) if before == relayed => since.elapsed() >= limits::RELAY_LINGER,
            _ => {
                self.still = Some((relayed, Instant::now()));
                false
            }
        }
    }
}
