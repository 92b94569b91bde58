//! What both ends of a road know of each other, so that neither ends before the other has got what was said: no byte is lost
//! to an end that overtakes it, and nothing depends on time.

use super::{
    message::{End, Message},
    script::Key,
};
use std::{
    collections::BTreeMap,
    net::{Shutdown, TcpStream},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long anything may take that comes at once if it comes. Who waits longer says so in its record.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// See the module.
#[derive(Debug, Default)]
pub struct Stage {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub struct State {
    /// What the origin got for each call, each time that it came.
    arrived: BTreeMap<Key, Vec<Message>>,
    /// How many bytes of each answer's body its client has.
    heard: BTreeMap<Key, usize>,
    /// Bytes at the origin that belong to no call.
    strays: Vec<String>,
    /// The origin's connections.
    open: BTreeMap<usize, TcpStream>,
    /// How many it has had.
    opened: usize,
}

impl Stage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Waits until this is so; `false` if it never is.
    fn wait(&self, so: impl Fn(&State) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), PATIENCE, |state| !so(state));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// A call begins to arrive: its place among those of the same number.
    pub fn arrives(&self, key: Key, message: Message) -> usize {
        let mut place = 0;
        self.change(|state| {
            let arrived = state.arrived.entry(key).or_default();
            place = arrived.len();
            arrived.push(message);
        });
        place
    }

    /// More of it has come.
    pub fn update(&self, key: Key, place: usize, message: Message) {
        self.change(|state| {
            if let Some(known) = state.arrived.get_mut(&key).and_then(|arrived| arrived.get_mut(place)) {
                *known = message;
            }
        });
    }

    /// Bytes that belong to nothing.
    pub fn stray(&self, what: String) {
        self.change(|state| state.strays.push(what));
    }

    /// The client of a call has so many bytes of its answer's body.
    pub fn hears(&self, key: Key, count: usize) {
        self.change(|state| {
            state.heard.insert(key, count);
        });
    }

    /// Waits until the client of a call has so many bytes of its answer's body.
    pub fn wait_heard(&self, key: Key, count: usize) -> bool {
        self.wait(|state| state.heard.get(&key).is_some_and(|heard| *heard >= count))
    }

    /// Waits until the origin has a call's head, and so many bytes of its body.
    pub fn wait_arrived(&self, key: Key, count: usize) -> bool {
        self.wait(|state| {
            let arrived = state.arrived.get(&key).and_then(|arrived| arrived.last());
            arrived.is_some_and(|message| message.body.len() >= count)
        })
    }

    /// Waits until nothing more of a call will arrive: its record then.
    pub fn wait_ended(&self, key: Key) -> Vec<Message> {
        let ended = |state: &State| {
            let arrived = state.arrived.get(&key).map(Vec::as_slice).unwrap_or_default();
            !arrived.is_empty() && arrived.iter().all(|message| message.end != End::Part)
        };
        self.wait(ended);
        self.arrived(key)
    }

    /// What has arrived of a call.
    pub fn arrived(&self, key: Key) -> Vec<Message> {
        self.state().arrived.get(&key).cloned().unwrap_or_default()
    }

    /// The origin serves a connection until it says otherwise.
    pub fn opens(&self, stream: TcpStream) -> usize {
        let mut number = 0;
        self.change(|state| {
            number = state.opened;
            state.opened += 1;
            state.open.insert(number, stream);
        });
        number
    }

    /// A connection of the origin has ended.
    pub fn closes(&self, number: usize) {
        self.change(|state| drop(state.open.remove(&number)));
    }

    /// Ends all connections of the origin in order, and waits until their other sides have: nobody can use them for the next
    /// exchange. Whether they did.
    pub fn rest(&self) -> bool {
        for stream in self.state().open.values() {
            // One that is reset already needs no end.
            let _ = stream.shutdown(Shutdown::Write);
        }
        self.wait(|state| state.open.is_empty())
    }

    /// What arrived and belongs to no call.
    pub fn strays(&self) -> Vec<String> {
        self.state().strays.clone()
    }
}
