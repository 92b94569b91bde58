//! Fair turns of TLS handshakes, which cost a worker 0.3 ms each, and an attacker next to nothing.
//!
//! In: a peer that begins a handshake. Out: a [`Place`] among the peer's handshakes that are under way; and [`Turns`], by which
//! handshakes take no more than [`limits::HANDSHAKE_TURN`] before other connections are served, outbound
//! and inbound handshakes separately. Bound: [`limits::HANDSHAKES_PER_PEER_MAX`]; a handshake beyond it waits behind others of the
//! same peer, as long as its caller waits.

use crate::{account::Peer, io::pace, limits};
use remora_runtime::seldom::Seldom;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// The handshakes of one worker.
#[derive(Debug)]
pub(crate) struct Gate {
    peers: RefCell<Peers>,
    /// Of handshakes that others begin, …
    inbound: Turn,
    /// … and of those that this pod begins, which do not wait for the former.
    outbound: Turn,
}

#[derive(Debug, Default)]
struct Peers {
    places: HashMap<Peer, Weak<Semaphore>>,
    /// At so many it is looked who is gone.
    sweep_at: usize,
}

/// A place among the handshakes under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _of_peer: OwnedSemaphorePermit,
}

/// Who has it may take steps, until they have taken `most` since others were looked at.
#[derive(Debug, Clone)]
struct Turn {
    free: Arc<Semaphore>,
    taken: Rc<Cell<Duration>>,
    most: Duration,
}

impl Turn {
    fn new(most: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(1)), taken: Rc::default(), most }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(limits::HANDSHAKE_TURN)
    }
}

impl Gate {
    /// One whose handshakes take so much of the worker at most, and one step.
    fn new(most: Duration) -> Self {
        Self { peers: RefCell::default(), inbound: Turn::new(most), outbound: Turn::new(most) }
    }

    /// Waits for a place, in order of arrival among those of `peer`. Cancel safe: the wait is given up. `None`: the worker
    /// is ending.
    pub(crate) async fn enter(&self, peer: Peer) -> Option<Place> {
        let own = self.places_of(peer);
        Some(Place { _of_peer: own.acquire_owned().await.ok()? })
    }

    fn places_of(&self, peer: Peer) -> Arc<Semaphore> {
        let Peers { places, sweep_at } = &mut *self.peers.borrow_mut();
        if let Some(own) = places.get(&peer).and_then(Weak::upgrade) {
            return own;
        }
        if places.len() >= *sweep_at {
            places.retain(|_, own| own.strong_count() > 0);
            *sweep_at = (2 * places.len()).max(SWEEP_MIN);
        }
        let own = Arc::new(Semaphore::new(limits::HANDSHAKES_PER_PEER_MAX));
        places.insert(peer, Arc::downgrade(&own));
        own
    }

    /// Runs a handshake that was begun elsewhere, in turns. Cancel safe if the handshake is.
    pub(crate) fn inbound<F: Future>(&self, handshake: F) -> Turns<F> {
        Turns { handshake: Seldom::new(handshake), turn: self.inbound.clone(), asking: None }
    }

    /// A handshake that this pod begins, in turns. Cancel safe as it is itself.
    pub(crate) fn outbound<F: Future>(&self, handshake: F) -> Turns<F> {
        Turns { handshake: Seldom::new(handshake), turn: self.outbound.clone(), asking: None }
    }
}

/// Peers that are remembered before it is looked whether they are gone.
const SWEEP_MIN: usize = 64;

type Asking = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>>>>;

/// See [`Gate::inbound`].
pub(crate) struct Turns<F> {
    handshake: Seldom<F>,
    turn: Turn,
    asking: Option<Asking>,
}

/// A turn that was used up: the next one's begins when all other tasks have been polled.
struct Used(Mutex<Option<OwnedSemaphorePermit>>);

impl Wake for Used {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl<F: fmt::Debug> fmt::Debug for Turns<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("handshake", &self.handshake).finish_non_exhaustive()
    }
}

impl<F: Future> Future for Turns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if !this.handshake.has_rung() {
            // It has nothing to do; this registers who is to be woken.
            return Pin::new(&mut this.handshake).poll(cx);
        }
        let Turn { free, taken, most } = &this.turn;
        let asking = this.asking.get_or_insert_with(|| {
            let free = free.clone();
            Box::pin(async move { free.acquire_owned().await.ok() })
        });
        let permit = ready!(asking.as_mut().poll(cx));
        this.asking = None;
        let began = Instant::now();
        let polled = Pin::new(&mut this.handshake).poll(cx);
        taken.set(taken.get() + began.elapsed());
        if taken.get() >= *most {
            taken.set(Duration::ZERO);
            let used = Waker::from(Arc::new(Used(Mutex::new(permit))));
            pace::after_others(&mut Context::from_waker(&used));
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt as _, poll};

    fn peer(last: u8) -> Peer {
        Peer::at([10, 0, 0, last].into())
    }

    #[tokio::test]
    async fn a_peer_that_leaves_its_handshakes_undone_keeps_nobody_else_out() {
        let gate = Gate::default();
        let mut silent = Vec::new();
        while let Some(place) = gate.enter(peer(1)).now_or_never().flatten() {
            silent.push(place);
        }
        assert_eq!(silent.len(), limits::HANDSHAKES_PER_PEER_MAX);
        let mut next = std::pin::pin!(gate.enter(peer(1)));
        assert!(poll!(next.as_mut()).is_pending());
        assert!(gate.enter(peer(2)).now_or_never().flatten().is_some());
        drop(silent.pop());
        assert!(poll!(next.as_mut()).is_ready(), "who waits is let in when one of its own ends");
    }

    #[tokio::test]
    async fn peers_that_are_silent_take_no_place_of_others_and_are_forgotten() {
        let gate = Gate::default();
        let at = |number: u32| Peer::at(std::net::Ipv4Addr::from(number).into());
        // Not bounded by what one task may do at a time.
        let enter = |number| tokio::task::unconstrained(gate.enter(at(number))).now_or_never().flatten();
        let silent = (0..1000).flat_map(|number| (0..limits::HANDSHAKES_PER_PEER_MAX).map(move |_| number));
        let places = silent.map_while(enter).collect::<Vec<_>>();
        assert_eq!(places.len(), 1000 * limits::HANDSHAKES_PER_PEER_MAX);
        assert!(enter(1000).is_some(), "another peer");
        drop(places);
        (0..10_000).for_each(|number| drop(enter(number)));
        assert!(gate.peers.borrow().places.len() <= 2000, "{}", gate.peers.borrow().places.len());
    }

    /// A step at each poll, as if its bytes were there already.
    async fn handshake(steps: u32, taken: Rc<Cell<u32>>) {
        for _ in 0..steps {
            taken.set(taken.get() + 1);
            let mut first = true;
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::take(&mut first) { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        }
    }

    #[tokio::test]
    async fn between_two_looks_at_other_connections_handshakes_take_their_turn_and_one_step() {
        const HANDSHAKES: u32 = 50;
        let (gate, taken, ended) = (Gate::new(Duration::ZERO), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        tokio::task::LocalSet::new()
            .run_until(async {
                for _ in 0..HANDSHAKES {
                    let (one, ended) = (gate.inbound(handshake(3, taken.clone())), ended.clone());
                    tokio::task::spawn_local(async move {
                        one.await;
                        ended.set(ended.get() + 1);
                    });
                }
                let (mut before, mut most) = (0, 0);
                while ended.get() < HANDSHAKES {
                    tokio::task::yield_now().await;
                    most = most.max(taken.get() - before);
                    before = taken.get();
                }
                assert!(most <= 1, "{most} steps in one round");
            })
            .await;
    }
    #[tokio::test]
    async fn handshakes_that_take_less_than_their_turn_do_not_wait_for_each_other_and_the_pods_own_for_nobody() {
        const HANDSHAKES: u32 = 50;
        let (gate, taken) = (Gate::new(Duration::from_secs(3600)), Rc::new(Cell::new(0)));
        let mut all: Vec<_> = (0..HANDSHAKES).map(|_| gate.inbound(handshake(1, taken.clone()))).collect();
        for one in &mut all {
            assert!(poll!(one).is_pending());
        }
        assert_eq!(taken.get(), HANDSHAKES, "all in one round");
        let gate = Gate::new(Duration::ZERO);
        assert!(poll!(&mut gate.inbound(handshake(1, taken.clone()))).is_pending(), "it has used up its turn");
        assert!(poll!(&mut gate.inbound(handshake(1, taken.clone()))).is_pending());
        assert_eq!(taken.get(), HANDSHAKES + 1, "the next waits");
        assert!(poll!(&mut gate.outbound(handshake(1, taken.clone()))).is_pending());
        assert_eq!(taken.get(), HANDSHAKES + 2, "one that the pod begins does not");
    }
}
