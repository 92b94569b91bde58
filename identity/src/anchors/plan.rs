//! Decides which namespaces need the ConfigMap: pure. In: what the watches say, and `now`. Out: what to write or remove.
//!
//! A namespace needs it if it is opted in, has a pod with a sidecar, or is the control plane's own. A namespace that is being
//! deleted gets nothing. Where no pod needs it any more it is removed, but only what we made, not before all is known, and not at once:
//! a Job of an opted-in pod template would wait for it again at its next run.

use crate::limits::{CALM, REPAIR_WAIT, REPAIR_WAIT_MAX, REPAIRS_AT_ONCE};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};
use tokio::time::Instant;

/// How long a ConfigMap outlives its last use.
pub(crate) const LINGER: Duration = Duration::from_secs(30);
/// Pause after a write that failed.
pub(crate) const RETRY: Duration = Duration::from_secs(2);
/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Namespaces,
    Pods,
    ConfigMaps,
}

/// What to do in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Write,
    Remove,
}

/// What is known of a namespace's ConfigMap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// It bears our label.
    pub(crate) ours: bool,
    /// It holds the anchors in force.
    pub(crate) current: bool,
}

/// What is known of a namespace itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) opted_in: bool,
    pub(crate) terminating: bool,
}

/// Something with the listing that it was last seen in: what a later listing leaves out is gone.
type Seen<T> = (u64, T);

#[derive(Debug, Default)]
struct Place {
    state: Option<Seen<State>>,
    /// Injected pods by name.
    pods: HashMap<String, Seen<()>>,
    config_map: Option<Seen<Found>>,
    unused_since: Option<Instant>,
    /// An action is on its way.
    busy: Option<Begun>,
    not_before: Option<Instant>,
    /// Counts what the watch said of the ConfigMap.
    told: u64,
    /// The last write that went well: of which version of the anchors, when, and the how-manyth of that version in a row.
    written: Option<(u64, Instant, u32)>,
}

/// An action that is on its way.
#[derive(Debug, Clone, Copy)]
struct Begun {
    /// With this version of the anchors.
    version: u64,
    /// When the watch had said so much of the ConfigMap.
    told: u64,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Plan {
    own: String,
    places: BTreeMap<String, Place>,
    /// Namespaces to look at.
    dirty: BTreeSet<String>,
    listings: [u64; 3],
    listed: [bool; 3],
    /// Counts the changes of the anchors.
    version: u64,
}

impl Plan {
    /// For the control plane in the namespace `own`, which is known to exist.
    pub(crate) fn new(own: &str) -> Self {
        let mut plan = Self {
            own: own.to_owned(),
            places: BTreeMap::new(),
            dirty: BTreeSet::new(),
            listings: [0; 3],
            listed: [false; 3],
            version: 0,
        };
        plan.place(own).state = Some((u64::MAX, State { opted_in: true, terminating: false }));
        plan
    }

    /// A listing of everything of this kind begins.
    pub(crate) fn begin(&mut self, kind: Kind) {
        self.listings[kind as usize] += 1;
    }

    /// And is complete: what it left out is gone.
    pub(crate) fn done(&mut self, kind: Kind) {
        self.listed[kind as usize] = true;
        let listing = self.listings[kind as usize];
        for place in self.places.values_mut() {
            match kind {
                Kind::Namespaces => place.state = place.state.filter(|(seen, _)| *seen >= listing),
                Kind::Pods => place.pods.retain(|_, (seen, ())| *seen >= listing),
                Kind::ConfigMaps => place.config_map = place.config_map.filter(|(seen, _)| *seen >= listing),
            }
        }
        self.look_everywhere();
    }

    /// The namespace is so, or is gone.
    pub(crate) fn namespace(&mut self, name: &str, state: Option<State>) {
        let listing = self.listings[Kind::Namespaces as usize];
        self.place(name).state = state.map(|state| (listing, state));
    }

    /// There is an injected pod, or it is gone.
    pub(crate) fn pod(&mut self, namespace: &str, name: &str, exists: bool) {
        let listing = self.listings[Kind::Pods as usize];
        let pods = &mut self.place(namespace).pods;
        match exists {
            true => drop(pods.insert(name.to_owned(), (listing, ()))),
            false => drop(pods.remove(name)),
        }
    }

    /// The namespace's ConfigMap is so, or is gone.
    pub(crate) fn config_map(&mut self, namespace: &str, found: Option<Found>) {
        let listing = self.listings[Kind::ConfigMaps as usize];
        let place = self.place(namespace);
        place.config_map = found.map(|found| (listing, found));
        place.told += 1;
    }

    /// There are other anchors in force: no ConfigMap is current any more, and none waits for the end of a quarrel.
    pub(crate) fn anchors_changed(&mut self) {
        self.version += 1;
        for place in self.places.values_mut() {
            place.not_before = None;
            if let Some((_, found)) = &mut place.config_map {
                found.current = false;
            }
        }
        self.look_everywhere();
    }

    /// The next thing to do at `now`; the caller reports its end by [`Self::ended`].
    pub(crate) fn next(&mut self, now: Instant) -> Option<(String, Action)> {
        while let Some(name) = self.dirty.pop_first() {
            let own = name == self.own;
            let all_listed = self.listed.iter().all(|listed| *listed);
            let Some(place) = self.places.get_mut(&name) else {
                continue;
            };
            if place.is_forgotten() {
                self.places.remove(&name);
                continue;
            }
            if place.busy.is_some() || place.not_before.is_some_and(|at| now < at) {
                continue;
            }
            if let Some(at) = place.next_repair(self.version).filter(|at| now < *at && !place.is_current()) {
                place.not_before = Some(at);
                continue;
            }
            if let Some(action) = place.action(own, all_listed, now) {
                place.busy = Some(Begun { version: self.version, told: place.told });
                return Some((name, action));
            }
        }
        None
    }

    /// What was begun in `name` has ended, well or not. Returns whether another writer changes it too, again and again.
    ///
    /// What the watch said meanwhile holds: it may be of an edit that came right after our write. (If it was of something before
    /// it, we write once more for nothing.)
    pub(crate) fn ended(&mut self, name: &str, action: Action, well: bool, now: Instant) -> bool {
        let (listing, version) = (self.listings[Kind::ConfigMaps as usize], self.version);
        let place = self.place(name);
        let begun = place.busy.take();
        place.not_before = (!well).then(|| now + RETRY);
        let Some(begun) = begun.filter(|_| well) else { return false };
        if begun.told == place.told {
            let written = (listing, Found { ours: true, current: begun.version == version });
            place.config_map = (action == Action::Write).then_some(written);
        }
        let in_a_row = match place.written {
            Some((last, at, count)) if last == begun.version && now < at + CALM => count.saturating_add(1),
            _ => 1,
        };
        place.written = (action == Action::Write).then_some((begun.version, now, in_a_row));
        in_a_row == REPAIRS_AT_ONCE + 2
    }

    /// Namespaces whose ConfigMap is wanted and does not hold the anchors in force.
    pub(crate) fn stale(&self) -> usize {
        self.places.iter().filter(|(name, place)| place.is_wanted(**name == self.own) && !place.is_current()).count()
    }

    /// When to ask for the [`Self::next`] thing although nothing was heard.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let places = self.places.values().filter(|place| place.busy.is_none());
        places.filter_map(|place| place.not_before.or(place.unused_since.map(|since| since + LINGER))).min()
    }

    /// The time is `now`: looks at namespaces that waited for it.
    pub(crate) fn wake(&mut self, now: Instant) {
        for (name, place) in &mut self.places {
            if place.not_before.is_some_and(|at| at <= now) {
                place.not_before = None;
                self.dirty.insert(name.clone());
            }
            if place.unused_since.is_some_and(|since| since + LINGER <= now) {
                self.dirty.insert(name.clone());
            }
        }
    }

    fn place(&mut self, name: &str) -> &mut Place {
        self.dirty.insert(name.to_owned());
        self.places.entry(name.to_owned()).or_default()
    }

    fn look_everywhere(&mut self) {
        self.dirty.extend(self.places.keys().cloned());
    }
}

impl Place {
    fn is_forgotten(&self) -> bool {
        self.state.is_none() && self.pods.is_empty() && self.config_map.is_none() && self.busy.is_none()
    }

    /// When the next repair of what was written already is due, if another writer keeps undoing it. New anchors do not wait.
    fn next_repair(&self, version: u64) -> Option<Instant> {
        let (_, at, in_a_row) = self.written.filter(|(last, ..)| *last == version)?;
        let doublings = in_a_row.checked_sub(REPAIRS_AT_ONCE + 1)?;
        Some(at + (REPAIR_WAIT * 2_u32.saturating_pow(doublings.min(16))).min(REPAIR_WAIT_MAX))
    }

    fn is_wanted(&self, own: bool) -> bool {
        let state = self.state.map(|(_, state)| state).filter(|state| !state.terminating);
        state.is_some_and(|state| own || !self.pods.is_empty() || state.opted_in)
    }

    fn is_current(&self) -> bool {
        self.config_map.is_some_and(|(_, found)| found == Found { ours: true, current: true })
    }

    fn action(&mut self, own: bool, all_listed: bool, now: Instant) -> Option<Action> {
        if self.state.is_none_or(|(_, state)| state.terminating) {
            self.unused_since = None;
            return None;
        }
        if self.is_wanted(own) {
            self.unused_since = None;
            return (!self.is_current()).then_some(Action::Write);
        }
        let found = self.config_map.map(|(_, found)| found);
        if !all_listed || !found.is_some_and(|found| found.ours) {
            self.unused_since = None;
            return None;
        }
        let since = *self.unused_since.get_or_insert(now);
        (now >= since + LINGER).then(|| {
            self.unused_since = None;
            Action::Remove
        })
    }
}
