//! Which streams are open: one per identity and pod, and a few of unknown pods.
//!
//! The newest stream of a pod wins, because the older one is most likely a dead connection. An identity
//! has as many streams as it has pods, and [`UNPROVEN_MAX`] more: those of unknown pods, and replaced streams that have
//! not ended yet because their proxy does not read.

use super::{hub::Mailbox, limits::UNPROVEN_MAX};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, oneshot};
use tonic::Status;

/// Identity and pod.
type Key = (String, String);

/// All streams of one service.
#[derive(Debug, Clone, Default)]
pub(super) struct Peers(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// By the pod that they say they are. Dropping the sender ends the stream.
    streams: HashMap<Key, Stream>,
    /// Those that are unproven or lost their place, by identity.
    unproven: HashMap<String, Count>,
    next: u64,
}

#[derive(Debug)]
struct Stream {
    serial: u64,
    _end: oneshot::Sender<()>,
    /// Where its proxy can be asked, once its pod is known.
    answers: Option<Arc<Mailbox>>,
}

#[derive(Debug, Default)]
struct Count {
    streams: usize,
    /// Told when there is one less.
    less: Arc<Notify>,
}

/// A proxy that has a stream.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    pub(crate) identity: Arc<str>,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    /// Where to ask it, if it can be asked.
    pub(super) mailbox: Option<Arc<Mailbox>>,
}

impl Proxy {
    /// One that cannot be asked.
    #[cfg(test)]
    pub(crate) fn unasked(identity: &str, namespace: &str, pod: &str) -> Self {
        Self { identity: identity.into(), namespace: namespace.to_owned(), pod: pod.to_owned(), mailbox: None }
    }
}

/// That a stream counts among the unproven of its identity, until it is dropped.
#[derive(Debug)]
pub(super) struct Unproven {
    peers: Peers,
    identity: String,
}

/// The place of a pod's stream, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    peers: Peers,
    key: Key,
    serial: u64,
    /// Whether its proxy can be asked.
    answers: bool,
    /// Resolves when a newer stream has the place.
    pub(super) lost: oneshot::Receiver<()>,
}

impl Peers {
    /// Counts a stream of `identity`: at once if there is room, else when there is some within `patience`. So all pods of a large Deployment may come back at the same time. Cancel-safe.
    pub(super) async fn arrive(&self, identity: &str, patience: Duration) -> Result<Unproven, Status> {
        let room = async {
            loop {
                let less = match self.count(identity) {
                    Ok(unproven) => return unproven,
                    Err(less) => less,
                };
                less.notified().await;
            }
        };
        tokio::time::timeout(patience, room)
            .await
            .map_err(|_| Status::resource_exhausted("too many streams of this identity whose pods are not known"))
    }

    fn count(&self, identity: &str) -> Result<Unproven, Arc<Notify>> {
        let mut known = self.lock();
        let count = known.unproven.entry(identity.to_owned()).or_default();
        if count.streams >= UNPROVEN_MAX {
            return Err(Arc::clone(&count.less));
        }
        count.streams += 1;
        Ok(Unproven { peers: self.clone(), identity: identity.to_owned() })
    }

    /// Gives a pod's place to a stream, and ends the one that had it.
    pub(super) fn settle(&self, identity: &str, pod: &str) -> Place {
        let (end, lost) = oneshot::channel();
        let key = (identity.to_owned(), pod.to_owned());
        let mut known = self.lock();
        known.next += 1;
        let serial = known.next;
        let stream = Stream { serial, _end: end, answers: None };
        if known.streams.insert(key.clone(), stream).is_some() {
            known.unproven.entry(key.0.clone()).or_default().streams += 1;
        }
        Place { peers: self.clone(), key, serial, answers: false, lost }
    }

    /// The proxies that have a stream, in the order of their names, of those that `wanted` takes by namespace and pod.
    pub(super) fn proxies(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<Proxy> {
        let known = self.lock();
        let all = known.streams.iter().filter_map(|((identity, named), stream)| {
            let (namespace, pod) = named.split_once('/').filter(|(namespace, pod)| wanted(namespace, pod))?;
            let (namespace, pod, mailbox) = (namespace.to_owned(), pod.to_owned(), stream.answers.clone());
            Some(Proxy { identity: identity.as_str().into(), namespace, pod, mailbox })
        });
        let mut all: Vec<Proxy> = all.collect();
        drop(known);
        all.sort_unstable_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        all
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn release(&mut self, identity: &str) {
        if let Some(count) = self.unproven.get_mut(identity) {
            count.streams -= 1;
            count.less.notify_one();
            if count.streams == 0 && Arc::strong_count(&count.less) == 1 {
                self.unproven.remove(identity);
            }
        }
    }
}

impl Place {
    /// Its proxy can be asked from now on.
    pub(super) fn answers(&mut self, mailbox: &Arc<Mailbox>) {
        if std::mem::replace(&mut self.answers, true) {
            return;
        }
        let mut known = self.peers.lock();
        if let Some(stream) = known.streams.get_mut(&self.key).filter(|stream| stream.serial == self.serial) {
            stream.answers = Some(Arc::clone(mailbox));
        }
    }
}

impl Drop for Unproven {
    fn drop(&mut self) {
        self.peers.lock().release(&self.identity);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut known = self.peers.lock();
        if known.streams.get(&self.key).is_some_and(|stream| stream.serial == self.serial) {
            known.streams.remove(&self.key);
        } else {
            known.release(&self.key.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far beyond any test.
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn the_newest_stream_of_a_pod_wins_and_only_its_own_end_frees_the_place() {
        let peers = Peers::default();
        let mut first = peers.settle("id", "a");
        let mut other = peers.settle("id", "b");
        let mut second = peers.settle("id", "a");
        assert!(first.lost.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        assert!(other.lost.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty));
        drop(first);
        assert!(second.lost.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty), "it has the place");
        drop((second, other));
        assert!(peers.lock().streams.is_empty());
    }

    #[test]
    fn a_proxy_can_be_asked_once_its_pod_is_known_and_only_over_its_newest_stream() {
        let (peers, mailbox) = (Peers::default(), Arc::<Mailbox>::default());
        let can_be_asked =
            || peers.proxies(|namespace, _| namespace == "shop").iter().filter(|it| it.mailbox.is_some()).count();
        let mut first = peers.settle("id", "shop/a");
        let _other = peers.settle("id", "else/a");
        assert_eq!((peers.proxies(|_, _| true).len(), can_be_asked()), (2, 0));
        first.answers(&mailbox);
        assert_eq!(can_be_asked(), 1);
        let mut second = peers.settle("id", "shop/a");
        assert_eq!(can_be_asked(), 0, "nothing of the newer one is known yet");
        second.answers(&mailbox);
        drop(first);
        assert_eq!(can_be_asked(), 1);
        drop(second);
        assert!(peers.proxies(|namespace, _| namespace == "shop").is_empty());
    }

    #[test]
    fn streams_that_lost_their_place_count_until_they_end() {
        let peers = Peers::default();
        let mut all: Vec<_> = (0..=UNPROVEN_MAX).map(|_| peers.settle("id", "a")).collect();
        assert!(peers.count("id").is_err(), "somebody opens streams and reads none");
        all.remove(0);
        drop(peers.count("id").unwrap());
        drop(all);
        assert!(peers.lock().unproven.is_empty() && peers.lock().streams.is_empty());
    }

    #[tokio::test]
    async fn an_identity_has_few_unproven_streams_and_others_do_not_feel_it() {
        let peers = Peers::default();
        let mut held = Vec::new();
        for _ in 0..UNPROVEN_MAX {
            held.push(peers.arrive("a", Duration::ZERO).await.unwrap());
        }
        assert_eq!(peers.arrive("a", Duration::ZERO).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
        drop(peers.arrive("b", Duration::ZERO).await.unwrap());
        let (next, ()) = tokio::join!(peers.arrive("a", LONG), async { drop(held.pop()) });
        held.push(next.unwrap());
        drop(held);
        drop(peers.arrive("a", Duration::ZERO).await);
        assert!(peers.lock().unproven.is_empty(), "nobody is remembered who has nothing");
    }

    #[tokio::test]
    async fn a_thousand_pods_of_one_identity_come_back_at_once() {
        let peers = Peers::default();
        let prove = |pod: usize| {
            let peers = peers.clone();
            async move {
                let unproven = peers.arrive("a", LONG).await.unwrap();
                tokio::task::yield_now().await;
                drop(unproven);
                peers.settle("a", &pod.to_string())
            }
        };
        let places = futures_util::future::join_all((0..1000).map(prove)).await;
        assert_eq!((places.len(), peers.lock().streams.len()), (1000, 1000));
    }
}
