//! What happened in a simulation, in words, with the virtual time of each: what a seed that fails prints, and what two runs of a
//! seed must have in common.

use std::{cell::RefCell, fmt, time::Duration};
use tokio::time::Instant;

pub(crate) struct Trace {
    began: Instant,
    /// Whether it is printed as it comes: a simulation may never end.
    shows: bool,
    lines: RefCell<Vec<String>>,
    /// What must not have happened.
    wrong: RefCell<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(shows: bool) -> Self {
        Self { began: Instant::now(), shows, lines: RefCell::default(), wrong: RefCell::default() }
    }

    /// How long it has lasted, in virtual time.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// `who` did something.
    pub(super) fn say(&self, who: impl fmt::Display, what: fmt::Arguments<'_>) {
        let ms = self.began.elapsed().as_millis();
        let line = format!("{ms:>8} {who}: {what}");
        if self.shows {
            println!("{line}");
        }
        self.lines.borrow_mut().push(line);
    }

    /// Something happened that must not happen.
    pub(super) fn wrong(&self, what: fmt::Arguments<'_>) {
        self.say("WRONG", what);
        self.wrong.borrow_mut().push(what.to_string());
    }

    /// All that happened, and what of it was wrong.
    pub(super) fn end(&self) -> (Vec<String>, Vec<String>) {
        (self.lines.take(), self.wrong.take())
    }
}
