//! One record for each request and byte connection: what is noted of it while it is under way, and what is kept of it when it has ended.
//! Everything that people see of single requests (tap, access log, failures) is read from here.
//!
//! A [`Record`] is taken from a worker's [`Journal`] where something begins ([`Counters`](super::Counters)), goes with it through the layers, which
//! note tries, endpoint and bytes, and is written into the journal's rings by [`Begun`] when it ends. Nothing of it is allocated, locked, hashed
//! or formatted per request: records are used again, and the rings are read by others (`journal`).

mod entry;
mod head;
mod journal;
mod ring;

pub(crate) use entry::{Entry, Outcome, Span, Times};
#[cfg(test)]
pub(crate) use head::Told;
pub(crate) use journal::{Journal, Rings, Which};

use super::{Blame, RouteStats};
use entry::Fixed;
use head::Head;
use http::StatusCode;
use std::{cell::Cell, fmt, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};
use tokio::time::Instant;

/// What is noted of a request or byte connection that is under way.
pub(crate) struct Record {
    stats: Arc<RouteStats>,
    started: Instant,
    /// Refused before it had a route: such records do not take the room of others.
    refused: bool,
    tries: Cell<u8>,
    endpoint: Cell<Option<SocketAddr>>,
    /// When the last try was given to its endpoint, …
    picked: Cell<Option<Instant>>,
    /// … and when it was sent, if a connection had to be made first.
    sent: Cell<Option<Instant>>,
    /// Since when bytes of the answer wait for the client.
    waits: Cell<Option<Instant>>,
    /// How long they did before.
    waited: Cell<Duration>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    status: Cell<u16>,
    grpc: Cell<Option<u8>>,
    /// The span that is made of it.
    span: Cell<Option<Span>>,
    head: Head,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("tries", &self.tries).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Record {
    fn new(stats: Arc<RouteStats>, started: Instant) -> Self {
        Self {
            stats,
            started,
            refused: false,
            tries: Cell::new(0),
            endpoint: Cell::new(None),
            picked: Cell::new(None),
            sent: Cell::new(None),
            waits: Cell::new(None),
            waited: Cell::new(Duration::ZERO),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            status: Cell::new(0),
            grpc: Cell::new(None),
            span: Cell::new(None),
            head: Head::empty(),
        }
    }

    /// Begins, or begins anew for something else. The head is not touched: whoever calls this writes or clears it.
    fn reuse(&mut self, stats: Arc<RouteStats>, started: Instant) {
        self.stats = stats;
        self.started = started;
        self.refused = false;
        self.tries.set(0);
        self.endpoint.set(None);
        self.picked.set(None);
        self.sent.set(None);
        self.waits.set(None);
        self.waited.set(Duration::ZERO);
        self.bytes_in.set(0);
        self.bytes_out.set(0);
        self.status.set(0);
        self.grpc.set(None);
        self.span.set(None);
    }

    /// Of a byte connection that was begun for a test.
    #[cfg(test)]
    pub(crate) fn of_tests() -> Rc<Self> {
        use super::{Counters, Direction, Routes, Tls};
        let journal = Journal::new(&Routes::new("shop/web-1".into()));
        let counters = Counters::new(journal, Direction::Outbound, "shop/db:5432".into(), Vec::new());
        counters.bytes(&"".into(), Tls::Plain, Instant::now()).record().clone()
    }

    /// The number of the series that it is counted in.
    #[cfg(test)]
    pub(crate) fn series(&self) -> u32 {
        self.stats.id()
    }

    /// A try is given to this endpoint, `now`.
    pub(crate) fn tries(&self, endpoint: SocketAddr, now: Instant) {
        self.tries.set(self.tries.get().saturating_add(1));
        self.endpoint.set(Some(endpoint));
        self.picked.set(Some(now));
        self.sent.set(None);
    }

    /// It was connected between these two times, to an endpoint that is not told: a byte connection, whose record begins when it is
    /// connected.
    pub(crate) fn connected(&self, began: Instant, now: Instant) {
        self.picked.set(Some(began));
        self.sent.set(Some(now));
    }

    /// The try was sent at that time, when the connection that it had to wait for was there.
    pub(crate) fn sent(&self, at: Instant) {
        self.sent.set(Some(at));
    }

    /// It is sampled: this span is made of it.
    pub(crate) fn traced(&self, span: Span) {
        self.span.set(Some(span));
    }

    /// The span that is made of it.
    #[cfg(test)]
    pub(crate) fn span(&self) -> Option<Span> {
        self.span.get()
    }

    /// It is sent once more.
    pub(crate) fn retry(&self) {
        self.stats.retry();
    }

    /// A retry was due, and the budget was spent.
    pub(crate) fn retry_overflow(&self) {
        self.stats.retry_overflow();
    }

    /// Bytes that came from the client.
    pub(crate) fn bytes_in(&self, n: u64) {
        self.bytes_in.set(self.bytes_in.get().saturating_add(n));
        self.stats.bytes_in(n);
    }

    /// Bytes that went to the client.
    pub(crate) fn bytes_out(&self, n: u64) {
        self.bytes_out.set(self.bytes_out.get().saturating_add(n));
        self.stats.bytes_out(n);
    }

    /// The head of an answer came.
    pub(crate) fn answered(&self, status: StatusCode) {
        self.status.set(status.as_u16());
    }

    /// The gRPC status, where there is one.
    pub(crate) fn answered_grpc(&self, code: Option<u32>) {
        // gRPC has 17 of them; what is beyond a byte is none.
        self.grpc.set(code.and_then(|code| u8::try_from(code).ok()));
    }

    /// Bytes of the answer wait for the client from `now` on, unless they do already.
    pub(crate) fn waits(&self, now: Instant) {
        if self.waits.get().is_none() {
            self.waits.set(Some(now));
        }
    }

    /// The client has taken what there was.
    pub(crate) fn taken(&self) {
        if let Some(since) = self.waits.take() {
            self.waited.set(self.waited.get() + since.elapsed());
        }
    }

    /// It became bytes, or is a connection of bytes: such are counted while they are open.
    pub(crate) fn open(&self) -> Opened {
        self.stats.connection_opened();
        Opened(self.stats.clone())
    }

    fn times(&self, now: Instant) -> Times {
        let Some(picked) = self.picked.get() else {
            return Times { before: now.saturating_duration_since(self.started), ..Times::default() };
        };
        let (sent, connect) = match self.sent.get() {
            Some(sent) => (sent, sent.saturating_duration_since(picked)),
            None => (picked, Duration::ZERO),
        };
        let still = self.waits.get().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let answered = now.saturating_duration_since(sent);
        let after = (self.waited.get() + still).min(answered);
        Times { before: picked.saturating_duration_since(self.started), connect, server: answered - after, after }
    }

    fn fixed(&self, (now, since): (Instant, Duration), outcome: Outcome, why: Option<Blame>) -> Fixed {
        let times = self.times(now);
        Fixed {
            series: self.stats.id(),
            refused: self.refused,
            ended: since,
            latency: times.before + times.connect + times.server + times.after,
            times,
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            status: Some(self.status.get()).filter(|status| *status > 0),
            grpc: self.grpc.get(),
            outcome,
            why: why.map(|why| (why.reason, why.fault)),
            tries: self.tries.get(),
            endpoint: self.endpoint.get(),
            span: self.span.get(),
        }
    }
}

/// A connection of bytes that is open. Dropped, it is counted as closed.
#[derive(Debug)]
pub(crate) struct Opened(Arc<RouteStats>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

/// What was begun and must end: in one of four ways, once. Dropped before, its client cancelled it.
#[derive(Debug)]
pub(crate) struct Begun {
    record: Rc<Record>,
    journal: Rc<Journal>,
    done: bool,
}

impl Begun {
    fn new(record: Rc<Record>, journal: Rc<Journal>) -> Self {
        record.stats.request();
        Self { record, journal, done: false }
    }

    /// What is noted of it meanwhile.
    pub(crate) fn record(&self) -> &Rc<Record> {
        &self.record
    }

    /// Whether it has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// It was answered by the application, below 500 (a 4xx is the client's doing), or ended in order.
    pub(crate) fn success(&mut self, now: Instant) {
        self.end(now, Outcome::Success, None);
    }

    /// The application answered that it failed: a 5xx, or a gRPC status that means the same.
    pub(crate) fn server_error(&mut self, now: Instant) {
        self.end(now, Outcome::ServerError, None);
    }

    /// The mesh could not serve it.
    pub(crate) fn failure(&mut self, why: impl Into<Blame>, now: Instant) {
        self.end(now, Outcome::Failure, Some(why.into()));
    }

    fn end(&mut self, now: Instant, outcome: Outcome, why: Option<Blame>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let stats = &self.record.stats;
        let fixed = self.record.fixed((now, self.journal.since(now)), outcome, why);
        match (outcome, why) {
            (Outcome::Success, _) => stats.success(fixed.latency),
            (Outcome::ServerError, _) => stats.server_error(fixed.latency),
            (Outcome::Failure, Some(why)) => stats.failure(why, fixed.latency),
            (Outcome::Failure, None) | (Outcome::Cancelled, _) => stats.cancelled(),
        }
        stats.spend(&fixed.times);
        self.journal.write(&self.record, &fixed);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.done {
            self.end(Instant::now(), Outcome::Cancelled, None);
        }
        self.journal.give_back(&mut self.record);
    }
}

#[cfg(test)]
mod tests;
