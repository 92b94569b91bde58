//! What one proxy wants and holds; which message brings it closer to what is known. No IO.
//!
//! Work is done only when the proxy reads: [`Subscriber::next`] looks at one due resource at a time, at its version of that
//! moment. Due is what the proxy asks for, and what its [`Mailbox`] says is another. So a proxy that reads slowly skips what it
//! missed, one that asks for a thousand targets costs a thousand looks and not their square, and one that reads nothing, or
//! whom a change does not concern, costs nothing.

use super::{
    budget::Lines,
    hub::{Cell, Hub, Mailbox},
    limits::{HELD_MAX, MADE_MAX, SUBSCRIPTIONS_MAX, TURN, UNIT_BYTES, UNPROVEN_SUBSCRIPTIONS_MAX},
    resource::{Encoded, Resource, Says, message},
};
use crate::index::{Asked, Own, Proof};
use remora_api::{
    convert,
    sync::Name,
    v1::{self, SyncRequest, sync_request, sync_response::Kind},
};
use remora_model::{BackendId, Features};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
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

/// What there is under a name: there are some sixty for each of ten thousand proxies.
#[derive(Debug, Default)]
struct Entry {
    /// Where it is subscribed to at the hub.
    cell: Option<Arc<Cell>>,
    /// The backends that it leads to, as of the last look.
    leads: Arc<[BackendId]>,
    /// The version that the proxy holds; 0 if none.
    version: u64,
    /// What we sent, to make deltas from.
    sent: Option<Arc<Resource>>,
    /// The proxy subscribed to it.
    wanted: bool,
    /// Offered in Hello and not yet looked at: to be confirmed.
    offered: bool,
    /// The last message was a delta, which the proxy may be unable to apply.
    delta: bool,
}

impl Entry {
    /// The proxy is taken to hold nothing of it.
    fn let_go(&mut self) {
        (self.version, self.sent, self.offered, self.delta) = (0, None, false, false);
    }
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
    /// Whether it knows in what zone it is.
    zoned: bool,
    /// The version of the ranges that were sent to it.
    networks_sent: u64,
    /// Whether its pod is known.
    proven: bool,
    /// Work since this was asked last.
    spent: u32,
    lines: Arc<Lines>,
    /// What it subscribed to, holds, or is subscribed to at the hub. Names are the cells' own where there is one.
    entries: BTreeMap<Arc<Name>, Entry>,
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
        hub.lack(lacks, true);
        let mut subscriber = Self {
            hub,
            mailbox,
            own,
            networks,
            zoned: !hello.zone.is_empty(),
            networks_sent: 0,
            proven: false,
            spent: 0,
            lines,
            namespace: hello.namespace,
            pod: hello.pod,
            features,
            entries: BTreeMap::new(),
            wanted: 0,
            due: BTreeSet::new(),
            made: VecDeque::new(),
            untidy: true,
        };
        subscriber.proven = subscriber.own().is_some_and(|own| own.proof == Proof::Proven);
        if !lacks.is_empty() {
            subscriber.say(|pod, left_out| {
                tracing::warn!(pod, version = hello.proxy_version, %lacks, left_out, "proxy is too old for some features; rules that need them are closed there");
            });
        }
        for (at, offered) in hello.held.into_iter().enumerate() {
            let name = read(offered.name)?;
            subscriber.spent += 1;
            if !matches!(*name, Name::Backend(_)) && !subscriber.want(name.clone()) {
                continue;
            }
            if at < HELD_MAX {
                let entry = subscriber.entries.entry(name).or_default();
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
        let entry = self.entries.entry(name.clone()).or_default();
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
                if matches!(*name, Name::Backend(_)) {
                    return Err(Status::invalid_argument(
                        "backends need no subscription, they come with their targets",
                    ));
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
                self.took_closed(&ack);
                Ok(())
            }
            Some(sync_request::Kind::Nack(nack)) => self.refused(nack),
            Some(sync_request::Kind::Hello(_)) => Err(Status::invalid_argument("hello comes once")),
            None => Err(Status::invalid_argument("a message of a kind that this version does not know")),
        }
    }

    /// The proxy is taken to hold nothing of this name, nor of the backends that it leads to.
    fn forget(&mut self, name: &Name) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.let_go();
        self.wanted -= usize::from(std::mem::take(&mut entry.wanted));
        for id in &*std::mem::take(&mut entry.leads) {
            if let Some(backend) = self.entries.get_mut(&Name::Backend(id.clone())) {
                backend.let_go();
            }
        }
    }

    /// Whether something that it subscribed to leads to the backend.
    fn leads_to(&self, id: &BackendId) -> bool {
        self.entries.values().any(|entry| entry.leads.contains(id))
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

    /// A delta is replaced by the whole at once. For a whole there is nothing better to send until it changes, and then
    /// no delta, as the proxy does not hold what we sent.
    fn refused(&mut self, nack: v1::Nack) -> Result<(), Status> {
        let name = read(nack.name)?;
        metrics::counter!("remora_discovery_nacks_total").increment(1);
        self.say(|pod, left_out| {
            tracing::warn!(pod, %name, reason = nack.reason, left_out, "proxy refused a resource");
        });
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.sent = None;
            if std::mem::take(&mut entry.delta) {
                entry.version = 0;
                self.due.insert(name);
            }
        }
        Ok(())
    }

    /// What is known of its own pod.
    pub(super) fn own(&self) -> Option<Own> {
        if let Says::Own(own) = &self.own.latest().says { Some(own.clone()) } else { None }
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

    /// What brings the proxy closer to what is known. The cluster's ranges and its zone come before all else; a target comes
    /// after the backends that it leads to.
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
        let networks = self.networks.latest();
        if self.networks_sent != networks.version {
            self.networks_sent = networks.version;
            return Next::Tell(networks.whole.clone());
        }
        if !self.zoned {
            let own = self.own.latest();
            if let Says::Own(Own { zone: Some(_), .. }) = &own.says {
                self.zoned = true;
                return Next::Tell(own.whole.clone());
            }
        }
        for _ in 0..TURN {
            if let Some(made) = self.made.pop_front() {
                return Next::Tell(made);
            }
            match self.due.pop_first() {
                Some(name) => self.look_at(&name),
                None => {
                    self.tidy();
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
        if let Says::Outbound(backends) = &resource.says {
            for id in &**backends {
                let name = Name::Backend(id.clone());
                self.due.remove(&name);
                self.turn(&name);
            }
            if let Some(entry) = self.entries.get_mut(name) {
                let before = std::mem::replace(&mut entry.leads, Arc::clone(backends));
                self.untidy |= before != *backends;
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
        };
        let cell = self.hub.ask(asked, self.features, &self.mailbox);
        let latest = cell.latest();
        let (known, entry) = self.entries.remove_entry(name).unzip();
        let name = cell.name.clone().or(known).unwrap_or_else(|| Arc::new(name.clone()));
        self.entries.insert(name, Entry { cell: Some(cell), ..entry.unwrap_or_default() });
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
                entry.sent = matches!(resource.says, Says::Backend(..)).then_some(resource);
            }
            return;
        }
        let (message, delta) = resource.after(entry.sent.as_deref().filter(|sent| sent.version == entry.version));
        (entry.version, entry.offered, entry.delta) = (resource.version, false, delta);
        entry.sent = matches!(resource.says, Says::Backend(..)).then(|| Arc::clone(&resource));
        self.made.push_back(message);
        for feature in resource.closed.iter().flat_map(|closed| closed.lacks.iter()) {
            metrics::counter!("remora_discovery_degraded_rules_total", "feature" => feature.name()).increment(1);
        }
        if let Some(first) = resource.closed.first() {
            let (rules, first, lacks) = (resource.closed.len(), &first.rule, first.lacks);
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
        let leads: Vec<Arc<[BackendId]>> = self.entries.values().map(|entry| Arc::clone(&entry.leads)).collect();
        let backends: BTreeSet<&BackendId> = leads.iter().flat_map(|leads| &**leads).collect();
        let left = self.entries.extract_if(.., |name, entry| match &**name {
            Name::Backend(id) => !backends.contains(id),
            _ => !entry.wanted,
        });
        let left: Vec<Arc<Cell>> = left.filter_map(|(_, entry)| entry.cell).collect();
        if !left.is_empty() {
            self.hub.leave(left, &self.mailbox);
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let cells = std::mem::take(&mut self.entries).into_values().filter_map(|entry| entry.cell);
        self.hub.leave(cells.chain([Arc::clone(&self.own), Arc::clone(&self.networks)]), &self.mailbox);
        self.hub.lack(Features::all().beyond(self.features), false);
    }
}

fn read(name: Option<v1::ResourceName>) -> Result<Arc<Name>, Status> {
    let name = name.ok_or_else(|| Status::invalid_argument("name is missing"))?;
    Name::try_from(name).map(Arc::new).map_err(|error| Status::invalid_argument(format!("name.{error}")))
}
