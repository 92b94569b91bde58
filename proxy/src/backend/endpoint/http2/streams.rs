//! The connections to one address, and who waits for a stream on them.

use super::{
    super::keep::{Keep, Place},
    connection::{Connection, Half, UNKNOWN},
    driver::{Driver, Metered},
    queue::{Queue, Waiting},
};
use crate::{limits, tasks::Tasks, telemetry::Reason};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use std::{
    cell::{Cell, RefCell},
    fmt,
    net::SocketAddr,
    rc::{Rc, Weak},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};

/// How a connection is made. What it must not do is in the hands of who implements it: prove a permit, check a peer.
pub(in crate::backend) trait Dial: Clone + 'static {
    /// The credentials' generation of this moment; 0 where none are shown.
    fn generation(&self) -> u64;

    /// A new connection, spawned and ready for requests. An error was logged.
    fn dial(&self, streams: &Rc<Streams>, generation: u64) -> impl Future<Output = Result<(), Reason>>;

    /// Whose tasks the connections are.
    fn runs_on(&self) -> &Tasks;
}

/// What a server is assumed to be before it has announced its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Kind {
    /// A proxy of ours: it takes [`limits::MESH_STREAMS_MAX`] streams, and PINGs.
    Mesh,
    /// An application: it may take one.
    Other,
}

/// All HTTP/2 connections to one address, for all callers that may share them.
pub(in crate::backend) struct Streams {
    kind: Kind,
    keep: Keep,
    connections: RefCell<Vec<Rc<Connection>>>,
    /// How many are being made.
    making: Cell<u32>,
    queue: Rc<Queue>,
    /// How often making one failed, and why at last.
    failures: Cell<(u64, Reason)>,
    /// Whether a successor of connections with older credentials is under way.
    renewing: Cell<bool>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("connections", &self.connections.borrow().len()).finish_non_exhaustive()
    }
}

impl Drop for Streams {
    /// No caller sends any more: the connections end with the streams under way.
    fn drop(&mut self) {
        self.retire();
    }
}

impl Streams {
    pub(in crate::backend) fn new(kind: Kind, keep: Keep) -> Rc<Self> {
        Rc::new(Self {
            kind,
            keep,
            connections: RefCell::default(),
            making: Cell::new(0),
            queue: Rc::new(Queue::new()),
            failures: Cell::new((0, Reason::Internal)),
            renewing: Cell::new(false),
        })
    }

    /// A stream on a connection that is there, if one has room and no other request waits for it.
    pub(in crate::backend) fn ready<D: Dial>(
        self: &Rc<Self>,
        generation: u64,
        dial: impl FnOnce() -> D,
    ) -> Option<(Half, SendRequest<Bytes>)> {
        if self.queue.waiting() > 0 { None } else { self.open(generation, dial) }
    }

    /// A stream on a connection that is there, if one has room. If it was made with credentials of another `generation`
    /// than this moment's, its successor is made beside it.
    fn open<D: Dial>(self: &Rc<Self>, generation: u64, dial: impl FnOnce() -> D) -> Option<(Half, SendRequest<Bytes>)> {
        let entered = self.connections.borrow().iter().find_map(Connection::enter)?;
        if entered.0.connection().generation != generation && !self.renewing.replace(true) {
            let dial = dial();
            dial.runs_on().clone().spawn(renew(Rc::downgrade(self), dial));
        }
        Some(entered)
    }

    /// Whether a request would have to wait for a connection.
    pub(in crate::backend) fn is_away(&self) -> bool {
        !self.connections.borrow().iter().any(|connection| connection.is_usable())
    }

    /// A stream, on a new connection if need be. Waits for [`limits::STREAM_WAIT`] at most where the peer has said how
    /// many streams it takes; cancel safe.
    pub(in crate::backend) async fn enter<D: Dial>(
        self: &Rc<Self>,
        dial: &D,
    ) -> Result<(Half, SendRequest<Bytes>), Reason> {
        let Some(_waiting) = Waiting::new(&self.queue) else { return Err(self.full("too many requests wait")) };
        let (failures, _) = self.failures.get();
        let began = Instant::now();
        // A request that waits for the first connection does not wait for a stream.
        let crowded = !self.connections.borrow().is_empty();
        // Who came before has the first stream that is free.
        let mut behind = crowded && self.queue.waiting() > 1;
        loop {
            let mut notified = std::pin::pin!(self.queue.notified());
            notified.as_mut().enable();
            if !std::mem::take(&mut behind)
                && let Some(entered) = self.open(dial.generation(), || dial.clone())
            {
                // Where there was room for one, there may be for another who waits.
                if self.queue.waiting() > 1 {
                    self.queue.wake(1);
                }
                if crowded {
                    metrics::counter!("remora_stream_waits_total", "outcome" => "served").increment(1);
                }
                return Ok(entered);
            }
            self.connections.borrow_mut().retain(|connection| connection.is_usable());
            match self.failures.get() {
                // Where there are connections, one that could not be made is no news of the peer.
                (now, reason) if now != failures && self.connections.borrow().is_empty() => return Err(reason),
                (now, _) if now != failures => {}
                _ => self.make(dial),
            }
            // The time to connect is bounded by who connects.
            if self.connections.borrow().is_empty() {
                notified.await;
            } else if timeout_at(began + limits::STREAM_WAIT, notified).await.is_err() {
                return Err(self.full("the peer takes no more streams"));
            }
        }
    }

    /// Makes as many connections as those who wait need, within bounds.
    fn make<D: Dial>(self: &Rc<Self>, dial: &D) {
        let connections = self.connections.borrow();
        // What is not settled may yet have room for as many as the others have.
        let unsettled = connections.iter().filter(|connection| !connection.is_settled()).count();
        let coming = (self.making.get() as usize + unsettled).saturating_mul(self.queue.limit() as usize);
        let all = connections.len() + self.making.get() as usize;
        drop(connections);
        if coming < self.queue.waiting() as usize
            && all < limits::CONNECTIONS_PER_ADDRESS_MAX
            && self.making.get() < limits::CONNECTING_MAX
        {
            self.making.set(self.making.get() + 1);
            dial.runs_on().spawn(make(Rc::downgrade(self), dial.clone()));
        }
    }

    fn full(&self, why: &'static str) -> Reason {
        metrics::counter!("remora_stream_waits_total", "outcome" => "queue_full").increment(1);
        remora_runtime::limited!(
            warn,
            reason = Reason::QueueFull.as_str(),
            connections = self.connections.borrow().len(),
            streams = self.connections.borrow().iter().map(|connection| connection.open()).sum::<u32>(),
            why,
            "a request finds no HTTP/2 stream"
        );
        Reason::QueueFull
    }

    /// Puts a connection to use: `io` is connected, and its peer proven where there is one to prove.
    pub(in crate::backend) async fn add<S>(
        self: &Rc<Self>,
        (io, address, place): (S, SocketAddr, Place),
        generation: u64,
        retire: Option<Instant>,
        tasks: &Tasks,
    ) -> Result<(), h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        // New requests go to the first that has room: the one whose windows are wide.
        let wide = !self.connections.borrow().iter().any(|known| known.wide && known.generation == generation);
        let (own, window) = limits::stream_share(wide);
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(UNKNOWN)
            .initial_window_size(window)
            .initial_connection_window_size(limits::connection_window(own, window))
            .max_header_list_size(limits::ANSWER_LIST_BYTES_MAX as u32)
            .max_send_buffer_size(limits::SEND_BUFFER_BYTES)
            .data_frame_budget(limits::DATA_FRAME_BUDGET_BYTES);
        let read = Rc::new(Cell::new(0));
        let (sender, h2) = builder.handshake::<_, Bytes>(Metered::new(io, read.clone())).await?;
        let first = if self.kind == Kind::Mesh { own } else { 1 };
        let connection = Connection::new(sender, generation, wide, (own, first), self.queue.clone());
        let driver = Driver::new(connection.clone(), h2, address, read).retire_at(retire).keep_alive(self.keep.pings);
        if self.kind == Kind::Mesh {
            self.queue.learned(own);
        }
        tasks.spawn(driver.in_place(place));
        let mut connections = self.connections.borrow_mut();
        let at = if wide { 0 } else { connections.len() };
        connections.insert(at, connection);
        Ok(())
    }

    /// Takes all connections out of use; streams under way end in their own time.
    pub(in crate::backend) fn retire(&self) {
        self.connections.take().iter().for_each(|connection| connection.retire());
    }

    /// One more look of the worker at what idles: connections that had no stream for as many of them as they are kept, or for any, are
    /// closed. Returns how many are open.
    pub(in crate::backend) fn sweep(&self, any: bool) -> usize {
        let sweeps = if any { 0 } else { self.keep.sweeps };
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| {
            if connection.age() > sweeps {
                connection.retire();
            }
            connection.is_usable()
        });
        connections.len()
    }

    /// For how many sweeps none of it was used; `None` if some of it is in use, or there is nothing.
    pub(in crate::backend) fn idle(&self) -> Option<u32> {
        let connections = self.connections.borrow();
        connections.iter().map(|connection| connection.idle()).min().flatten()
    }

    /// Connections that take requests.
    pub(in crate::backend) fn len(&self) -> usize {
        self.connections.borrow().len()
    }
}

/// Makes one connection, in a task of its own, so that a caller who gives up takes nothing from the others who wait.
async fn make<D: Dial>(streams: Weak<Streams>, dial: D) {
    let Some(streams) = streams.upgrade() else { return };
    let made = dial.dial(&streams, dial.generation()).await;
    streams.making.set(streams.making.get() - 1);
    if let Err(reason) = made {
        streams.failures.set((streams.failures.get().0 + 1, reason));
    }
    // All look: those for whom it has no room may want another.
    streams.queue.wake(u32::MAX);
}

/// Makes a connection with the credentials of now beside those with older ones, which are good for a while yet, and
/// retires these once it is ready. One in a while, since all peers' are due at the same moment.
async fn renew<D: Dial>(streams: Weak<Streams>, dial: D) {
    let mut wait = limits::RENEWAL_SPREAD.mul_f64(fastrand::f64());
    loop {
        tokio::time::sleep(wait).await;
        let Some(streams) = streams.upgrade() else { return };
        let generation = dial.generation();
        let made = if streams.is_away() { Ok(()) } else { dial.dial(&streams, generation).await };
        match made {
            Ok(()) => {
                streams.retire_older(generation);
                streams.renewing.set(false);
                return;
            }
            // Another workload has the address now: streams under way to the previous one may finish.
            Err(Reason::IdentityMismatch) => {
                streams.retire_older(generation);
                streams.renewing.set(false);
                return;
            }
            Err(reason) => {
                tracing::debug!(reason = reason.as_str(), "no connection with new credentials yet");
                wait = limits::RENEWAL_SPREAD.max(Duration::from_secs(1));
            }
        }
    }
}

impl Streams {
    fn retire_older(&self, generation: u64) {
        self.connections.borrow_mut().retain(|connection| {
            if connection.generation != generation {
                connection.retire();
            }
            connection.is_usable()
        });
    }
}
