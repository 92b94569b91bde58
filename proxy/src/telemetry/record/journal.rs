//! A worker's journal: the records that it uses again and again, and the rings that it writes them into.
//!
//! Four rings: the last of all; failures, and the slowest, of both of which so many a second are kept and no more, so that they reach further
//! back than the first; and those that spans are made of, so that none is lost among others. What was refused before it had a route is kept among the failures alone: a stranger's requests must not push
//! out those of others.

use super::{
    Begun, Record,
    entry::{Entry, Fixed, Outcome},
    ring::{Ring, WORDS, Writer},
};
use crate::{
    limits,
    telemetry::{RouteStats, Routes},
};
use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(crate) struct Journal {
    routes: Arc<Routes>,
    spare: RefCell<Vec<Rc<Record>>>,
    recent: Writer,
    failed: Kept,
    slow: Kept,
    traced: Writer,
}

/// The rings of one worker, to be read.
#[derive(Debug)]
pub(crate) struct Rings {
    recent: Arc<Ring>,
    failed: Arc<Ring>,
    slow: Arc<Ring>,
    traced: Arc<Ring>,
}

/// Which ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The last of all, but for what was refused.
    Recent,
    /// Failures.
    Failed,
    /// The slowest of their route.
    Slow,
    /// Those that a span is made of.
    Traced,
}

/// A ring of which so many a second are written.
#[derive(Debug)]
struct Kept {
    writer: Writer,
    most: u32,
    second: Cell<u64>,
    written: Cell<u32>,
}

impl Journal {
    /// A worker's, whose rings `routes` lets others read.
    pub(crate) fn new(routes: &Arc<Routes>) -> Rc<Self> {
        let (recent, recent_writer) = Ring::new(limits::RECORD_CHUNKS_RECENT);
        let (failed, failed_writer) = Ring::new(limits::RECORD_CHUNKS_KEPT);
        let (slow, slow_writer) = Ring::new(limits::RECORD_CHUNKS_KEPT);
        let (traced, traced_writer) = Ring::new(limits::RECORD_CHUNKS_TRACED);
        routes.add(Arc::new(Rings { recent, failed, slow, traced }));
        Rc::new(Self {
            routes: routes.clone(),
            spare: RefCell::default(),
            recent: recent_writer,
            failed: Kept::new(failed_writer, limits::FAILURES_KEPT_A_SECOND),
            slow: Kept::new(slow_writer, limits::SLOW_KEPT_A_SECOND),
            traced: traced_writer,
        })
    }

    /// The registry of what is counted.
    pub(crate) fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// A request begins, whose head this is.
    pub(in crate::telemetry) fn request<B>(
        self: &Rc<Self>,
        stats: Arc<RouteStats>,
        request: &http::Request<B>,
        started: Instant,
    ) -> Begun {
        self.begin(stats, started, |record| record.head.write(request))
    }

    /// The same of one that is refused before it had a route.
    pub(in crate::telemetry) fn refused<B>(
        self: &Rc<Self>,
        stats: Arc<RouteStats>,
        (request, peer): (Option<&http::Request<B>>, &str),
        started: Instant,
    ) -> Begun {
        self.begin(stats, started, |record| {
            record.refused = true;
            match request {
                Some(request) => record.head.write_refused(request, peer),
                None => {
                    record.head.clear();
                    record.head.note_peer(peer);
                }
            }
        })
    }

    /// A byte connection begins.
    pub(in crate::telemetry) fn bytes(self: &Rc<Self>, stats: Arc<RouteStats>, started: Instant) -> Begun {
        self.begin(stats, started, |record| record.head.clear())
    }

    fn begin(self: &Rc<Self>, stats: Arc<RouteStats>, started: Instant, head: impl FnOnce(&mut Record)) -> Begun {
        let spare = self.spare.borrow_mut().pop();
        let mut record = spare.unwrap_or_else(|| Rc::new(Record::new(stats.clone(), started)));
        // Nobody else holds it: it is new, or was given back by the last who did.
        if let Some(record) = Rc::get_mut(&mut record) {
            record.reuse(stats, started);
            head(record);
        }
        Begun::new(record, self.clone())
    }

    /// Keeps the record for another request, if nobody else holds it still (a client that goes on sending its body).
    pub(super) fn give_back(&self, record: &mut Rc<Record>) {
        let mut spare = self.spare.borrow_mut();
        if Rc::strong_count(record) == 1 && spare.len() < limits::SPARE_RECORDS_MAX {
            spare.push(record.clone());
        }
    }

    /// The time since the registry was made.
    pub(super) fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.routes.started())
    }

    /// Keeps a record that ended.
    pub(super) fn write(&self, record: &Record, fixed: &Fixed) {
        let head = record.head.len();
        match fixed.span {
            None => self.keep(record, fixed, &fixed.words(head)),
            Some(span) => {
                let words = fixed.traced(span, head);
                self.traced.push(&words, record.head.eights());
                self.keep(record, fixed, &words);
            }
        }
    }

    fn keep<const N: usize>(&self, record: &Record, fixed: &Fixed, words: &[u64; N]) {
        let failed = matches!(fixed.outcome, Outcome::Failure | Outcome::ServerError);
        let head = record.head.eights();
        if !record.refused {
            self.recent.push(words, head);
        }
        if failed {
            self.failed.push(fixed.ended, words, head);
        } else if record.stats.is_slow(fixed.latency) {
            self.slow.push(fixed.ended, words, head);
        }
    }
}

impl Kept {
    fn new(writer: Writer, most: u32) -> Self {
        Self { writer, most, second: Cell::new(0), written: Cell::new(0) }
    }

    fn push<const N: usize>(&self, ended: Duration, words: &[u64; N], head: &[[u8; 8]]) {
        if self.second.replace(ended.as_secs()) != ended.as_secs() {
            self.written.set(0);
        }
        if self.written.get() < self.most {
            self.written.set(self.written.get() + 1);
            self.writer.push(words, head);
        }
    }
}

impl Rings {
    fn ring(&self, which: Which) -> &Ring {
        match which {
            Which::Recent => &self.recent,
            Which::Failed => &self.failed,
            Which::Slow => &self.slow,
            Which::Traced => &self.traced,
        }
    }

    /// How many records were written into it.
    pub(crate) fn written(&self, which: Which) -> u64 {
        self.ring(which).written()
    }

    /// The records from the number `from` on that are still there, the latest first.
    pub(crate) fn since(&self, which: Which, from: u64) -> impl Iterator<Item = Entry> {
        self.between(which, from..self.written(which))
    }

    /// The same of the records of these numbers.
    pub(crate) fn between(&self, which: Which, numbers: Range<u64>) -> impl Iterator<Item = Entry> {
        let ring = self.ring(which);
        let first = numbers.start.max(numbers.end.saturating_sub(ring.capacity()));
        (first..numbers.end).rev().filter_map(|number| {
            let mut words = [0; WORDS];
            ring.read(number, &mut words).then(|| Entry::of(&words))
        })
    }
}
