//! The store of discovery's resources for the workers that read them. In: workers' commands and discovery's messages.
//! Out: messages to discovery. No IO: [`super::client`] sends them.
//!
//! A target or port is stored from a worker's first request until no worker reads it any more; a backend while a stored target
//! names it, or a worker reads it. So the store is bounded by [`limits`], and has no unused entries.

use super::{Command, Full, Known, Networks, State, Zone, settings::Settings};
use crate::limits;
use remora_api::{
    Received,
    convert::InvalidMessage,
    sync::{Delta, Name, Resource, Update, envelope, request},
    v1,
};
use remora_model::{BackendId, Outbound, Parent, Revocations};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// What is held of one resource.
struct Held {
    version: u64,
    state: watch::Sender<State>,
}

impl Held {
    fn resource(&self) -> Option<Arc<Resource>> {
        match &*self.state.borrow() {
            State::Held(resource) => Some(resource.clone()),
            State::Silent | State::Unusable(_) => None,
        }
    }
}

/// A question that was asked again because its answer did not help.
struct Doubt {
    /// Not again before.
    until: Instant,
    wait: Duration,
}

/// Which bound a resource counts against.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Target,
    Port,
    Backend,
}

impl Kind {
    fn of(name: &Name) -> Self {
        match name {
            Name::Outbound(_) => Self::Target,
            // The last two are never held: what is in force of them is kept apart.
            Name::Inbound(_) | Name::InboundDefault | Name::Settings | Name::Revocations => Self::Port,
            Name::Backend(_) => Self::Backend,
        }
    }

    fn most(self) -> usize {
        match self {
            Self::Target => limits::TARGETS_MAX,
            Self::Port => limits::PORTS_MAX + 1,
            Self::Backend => limits::BACKENDS_MAX,
        }
    }
}

/// Everything that is held.
pub(super) struct Store {
    table: HashMap<Name, Held>,
    /// How many of the table are of each [`Kind`].
    counts: [usize; 3],
    /// How many of the targets held name a backend.
    named: HashMap<BackendId, usize>,
    doubts: HashMap<Name, Doubt>,
    /// What discovery has refused on this stream, and says nothing more of until it is asked again.
    refused: HashSet<Name>,
    zone: Zone,
    networks: watch::Sender<Networks>,
    settings: Settings,
    revoked: watch::Sender<Arc<Revocations>>,
    /// When a resource last became another, or known.
    changed: watch::Sender<Option<Instant>>,
}

impl Store {
    /// Holds nothing, and asks for what rules the ports that are not declared.
    pub(super) fn new(zone: Zone, networks: watch::Sender<Networks>, settings: Settings) -> Self {
        let (table, counts, named, doubts) = (HashMap::new(), [0; 3], HashMap::new(), HashMap::new());
        let (refused, changed, revoked) = (HashSet::new(), watch::Sender::new(None), watch::Sender::default());
        let mut store = Self { table, counts, named, doubts, refused, zone, networks, settings, revoked, changed };
        store.insert(Name::InboundDefault);
        store
    }

    /// Tells `changed` from now on when a resource becomes another, or known.
    pub(super) fn telling(self, changed: watch::Sender<Option<Instant>>) -> Self {
        Self { changed, ..self }
    }

    /// Tells `revoked` from now on who is trusted no more.
    pub(super) fn revoking(self, revoked: watch::Sender<Arc<Revocations>>) -> Self {
        Self { revoked, ..self }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    fn insert(&mut self, name: Name) -> &mut Held {
        let count = &mut self.counts[Kind::of(&name) as usize];
        let new = || {
            *count += 1;
            Held { version: 0, state: watch::Sender::new(State::Silent) }
        };
        self.table.entry(name).or_insert_with(new)
    }

    /// Forgets it; what is to be said of that.
    fn remove(&mut self, name: &Name) -> Vec<v1::SyncRequest> {
        let Some(held) = self.table.remove(name) else { return Vec::new() };
        self.counts[Kind::of(name) as usize] -= 1;
        self.doubts.remove(name);
        self.refused.remove(name);
        let mut say = vec![request::unsubscribe(name)];
        if let Some(Resource::Outbound(outbound)) = held.resource().as_deref() {
            say.extend(self.unname(outbound));
        }
        say
    }

    /// The backends that a target named, and names no more: those that nothing leads to are forgotten, as discovery does.
    fn unname(&mut self, outbound: &Outbound) -> Vec<v1::SyncRequest> {
        let mut say = Vec::new();
        for id in outbound.backends() {
            if let Some(count) = self.named.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.named.remove(id);
                    say.extend(self.forget_unused(&Name::Backend(id.clone())));
                }
            }
        }
        say
    }

    fn is_used(&self, name: &Name, held: &Held) -> bool {
        held.state.receiver_count() > 0
            || match name {
                Name::Backend(id) => self.named.contains_key(id),
                Name::InboundDefault => true,
                Name::Outbound(_) | Name::Inbound(_) | Name::Settings | Name::Revocations => false,
            }
    }

    fn forget_unused(&mut self, name: &Name) -> Vec<v1::SyncRequest> {
        match self.table.get(name) {
            Some(held) if !self.is_used(name, held) => self.remove(name),
            _ => Vec::new(),
        }
    }

    /// Removes all entries of a kind that no worker reads and no other entry names.
    fn prune(&mut self, kind: Kind) -> Vec<v1::SyncRequest> {
        let unused = self.table.iter().filter(|(name, held)| Kind::of(name) == kind && !self.is_used(name, held));
        let unused: Vec<Name> = unused.map(|(name, _)| name.clone()).collect();
        unused.iter().flat_map(|name| self.forget_unused(name)).collect()
    }

    /// Makes room for one more. `None`: there is none.
    fn room(&mut self, name: &Name) -> Option<Vec<v1::SyncRequest>> {
        let kind = Kind::of(name);
        if self.table.contains_key(name) || self.counts[kind as usize] < kind.most() {
            return Some(Vec::new());
        }
        let say = self.prune(kind);
        (self.counts[kind as usize] < kind.most()).then_some(say)
    }

    /// Executes a worker's command; returns the messages to discovery.
    pub(super) fn take(&mut self, command: Command) -> Vec<v1::SyncRequest> {
        match command {
            Command::Watch(name, tell) => {
                let Some(mut say) = self.room(&name) else {
                    metrics::counter!("remora_discovery_full_total").increment(1);
                    drop(tell.send(Err(Full)));
                    return Vec::new();
                };
                let new = !self.table.contains_key(&name) && Kind::of(&name) != Kind::Backend;
                let known: Known = self.insert(name.clone()).state.subscribe();
                // Who asked may have gone meanwhile; then it is unused, and makes room when there is need.
                drop(tell.send(Ok(known)));
                say.extend(new.then(|| request::subscribe(&name)));
                say
            }
            Command::Unwatch(name) => self.forget_unused(&name),
            Command::Doubt(name) => self.doubt(&name, Instant::now()),
        }
    }

    /// Asks discovery again for a target, or for every target that has a backend which cannot be reached: for the whole resource, not a
    /// delta. With a growing pause, until the answer changes or no worker asks for a while.
    fn doubt(&mut self, name: &Name, now: Instant) -> Vec<v1::SyncRequest> {
        if !self.table.contains_key(name) {
            return Vec::new();
        }
        let wait = match self.doubts.get(name) {
            Some(doubt) if now < doubt.until => return Vec::new(),
            Some(doubt) if now < doubt.until + doubt.wait => (doubt.wait * 2).min(limits::DOUBT_MAX),
            _ => limits::DOUBT_MIN,
        };
        let until = now + wait.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.doubts.insert(name.clone(), Doubt { until, wait });
        metrics::counter!("remora_discovery_doubts_total").increment(1);
        let leads = |held: &Held| match (name, held.resource().as_deref()) {
            (Name::Backend(id), Some(Resource::Outbound(outbound))) => outbound.backends().contains(&id),
            _ => false,
        };
        let targets: Vec<&Name> = match name {
            Name::Backend(_) => self.table.iter().filter(|(_, held)| leads(held)).map(|(name, _)| name).collect(),
            name => vec![name],
        };
        targets.into_iter().flat_map(|name| [request::unsubscribe(name), request::subscribe(name)]).collect()
    }

    /// Whether something is to be [asked again](Self::again).
    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Asks again for what discovery refused, held or not: ever more seldom, as for what is doubted. To be called now and then.
    pub(super) fn again(&mut self, now: Instant) -> Vec<v1::SyncRequest> {
        let refused: Vec<Name> = self.refused.iter().cloned().collect();
        refused.iter().flat_map(|name| self.doubt(name, now)).collect()
    }

    /// What is said first: who we are, what we hold (which subscribes to it), and what we ask for and do not hold.
    pub(super) fn opening(&mut self, hello: &v1::Hello) -> Vec<v1::SyncRequest> {
        self.refused.clear();
        let mut hello = hello.clone();
        let mut asked = Vec::new();
        let is_offered = |held: &Held| held.resource().is_some();
        for (name, held) in self.table.iter().filter(|(name, _)| Kind::of(name) != Kind::Backend) {
            if is_offered(held) {
                hello.held.push(request::held(name, held.version));
            } else {
                asked.push(request::subscribe(name));
            }
        }
        let named = |name: &Name| matches!(name, Name::Backend(id) if self.named.contains_key(id));
        let backends = self.table.iter().filter(|(name, held)| named(name) && is_offered(held));
        let rest = limits::OFFERED_MAX.saturating_sub(hello.held.len());
        hello.held.extend(backends.take(rest).map(|(name, held)| request::held(name, held.version)));
        std::iter::once(request::hello(hello)).chain(asked).collect()
    }

    /// Takes an update in; the ack or nack for it. A bad one leaves what is held.
    pub(super) fn apply(&mut self, received: impl Into<Received>) -> Vec<v1::SyncRequest> {
        let received = received.into();
        let envelope = envelope(&received.message);
        match Update::try_from(received) {
            Err(error) => self.refuse(envelope, &error.to_string(), true),
            Ok(Update::Whole { version, resource, closed }) => {
                self.refused.remove(&resource.name());
                self.whole(version, resource, &closed)
            }
            Ok(Update::Delta(delta)) => match self.delta(&delta) {
                Ok(say) => say,
                Err(problem) => self.refuse(envelope, &problem, false),
            },
            Ok(Update::Zone(told)) => {
                self.zone.tell(told);
                Vec::new()
            }
            Ok(Update::Networks(ranges)) => {
                // None is a word too: that everything may be the cluster's, whatever was configured.
                let ranges = Networks::new(ranges);
                self.networks.send_if_modified(|known| {
                    let new = *known != ranges;
                    *known = ranges;
                    new
                });
                Vec::new()
            }
            Ok(Update::Settings { version, settings }) => {
                let unused = self.settings.take(version, settings);
                vec![request::ack_closed(&Name::Settings, version, &unused)]
            }
            Ok(Update::Revocations { version, revocations }) => {
                self.revoke(revocations);
                vec![request::ack(&Name::Revocations, version)]
            }
            Ok(Update::Current { name, version }) => {
                self.refused.remove(&name);
                vec![request::ack(&name, version)]
            }
            // Those are answered, not kept.
            Ok(Update::Ask { .. }) => Vec::new(),
            Ok(Update::Refused { name, reason }) => {
                remora_runtime::limited!(warn, %name, %reason, "discovery refused a subscription");
                if self.table.contains_key(&name) {
                    self.refused.insert(name.clone());
                    let (until, wait) = (Instant::now() + limits::DOUBT_MIN, limits::DOUBT_MIN);
                    self.doubts.entry(name.clone()).or_insert(Doubt { until, wait });
                }
                self.unusable(name, &format!("discovery refuses it: {reason}"));
                Vec::new()
            }
        }
    }

    /// Takes them into use at once: whoever reads them ends what the revoked have open.
    fn revoke(&self, revocations: Revocations) {
        self.revoked.send_if_modified(|known| {
            let new = **known != revocations;
            if new {
                metrics::gauge!("remora_revocations").set(revocations.len() as f64);
                let added = revocations.iter().find(|one| known.iter().all(|before| before != *one));
                let first_new = added.map(ToString::to_string);
                tracing::info!(revoked = revocations.len(), before = known.len(), first_new, "revocations changed");
                *known = Arc::new(revocations);
            }
            new
        });
    }

    fn whole(&mut self, version: u64, resource: Resource, closed: &[InvalidMessage]) -> Vec<v1::SyncRequest> {
        let name = resource.name();
        let is_backend = Kind::of(&name) == Kind::Backend;
        let mut say = Vec::new();
        if !self.table.contains_key(&name) {
            // A backend comes before the target that names it; anything else was given up while this was on its way.
            let room = if is_backend { self.room(&name) } else { return say };
            let Some(room) = room else {
                return vec![request::nack((&name).into(), version, "no room for another backend".to_owned())];
            };
            say.extend(room);
        }
        if !closed.is_empty() {
            metrics::counter!("remora_discovery_closed_rules_total").increment(closed.len() as u64);
            let rules = closed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            remora_runtime::limited!(warn, %name, %rules, "rules could not be read; their closed form is in force");
        }
        say.push(request::ack_closed(&name, version, closed));
        match (&resource, closed.first()) {
            (Resource::Outbound(Outbound { parent: Parent::Unknown, .. }), Some(first)) => {
                say.extend(self.close(&name, version, format!("{name}: {first}").into()));
            }
            _ => say.extend(self.set(&name, version, resource)),
        }
        say
    }

    /// Lets go of what is held: discovery says something else by now, which this version cannot read.
    fn close(&mut self, name: &Name, version: u64, why: Arc<str>) -> Vec<v1::SyncRequest> {
        let held = self.insert(name.clone());
        let before = held.resource();
        held.version = version;
        held.state.send_replace(State::Unusable(why));
        match before.as_deref() {
            Some(Resource::Outbound(outbound)) => self.unname(outbound),
            _ => Vec::new(),
        }
    }

    /// Takes it into use, and forgets the backends that nothing leads to any more.
    fn set(&mut self, name: &Name, version: u64, resource: Resource) -> Vec<v1::SyncRequest> {
        let held = self.insert(name.clone());
        let before = held.resource();
        if before.is_some() && held.version == version {
            return Vec::new();
        }
        held.version = version;
        let resource = Arc::new(resource);
        held.state.send_replace(State::Held(resource.clone()));
        self.changed.send_replace(Some(Instant::now()));
        self.doubts.remove(name);
        if let Resource::Outbound(outbound) = &*resource {
            for id in outbound.backends() {
                *self.named.entry(id.clone()).or_default() += 1;
            }
        }
        match before.as_deref() {
            Some(Resource::Outbound(outbound)) => self.unname(outbound),
            _ => Vec::new(),
        }
    }

    fn delta(&mut self, delta: &Delta) -> Result<Vec<v1::SyncRequest>, String> {
        let name = Name::Backend(delta.id.clone());
        let held = self.table.get(&name).and_then(|held| Some((held.resource()?, held.version)));
        let Some((Resource::Backend(backend), version)) = held.as_ref().map(|(held, version)| (&**held, *version))
        else {
            return Err("nothing is held to apply a delta to".to_owned());
        };
        let next = delta.apply(backend, version).map_err(|error| error.to_string())?;
        self.set(&name, delta.version, Resource::Backend(next));
        Ok(vec![request::ack(&name, delta.version)])
    }

    /// Says no to a message. `whole`: nothing better follows by itself, so with nothing held its readers learn of it.
    fn refuse(&mut self, envelope: Option<(v1::ResourceName, u64)>, reason: &str, whole: bool) -> Vec<v1::SyncRequest> {
        metrics::counter!("remora_discovery_nacks_total").increment(1);
        let name = envelope.as_ref().and_then(|(name, _)| Name::try_from(name.clone()).ok());
        let of = name.as_ref().map_or_else(|| "of no name".to_owned(), ToString::to_string);
        remora_runtime::limited!(warn, name = %of, %reason, "discovery sent an invalid resource; the last valid state, if any, stays in force");
        if let Some(name) = name
            && whole
        {
            self.unusable(name, reason);
        }
        envelope.map(|(name, version)| request::nack(name, version, reason.to_owned())).into_iter().collect()
    }

    /// Has the readers of what is not held know that it will not come.
    fn unusable(&mut self, name: Name, reason: &str) {
        let is_new_backend = Kind::of(&name) == Kind::Backend && !self.table.contains_key(&name);
        if is_new_backend && self.room(&name).is_none() {
            return;
        }
        if !is_new_backend && self.table.get(&name).is_none_or(|held| held.resource().is_some()) {
            return;
        }
        let detail: Arc<str> = format!("{name}: {reason}").into();
        self.insert(name).state.send_replace(State::Unusable(detail));
    }
}

#[cfg(test)]
mod tests;
