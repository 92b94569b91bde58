//! All routes of this proxy: who counts under which key.
//!
//! Workers come here when they build a route, and keep the [`RouteStats`] they get; the admin port reads ([`super::view`]). The keys are
//! made of the mesh's own names (routes, services, SPIFFE IDs, learned templates), and there are at most
//! [`limits::SERIES_MAX`] of them, of [`limits::TRACKS_MAX`] routes and as many peers; what comes later takes the place of what was idle for
//! long, or is counted under the route `other` of its direction.

use super::{
    RouteStats, Sampling,
    history::Clock,
    record::Rings,
    template::OTHER,
    tracks::{Of, Track},
};
use crate::limits;
use serde::Serialize;
use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet, VecDeque},
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub(crate) enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// The word in labels and JSON.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

label! {
    /// Which way the traffic goes, seen from the application.
    Direction {
        /// To the application of this pod.
        Inbound = "inbound",
        /// From it.
        Outbound = "outbound",
    }
}

label! {
    /// What protects the bytes on the mesh's side of this proxy.
    Tls {
        /// TLS of the mesh, both sides authenticated.
        Mtls = "mtls",
        /// Nothing.
        Plain = "plain",
        /// TLS of the application's own, not opened.
        Passthrough = "passthrough",
        /// Mesh TLS to some endpoints of the backend, and plaintext to others, which are outside the mesh.
        Mixed = "mixed",
    }
}

label! {
    /// What is spoken.
    Proto {
        /// HTTP/1.0 or 1.1.
        Http1 = "http1",
        /// HTTP/2.
        Http2 = "http2",
        /// gRPC.
        Grpc = "grpc",
        /// Opaque bytes.
        Tcp = "tcp",
    }
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RouteKey {
    /// Inbound or outbound.
    pub direction: Direction,
    /// The Service (or port, or external authority) that was called: `shop/api:8080`.
    pub parent: Arc<str>,
    /// The route rule, gRPC method or path template; `tcp` for opaque bytes.
    pub route: Arc<str>,
    /// The SPIFFE ID at the other end, empty if it has none.
    pub peer: Arc<str>,
    /// How the bytes are protected.
    pub tls: Tls,
    /// What is spoken.
    pub protocol: Proto,
}

/// Counters that were found for a route.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Where to count.
    pub stats: Arc<RouteStats>,
    /// They are those of `other`, because there was no room; and how often there was room again until then.
    short_of_room: Option<u32>,
}

/// The registry of routes, shared by all threads.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(super) pod: String,
    started: Instant,
    /// The time of day when it was made.
    epoch: Duration,
    identity: Mutex<String>,
    known: Mutex<Known>,
    clock: Mutex<Clock>,
    /// Where workers write the records of what ended.
    rings: Mutex<Vec<Arc<Rings>>>,
    /// Whether spans are made.
    sampling: Arc<Sampling>,
    /// When room was looked for last.
    swept: Mutex<Option<Instant>>,
    /// Whether something had no room since it was looked for.
    short: AtomicBool,
    /// How often there was room again.
    rooms: AtomicU32,
    /// How often something was counted under `other`.
    full: AtomicU64,
}

/// What there is.
#[derive(Debug, Default)]
struct Known {
    /// By their keys, which they have themselves.
    series: HashSet<ByKey>,
    routes: HashMap<Of, Arc<Track>>,
    peers: HashMap<Of, Arc<Track>>,
    /// Names of series that were given up, which records may still speak of.
    gone: VecDeque<(u32, RouteKey)>,
    /// The last number that was given to a series or track.
    last: u32,
}

/// A series that is found by its key: thousands of copies of keys would be a quarter of a megabyte.
#[derive(Debug)]
struct ByKey(Arc<RouteStats>);

impl Borrow<RouteKey> for ByKey {
    fn borrow(&self) -> &RouteKey {
        &self.0.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl Known {
    /// All series, in any order.
    fn all(&self) -> impl Iterator<Item = &Arc<RouteStats>> {
        self.series.iter().map(|ByKey(stats)| stats)
    }

    fn has_room(&self, (route, peer): &(Of, Of)) -> bool {
        let track = |known: &HashMap<Of, Arc<Track>>, of| known.len() < limits::TRACKS_MAX || known.contains_key(of);
        self.series.len() < limits::SERIES_MAX && track(&self.routes, route) && track(&self.peers, peer)
    }

    /// The series of `key`, made if there is none.
    fn series(&mut self, key: RouteKey, (route, peer): (Of, Of), now: Instant) -> Arc<RouteStats> {
        if let Some(ByKey(stats)) = self.series.get(&key) {
            return stats.clone();
        }
        let last = &mut self.last;
        let mut next = || {
            *last += 1;
            *last
        };
        let mut track = |known: &mut HashMap<Of, Arc<Track>>, of: Of| {
            let new = |of: &Of| Arc::new(Track::new(next(), of.clone(), now));
            known.entry(of).or_insert_with_key(new).clone()
        };
        let tracks = (track(&mut self.routes, route), track(&mut self.peers, peer));
        let stats = Arc::new(RouteStats::new(next(), key, tracks, now));
        self.series.insert(ByKey(stats.clone()));
        stats
    }

    /// Gives up what was idle for long, with the routes and peers that only such had.
    fn sweep(&mut self, now: Instant) {
        let gone = &mut self.gone;
        self.series.retain(|ByKey(stats)| {
            let retires = stats.retire(now, limits::SIGNALS_IDLE);
            if retires {
                gone.push_back((stats.id(), stats.key.clone()));
            }
            !retires
        });
        gone.drain(..gone.len().saturating_sub(limits::SERIES_MAX));
        let used: HashSet<u32> = self.all().flat_map(|stats| [stats.route.id, stats.peer.id]).collect();
        self.routes.retain(|_, track| used.contains(&track.id));
        self.peers.retain(|_, track| used.contains(&track.id));
    }
}

impl RouteKey {
    /// The route and the peer that it is of.
    fn tracks(&self) -> (Of, Of) {
        let Self { direction, parent, route, peer, tls, .. } = self.clone();
        (Of::Route { direction, parent, route }, Of::Peer { direction, peer, tls })
    }
}

impl Routes {
    /// An empty registry of the pod `namespace/name`.
    pub(crate) fn new(pod: String) -> Arc<Self> {
        let started = Instant::now();
        Arc::new(Self {
            pod,
            started,
            epoch: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            identity: Mutex::default(),
            known: Mutex::default(),
            clock: Mutex::new(Clock::new(started)),
            rings: Mutex::default(),
            sampling: Arc::default(),
            swept: Mutex::default(),
            short: AtomicBool::default(),
            rooms: AtomicU32::default(),
            full: AtomicU64::default(),
        })
    }

    /// When it was made: what records' times are told by.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The time of day, in milliseconds since 1970, that was so long after the registry was made.
    pub(super) fn wall_ms(&self, since: Duration) -> u64 {
        u64::try_from((self.epoch + since).as_millis()).unwrap_or(u64::MAX)
    }

    /// The time of day of a moment that far from the start, by the clock as it is now: it may have been set since then.
    pub(super) fn wall_now(&self, since: Duration) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (now + since).saturating_sub(self.started.elapsed())
    }

    /// Whether spans are made.
    pub(crate) fn sampling(&self) -> &Arc<Sampling> {
        &self.sampling
    }

    /// Records of one more worker.
    pub(super) fn add(&self, rings: Arc<Rings>) {
        lock(&self.rings).push(rings);
    }

    /// The records of workers that began after the first `known` of them.
    pub(super) fn rings_after(&self, known: usize) -> Vec<Arc<Rings>> {
        lock(&self.rings).get(known..).unwrap_or_default().to_vec()
    }

    /// The records of each worker.
    pub(super) fn rings(&self) -> Vec<Arc<Rings>> {
        lock(&self.rings).clone()
    }

    /// The counters of a route, while they are [current](Self::is_current). Locks: for when a route is built, not for every
    /// request.
    pub(crate) fn find(&self, key: RouteKey) -> Found {
        self.find_at(key, Instant::now())
    }

    /// Whether what was found is still what would be.
    pub(crate) fn is_current(&self, found: &Found) -> bool {
        !found.stats.is_retired() && found.short_of_room.is_none_or(|rooms| rooms == self.rooms.load(Relaxed))
    }

    /// The counters of a route, whether of its own or not.
    #[cfg(test)]
    pub(crate) fn stats(&self, key: RouteKey) -> Arc<RouteStats> {
        self.find(key).stats
    }

    #[cfg(test)]
    fn stats_at(&self, key: RouteKey, now: Instant) -> Arc<RouteStats> {
        self.find_at(key, now).stats
    }

    fn find_at(&self, key: RouteKey, now: Instant) -> Found {
        let mut known = lock(&self.known);
        if let Some(ByKey(stats)) = known.series.get(&key) {
            return Found { stats: stats.clone(), short_of_room: None };
        }
        let tracks = key.tracks();
        if !known.has_room(&tracks) {
            self.make_room(&mut known, now);
        }
        if known.has_room(&tracks) {
            return Found { stats: known.series(key, tracks, now), short_of_room: None };
        }
        super::series_full("series");
        self.full.fetch_add(1, Relaxed);
        self.short.store(true, Relaxed);
        // How it was protected and what was spoken stay true, at the price of a dozen keys beyond the bound.
        let other = RouteKey { parent: "".into(), route: OTHER.into(), peer: "".into(), ..key };
        let tracks = other.tracks();
        Found { stats: known.series(other, tracks, now), short_of_room: Some(self.rooms.load(Relaxed)) }
    }

    /// Gives up what was idle for long.
    fn make_room(&self, known: &mut Known, now: Instant) {
        let mut swept = lock(&self.swept);
        if swept.is_some_and(|at| now.saturating_duration_since(at) < limits::SIGNALS_SWEEP) {
            return;
        }
        *swept = Some(now);
        let full = |known: &Known| {
            known.series.len() >= limits::SERIES_MAX
                || known.routes.len() >= limits::TRACKS_MAX
                || known.peers.len() >= limits::TRACKS_MAX
        };
        known.sweep(now);
        if !full(known) && self.short.swap(false, Relaxed) {
            self.rooms.fetch_add(1, Relaxed);
        }
    }

    /// Tells the SPIFFE ID of this proxy's certificate.
    pub(crate) fn set_identity(&self, id: &str) {
        id.clone_into(&mut lock(&self.identity));
    }

    /// The SPIFFE ID of this proxy's certificate; empty before it has one.
    pub(super) fn identity(&self) -> String {
        lock(&self.identity).clone()
    }

    /// Moves the windows on. To be called once a second.
    pub(crate) fn tick(&self, now: Instant) {
        let mut clock = lock(&self.clock);
        clock.tick(now);
        // Copies, so that workers do not wait.
        let (series, tracks) = {
            let known = lock(&self.known);
            let tracks = known.routes.values().chain(known.peers.values()).cloned();
            (known.all().cloned().collect::<Vec<_>>(), tracks.collect::<Vec<_>>())
        };
        series.iter().for_each(|stats| stats.tick(now));
        tracks.iter().for_each(|track| track.tick(&clock));
        // A caller for which there was no room goes on with the series it got, and does not look again.
        if self.short.load(Relaxed) {
            self.make_room(&mut lock(&self.known), now);
        }
    }

    /// How often something had to be counted under `other`.
    pub(super) fn full(&self) -> u64 {
        self.full.load(Relaxed)
    }

    /// The clock of the windows. Held, it stops them.
    pub(super) fn clock(&self) -> MutexGuard<'_, Clock> {
        lock(&self.clock)
    }

    /// A copy of all series in a stable order, so that workers do not wait for a reader.
    pub(super) fn series(&self) -> Vec<Arc<RouteStats>> {
        let mut all: Vec<_> = lock(&self.known).all().cloned().collect();
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// The same of routes, and of peers.
    pub(super) fn tracks(&self) -> (Vec<Arc<Track>>, Vec<Arc<Track>>) {
        let known = lock(&self.known);
        let sorted = |tracks: &HashMap<Of, Arc<Track>>| {
            let mut all: Vec<_> = tracks.values().cloned().collect();
            all.sort_unstable_by(|a, b| a.of.cmp(&b.of));
            all
        };
        (sorted(&known.routes), sorted(&known.peers))
    }

    /// The keys of all series by their number, given up ones included.
    pub(super) fn names(&self) -> HashMap<u32, RouteKey> {
        let known = lock(&self.known);
        let there = known.all().map(|stats| (stats.id(), stats.key.clone()));
        there.chain(known.gone.iter().cloned()).collect()
    }
}

/// The lock's content; nothing under these locks can be left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn key(route: &str) -> RouteKey {
        RouteKey {
            direction: Direction::Outbound,
            parent: "shop/api:8080".into(),
            route: route.into(),
            peer: "spiffe://cluster.local/ns/shop/sa/api".into(),
            tls: Tls::Mtls,
            protocol: Proto::Http1,
        }
    }

    #[test]
    fn the_same_key_has_the_same_counters() {
        let routes = Routes::new("shop/web-1".into());
        assert!(Arc::ptr_eq(&routes.stats(key("GET /")), &routes.stats(key("GET /"))));
        assert!(!Arc::ptr_eq(&routes.stats(key("GET /")), &routes.stats(key("GET /a"))));
    }

    #[test]
    fn beyond_the_cap_everything_of_a_direction_is_other() {
        let routes = Routes::new("shop/web-1".into());
        for i in 0..limits::TRACKS_MAX {
            routes.stats(key(&format!("GET /{i}")));
        }
        let late = routes.stats(key("GET /late"));
        assert!(Arc::ptr_eq(&late, &routes.stats(key("GET /later"))));
        let inbound = routes.stats(RouteKey { direction: Direction::Inbound, ..key("GET /late") });
        assert!(!Arc::ptr_eq(&late, &inbound));
        assert!(!Arc::ptr_eq(&late, &routes.stats(key("GET /7"))), "what was there stays itself");
        let json = routes.json();
        let all = json["routes"].as_array().unwrap();
        assert_eq!(all.len(), limits::TRACKS_MAX + 2);
        assert_eq!(all.iter().filter(|route| route["route"] == OTHER && route["parent"] == "").count(), 2);
    }

    #[test]
    fn neither_routes_nor_peers_nor_both_together_are_without_bound() {
        let of = |route: usize, peer: usize| RouteKey { peer: peer.to_string().into(), ..key(&route.to_string()) };
        let few = limits::TRACKS_MAX / 2;
        for (name, keys) in [
            ("peers", (0..100_000).map(|i| of(0, i)).collect::<Vec<_>>()),
            ("routes", (0..100_000).map(|i| of(i, 0)).collect()),
            ("both", (0..few).flat_map(|route| (0..few).map(move |peer| of(route, peer))).collect()),
        ] {
            let routes = Routes::new("shop/web-1".into());
            keys.into_iter().for_each(|key| drop(routes.stats(key)));
            let ((of_routes, of_peers), series) = (routes.tracks(), routes.series());
            let most = limits::TRACKS_MAX + 2;
            assert!(of_routes.len() <= most && of_peers.len() <= most, "{name}");
            assert!(series.len() <= limits::SERIES_MAX + 2, "{name}: {}", series.len());
        }
    }

    #[test]
    fn what_was_idle_for_long_gives_way_and_what_is_under_way_does_not() {
        let routes = Routes::new("shop/web-1".into());
        let start = Instant::now();
        let all: Vec<_> = (0..limits::TRACKS_MAX).map(|i| routes.stats_at(key(&format!("GET /{i}")), start)).collect();
        all.iter().for_each(|stats| stats.request());
        all[2..].iter().for_each(|stats| stats.success(Duration::ZERO));
        all[0].connection_opened();
        all[0].success(Duration::ZERO);
        routes.tick(start + Duration::from_secs(1));
        let later = start + limits::SIGNALS_IDLE;
        all[3].request();
        all[3].success(Duration::ZERO);
        routes.tick(later);
        routes.stats_at(key("GET /early"), later - Duration::from_secs(1));
        assert!(all.iter().all(|stats| !stats.is_retired()), "a moment too early");
        let late = later + limits::SIGNALS_SWEEP;
        let new = routes.stats_at(key("GET /new"), late);
        let kept: Vec<_> = (0..limits::TRACKS_MAX).filter(|i| !all[*i].is_retired()).collect();
        assert_eq!(kept, [0, 1, 3], "a connection, a request under way, and one that was asked for");
        assert!(Arc::ptr_eq(&new, &routes.stats_at(key("GET /new"), late)) && !new.is_retired());
        assert!(!Arc::ptr_eq(&all[7], &routes.stats_at(key("GET /7"), late)), "it begins anew");
    }
}
