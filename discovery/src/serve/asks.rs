//! What one proxy is asked over its stream, and what came of its answers. A stream that is asked nothing holds nothing.
//!
//! In: an ask of somebody who waits ([`Asks::ask`]), and the parts that the proxy sends. Out: what is to be sent, and whole answers. A proxy
//! that answers what it was not asked, or more than the bounds, loses its stream. One that does not answer at all delays only those
//! who wait for it: it is asked twice, and not again before it has answered.

use super::limits::ANSWERS_BYTES_MAX;
use remora_api::v1;
use remora_model::asks::{ANSWER_BYTES_MAX, ANSWER_PART_BYTES_MAX, ASKS_UNDER_WAY_MAX};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use tokio::sync::oneshot;
use tonic::Status;

/// What proxies may be asked.
pub(crate) type Path = &'static str;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("it is too old to be asked, or its pod is not known")]
    Cannot,
    #[error("it has not answered earlier asks yet")]
    Busy,
    #[error("its stream ended")]
    Gone,
    #[error("it did not answer in time")]
    Late,
    #[error("discovery has no room for its answer at the moment")]
    NoRoom,
    #[error("its answer is larger than {ANSWER_BYTES_MAX} bytes; ask the pod itself")]
    TooLarge,
    #[error("it answers with status {0}")]
    Status(u32),
    #[error("its answer cannot be read: {0}")]
    Unreadable(String),
}

/// The bytes of all answers that are there.
#[derive(Debug, Default)]
pub(crate) struct Room(AtomicUsize);

impl Room {
    pub(crate) fn held(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// An answer, or as much of it as has come. Its room is free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Vec<u8>,
    room: Arc<Room>,
}

impl Body {
    fn new(room: Arc<Room>) -> Self {
        Self { bytes: Vec::new(), room }
    }

    /// Whether there was room.
    fn add(&mut self, part: &[u8]) -> bool {
        if self.room.0.fetch_add(part.len(), Relaxed) + part.len() > ANSWERS_BYTES_MAX {
            self.room.0.fetch_sub(part.len(), Relaxed);
            return false;
        }
        self.bytes.extend_from_slice(part);
        true
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.bytes.len(), Relaxed);
    }
}

pub(crate) type Answered = oneshot::Receiver<Result<Body, Failure>>;

/// See the module. `None`: nothing was asked that has no whole answer.
#[derive(Debug, Default)]
pub(super) struct Asks(Mutex<Option<Box<Asked>>>);

#[derive(Debug, Default)]
struct Asked {
    /// The stream has ended.
    ended: bool,
    last: u32,
    /// The oldest first.
    all: Vec<One>,
}

#[derive(Debug)]
struct One {
    id: u32,
    path: Path,
    sent: bool,
    bytes: usize,
    body: Body,
    /// Whoever waits; `None`: he has heard why there will be no answer, or went.
    waits: Option<oneshot::Sender<Result<Body, Failure>>>,
}

impl Asks {
    /// Asks, as soon as the stream has nothing else to say.
    pub(super) fn ask(&self, path: Path, room: &Arc<Room>) -> Result<Answered, Failure> {
        let mut state = self.lock();
        let asked = state.get_or_insert_default();
        if asked.ended {
            return Err(Failure::Gone);
        }
        if asked.all.len() >= ASKS_UNDER_WAY_MAX {
            return Err(Failure::Busy);
        }
        let (tell, told) = oneshot::channel();
        asked.last = asked.last.wrapping_add(1);
        let body = Body::new(Arc::clone(room));
        asked.all.push(One { id: asked.last, path, sent: false, bytes: 0, body, waits: Some(tell) });
        Ok(told)
    }

    /// What is to be sent next.
    pub(super) fn unsent(&self) -> Option<v1::Ask> {
        let mut state = self.lock();
        let all = &mut state.as_mut()?.all;
        // Whoever went before it was sent needs nothing.
        all.retain(|one| one.sent || one.waits.as_ref().is_some_and(|waits| !waits.is_closed()));
        let next = all.iter_mut().find(|one| !one.sent);
        let ask = next.map(|one| {
            one.sent = true;
            v1::Ask { id: one.id, path: one.path.to_owned() }
        });
        if all.is_empty() {
            *state = None;
        }
        ask
    }

    /// The stream has ended: nobody waits any longer, nor begins to.
    pub(super) fn end(&self) {
        *self.lock() = Some(Box::new(Asked { ended: true, ..Asked::default() }));
    }

    /// Takes a part of an answer.
    ///
    /// # Errors
    /// It is none to what was asked, or too large.
    pub(super) fn answered(&self, part: v1::Answer) -> Result<(), Status> {
        let wrong = |what: String| Err(Status::invalid_argument(format!("an answer (id {}): {what}", part.id)));
        let mut state = self.lock();
        let all = state.as_mut().map(|asked| &mut asked.all);
        // In the order in which it was asked.
        let Some(all) = all.filter(|all| all.first().is_some_and(|one| one.sent && one.id == part.id)) else {
            return wrong("it was not asked".to_owned());
        };
        let one = &mut all[0];
        one.bytes += part.body.len();
        if part.body.len() > ANSWER_PART_BYTES_MAX || one.bytes > ANSWER_BYTES_MAX {
            return wrong(format!(
                "it has more than {ANSWER_BYTES_MAX} bytes, or a part more than {ANSWER_PART_BYTES_MAX}"
            ));
        }
        if part.body.is_empty() && !part.last {
            return wrong("a part of it is empty".to_owned());
        }
        one.take(&part.body);
        if part.last {
            let one = all.remove(0);
            if all.is_empty() {
                *state = None;
            }
            drop(state);
            one.end(part.status);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Asked>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl One {
    /// Adds a part, if anybody waits for it and there is room.
    fn take(&mut self, part: &[u8]) {
        let fails = match &self.waits {
            None => return,
            Some(waits) if waits.is_closed() => Failure::Late,
            Some(_) if self.body.add(part) => return,
            Some(_) => Failure::NoRoom,
        };
        self.body = Body::new(Arc::clone(&self.body.room));
        if let Some(waits) = self.waits.take() {
            // He may have gone.
            drop(waits.send(Err(fails)));
        }
    }

    fn end(self, status: u32) {
        let answer = match status {
            200 => Ok(self.body),
            413 => Err(Failure::TooLarge),
            other => Err(Failure::Status(other)),
        };
        if let Some(waits) = self.waits {
            drop(waits.send(answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: Path = "/map";

    fn part(id: u32, body: &[u8], status: Option<u32>) -> v1::Answer {
        v1::Answer { id, body: body.to_vec(), last: status.is_some(), status: status.unwrap_or_default() }
    }

    fn asked(asks: &Asks, room: &Arc<Room>) -> (u32, Answered) {
        let answered = asks.ask(MAP, room).unwrap();
        (asks.unsent().unwrap().id, answered)
    }

    #[test]
    fn an_answer_is_what_its_parts_are_in_their_order_and_nothing_is_held_after_it() {
        let (asks, room) = (Asks::default(), Arc::<Room>::default());
        let (id, mut answered) = asked(&asks, &room);
        asks.answered(part(id, b"ab", None)).unwrap();
        assert!(answered.try_recv().is_err());
        asks.answered(part(id, b"c", Some(200))).unwrap();
        let body = answered.try_recv().unwrap().unwrap();
        assert_eq!((body.bytes(), room.held()), (&b"abc"[..], 3));
        drop(body);
        assert_eq!(room.held(), 0);
        assert!(asks.lock().is_none(), "a stream that is asked nothing holds nothing");
    }

    #[test]
    fn what_was_not_asked_or_is_beyond_a_bound_is_an_error_of_the_protocol() {
        let (asks, room) = (Asks::default(), Arc::<Room>::default());
        assert!(asks.answered(part(1, b"", Some(200))).is_err(), "nothing was asked");
        let waiting = asks.ask(MAP, &room).unwrap();
        assert!(asks.answered(part(1, b"", Some(200))).is_err(), "it was not sent yet");
        let id = asks.unsent().unwrap().id;
        let second = asks.ask(MAP, &room).unwrap();
        let later = asks.unsent().unwrap().id;
        assert!(asks.answered(part(later, b"", Some(200))).is_err(), "the first comes first");
        assert!(asks.answered(part(id, &vec![0; ANSWER_PART_BYTES_MAX + 1], None)).is_err());
        assert!(asks.answered(part(id, b"", None)).is_err(), "parts without bytes never end");
        drop((waiting, second));
        let (asks, room) = (Asks::default(), Arc::<Room>::default());
        let (id, _answered) = asked(&asks, &room);
        let parts = ANSWER_BYTES_MAX / ANSWER_PART_BYTES_MAX;
        let whole = vec![0; ANSWER_PART_BYTES_MAX];
        (0..parts).for_each(|_| asks.answered(part(id, &whole, None)).unwrap());
        assert!(asks.answered(part(id, b"1", None)).is_err());
    }

    #[test]
    fn a_status_says_why_there_is_no_answer() {
        for (status, why) in [(413, Failure::TooLarge), (404, Failure::Status(404)), (0, Failure::Status(0))] {
            let (asks, room) = (Asks::default(), Arc::<Room>::default());
            let (id, mut answered) = asked(&asks, &room);
            asks.answered(part(id, b"", Some(status))).unwrap();
            assert_eq!(answered.try_recv().unwrap().unwrap_err(), why);
        }
    }

    #[test]
    fn a_proxy_that_does_not_answer_is_asked_twice_and_what_comes_late_is_not_kept() {
        let (asks, room) = (Asks::default(), Arc::<Room>::default());
        let (id, first) = asked(&asks, &room);
        let second = asks.ask(MAP, &room).unwrap();
        assert_eq!(asks.ask(MAP, &room).unwrap_err(), Failure::Busy);
        drop((first, second));
        assert!(asks.unsent().is_none(), "the second was not sent yet, and nobody waits for it");
        asks.answered(part(id, b"abc", None)).unwrap();
        assert_eq!(room.held(), 0);
        asks.answered(part(id, b"d", Some(200))).unwrap();
        assert!(asks.lock().is_none());
    }

    #[test]
    fn who_waits_hears_at_once_that_the_stream_ended_and_who_asks_then_too() {
        let (asks, room) = (Asks::default(), Arc::<Room>::default());
        let (_, mut answered) = asked(&asks, &room);
        asks.end();
        assert_eq!(answered.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert_eq!(asks.ask(MAP, &room).unwrap_err(), Failure::Gone);
    }

    #[test]
    fn the_bytes_of_all_answers_are_bounded_and_who_has_no_room_hears_so() {
        let room = Arc::<Room>::default();
        let streams: Vec<Asks> = (0..ANSWERS_BYTES_MAX / ANSWER_BYTES_MAX + 1).map(|_| Asks::default()).collect();
        let whole = vec![0; ANSWER_PART_BYTES_MAX];
        let mut waiting = Vec::new();
        for asks in &streams {
            let (id, answered) = asked(asks, &room);
            (0..ANSWER_BYTES_MAX / ANSWER_PART_BYTES_MAX).for_each(|_| asks.answered(part(id, &whole, None)).unwrap());
            waiting.push(answered);
        }
        assert_eq!(room.held(), ANSWERS_BYTES_MAX);
        assert_eq!(waiting.pop().unwrap().try_recv().unwrap().unwrap_err(), Failure::NoRoom);
        drop(streams);
        assert_eq!(room.held(), 0);
    }
}
