//! What both ends of a simulation did, and what follows that the proxies between them must not have done.
//!
//! The ends write down what they told before they tell it; so whoever sees an end that is not in the book yet has seen what nobody
//! said.

use super::{plan::Ask, trace::Trace};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

/// What became of a request, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The application's answer, to its end: which execution's.
    Answered { status: u16, execution: usize },
    /// A proxy's answer, with its reason.
    Told { status: u16, reason: String },
    /// No answer, or no end of one.
    Broken(&'static str),
    /// The client did not wait for it.
    GaveUp,
}

/// One time that an application got a request.
#[derive(Debug, Default)]
pub(super) struct Execution {
    pub mirror: bool,
    /// It was refused before anything was done.
    pub refused: bool,
    /// How long the answer's body was when its end was told.
    pub told: Option<usize>,
}

#[derive(Default)]
pub(super) struct Ledger {
    /// Requests whose bodies' end was told.
    uploaded: RefCell<BTreeMap<u64, usize>>,
    executions: RefCell<BTreeMap<u64, Vec<Execution>>>,
    outcomes: RefCell<BTreeMap<u64, Outcome>>,
    /// Requests whose head was written.
    pub asked: Cell<u64>,
}

/// A byte of a message.
fn byte(message: u64, at: usize) -> u8 {
    (message as usize * 31 + at + (at >> 8) * 7) as u8
}

/// A piece of a message's body.
pub(super) fn piece(message: u64, from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|at| byte(message, at)).collect()
}

/// The name of the answer of an execution.
pub(super) fn answer(id: u64, execution: usize) -> u64 {
    id * 64 + execution as u64 + 1
}

/// A body as it arrives.
pub(super) struct Arriving {
    message: u64,
    pub bytes: usize,
    pub same: bool,
}

impl Arriving {
    pub(super) fn of(message: u64) -> Self {
        Self { message, bytes: 0, same: true }
    }

    pub(super) fn take(&mut self, piece: &[u8]) {
        self.same &= piece.iter().enumerate().all(|(at, it)| *it == byte(self.message, self.bytes + at));
        self.bytes += piece.len();
    }
}

impl Ledger {
    /// The client is about to tell the end of its body.
    pub(super) fn uploaded(&self, ask: &Ask, bytes: usize) {
        self.uploaded.borrow_mut().insert(ask.id, bytes);
    }

    /// An application has the request's head: the number of the execution.
    pub(super) fn execute(&self, id: u64, mirror: bool) -> usize {
        let mut executions = self.executions.borrow_mut();
        let all = executions.entry(id).or_default();
        all.push(Execution { mirror, ..Execution::default() });
        all.len() - 1
    }

    pub(super) fn refused(&self, id: u64, execution: usize) {
        self.executions.borrow_mut().entry(id).or_default()[execution].refused = true;
    }

    /// The application is about to tell the end of its answer.
    pub(super) fn answered(&self, id: u64, execution: usize, bytes: usize) {
        self.executions.borrow_mut().entry(id).or_default()[execution].told = Some(bytes);
    }

    /// The application got a request's body; `whole`: its end was told.
    pub(super) fn received(&self, trace: &Trace, ask: &Ask, body: &Arriving, whole: bool) {
        let id = ask.id;
        if !body.same || body.bytes > ask.body {
            trace.wrong(format_args!("the body of request {id} arrived as another one"));
        }
        let told = self.uploaded.borrow().get(&id).copied();
        if whole && told != Some(body.bytes) {
            let got = body.bytes;
            trace.wrong(format_args!("request {id} arrived as whole with {got} bytes; its client told {told:?}"));
        }
    }

    /// The client got an answer's body to its end.
    pub(super) fn whole(&self, trace: &Trace, id: u64, execution: usize, body: &Arriving) {
        let executions = self.executions.borrow();
        let Some(known) = executions.get(&id).and_then(|all| all.get(execution)) else {
            return trace.wrong(format_args!("request {id} was answered by an execution {execution} that never was"));
        };
        if known.mirror {
            trace.wrong(format_args!("request {id} got the answer of its copy"));
        }
        if !body.same || known.told != Some(body.bytes) {
            let (got, same, told) = (body.bytes, body.same, known.told);
            trace.wrong(format_args!(
                "the answer to request {id} arrived as whole with {got} bytes (as sent: {same}); execution {execution} told {told:?}"
            ));
        }
    }

    /// What became of a request: once.
    pub(super) fn outcome(&self, trace: &Trace, id: u64, outcome: Outcome) {
        trace.say(format_args!("client: request {id}"), format_args!("{outcome:?}"));
        if self.outcomes.borrow_mut().insert(id, outcome).is_some() {
            trace.wrong(format_args!("request {id} has two outcomes"));
        }
    }

    pub(super) fn outcome_of(&self, id: u64) -> Option<Outcome> {
        self.outcomes.borrow().get(&id).cloned()
    }

    /// How often it was executed, but for copies and what was refused.
    pub(super) fn executed(&self, id: u64) -> usize {
        let executions = self.executions.borrow();
        executions.get(&id).map_or(0, |all| all.iter().filter(|it| !it.mirror && !it.refused).count())
    }

    pub(super) fn copies(&self, id: u64) -> usize {
        let executions = self.executions.borrow();
        executions.get(&id).map_or(0, |all| all.iter().filter(|it| it.mirror).count())
    }

    /// How often a client has seen this reason.
    pub(super) fn told(&self) -> BTreeMap<String, u64> {
        let mut told = BTreeMap::new();
        for outcome in self.outcomes.borrow().values() {
            if let Outcome::Told { reason, .. } = outcome {
                *told.entry(reason.clone()).or_default() += 1;
            }
        }
        told
    }
}

/// What all parts of a simulation have.
pub(super) struct Shared {
    pub plan: super::plan::Plan,
    pub ledger: Ledger,
    pub trace: Rc<Trace>,
    pub net: Rc<super::net::Net>,
}

impl Shared {
    /// The request of this number.
    pub(super) fn ask(&self, id: u64) -> Option<&Ask> {
        self.plan.asks().map(|(_, ask)| ask).find(|ask| ask.id == id)
    }
}
