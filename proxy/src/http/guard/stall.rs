//! How long a client may keep us waiting in the middle of something.
//!
//! In: what is waited for, and a mark that moves when there is progress; asked only when a read or write would block.
//! Out: whether it stood still for too long. A connection on which everything flows pays one timer for its whole life,
//! not one per request: the timer is set once and runs out undisturbed; then the mark is compared with the one of when
//! it was set, and it is set again. So a wait ends after one to two times its patience, and after exactly its patience
//! where a shorter wait replaces a longer one, as a head that began replaces idleness.

use crate::limits::HALF_CLOSED_TIMEOUT;
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};

/// How long for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From the first bytes of a head to its end.
    pub head: Duration,
    /// Silence within a body, and an answer of which nothing is taken.
    pub body: Duration,
    /// Between requests.
    pub idle: Duration,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Head,
    Body,
    Idle,
    Write,
    /// For the answer, by a client that has ended its side.
    Answer,
}

impl Wait {
    /// The word for it in the metric label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Head => "slow_head",
            Self::Body => "slow_body",
            Self::Idle => "idle",
            Self::Write => "slow_reader",
            Self::Answer => "half_closed",
        }
    }

    pub(super) fn patience(self, patience: &Patience) -> Duration {
        match self {
            Self::Head => patience.head,
            Self::Body | Self::Write => patience.body,
            Self::Idle => patience.idle,
            Self::Answer => patience.body.min(HALF_CLOSED_TIMEOUT),
        }
    }
}

/// One direction's watch.
#[derive(Debug, Default)]
pub(super) struct Watch(Option<Armed>);

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    period: Duration,
    wait: Wait,
    mark: u64,
}

impl Watch {
    /// Returns true if a read or write made no progress (`mark` unchanged) for `period` while it waited for `wait`.
    /// Wakes the task of `cx` when the period is over, to be called again.
    pub(super) fn stalled(&mut self, cx: &mut Context<'_>, wait: Wait, mark: u64, period: Duration) -> bool {
        let Some(armed) = &mut self.0 else {
            let mut sleep = Box::pin(sleep(period));
            let _ = poll(sleep.as_mut(), cx); // registers the waker; a new sleep has not run out
            self.0 = Some(Armed { sleep, period, wait, mark });
            return false;
        };
        if period >= armed.period && !armed.sleep.is_elapsed() {
            return false;
        }
        let ran_out = poll(armed.sleep.as_mut(), cx).is_ready();
        if ran_out && armed.wait == wait && armed.mark == mark {
            return true;
        }
        armed.sleep.as_mut().reset(Instant::now() + period);
        let _ = poll(armed.sleep.as_mut(), cx);
        (armed.period, armed.wait, armed.mark) = (period, wait, mark);
        false
    }
}

/// Asks a timer whatever the task has left of its budget: one that was set and not registered, because the task had none,
/// would never run out.
fn poll(sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    std::pin::pin!(tokio::task::unconstrained(sleep)).poll(cx)
}
