//! One HTTP/2 connection as its users see it: how many streams it has, and how many it may have.

use super::queue::Queue;
use bytes::Bytes;
use h2::client::SendRequest;
use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

/// The limit that the library assumes before the peer has announced one. No peer can announce this one.
pub(super) const UNKNOWN: usize = usize::MAX - 1;

/// A connection. Its [`Driver`](super::driver::Driver) does the work.
pub(super) struct Connection {
    /// `None`: it takes no new streams.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// The credentials' generation that it was made under; 0 where the server is no peer.
    pub(super) generation: u64,
    /// Whether its streams have the windows of a first connection.
    pub(super) wide: bool,
    /// Streams whose windows fit into the connection's.
    own_limit: u32,
    /// Streams that may be opened before the peer has said how many.
    first_limit: u32,
    /// What the peer says, or [`UNKNOWN`].
    peer_limit: Cell<usize>,
    open: Cell<u32>,
    slots: RefCell<Slots>,
    /// Sweeps since a stream was last open.
    idle: Cell<u32>,
    /// A PING was not answered in time.
    pub(super) timed_out: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    queue: Rc<Queue>,
}

/// The streams by number; a place is free once both halves of its stream are done.
#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Slot {
    halves: u8,
    unread: Option<Weak<dyn Unread>>,
}

/// What came on a stream and was not read.
pub(super) trait Unread {
    /// Holds compactly what a reader who was not there since the last look has not read.
    fn compact(&self);
}

/// One half of a stream: its answer, or its request's body. Dropped, it is done.
pub(in crate::backend) struct Half {
    connection: Rc<Connection>,
    slot: u32,
}

impl Half {
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The other half of the same stream.
    pub(super) fn other(&self) -> Self {
        self.connection.slots.borrow_mut().slots[self.slot as usize].halves += 1;
        Self { connection: self.connection.clone(), slot: self.slot }
    }

    /// Where the stream's unread bytes are found.
    pub(super) fn watch(&self, unread: Weak<dyn Unread>) {
        self.connection.slots.borrow_mut().slots[self.slot as usize].unread = Some(unread);
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.connection.leave(self.slot);
    }
}

impl Connection {
    pub(super) fn new(
        sender: SendRequest<Bytes>,
        generation: u64,
        wide: bool,
        (own_limit, first_limit): (u32, u32),
        queue: Rc<Queue>,
    ) -> Rc<Self> {
        Rc::new(Self {
            sender: RefCell::new(Some(sender)),
            generation,
            wide,
            own_limit,
            first_limit,
            peer_limit: Cell::new(UNKNOWN),
            open: Cell::new(0),
            slots: RefCell::default(),
            idle: Cell::new(0),
            timed_out: Cell::new(false),
            driver: RefCell::new(None),
            queue,
        })
    }

    /// Streams that it may have at once.
    pub(super) fn limit(&self) -> u32 {
        let peer = match self.peer_limit.get() {
            UNKNOWN => self.first_limit,
            said => u32::try_from(said).unwrap_or(u32::MAX),
        };
        peer.min(self.own_limit)
    }

    /// Whether its server is a proxy of the mesh.
    pub(super) fn is_peers(&self) -> bool {
        self.generation > 0
    }

    /// Whether the peer has said how many streams it takes.
    pub(super) fn is_settled(&self) -> bool {
        self.peer_limit.get() != UNKNOWN
    }

    /// The peer's limit, from the driver. Requests that wait for a stream are woken if there are more of them now.
    pub(super) fn learn(&self, peer_limit: usize) {
        if self.peer_limit.get() == peer_limit {
            return;
        }
        self.peer_limit.set(peer_limit);
        self.queue.learned(self.limit());
        self.queue.wake(u32::MAX);
    }

    /// A place for one more stream, if there is one, and what opens it.
    pub(super) fn enter(self: &Rc<Self>) -> Option<(Half, SendRequest<Bytes>)> {
        if self.open.get() >= self.limit() {
            return None;
        }
        // The clone has no stream that waits to be opened, so that it is ready or broken.
        let mut sender = self.sender.borrow().clone()?;
        if !matches!(sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
            self.retire();
            return None;
        }
        let mut slots = self.slots.borrow_mut();
        let slot = match slots.free.pop() {
            Some(slot) => slot,
            None => {
                slots.slots.push(Slot::default());
                u32::try_from(slots.slots.len() - 1).ok()?
            }
        };
        slots.slots[slot as usize].halves = 1;
        drop(slots);
        self.open.set(self.open.get() + 1);
        self.idle.set(0);
        Some((Half { connection: self.clone(), slot }, sender))
    }

    fn leave(&self, slot: u32) {
        let mut slots = self.slots.borrow_mut();
        let at = &mut slots.slots[slot as usize];
        at.halves -= 1;
        if at.halves > 0 {
            return;
        }
        at.unread = None;
        slots.free.push(slot);
        drop(slots);
        self.open.set(self.open.get() - 1);
        if self.is_usable() {
            self.queue.wake(1);
        } else if self.open.get() == 0 {
            self.wake_driver();
        }
    }

    /// Streams under way.
    pub(super) fn open(&self) -> u32 {
        self.open.get()
    }

    /// Whether new streams may be opened on it, if there is room.
    pub(super) fn is_usable(&self) -> bool {
        self.sender.borrow().is_some()
    }

    /// Takes no new streams from now on; it ends once those under way have ended.
    pub(super) fn retire(&self) {
        if self.sender.take().is_some() {
            self.wake_driver();
            // Those who waited for a stream of it need another connection.
            self.queue.wake(u32::MAX);
        }
    }

    fn wake_driver(&self) {
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    /// Who is woken when it is retired.
    pub(super) fn driven_by(&self, driver: &Waker) {
        let mut known = self.driver.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(driver)) {
            *known = Some(driver.clone());
        }
    }

    /// One more sweep of the worker: for how many it had no stream.
    pub(super) fn age(&self) -> u32 {
        let idle = if self.open.get() > 0 { 0 } else { self.idle.get() + 1 };
        self.idle.set(idle);
        idle
    }

    /// For how many sweeps it had no stream; `None` while it has one.
    pub(super) fn idle(&self) -> Option<u32> {
        (self.open.get() == 0 && self.is_usable()).then(|| self.idle.get())
    }

    /// Holds compactly what readers that stand still have not read. Called once so many bytes came, see
    /// [`UNREAD_SWEEP_BYTES`](crate::limits::UNREAD_SWEEP_BYTES).
    pub(super) fn compact(&self) {
        let slots = self.slots.borrow();
        for slot in &slots.slots {
            if let Some(unread) = slot.unread.as_ref().and_then(Weak::upgrade) {
                unread.compact();
            }
        }
    }
}
