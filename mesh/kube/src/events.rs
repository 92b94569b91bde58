//! Kubernetes Events: what `kubectl describe` and `kubectl events` show a person.
//!
//! In: facts about objects, from anywhere, without waiting. Out: Events of `events.k8s.io/v1`, written by one task. An Event
//! is a courtesy: the queue is bounded and what does not fit is dropped, said once in the log. The same fact about the same
//! object is written once in ten minutes. Rights: `create` and `patch` on `events.k8s.io` `events`.

use crate::client::call;
use k8s_openapi::api::core::v1::ObjectReference;
pub use kube::runtime::events::EventType;
use kube::{
    Client,
    runtime::events::{Event, Recorder, Reporter},
};
use remora_runtime::drain;
use std::{collections::HashMap, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Events that wait to be written.
const QUEUE_MAX: usize = 64;
/// The same fact about the same object is not written again within this.
const REPEAT_AFTER: Duration = Duration::from_secs(600);
/// Facts remembered for that; beyond it the oldest are forgotten, and may be written again.
const REMEMBERED_MAX: usize = 512;
/// The API's bound on a note.
const NOTE_BYTES_MAX: usize = 1024;

/// Takes events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Fact>);

/// Something worth telling a person, about an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// The object; without a namespace the event goes to `default`.
    pub about: ObjectReference,
    /// Whether it is a problem.
    pub kind: EventType,
    /// Why, in PascalCase, at most 128 characters.
    pub reason: &'static str,
    /// What was done, in PascalCase.
    pub action: &'static str,
    /// A sentence for a person.
    pub note: String,
}

impl Events {
    /// Events of `part` in the pod `instance`, and the task that writes them until `drain`.
    pub fn new(
        client: Client,
        part: &str,
        instance: &str,
        drain: drain::Watch,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let reporter = Reporter { controller: part.to_owned(), instance: Some(instance.to_owned()) };
        (Self(sender), write(Recorder::new(client, reporter), queue, drain))
    }

    /// Queues `fact`, or drops it if the queue is full. Never waits.
    pub fn tell(&self, fact: Fact) {
        if let Err(mpsc::error::TrySendError::Full(fact)) = self.0.try_send(fact) {
            tracing::debug!(reason = fact.reason, "event dropped: {QUEUE_MAX} are waiting already");
        }
    }
}

async fn write(recorder: Recorder, mut queue: mpsc::Receiver<Fact>, drain: drain::Watch) {
    let mut told = Told::default();
    loop {
        let fact = tokio::select! {
            () = drain.signaled() => return,
            fact = queue.recv() => match fact {
                Some(fact) => fact,
                None => return,
            },
        };
        if !told.is_news(&fact, Instant::now()) {
            continue;
        }
        let event = Event {
            type_: fact.kind,
            reason: fact.reason.to_owned(),
            note: Some(shortened(&fact.note).to_owned()),
            action: fact.action.to_owned(),
            secondary: None,
        };
        if let Err(error) = call(recorder.publish(&event, &fact.about)).await {
            tracing::debug!(%error, reason = fact.reason, "event not written");
        }
    }
}

fn shortened(note: &str) -> &str {
    let mut end = note.len().min(NOTE_BYTES_MAX);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.get(..end).unwrap_or_default()
}

/// The latest events.
#[derive(Debug, Default)]
struct Told(HashMap<String, Instant>);

impl Told {
    fn is_news(&mut self, fact: &Fact, now: Instant) -> bool {
        let about = &fact.about;
        let key = [&about.kind, &about.namespace, &about.name, &about.uid].map(|part| part.as_deref().unwrap_or(""));
        let key = format!("{} {} {}", key.join("/"), fact.reason, fact.note);
        if self.0.get(&key).is_some_and(|at| now.duration_since(*at) < REPEAT_AFTER) {
            return false;
        }
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, at| now.duration_since(*at) < REPEAT_AFTER);
        }
        if self.0.len() >= REMEMBERED_MAX {
            self.0.clear();
        }
        self.0.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(name: &str, note: &str) -> Fact {
        let about = ObjectReference { name: Some(name.into()), ..ObjectReference::default() };
        Fact { about, kind: EventType::Warning, reason: "Skipped", action: "Inject", note: note.into() }
    }

    #[test]
    fn a_fact_is_told_once_in_ten_minutes_per_object_and_note() {
        let (mut told, now) = (Told::default(), Instant::now());
        assert!(told.is_news(&fact("a", "x"), now));
        assert!(!told.is_news(&fact("a", "x"), now + REPEAT_AFTER - Duration::from_secs(1)));
        assert!(told.is_news(&fact("b", "x"), now));
        assert!(told.is_news(&fact("a", "y"), now));
        assert!(told.is_news(&fact("a", "x"), now + REPEAT_AFTER));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut told, now) = (Told::default(), Instant::now());
        for n in 0..3 * REMEMBERED_MAX {
            assert!(told.is_news(&fact(&n.to_string(), ""), now));
        }
        assert!(told.0.len() <= REMEMBERED_MAX);
    }

    #[tokio::test]
    async fn telling_never_waits() {
        let (sender, _queue) = mpsc::channel(1);
        let events = Events(sender);
        for _ in 0..3 {
            events.tell(fact("a", "x"));
        }
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = "ä".repeat(NOTE_BYTES_MAX);
        assert_eq!(shortened(&note).len(), NOTE_BYTES_MAX);
        assert_eq!(shortened(&note[..NOTE_BYTES_MAX - 2]).len(), NOTE_BYTES_MAX - 2);
        assert!(shortened(&format!("x{note}")).len() < NOTE_BYTES_MAX);
    }
}
