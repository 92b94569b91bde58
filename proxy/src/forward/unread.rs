//! Whether a connection that is not read has been reset. A read would tell; but a relay does not read what it cannot write, and not behind
//! an end in order.
//!
//! In: the connections that are not read now. Out: that one of them has been reset, within twice [`limits::ABANDONED_LOOK`]. A relay that
//! flows pays for one timer at most, however often it waits for a moment.

use crate::{limits, sys::Asked};
use remora_runtime::seldom::Seldom;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::time::{Sleep, sleep};

/// A look at the connections of one relay that are not read, now and then.
#[derive(Debug, Default)]
pub(super) struct Look(Option<Seldom<Sleep>>);

impl Look {
    /// Ready once one of the connections that are not read has been reset. Otherwise the task of `cx` is woken in time to ask again.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, unread: [Option<Asked>; 2]) -> Poll<()> {
        if let Some(timer) = &mut self.0 {
            ready!(Pin::new(timer).poll(cx));
            self.0 = None;
            if unread.into_iter().flatten().any(Asked::was_reset) {
                return Poll::Ready(());
            }
        }
        if unread.iter().any(Option::is_some) {
            let timer = self.0.insert(Seldom::new(sleep(limits::ABANDONED_LOOK)));
            return Pin::new(timer).poll(cx);
        }
        Poll::Pending
    }
}
