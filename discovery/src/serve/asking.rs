//! Asking proxies: who can be asked, and one answer for all who ask the same at the same time.
//!
//! In: readers of the admin port. Out: answers of proxies, each from the stream whose certificate and pod are known, so that what a
//! proxy says of itself is filed under who it is. Nothing is sent while nobody reads.

use super::{
    asks::{Body, Failure, Path, Room},
    hub::{Hub, Mailbox},
    limits::{ANSWER_SHARED, ANSWERS_KEPT_BYTES_MAX, ASK_PATIENCE},
    peers::{Peers, Proxy},
};
use crate::index::Member;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, timeout};

type Answer = Result<Arc<Body>, Failure>;
/// By the address of the stream's mailbox, which is kept, so that no other has it.
type Answers = HashMap<(usize, Path), Kept>;

#[derive(Debug)]
struct Kept {
    since: Instant,
    _mailbox: Arc<Mailbox>,
    answer: Shared<BoxFuture<'static, Answer>>,
}

impl Kept {
    /// Whether who asks now may have it: it came just now, or is still waited for.
    fn serves(&self, now: Instant) -> bool {
        let patience = if self.answer.peek().is_some() { ANSWER_SHARED } else { ASK_PATIENCE };
        now.duration_since(self.since) < patience
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Asking {
    peers: Peers,
    hub: Hub,
    room: Arc<Room>,
    shared: Arc<Mutex<Answers>>,
}

impl Asking {
    pub(super) fn new(peers: Peers, hub: Hub) -> Self {
        Self { peers, hub, room: Arc::default(), shared: Arc::default() }
    }

    /// The proxies that have a stream, in the order of their names, of those that `wanted` takes by namespace and pod.
    pub(crate) fn proxies(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<Proxy> {
        self.peers.proxies(wanted)
    }

    /// The pods that are known, with a proxy or without.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.hub.members()
    }

    /// Asks for what only the asker needs. Dropped, it gives up.
    pub(crate) async fn ask(&self, proxy: &Proxy, path: Path, patience: Duration) -> Result<Body, Failure> {
        let mailbox = proxy.mailbox.as_ref().ok_or(Failure::Cannot)?;
        let answered = mailbox.ask(path, &self.room)?;
        metrics::counter!("remora_discovery_asks_total").increment(1);
        let answer = match timeout(patience, answered).await {
            Ok(answer) => answer.unwrap_or(Err(Failure::Gone)),
            Err(_) => Err(Failure::Late),
        };
        if answer.is_err() {
            metrics::counter!("remora_discovery_asks_failed_total").increment(1);
        }
        answer
    }

    /// The same; an answer that another one got just now, or waits for, is taken for it.
    pub(crate) async fn ask_once(&self, proxy: &Proxy, path: Path) -> Answer {
        let mailbox = proxy.mailbox.as_ref().ok_or(Failure::Cannot)?;
        let key = (Arc::as_ptr(mailbox).addr(), path);
        let answer = {
            let (mut shared, now) = (self.lock(), Instant::now());
            let fresh = shared.get(&key).filter(|kept| kept.serves(now));
            match fresh {
                Some(kept) => kept.answer.clone(),
                None => {
                    let (asking, proxy) = (self.clone(), proxy.clone());
                    let answer = async move { asking.ask(&proxy, path, ASK_PATIENCE).await.map(Arc::new) };
                    let answer = answer.boxed().shared();
                    let kept = Kept { since: now, _mailbox: Arc::clone(mailbox), answer: answer.clone() };
                    shared.insert(key, kept);
                    answer
                }
            }
        };
        let answer = answer.await;
        // What failed may be tried again at once.
        if answer.is_err() || self.room.held() > ANSWERS_KEPT_BYTES_MAX {
            self.lock().remove(&key);
        }
        answer
    }

    /// Forgets answers that serve nobody any more. To be called now and then.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        self.lock().retain(|_, kept| kept.serves(now));
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
