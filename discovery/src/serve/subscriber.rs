//! What one proxy wants and holds; which message brings it closer to what is known. No IO.
//!
//! Work is done only when the proxy reads: [`Subscriber::next`] looks at one due resource at a time, at its version of that
//! moment. Due is what the proxy asks for, and what its [`Mailbox`] says is another. So a proxy that reads slowly skips what it
//! missed, one that asks for a thousand targets costs a thousand looks and not their square, and one that reads nothing, or
//! whom a change does not concern, costs nothing.

use super::{
    budget::Lines,
    entries::Entries,
    hub::{Cell, Hub, Mailbox},
    limits::{HELD_MAX, MADE_MAX, SUBSCRIPTIONS_MAX, TURN, UNIT_BYTES, UNPROVEN_SUBSCRIPTIONS_MAX},
    resource::{Encoded, Resource, Says, message},
};
use crate::index::{Asked, Proof};
use remora_api::{
    convert,
    sync::Name,
    v1::{self, SyncRequest, sync_request, sync_response::Kind},
};
use remora_model::{BackendId, Closed, Feature, Features};
use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};
use tokio::time::Instant;
use tonic::Status;

/// What there is to do for a proxy.
#[derive(Debug)]
pub(super) enum Next {
    /// Tell it this.
    Tell(Encoded),
    /// Go on after others had their turn.
    Later,
    /// Nothing: it knows all.
    Nothing,
}

/// One proxy.
#[derive(Debug)]
pub(super) struct Subscriber {
    hub: Hub,
    pub(super) mailbox: Arc<Mailbox>,
    namespace: String,
    pod: String,
    /// What it can carry out.
    features: Features,
    /// What is known of its pod, and of the cluster's ranges.
    own: Arc<Cell>,
    networks: Arc<Cell>,
    /// Who is trusted no more, if its proxy can refuse them.
    revoked: Option<Arc<Cell>>,
    /// Whether it knows in what zone it is.
    zoned: bool,
    /// Whether its proxy can change its settings while it runs.
    takes_settings: bool,
    /// The versions of the ranges, of the settings and of the revocations that were sent to it.
    networks_sent: u64,
    settings_sent: u64,
    revoked_sent: u64,
    /// Of the revocations, the version that it said to hold; 0 if none.
    revoked_held: u64,
    /// Whether its pod is known.
    proven: bool,
    /// Work since this was asked last.
    spent: u32,
    lines: Arc<Lines>,
    entries: Entries,
    /// How many of them it subscribed to.
    wanted: usize,
    /// What is to be looked at.
    due: BTreeSet<Arc<Name>>,
    /// Made and not taken yet: at most one target with its backends.
    made: VecDeque<Encoded>,
    /// Whether something may be held that nothing leads to any more.
    untidy: bool,
}

impl Subscriber {
    /// Takes what it offers to hold. What is more than may be held is not believed, and comes whole when it is wanted. `address`
    /// is where it calls from, if that is to be held against its pod's.
    pub(super) fn new(hello: v1::Hello, hub: Hub, address: Option<IpAddr>, lines: Arc<Lines>) -> Result<Self, Status> {
        let v1::Hello { namespace, pod, proxy_version: version, .. } = &hello;
        tracing::info!(namespace, pod, version, held = hello.held.len(), "proxy connected");
        let features = convert::features(&hello.features);
        let lacks = Features::all().beyond(features);
        let (mailbox, pod) = (Arc::<Mailbox>::default(), (hello.namespace.clone(), hello.pod.clone()));
        let own = Asked::Own { pod, account: hello.service_account, address };
        let own = hub.ask(own, features, &mailbox);
        let networks = hub.ask(Asked::Networks, features, &mailbox);
        let able = features.contain(Feature::Revocation);
        let revoked = able.then(|| hub.ask(Asked::Revocations, features, &mailbox));
        let pod = format!("{}/{}", hello.namespace, hello.pod);
        hub.lack(lacks, &pod, true);
        if able {
            hub.held(None, Some(0));
        }
        let mut subscriber = Self {
            hub,
            mailbox,
            own,
            networks,
            revoked,
            zoned: !hello.zone.is_empty(),
            takes_settings: features.contain(Feature::Settings),
            networks_sent: 0,
            settings_sent: 0,
            revoked_sent: 0,
            revoked_held: 0,
            proven: false,
            spent: 0,
            lines,
            namespace: hello.namespace,
            pod: hello.pod,
            features,
            entries: Entries::default(),
            wanted: 0,
            due: BTreeSet::new(),
            made: VecDeque::new(),
            untidy: true,
        };
        subscriber.proven = subscriber.proof() == Proof::Proven;
        if !lacks.is_empty() {
            subscriber.say(|pod, left_out| {
                tracing::warn!(pod, version = hello.proxy_version, %lacks, left_out, "proxy is too old for some features; rules that need them are closed there");
            });
        }
        for (at, offered) in hello.held.into_iter().enumerate() {
            let name = read(offered.name)?;
            subscriber.spent += 1;
            let asks = !matches!(*name, Name::Backend(_) | Name::Settings | Name::Revocations);
            if asks && !subscriber.want(name.clone()) {
                continue;
            }
            if at < HELD_MAX {
                let entry = subscriber.entries.at(name);
                (entry.version, entry.offered) = (offered.version, true);
            }
        }
        Ok(subscriber)
    }

    /// Subscribes, or refuses that one subscription. Whether it subscribed.
    fn want(&mut self, name: Arc<Name>) -> bool {
        let max = if self.proven { SUBSCRIPTIONS_MAX } else { UNPROVEN_SUBSCRIPTIONS_MAX };
        if self.wanted >= max && !self.wants(&name) {
            metrics::counter!("remora_discovery_refused_subscriptions_total").increment(1);
            self.say(
                |pod, left_out| tracing::warn!(pod, %name, max, left_out, "a subscription beyond the bound is refused"),
            );
            // Beyond what a person reads, refusals are not logged one by one.
            if self.made.len() < 2 * MADE_MAX {
                let reason = format!("more than {max} subscriptions; some of the others must end first");
                let refused = v1::Refused { name: Some((&*name).into()), reason };
                self.made.push_back(message(Kind::Refused(refused)));
            }
            return false;
        }
        let entry = self.entries.at(name.clone());
        self.wanted += usize::from(!std::mem::replace(&mut entry.wanted, true));
        self.due.insert(name);
        true
    }

    fn wants(&self, name: &Name) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.wanted)
    }

    /// Says something about the proxy, unless too much was said already.
    fn say(&self, say: impl FnOnce(&str, u64)) {
        if let Some(left_out) = self.lines.may_say(Instant::now()) {
            say(&self.named(), left_out);
        }
    }

    /// The pod, for people.
    pub(super) fn named(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }

    /// Whether it may be heard: what it asks for is not answered faster than it reads.
    pub(super) fn hears(&self) -> bool {
        self.made.len() < MADE_MAX
    }

    /// The work since this was asked last, in units.
    pub(super) fn spent(&mut self) -> u32 {
        std::mem::take(&mut self.spent)
    }

    /// Takes one message of the proxy.
    pub(super) fn take(&mut self, message: SyncRequest) -> Result<(), Status> {
        self.spent += 1;
        match message.kind {
            Some(sync_request::Kind::Subscribe(name)) => {
                let name = read(Some(name))?;
                if matches!(*name, Name::Backend(_) | Name::Settings | Name::Revocations) {
                    return Err(Status::invalid_argument(format!("{name}: needs no subscription, and has none")));
                }
                // Asking again asks for the whole: a proxy does so after it lost what it had.
                self.forget(&name);
                self.want(name);
                Ok(())
            }
            Some(sync_request::Kind::Unsubscribe(name)) => {
                let name = read(Some(name))?;
                self.forget(&name);
                // A backend that nothing led to when the proxy let go of it, and that something leads to again by now.
                if matches!(&*name, Name::Backend(id) if self.leads_to(id)) {
                    self.due.insert(name);
                } else {
                    self.due.remove(&name);
                }
                self.untidy = true;
                Ok(())
            }
            Some(sync_request::Kind::Ack(ack)) => {
                self.took_revocations(&ack);
                self.took_closed(&ack);
                Ok(())
            }
            Some(sync_request::Kind::Nack(nack)) => self.refused(nack),
            Some(sync_request::Kind::Hello(_)) => Err(Status::invalid_argument("hello comes once")),
            Some(sync_request::Kind::Answer(part)) => {
                let units = part.body.len() / UNIT_BYTES;
                self.spent = self.spent.saturating_add(u32::try_from(units).unwrap_or(u32::MAX));
                self.mailbox.asks.answered(part)
            }
            None => Err(Status::invalid_argument("a message of a kind that this version does not know")),
        }
    }

    /// The proxy is taken to hold nothing of this name, nor of the backends that it leads to.
    fn forget(&mut self, name: &Name) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        self.wanted -= usize::from(std::mem::take(&mut entry.wanted));
        let seen = entry.seen.take();
        entry.let_go();
        for id in seen.as_deref().map_or(&[][..], Resource::leads) {
            if let Some(backend) = self.entries.get_mut(&Name::Backend(id.clone())) {
                backend.let_go();
            }
        }
    }

    /// Whether something that it subscribed to leads to the backend.
    fn leads_to(&self, id: &BackendId) -> bool {
        self.entries.all().any(|entry| entry.leads().contains(id))
    }

    /// Rules that the proxy could not read, and which stand in their closed form there. With a proxy of our own version there
    /// are none, as the same checks were run before.
    fn took_closed(&self, ack: &v1::Ack) {
        if ack.closed.is_empty() {
            return;
        }
        metrics::counter!("remora_discovery_closed_rules_total").increment(ack.closed.len() as u64);
        let name = ack.name.clone().and_then(|name| Name::try_from(name).ok()).map(|name| name.to_string());
        let (rules, first) = (ack.closed.len(), ack.closed.first());
        self.say(|pod, left_out| {
            tracing::warn!(
                pod,
                name,
                rules,
                first,
                left_out,
                "proxy cannot read rules; their closed form is in force there"
            );
        });
    }

    /// The proxy refuses from now on whom this version names.
    fn took_revocations(&mut self, ack: &v1::Ack) {
        let names = ack.name.as_ref().and_then(|name| name.kind.as_ref());
        if self.revoked.is_some() && matches!(names, Some(v1::resource_name::Kind::Revocations(_))) {
            let before = std::mem::replace(&mut self.revoked_held, ack.version);
            self.hub.held(Some(before), Some(ack.version));
        }
    }

    /// A delta is replaced by the whole at once. For a whole there is nothing better to send until it changes, and then
    /// no delta, as the proxy does not hold what we sent.
    fn refused(&mut self, nack: v1::Nack) -> Result<(), Status> {
        let name = read(nack.name)?;
        metrics::counter!("remora_discovery_nacks_total").increment(1);
        self.say(|pod, left_out| {
            tracing::warn!(pod, %name, reason = nack.reason, left_out, "proxy refused a resource");
        });
        if let Some(entry) = self.entries.get_mut(&name) {
            if matches!(*name, Name::Backend(_)) {
                entry.seen = None;
            }
            if std::mem::take(&mut entry.delta) {
                entry.version = 0;
                self.due.insert(name);
            }
        }
        Ok(())
    }

    /// Whether its pod is known, and its own.
    pub(super) fn proof(&self) -> Proof {
        if let Says::Own(known) = &self.own.latest().says { known.proof } else { Proof::Unknown }
    }

    /// Whether its proxy answers what it is asked.
    pub(super) fn answers(&self) -> bool {
        self.features.contain(Feature::Asks)
    }

    /// Its pod is known to be the caller's from now on.
    pub(super) fn prove(&mut self) {
        self.proven = true;
    }

    /// Finds due what its mailbox says is another.
    fn collect(&mut self) {
        for cell in self.mailbox.take() {
            // What has no name is looked at each time.
            let Some(name) = &cell.name else { continue };
            let Some(entry) = self.entries.get(name) else { continue };
            if entry.cell.is_some() && (entry.wanted || matches!(**name, Name::Backend(_))) {
                self.due.insert(name.clone());
            }
        }
    }

    /// What brings the proxy closer to what is known. Who is trusted no more comes first, then the cluster's ranges, its zone and its
    /// settings; a target comes after the backends that it leads to.
    pub(super) fn next(&mut self) -> Next {
        self.collect();
        let next = self.find();
        if let Next::Tell(response) = &next {
            let units = response.len() / UNIT_BYTES;
            self.spent = self.spent.saturating_add(u32::try_from(units).unwrap_or(u32::MAX));
        }
        next
    }

    fn find(&mut self) -> Next {
        if let Some(revoked) = self.revoked.as_ref().map(|cell| cell.latest())
            && std::mem::replace(&mut self.revoked_sent, revoked.version) != revoked.version
        {
            return Next::Tell(revoked.whole.clone());
        }
        let networks = self.networks.latest();
        if self.networks_sent != networks.version {
            self.networks_sent = networks.version;
            return Next::Tell(networks.whole.clone());
        }
        let own = self.own.latest();
        if let Says::Own(known) = &own.says {
            if known.zoned && !std::mem::replace(&mut self.zoned, true) {
                return Next::Tell(own.whole.clone());
            }
            if let Some((version, settings)) = known.settings.as_ref().filter(|_| self.takes_settings)
                && std::mem::replace(&mut self.settings_sent, *version) != *version
            {
                let settings = settings.clone();
                self.degraded(&Name::Settings, &own.closed);
                return Next::Tell(settings);
            }
        }
        for _ in 0..TURN {
            if let Some(made) = self.made.pop_front() {
                return Next::Tell(made);
            }
            match self.due.pop_first() {
                Some(name) => self.look_at(&name),
                None => {
                    if let Some(ask) = self.mailbox.asks.unsent() {
                        return Next::Tell(message(Kind::Ask(ask)));
                    }
                    self.tidy();
                    // They had room for the longest burst.
                    (self.made, self.due) = (VecDeque::new(), BTreeSet::new());
                    return Next::Nothing;
                }
            }
        }
        Next::Later
    }

    fn look_at(&mut self, name: &Name) {
        self.spent += 1;
        if let Name::Backend(id) = name {
            if self.leads_to(id) {
                self.turn(name);
            }
            return;
        }
        let resource = self.latest(name);
        if matches!(resource.says, Says::Outbound(_)) {
            for id in resource.leads() {
                let name = Name::Backend(id.clone());
                self.due.remove(&name);
                self.turn(&name);
            }
            if let Some(entry) = self.entries.get_mut(name) {
                self.untidy |= entry.leads() != resource.leads();
                entry.seen = Some(Arc::clone(&resource));
            }
        }
        self.turn(name);
    }

    /// The version of now; subscribes if that was not done before.
    fn latest(&mut self, name: &Name) -> Arc<Resource> {
        if let Some(cell) = self.entries.get(name).and_then(|entry| entry.cell.as_ref()) {
            return cell.latest();
        }
        let pod = || (self.namespace.clone(), self.pod.clone());
        let asked = match name {
            Name::Outbound(target) => Asked::Outbound(self.namespace.clone(), target.clone()),
            Name::Backend(id) => Asked::Backend(id.clone()),
            Name::Inbound(port) => Asked::Inbound(pod(), *port),
            Name::InboundDefault => Asked::InboundDefault(pod()),
            // They come with what is known of its own pod, or by themselves.
            Name::Settings | Name::Revocations => return self.own.latest(),
        };
        let cell = self.hub.ask(asked, self.features, &self.mailbox);
        let latest = cell.latest();
        self.entries.subscribed(name, cell);
        latest
    }

    /// Makes the message about a name, if there is anything to say.
    fn turn(&mut self, name: &Name) {
        let resource = self.latest(name);
        // An unknown pod is most likely a new one: it is answered when it is known.
        if matches!(resource.says, Says::Nothing) {
            return;
        }
        let Some(entry) = self.entries.get_mut(name) else { return };
        if entry.version == resource.version {
            if std::mem::take(&mut entry.offered) {
                let current = v1::Current { name: Some(name.into()), version: resource.version };
                self.made.push_back(message(Kind::Current(current)));
                // What a nack took away does not come back: only who just offered it holds what we would have sent.
                if matches!(resource.says, Says::Backend(..)) {
                    entry.seen = Some(resource);
                }
            }
            return;
        }
        let (message, delta) = resource.after(entry.seen.as_deref().filter(|sent| sent.version == entry.version));
        (entry.version, entry.offered, entry.delta) = (resource.version, false, delta);
        if matches!(resource.says, Says::Backend(..)) {
            entry.seen = Some(Arc::clone(&resource));
        }
        self.made.push_back(message);
        self.degraded(name, &resource.closed);
    }

    /// Counts and says what of a resource the proxy is too old for.
    fn degraded(&self, name: &Name, closed: &[Closed]) {
        for feature in closed.iter().flat_map(|closed| closed.lacks.iter()) {
            metrics::counter!("remora_discovery_degraded_rules_total", "feature" => feature.name()).increment(1);
        }
        if let Some(first) = closed.first() {
            let (rules, first, lacks) = (closed.len(), &first.rule, first.lacks);
            self.say(|pod, left_out| {
                tracing::warn!(pod, %name, rules, %first, %lacks, left_out, "rules are sent in their closed form: the proxy is too old for them");
            });
        }
    }

    /// Lets go of what nothing leads to any more, as the proxy does.
    fn tidy(&mut self) {
        if !std::mem::take(&mut self.untidy) {
            return;
        }
        let seen: Vec<Arc<Resource>> = self.entries.all().filter_map(|entry| entry.seen.clone()).collect();
        let backends: BTreeSet<&BackendId> = seen.iter().flat_map(|seen| seen.leads()).collect();
        let left = self.entries.take(|name, entry| match name {
            Name::Backend(id) => !backends.contains(id),
            _ => !entry.wanted,
        });
        let left: Vec<Arc<Cell>> = left.into_iter().filter_map(|entry| entry.cell).collect();
        if !left.is_empty() {
            self.hub.leave(left, &self.mailbox);
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let cells = self.entries.take(|_, _| true).into_iter().filter_map(|entry| entry.cell);
        let own = [Arc::clone(&self.own), Arc::clone(&self.networks)];
        self.hub.leave(cells.chain(own).chain(self.revoked.take()), &self.mailbox);
        let pod = format!("{}/{}", self.namespace, self.pod);
        self.hub.lack(Features::all().beyond(self.features), &pod, false);
        if self.features.contain(Feature::Revocation) {
            self.hub.held(Some(self.revoked_held), None);
        }
    }
}

fn read(name: Option<v1::ResourceName>) -> Result<Arc<Name>, Status> {
    let name = name.ok_or_else(|| Status::invalid_argument("name is missing"))?;
    Name::try_from(name).map(Arc::new).map_err(|error| Status::invalid_argument(format!("name.{error}")))
}
