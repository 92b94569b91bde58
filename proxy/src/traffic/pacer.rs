//! Has a relay of bytes keep the rates of its port: reading pauses, and nothing is lost. In: how many bytes went. Out: how many may go, and a wake-up
//! when there may be more.
//!
//! Bytes are counted once they were read, and no more are read than there is room for. What workers read at the same moment may be beyond
//! the rate by a turn of each, and is waited for afterwards.

use super::{
    Current, PortTraffic,
    limits::{PAUSE_BYTES, PAUSE_MAX},
    rate::{Limit, Slot},
};
use crate::policy::Peer;
use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::time::{Instant, Sleep, sleep_until};

/// See the module. One for each relay.
#[derive(Debug)]
pub(crate) struct Pacer {
    current: Rc<Current>,
    peer: Peer,
    known: Option<(Arc<PortTraffic>, Vec<Slot>)>,
    pause: Option<Pin<Box<Sleep>>>,
    /// Whether it waits, so that a pause is counted once.
    waits: bool,
}

impl Pacer {
    /// Of what `peer` and the application send each other.
    pub(crate) fn of(current: &Rc<Current>, peer: &Peer) -> Self {
        Self { current: current.clone(), peer: peer.clone(), known: None, pause: None, waits: false }
    }

    /// How many bytes may be read now.
    pub(crate) fn room(&mut self) -> usize {
        let now = Instant::now();
        let room = self.limits().filter(|(limit, _)| !limit.rule.dry_run).map(|(limit, slot)| limit.room(slot, now));
        room.min().map_or(usize::MAX, |room| usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// So many were.
    pub(crate) fn spent(&mut self, bytes: usize) {
        let now = Instant::now();
        for (limit, slot) in self.limits() {
            if limit.rule.dry_run && limit.room(slot, now) == 0 {
                limit.counters.would_limit.increment(1);
            }
            limit.spend(slot, now, bytes as u64);
        }
        self.waits = false;
    }

    /// Ready when there may be room; else the task is woken then.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (now, counted) = (Instant::now(), self.waits);
        let mut wait = std::time::Duration::ZERO;
        for (limit, slot) in self.limits().filter(|(limit, _)| !limit.rule.dry_run) {
            let of_this = limit.wait(slot, now, PAUSE_BYTES);
            if !of_this.is_zero() && !counted {
                limit.counters.limited.increment(1);
            }
            wait = wait.max(of_this);
        }
        if wait.is_zero() {
            return Poll::Ready(());
        }
        self.waits = true;
        let until = now + wait.min(PAUSE_MAX);
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep_until(until)));
        pause.as_mut().reset(until);
        pause.as_mut().poll(cx)
    }

    /// Whether any limit holds.
    pub(crate) fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    fn limits(&mut self) -> impl Iterator<Item = (&Arc<Limit>, &Slot)> {
        let now = self.current.get();
        let known = self.known.take().filter(|(before, _)| now.as_ref().is_some_and(|now| Arc::ptr_eq(before, now)));
        let peer = &self.peer;
        self.known = known.or_else(|| {
            let now = now?;
            // None depends on a request.
            let slots = now.bytes.iter().filter_map(|limit| limit.of(peer)).collect();
            Some((now, slots))
        });
        self.known.iter().flat_map(|(traffic, slots)| traffic.bytes.iter().zip(slots))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Shared, *};
    use remora_model::{Amount, By, Rate, RateLimit, Traffic};
    use std::{future::poll_fn, time::Duration};

    fn limited(dry_run: bool) -> Rc<Current> {
        let rate = Rate { count: 1000, interval: Duration::from_secs(1), burst: 500 };
        let limit = RateLimit {
            name: "shop/p limit 0".into(),
            only: Default::default(),
            by: By::ClientAddress,
            of: Amount::Bytes,
            rate,
            overrides: Vec::new(),
            dry_run,
        };
        let current = Rc::<Current>::default();
        current.set(Shared::default().compile(80, &Traffic { limits: vec![limit], faults: Vec::new() }));
        current
    }

    fn peer(last: u8) -> Peer {
        Peer { identity: None, address: [10, 0, 0, last].into() }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_wait_for_their_rate_and_those_of_others_do_not() {
        let current = limited(false);
        let (mut one, mut other) = (Pacer::of(&current, &peer(1)), Pacer::of(&current, &peer(2)));
        let began = Instant::now();
        let mut sent = 0;
        while sent < 3500 {
            poll_fn(|cx| one.poll_room(cx)).await;
            let now = one.room().min(3500 - sent);
            one.spent(now);
            sent += now;
        }
        let took = began.elapsed().as_millis();
        assert!((3000..3020).contains(&took), "{took} ms for 3500 bytes, of which 500 go at once");
        assert_eq!((one.room(), other.room()), (0, 500));
        current.set(None);
        assert_eq!((one.room(), one.is_idle()), (usize::MAX, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_tried_out_holds_nothing_up() {
        let current = limited(true);
        let mut pacer = Pacer::of(&current, &peer(1));
        pacer.spent(5000);
        assert_eq!(pacer.room(), usize::MAX);
        poll_fn(|cx| pacer.poll_room(cx)).await;
    }
}
