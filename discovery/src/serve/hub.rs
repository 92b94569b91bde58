//! The world, and the resources that somebody asked for: the one place where the index and the streams meet.
//!
//! In: changes of objects from the source, subscriptions from the streams. Out: to each stream, which of *its* resources are
//! others, in its [`Mailbox`]. Streams read resources without the world's lock; they take it to subscribe, and then wait for at
//! most one set of changes. Nothing is sent under it.

use super::{
    asks::{Answered, Asks, Failure, Path, Room},
    resource::Resource,
};
use crate::{
    index::{Answer, Asked, Change, Member, Mesh, Unable, World, status::ObjectStatus},
    objects::jwks::JwksUrl,
};
use remora_api::sync::Name;
use remora_model::{Feature, Features, Revocations};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::{Notify, watch};

/// What the statuses of routes and policies should say.
pub type Statuses = watch::Receiver<Arc<[Arc<ObjectStatus>]>>;

/// The world, shared.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// How many proxies hold which version of the revocations; 0: none yet. Apart from the world, for all of them say so at once.
    held: Mutex<BTreeMap<u64, usize>>,
    /// Whether anything is known.
    known: watch::Sender<bool>,
    statuses: watch::Sender<Arc<[Arc<ObjectStatus>]>>,
    wanted_keys: watch::Sender<BTreeSet<JwksUrl>>,
    /// Told when [`Hub::settle`] would say something else, though no object changed.
    unsettled: Notify,
}

#[derive(Debug)]
struct State {
    world: World,
    /// For those who can carry out all that there is, and apart from them for those who cannot. Nearly always that is one cell.
    cells: HashMap<Arc<Asked>, Vec<Weak<Cell>>>,
    /// How many proxies lack a feature.
    lacking: BTreeMap<Feature, usize>,
}

/// What changes made of the world, for the log.
#[derive(Debug)]
pub struct Applied {
    /// Reports that are new.
    pub reports: Vec<String>,
    /// Endpoints that are left out until their pod is known.
    pub unseen: Vec<String>,
    /// Services, pods, backends.
    pub counts: (usize, usize, usize),
}

/// Who is trusted no more, and which of the proxies that have a stream know of it.
#[derive(Debug)]
pub(crate) struct Revoked {
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) unable: Unable,
    pub(crate) version: u64,
    /// How many can refuse the revoked, and how many of these have this version in use.
    pub(crate) able: usize,
    pub(crate) held: usize,
}

/// A resource that somebody asked for.
#[derive(Debug)]
pub(super) struct Cell {
    asked: Arc<Asked>,
    /// By which its readers ask for it, if they do.
    pub(super) name: Option<Arc<Name>>,
    /// What its readers can carry out.
    features: Features,
    latest: Mutex<Arc<Resource>>,
    /// Whom a new version wakes, in the order of their addresses. A pod's own have one, some have all.
    readers: Mutex<Vec<Arc<Mailbox>>>,
}

/// Which of a stream's resources are others, and what its proxy is asked. Bounded by what it asked for.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    due: Mutex<BTreeMap<usize, Arc<Cell>>>,
    filled: Notify,
    /// What the proxy is asked.
    pub(super) asks: Asks,
}

/// Another answer for those who keep this one.
fn renew(cells: &HashMap<Arc<Asked>, Vec<Weak<Cell>>>, asked: &Asked, answer: &Answer) {
    for cell in cells.get(asked).into_iter().flatten().filter_map(Weak::upgrade) {
        cell.renew(Resource::of(answer.clone(), cell.features));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Nothing is known yet.
    pub fn new(mesh: Mesh) -> Self {
        let state = State { world: World::new(mesh), cells: HashMap::new(), lacking: BTreeMap::new() };
        let (known, statuses) = (watch::Sender::new(false), watch::Sender::new(Arc::default()));
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            held: Mutex::default(),
            known,
            statuses,
            wanted_keys: watch::Sender::default(),
            unsettled: Notify::new(),
        }))
    }

    /// Takes changes, all at once, and wakes the streams whom they concern.
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) -> Applied {
        let mut state = lock(&self.0.state);
        let State { world, cells, .. } = &mut *state;
        world.apply(changes, &mut |asked, answer| renew(cells, asked, &answer));
        let (reports, unseen) = world.news();
        let applied = Applied { reports, unseen, counts: world.counts() };
        self.0.wanted_keys.send_if_modified(|before| {
            let same = before.len() == world.wanted_keys().count() && before.iter().eq(world.wanted_keys());
            if !same {
                *before = world.wanted_keys().cloned().collect();
            }
            !same
        });
        drop(state);
        metrics::counter!("remora_discovery_snapshots_total").increment(1);
        self.0.known.send_replace(true);
        applied
    }

    /// The URLs of keys that policies name.
    pub(crate) fn wanted_keys(&self) -> watch::Receiver<BTreeSet<JwksUrl>> {
        self.0.wanted_keys.subscribe()
    }

    /// Takes what was fetched of an issuer's keys, or why nothing was; `None`: nobody asks for them any more.
    pub(crate) fn keys(&self, url: &JwksUrl, found: Option<Result<Arc<str>, String>>) {
        let mut state = lock(&self.0.state);
        let State { world, cells, .. } = &mut *state;
        world.keys(url, found, &mut |asked, answer| renew(cells, asked, &answer));
        drop(state);
        self.0.unsettled.notify_one();
    }

    /// Brings up to date what is to be said to people. New reports.
    pub fn settle(&self) -> Vec<String> {
        let mut state = lock(&self.0.state);
        let statuses: Option<Arc<[_]>> = state.world.settle().then(|| state.world.statuses().cloned().collect());
        let (reports, _) = state.world.news();
        drop(state);
        if let Some(statuses) = statuses {
            self.0.statuses.send_replace(statuses);
        }
        reports
    }

    /// The pods that are known.
    pub(crate) fn members(&self) -> Vec<Member> {
        lock(&self.0.state).world.members()
    }

    /// Resolves once anything is known.
    pub(super) async fn known(&self) {
        // The sender lives as long as we do.
        drop(self.0.known.subscribe().wait_for(|known| *known).await);
    }

    /// What the statuses of routes and policies should say, as of the last [`Self::settle`].
    pub fn statuses(&self) -> Statuses {
        self.0.statuses.subscribe()
    }

    /// Whether what is said of an object is what should be said, or nothing should be.
    pub(crate) fn is_said(&self, object: &crate::objects::Object) -> bool {
        lock(&self.0.state).world.is_said(object)
    }

    /// Subscribes: from now on the mailbox is told of new versions, as far as `features` can carry them out.
    pub(super) fn ask(&self, asked: Asked, features: Features, mailbox: &Arc<Mailbox>) -> Arc<Cell> {
        let features = if asked.has_rules() { features } else { Features::all() };
        let mut state = lock(&self.0.state);
        let known = state.cells.get(&asked);
        let mut same = known.into_iter().flatten().filter_map(Weak::upgrade).filter(|cell| cell.features == features);
        let cell = same.next().unwrap_or_else(|| {
            let asked = Arc::new(asked);
            let latest = Mutex::new(Arc::new(Resource::of(state.world.ask(&asked), features)));
            let name = asked.name().map(Arc::new);
            let cell = Arc::new(Cell { asked: Arc::clone(&asked), name, features, latest, readers: Mutex::default() });
            let all = state.cells.entry(asked).or_default();
            all.reserve_exact(1);
            all.push(Arc::downgrade(&cell));
            cell
        });
        cell.join(mailbox);
        cell
    }

    /// A proxy is there that lacks features, or is there no more: whose rules are closed for anybody, statuses say.
    pub(super) fn lack(&self, features: Features, pod: &str, there: bool) {
        let mut state = lock(&self.0.state);
        let State { world, lacking, .. } = &mut *state;
        if features.contain(Feature::Revocation) {
            world.unable(pod, there);
        }
        for feature in features.iter() {
            let proxies = lacking.entry(feature).or_default();
            *proxies = if there { *proxies + 1 } else { proxies.saturating_sub(1) };
            metrics::gauge!("remora_discovery_proxies_lacking", "feature" => feature.name()).set(*proxies as f64);
            world.lack(feature, *proxies > 0);
        }
        drop(state);
        if !features.is_empty() {
            self.0.unsettled.notify_one();
        }
    }

    /// A proxy that can refuse the revoked held one version of the list, and holds another from now on. `None`: it was not there, or is
    /// there no more.
    pub(super) fn held(&self, before: Option<u64>, now: Option<u64>) {
        let mut held = lock(&self.0.held);
        if let Some(before) = before
            && let Some(proxies) = held.get_mut(&before)
        {
            *proxies -= 1;
            if *proxies == 0 {
                held.remove(&before);
            }
        }
        if let Some(now) = now {
            *held.entry(now).or_default() += 1;
        }
    }

    /// Who is trusted no more, and how far that has come.
    pub(crate) fn revocations(&self) -> Revoked {
        let (revocations, unable) = lock(&self.0.state).world.revocations();
        let (able, held) = {
            let held = lock(&self.0.held);
            (held.values().sum(), held.clone())
        };
        let version = Resource::of(Answer::Revocations(Arc::clone(&revocations)), Features::all()).version;
        Revoked { revocations, unable, version, able, held: held.get(&version).copied().unwrap_or_default() }
    }

    /// Resolves when [`Self::settle`] has something to say, though no object changed. Cancel-safe.
    pub(crate) async fn unsettled(&self) {
        self.0.unsettled.notified().await;
    }

    /// What is known of the keys of a URL.
    #[cfg(test)]
    pub(crate) fn held_keys(&self, url: &JwksUrl) -> Option<Result<Arc<str>, String>> {
        lock(&self.0.state).world.held_keys(url)
    }

    /// How many resources somebody asks for.
    #[cfg(test)]
    pub(super) fn asked(&self) -> usize {
        lock(&self.0.state).cells.values().map(Vec::len).sum()
    }

    /// Unsubscribes. What nobody asks for any more is forgotten.
    pub(super) fn leave(&self, cells: impl IntoIterator<Item = Arc<Cell>>, mailbox: &Arc<Mailbox>) {
        let mut state = lock(&self.0.state);
        for cell in cells {
            // Only under the lock does anybody join.
            if cell.part(mailbox) {
                continue;
            }
            let State { world, cells, .. } = &mut *state;
            if let Some(all) = cells.get_mut(&cell.asked) {
                all.retain(|known| known.as_ptr() != Arc::as_ptr(&cell));
                if all.is_empty() {
                    cells.remove(&cell.asked);
                    world.forget(&cell.asked);
                }
            }
        }
    }
}

impl Cell {
    /// The version of now.
    pub(super) fn latest(&self) -> Arc<Resource> {
        Arc::clone(&lock(&self.latest))
    }

    /// From now on a new version wakes this reader.
    fn join(&self, mailbox: &Arc<Mailbox>) {
        let mut readers = lock(&self.readers);
        if let Err(at) = readers.binary_search_by_key(&Arc::as_ptr(mailbox), Arc::as_ptr) {
            if readers.is_empty() {
                readers.reserve_exact(1);
            }
            readers.insert(at, Arc::clone(mailbox));
        }
    }

    /// No more. Whether it has other readers.
    fn part(&self, mailbox: &Arc<Mailbox>) -> bool {
        let mut readers = lock(&self.readers);
        if let Ok(at) = readers.binary_search_by_key(&Arc::as_ptr(mailbox), Arc::as_ptr) {
            readers.remove(at);
        }
        !readers.is_empty()
    }

    fn renew(self: &Arc<Self>, resource: Resource) {
        if self.latest().version == resource.version {
            return;
        }
        *lock(&self.latest) = Arc::new(resource);
        for reader in &*lock(&self.readers) {
            lock(&reader.due).insert(Arc::as_ptr(self).addr(), Arc::clone(self));
            reader.filled.notify_one();
        }
    }
}

impl Mailbox {
    /// What came since this was asked last.
    pub(super) fn take(&self) -> impl Iterator<Item = Arc<Cell>> {
        std::mem::take(&mut *lock(&self.due)).into_values()
    }

    /// Asks its proxy.
    pub(super) fn ask(&self, path: Path, room: &Arc<Room>) -> Result<Answered, Failure> {
        let answered = self.asks.ask(path, room)?;
        self.filled.notify_one();
        Ok(answered)
    }

    /// Resolves when something comes, or came since this was awaited last. Cancel-safe.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }
}
