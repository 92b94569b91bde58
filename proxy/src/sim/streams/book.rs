//! What both sides of the streams of a simulation said and how they ended, written down before they did it; and what follows of it.

use crate::sim::trace::Trace;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// By then a side knows that the other one has reset the stream, whether it reads or not, …
const TELL: Duration = Duration::from_secs(30);
/// … if the other one said more before than all buffers hold. What they hold it gets before it hears that nothing follows.
const BUFFERS_BYTES: usize = 2_000_000;

/// What became of a stream, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Both sides ended it in order, and all was read.
    Whole,
    /// The client ended it otherwise.
    Left,
    /// The application did not take it.
    Refused,
    /// A proxy's answer, with its reason.
    Told(String),
    Broken(&'static str),
}

/// What one side said.
#[derive(Debug, Default)]
struct Said {
    bytes: usize,
    /// The end in order was told, behind so many bytes.
    end: Option<usize>,
    /// It went away, or will not say all.
    gone: bool,
    reset: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Book {
    said: RefCell<BTreeMap<u64, Said>>,
    /// How often an application got each stream, and how often one took it.
    had: RefCell<BTreeMap<u64, (usize, usize)>>,
    outcomes: RefCell<BTreeMap<u64, Outcome>>,
    /// Streams whose client's connection broke.
    broken: RefCell<BTreeSet<u64>>,
}

impl Book {
    fn change(&self, message: u64, change: impl FnOnce(&mut Said)) {
        change(self.said.borrow_mut().entry(message).or_default());
    }

    fn known<T>(&self, message: u64, read: impl FnOnce(&Said) -> T) -> T {
        read(self.said.borrow_mut().entry(message).or_default())
    }

    /// So many bytes more are about to be written.
    pub(super) fn says(&self, message: u64, bytes: usize) {
        self.change(message, |said| said.bytes += bytes);
    }

    /// The end is about to be told in order.
    pub(super) fn ends(&self, message: u64) {
        self.change(message, |said| said.end = Some(said.bytes));
    }

    /// The side is about to go away with something unsaid or unread.
    pub(super) fn goes(&self, message: u64) {
        self.change(message, |said| said.gone = true);
    }

    /// The side is about to reset the stream.
    pub(super) fn resets(&self, message: u64) {
        self.change(message, |said| (said.gone, said.reset) = (true, Some(Instant::now())));
    }

    /// How many bytes were said.
    pub(super) fn bytes(&self, message: u64) -> usize {
        self.known(message, |said| said.bytes)
    }

    /// Whether its end was told in order.
    pub(super) fn has_ended(&self, message: u64) -> bool {
        self.known(message, |said| said.end.is_some())
    }

    /// Whether whoever said it went away.
    pub(super) fn is_gone(&self, message: u64) -> bool {
        self.known(message, |said| said.gone)
    }

    /// Its reader heard its end in order, after so many bytes.
    pub(super) fn heard(&self, trace: &Trace, message: u64, bytes: usize) {
        let end = self.known(message, |said| said.end);
        if end != Some(bytes) {
            trace.wrong(format_args!(
                "message {message} arrived as whole with {bytes} bytes; its end was told at {end:?}"
            ));
        }
    }

    /// How long ago it was reset, if by now its reader, who says `own`, has to know that. What both sides have ended in order is over.
    pub(super) fn untold(&self, message: u64, own: u64) -> Option<Duration> {
        let (ended, held) = self.known(message, |said| (said.end.is_some(), said.bytes <= BUFFERS_BYTES));
        let over = ended && self.known(own, |said| said.end.is_some());
        let reset = self.known(message, |said| said.reset).filter(|_| !over && (ended || !held));
        reset.map(|at| at.elapsed()).filter(|since| *since > TELL)
    }

    /// The connection of the stream's client broke, perhaps with something in it that its library had taken as said.
    pub(super) fn breaks(&self, id: u64) {
        self.broken.borrow_mut().insert(id);
    }

    pub(super) fn is_broken(&self, id: u64) -> bool {
        self.broken.borrow().contains(&id)
    }

    /// An application got a stream: for the how manieth time.
    pub(super) fn got(&self, id: u64) -> usize {
        let mut had = self.had.borrow_mut();
        let (times, _) = had.entry(id).or_default();
        *times += 1;
        *times - 1
    }

    /// It takes it.
    pub(super) fn takes(&self, id: u64) {
        self.had.borrow_mut().entry(id).or_default().1 += 1;
    }

    /// How often an application got it.
    pub(super) fn times(&self, id: u64) -> usize {
        self.had.borrow().get(&id).map_or(0, |(times, _)| *times)
    }

    /// How often it was taken.
    pub(super) fn taken(&self, id: u64) -> usize {
        self.had.borrow().get(&id).map_or(0, |(_, taken)| *taken)
    }

    /// What became of a stream: once.
    pub(super) fn outcome(&self, trace: &Trace, id: u64, outcome: Outcome) {
        trace.say(format_args!("client: stream {id}"), format_args!("{outcome:?}"));
        if self.outcomes.borrow_mut().insert(id, outcome).is_some() {
            trace.wrong(format_args!("stream {id} has two outcomes"));
        }
    }

    pub(super) fn outcome_of(&self, id: u64) -> Option<Outcome> {
        self.outcomes.borrow().get(&id).cloned()
    }
}
