//! Answers to what discovery asks over the stream: one at a time, in parts, after everything else that is to be said.
//!
//! In: asks. Out: parts of answers. What an answer is made of is the admin port's business ([`MakeAnswer`]). However much is asked, the control
//! thread rests ten times as long as it worked for it: nobody needs the answers at once, and whoever has taken over discovery must not
//! take its proxies' processors as well.

use crate::limits;
use futures_util::future::BoxFuture;
use remora_api::{
    receive::Received,
    sync::{Update, request},
    v1::{SyncRequest, sync_response::Kind},
};
use remora_model::asks::ANSWER_PART_BYTES_MAX;
use std::{collections::VecDeque, sync::Arc};
use tokio::time::{Instant, sleep_until};

/// What the admin port shows at a path: the status, and the bytes, which are at most
/// [`ANSWER_BYTES_MAX`](remora_model::asks::ANSWER_BYTES_MAX).
pub(crate) type MakeAnswer = Box<dyn Fn(Arc<str>) -> BoxFuture<'static, (u16, Vec<u8>)> + Send + Sync>;

/// See the module.
pub(super) struct Answers {
    answer: MakeAnswer,
    asked: VecDeque<(u32, Arc<str>)>,
    making: Option<Making>,
    made: Option<Made>,
    /// Until when the control thread does nothing more for discovery.
    rests: Instant,
}

struct Making {
    id: u32,
    since: Instant,
    answer: BoxFuture<'static, (u16, Vec<u8>)>,
}

/// An answer, of which parts are said.
struct Made {
    id: u32,
    status: u16,
    body: Vec<u8>,
    said: usize,
}

impl Answers {
    pub(super) fn new(answer: MakeAnswer) -> Self {
        Self { answer, asked: VecDeque::new(), making: None, made: None, rests: Instant::now() }
    }

    /// Another stream begins: what was asked on the last one is not answered.
    pub(super) fn forget(&mut self) {
        (self.making, self.made) = (None, None);
        self.asked.clear();
    }

    /// Takes what discovery says, if it asks; else gives it back. What it asks beyond the bound is not answered.
    pub(super) fn take(&mut self, received: Received) -> Option<Received> {
        if !matches!(received.message.kind, Some(Kind::Ask(_))) {
            return Some(received);
        }
        match Update::try_from(received) {
            Ok(Update::Ask { id, path }) if self.asked.len() < limits::ASKED_MAX => self.asked.push_back((id, path)),
            Ok(_) => {
                remora_runtime::limited!(warn, max = limits::ASKED_MAX, "discovery asks more at once than is answered")
            }
            Err(error) => remora_runtime::limited!(warn, %error, "discovery asks what cannot be read"),
        }
        None
    }

    /// Whether there is an answer to make.
    pub(super) fn are_asked(&self) -> bool {
        self.made.is_none() && (self.making.is_some() || !self.asked.is_empty())
    }

    /// Makes the next answer. Cancel-safe.
    pub(super) async fn made(&mut self) {
        if self.making.is_none() {
            sleep_until(self.rests).await;
            let Some((id, path)) = self.asked.pop_front() else { return };
            self.making = Some(Making { id, since: Instant::now(), answer: (self.answer)(path) });
        }
        let Some(Making { id, since, answer }) = &mut self.making else { return };
        let (status, body) = answer.as_mut().await;
        let rest = (since.elapsed() * limits::ANSWER_REST).clamp(limits::ANSWER_REST_MIN, limits::ANSWER_REST_MAX);
        self.rests = Instant::now() + rest;
        self.made = Some(Made { id: *id, status, body, said: 0 });
        self.making = None;
    }

    /// Whether there is a part to say.
    pub(super) fn have_part(&self) -> bool {
        self.made.is_some()
    }

    /// The next part.
    pub(super) fn part(&mut self) -> Option<SyncRequest> {
        let made = self.made.as_mut()?;
        let rest = made.body.get(made.said..).unwrap_or_default();
        let part = rest.get(..ANSWER_PART_BYTES_MAX).unwrap_or(rest);
        let (id, last, body) = (made.id, part.len() == rest.len(), part.to_vec());
        made.said += body.len();
        let status = last.then_some(made.status);
        if last {
            self.made = None;
        }
        Some(request::answer(id, body, status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_api::v1::{self, SyncResponse, sync_request};
    use std::{
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        time::Duration,
    };

    fn ask(id: u32, path: &str) -> Received {
        SyncResponse { kind: Some(Kind::Ask(v1::Ask { id, path: path.to_owned() })) }.into()
    }

    /// Answers of so many bytes, and how many were made.
    fn answers(bytes: usize) -> (Answers, Arc<AtomicUsize>) {
        let made = Arc::<AtomicUsize>::default();
        let count = made.clone();
        let answer: MakeAnswer = Box::new(move |_| {
            count.fetch_add(1, Relaxed);
            Box::pin(async move { (200, vec![7; bytes]) })
        });
        (Answers::new(answer), made)
    }

    fn part(answers: &mut Answers) -> v1::Answer {
        match answers.part().unwrap().kind {
            Some(sync_request::Kind::Answer(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_comes_in_parts_of_which_the_last_has_the_status() {
        for (bytes, parts) in [(0, 1), (1, 1), (ANSWER_PART_BYTES_MAX, 1), (ANSWER_PART_BYTES_MAX + 1, 2)] {
            let (mut answers, _) = answers(bytes);
            assert!(answers.take(ask(9, "/map")).is_none());
            answers.made().await;
            let mut read = 0;
            for number in 1..=parts {
                let part = part(&mut answers);
                read += part.body.len();
                let last = number == parts;
                assert_eq!((part.id, part.last, part.status), (9, last, if last { 200 } else { 0 }), "{bytes}");
            }
            assert!(read == bytes && !answers.have_part() && !answers.are_asked(), "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_without_end_gets_few_answers_a_second() {
        let (mut answers, made) = answers(1);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            for id in 0..100 {
                assert!(answers.take(ask(id, "/map")).is_none());
            }
            assert_eq!(answers.asked.len(), limits::ASKED_MAX, "and no more than this is remembered");
            answers.made().await;
            part(&mut answers);
        }
        assert!((90..=101).contains(&made.load(Relaxed)), "{made:?} in ten seconds, of nothing to do");
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_made_seldom() {
        let answer: MakeAnswer = Box::new(|_| {
            Box::pin(async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                (200, Vec::new())
            })
        });
        let (mut answers, began) = (Answers::new(answer), Instant::now());
        for id in 0..3 {
            assert!(answers.take(ask(id, "/map")).is_none());
            answers.made().await;
            part(&mut answers);
        }
        assert_eq!(began.elapsed(), Duration::from_millis(3 * 50 + 2 * 500));
    }

    #[tokio::test(start_paused = true)]
    async fn another_stream_hears_nothing_of_what_the_last_one_was_asked() {
        let (mut answers, _) = answers(3 * ANSWER_PART_BYTES_MAX);
        assert!(answers.take(ask(1, "/map")).is_none() && answers.take(ask(2, "/map")).is_none());
        answers.made().await;
        part(&mut answers);
        answers.forget();
        assert!(!answers.have_part() && !answers.are_asked());
    }

    #[test]
    fn what_is_no_question_is_given_back() {
        let zone: Received = SyncResponse { kind: Some(Kind::Zone("a".to_owned())) }.into();
        let (mut answers, _) = answers(0);
        assert_eq!(answers.take(zone.clone()), Some(zone));
        let unknown = Received { known: false, ..ask(1, "/map") };
        assert!(answers.take(unknown).is_none() && !answers.are_asked(), "what a newer one means by it is not known");
    }
}
