//! The task of an HTTP/2 connection: reads and writes its frames, asks a peer whether it is still there, and takes the
//! connection out of use in time.

use super::{super::keep::Place, connection::Connection};
use crate::limits;
use bytes::Bytes;
use h2::{Ping, PingPong};
use remora_runtime::seldom::Seldom;
use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

/// Drives a connection to its end: that of its peer, or, once it is retired, that of its last stream.
pub(super) struct Driver<S> {
    connection: Rc<Connection>,
    h2: h2::client::Connection<Metered<S>, Bytes>,
    address: SocketAddr,
    /// Bytes that were read, and those at the last look at unread streams.
    read: Rc<Cell<u64>>,
    looked: u64,
    keep_alive: Option<KeepAlive>,
    retire: Option<Seldom<Sleep>>,
    /// Where the connection counts, until it has ended.
    place: Option<Place>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(
        connection: Rc<Connection>,
        h2: h2::client::Connection<Metered<S>, Bytes>,
        address: SocketAddr,
        read: Rc<Cell<u64>>,
    ) -> Self {
        Self { connection, h2, address, read, looked: 0, keep_alive: None, retire: None, place: None }
    }

    /// Asks the server at these times whether it is there while streams are open.
    pub(super) fn keep_alive(mut self, times: Option<(Duration, Duration)>) -> Self {
        let Some(times) = times else { return self };
        let read = self.read.clone();
        self.keep_alive = self.h2.ping_pong().map(|pings| KeepAlive::new(pings, times, read));
        self
    }

    /// The connection counts there.
    pub(super) fn in_place(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Retires it at this time.
    pub(super) fn retire_at(mut self, at: Option<Instant>) -> Self {
        self.retire = at.map(|at| Seldom::new(sleep_until(at)));
        self
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.connection.driven_by(cx.waker());
        if this.retire.as_mut().is_some_and(|retire| Pin::new(retire).poll(cx).is_ready()) {
            this.retire = None;
            this.connection.retire();
        }
        let done = Pin::new(&mut this.h2).poll(cx);
        // Judged by what has come: behind a pause of this process the answer may wait to be read.
        let busy = this.connection.open() > 0;
        if done.is_pending() && this.keep_alive.as_mut().is_some_and(|it| it.poll_lost(cx, busy).is_ready()) {
            remora_runtime::limited!(info, address = %this.address, "a peer answers no PING; its connection is given up");
            this.connection.timed_out.set(true);
            this.connection.retire();
            return Poll::Ready(()); // with it the streams are gone
        }
        this.connection.learn(this.h2.max_concurrent_send_streams());
        if this.read.get() - this.looked >= limits::UNREAD_SWEEP_BYTES {
            this.looked = this.read.get();
            this.connection.compact();
        }
        let result = ready!(done);
        this.connection.retire();
        if let Err(error) = result {
            tracing::debug!(address = %this.address, %error, "HTTP/2 connection upstream ended");
        }
        Poll::Ready(())
    }
}

/// Whether the peer is still there: a PING after each silence of `interval` while there are streams. A connection
/// without any costs no timer. On a slow link the answer stands behind an answer's bytes, or the PING behind those of an upload, whose peer says
/// that it takes them (WINDOW_UPDATE): whatever is read shows that the peer is there, and gives it `timeout` more.
struct KeepAlive {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    /// Bytes that were read from the peer.
    read: Rc<Cell<u64>>,
    state: State,
    timer: Option<Seldom<Sleep>>,
}

enum State {
    /// No request waits for the peer.
    Off,
    /// The next PING is due when the timer says so.
    Quiet,
    /// A PING is under way; its answer, or more bytes than had been read, are due when the timer says so.
    Asked { read: u64 },
}

impl KeepAlive {
    fn new(pings: PingPong, (interval, timeout): (Duration, Duration), read: Rc<Cell<u64>>) -> Self {
        Self { pings, interval, timeout, read, state: State::Off, timer: None }
    }

    /// Ready once the peer is lost.
    fn poll_lost(&mut self, cx: &mut Context<'_>, busy: bool) -> Poll<()> {
        loop {
            match self.state {
                State::Off if busy => self.arm(State::Quiet, self.interval),
                State::Off => return Poll::Pending,
                State::Quiet => {
                    ready!(self.poll_timer(cx));
                    if busy && self.pings.send_ping(Ping::opaque()).is_ok() {
                        self.arm(State::Asked { read: self.read.get() }, self.timeout);
                    } else {
                        self.state = State::Off;
                        return Poll::Pending;
                    }
                }
                State::Asked { read: before } => match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => self.arm(State::Quiet, self.interval),
                    // The connection has ended, which its own future tells.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => {
                        ready!(self.poll_timer(cx));
                        let read = self.read.get();
                        if read == before && !self.was_late() {
                            return Poll::Ready(());
                        }
                        self.arm(State::Asked { read }, self.timeout);
                    }
                },
            }
        }
    }

    /// Whether this process itself was not there when the timer ran out: it cannot tell whether the peer was.
    fn was_late(&mut self) -> bool {
        let due = self.timer.as_mut().map(|timer| timer.change().deadline());
        due.is_some_and(|due| due.elapsed() > limits::KEEP_ALIVE_LATE)
    }

    fn arm(&mut self, state: State, within: Duration) {
        self.state = state;
        match &mut self.timer {
            Some(timer) => timer.change().reset(Instant::now() + within),
            None => self.timer = Some(Seldom::new(sleep(within))),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().map_or(Poll::Pending, |timer| Pin::new(timer).poll(cx))
    }
}

/// A stream whose bytes are counted as they are read.
pub(super) struct Metered<S> {
    inner: S,
    read: Rc<Cell<u64>>,
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S, read: Rc<Cell<u64>>) -> Self {
        Self { inner, read }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.read.set(self.read.get() + (buf.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

crate::io::write_through!(Metered);
