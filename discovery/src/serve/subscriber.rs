//! What one proxy wants and holds; which message brings it closer to a snapshot. No IO.
//!
//! Work is done only when the proxy reads: [`Subscriber::next`] looks at one due resource at a time, against the
//! snapshot of that moment. So a proxy that reads slowly skips what it missed, one that asks for a thousand targets
//! costs a thousand looks and not their square, and one that reads nothing costs nothing.

use super::{
    budget::Lines,
    limits::{HELD_MAX, MADE_MAX, RESPONSE_BYTES_MAX, SUBSCRIPTIONS_MAX, TURN, UNIT_BYTES, UNPROVEN_SUBSCRIPTIONS_MAX},
};
use crate::index::{Snapshot, Versioned};
use ipnet::IpNet;
use prost::Message as _;
use remora_api::{
    sync::{Delta, Name},
    v1::{self, SyncRequest, SyncResponse, sync_request, sync_response::Kind},
};
use remora_model::{AuthorizationRule, Backend, BackendId, Inbound, Outbound, Rule};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};
use tokio::time::Instant;
use tonic::Status;

/// What there is to do for a proxy.
#[derive(Debug)]
pub(super) enum Next {
    /// Tell it this.
    Tell(SyncResponse),
    /// Go on after others had their turn.
    Later,
    /// Nothing: it knows all.
    Nothing,
}

/// What the proxy holds under a name.
#[derive(Debug, Default)]
struct Held {
    version: u64,
    /// Offered in Hello and not yet looked at: to be confirmed.
    offered: bool,
    /// The last message was a delta, which the proxy may be unable to apply.
    delta: bool,
    /// What we sent, to make deltas from.
    backend: Option<Arc<Backend>>,
}

/// One proxy.
#[derive(Debug)]
pub(super) struct Subscriber {
    namespace: String,
    pod: String,
    /// Whether it knows in what zone it is.
    zoned: bool,
    /// The ranges that were sent to it.
    networks: Option<Arc<[IpNet]>>,
    /// Whether its pod is known.
    pub(super) proven: bool,
    /// Work since this was asked last.
    spent: u32,
    lines: Arc<Lines>,
    /// What it subscribed to; for a target also the backends that it leads to.
    wants: BTreeMap<Name, Vec<BackendId>>,
    held: BTreeMap<Name, Held>,
    /// What is to be looked at.
    due: BTreeSet<Name>,
    /// Made and not taken yet: at most one target with its backends.
    made: VecDeque<SyncResponse>,
    /// Whether something may be held that nothing leads to any more.
    untidy: bool,
}

impl Subscriber {
    /// Takes what it offers to hold. What is more than may be held is not believed, and comes whole when it is wanted.
    pub(super) fn new(hello: v1::Hello, proven: bool, lines: Arc<Lines>) -> Result<Self, Status> {
        tracing::info!(namespace = hello.namespace, pod = hello.pod, held = hello.held.len(), "proxy connected");
        let mut subscriber = Self {
            zoned: !hello.zone.is_empty(),
            networks: None,
            proven,
            spent: 0,
            lines,
            namespace: hello.namespace,
            pod: hello.pod,
            wants: BTreeMap::new(),
            held: BTreeMap::new(),
            due: BTreeSet::new(),
            made: VecDeque::new(),
            untidy: true,
        };
        for offered in hello.held {
            let name = read(offered.name)?;
            subscriber.spent += 1;
            if !matches!(name, Name::Backend(_)) && !subscriber.want(name.clone()) {
                continue;
            }
            if subscriber.held.len() < HELD_MAX {
                subscriber.held.insert(name, Held { version: offered.version, offered: true, ..Held::default() });
            }
        }
        Ok(subscriber)
    }

    /// Subscribes, or refuses that one subscription. Whether it subscribed.
    fn want(&mut self, name: Name) -> bool {
        let max = if self.proven { SUBSCRIPTIONS_MAX } else { UNPROVEN_SUBSCRIPTIONS_MAX };
        if self.wants.len() >= max && !self.wants.contains_key(&name) {
            metrics::counter!("remora_discovery_refused_subscriptions_total").increment(1);
            self.say(
                |pod, left_out| tracing::warn!(pod, %name, max, left_out, "a subscription beyond the bound is refused"),
            );
            // Beyond what a person reads, refusals are not logged one by one.
            if self.made.len() < 2 * MADE_MAX {
                let reason = format!("more than {max} subscriptions; some of the others must end first");
                let refused = v1::Refused { name: Some((&name).into()), reason };
                self.made.push_back(SyncResponse { kind: Some(Kind::Refused(refused)) });
            }
            return false;
        }
        self.wants.entry(name.clone()).or_default();
        self.due.insert(name);
        true
    }

    /// Says something about the proxy, unless too much was said already.
    fn say(&self, say: impl FnOnce(&str, u64)) {
        if let Some(left_out) = self.lines.may_say(Instant::now()) {
            say(&format!("{}/{}", self.namespace, self.pod), left_out);
        }
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
                if matches!(name, Name::Backend(_)) {
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
                if matches!(&name, Name::Backend(id) if self.leads_to(id)) {
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
        self.held.remove(name);
        for id in self.wants.remove(name).unwrap_or_default() {
            self.held.remove(&Name::Backend(id));
        }
    }

    /// Whether something that it subscribed to leads to the backend.
    fn leads_to(&self, id: &BackendId) -> bool {
        self.wants.values().any(|backends| backends.contains(id))
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
        if let Some(held) = self.held.get_mut(&name) {
            held.backend = None;
            if std::mem::take(&mut held.delta) {
                held.version = 0;
                self.due.insert(name);
            }
        }
        Ok(())
    }

    /// There is a new snapshot: everything is to be looked at.
    pub(super) fn renew(&mut self) {
        self.due.extend(self.wants.keys().cloned());
        self.untidy = true;
    }

    /// What brings the proxy closer to `snapshot`. The cluster's ranges and its zone come before all else; a target comes
    /// after the backends that it leads to.
    pub(super) fn next(&mut self, snapshot: &Snapshot) -> Next {
        let next = self.find(snapshot);
        if let Next::Tell(response) = &next {
            let units = response.encoded_len() / UNIT_BYTES;
            self.spent = self.spent.saturating_add(u32::try_from(units).unwrap_or(u32::MAX));
        }
        next
    }

    fn find(&mut self, snapshot: &Snapshot) -> Next {
        let networks = snapshot.networks();
        if self.networks.as_ref() != Some(networks) {
            self.networks = Some(Arc::clone(networks));
            let cidrs = networks.iter().map(ToString::to_string).collect();
            return Next::Tell(SyncResponse { kind: Some(Kind::Networks(v1::Networks { cidrs })) });
        }
        if !self.zoned
            && let Some(zone) = snapshot.zone(&self.namespace, &self.pod)
        {
            self.zoned = true;
            return Next::Tell(SyncResponse { kind: Some(Kind::Zone(zone.to_owned())) });
        }
        for _ in 0..TURN {
            if let Some(made) = self.made.pop_front() {
                return Next::Tell(made);
            }
            match self.due.pop_first() {
                Some(name) => self.look_at(name, snapshot),
                None => {
                    self.tidy();
                    return Next::Nothing;
                }
            }
        }
        Next::Later
    }

    fn look_at(&mut self, name: Name, snapshot: &Snapshot) {
        self.spent += 1;
        match &name {
            Name::Outbound(target) => {
                let outbound = snapshot.outbound(&self.namespace, target);
                let backends: Vec<BackendId> = outbound.backends().into_iter().cloned().collect();
                for id in &backends {
                    self.look_at_backend(id, snapshot);
                }
                self.wants.insert(name.clone(), backends);
                let (message, bytes) = outbound_message(outbound);
                let version = digest(&bytes);
                let whole = |_: &Held| Kind::Outbound(v1::OutboundResource { version, outbound: Some(message) });
                self.turn(&name, version, None, whole);
            }
            Name::Inbound(port) => {
                // An unknown pod is most likely a new one: it is answered when it is known.
                let Some(inbound) = snapshot.inbound(&self.namespace, &self.pod, *port) else { return };
                let (message, bytes) = inbound_message(inbound);
                let version = digest(&bytes);
                let whole = |_: &Held| Kind::Inbound(v1::InboundResource { version, inbound: Some(message) });
                self.turn(&name, version, None, whole);
            }
            Name::InboundDefault => {
                let Some(default) = snapshot.inbound_default(&self.namespace, &self.pod) else { return };
                let (inbound, _) = inbound_message(default.inbound);
                let declared = default.declared.into_iter().map(u32::from).collect();
                let default = v1::InboundDefault { inbound: Some(inbound), declared };
                let version = digest(&default.encode_to_vec());
                let whole = |_: &Held| {
                    Kind::InboundDefault(v1::InboundDefaultResource { version, inbound_default: Some(default) })
                };
                self.turn(&name, version, None, whole);
            }
            Name::Backend(id) => {
                if self.leads_to(id) {
                    self.look_at_backend(id, snapshot);
                }
            }
        }
    }

    fn look_at_backend(&mut self, id: &BackendId, snapshot: &Snapshot) {
        let Some(known) = snapshot.backend(id) else { return };
        let version = known.version(|backend| digest(&v1::Backend::from(backend).encode_to_vec()));
        let sent = Some(Arc::clone(&known.backend));
        self.turn(&Name::Backend(id.clone()), version, sent, |held| difference(held, &known, version));
    }

    /// Makes the message about a name whose right version is `version`, if there is anything to say.
    fn turn(&mut self, name: &Name, version: u64, backend: Option<Arc<Backend>>, whole: impl FnOnce(&Held) -> Kind) {
        let held = self.held.entry(name.clone()).or_default();
        let kind = if held.version == version {
            let current = v1::Current { name: Some(name.into()), version };
            held.offered.then_some(Kind::Current(current))
        } else {
            Some(whole(held))
        };
        let delta = matches!(kind, Some(Kind::BackendDelta(_)));
        match &kind {
            Some(_) => *held = Held { version, offered: false, delta, backend },
            // The same version keeps what is known of it: a nack has removed `backend` for a good reason.
            None => held.offered = false,
        }
        self.made.extend(kind.map(|kind| SyncResponse { kind: Some(kind) }));
    }

    /// Lets go of what nothing leads to any more, as the proxy does.
    fn tidy(&mut self) {
        if !std::mem::take(&mut self.untidy) {
            return;
        }
        let backends: BTreeSet<&BackendId> = self.wants.values().flatten().collect();
        self.held.retain(|name, _| match name {
            Name::Backend(id) => backends.contains(id),
            name => self.wants.contains_key(name),
        });
    }
}

/// The message and its bytes. One that is too large for a proxy would end its stream again and again: all rules are closed.
fn outbound_message(outbound: Outbound) -> (v1::Outbound, Vec<u8>) {
    let message = v1::Outbound::from(&outbound);
    let bytes = message.encode_to_vec();
    if bytes.len() <= RESPONSE_BYTES_MAX {
        return (message, bytes);
    }
    let one = outbound.matches.into_iter().take(0);
    let outbound = Outbound { matches: one.collect(), rules: vec![Rule::closed("too large".into())], ..outbound };
    let message = v1::Outbound::from(&outbound);
    let bytes = message.encode_to_vec();
    (message, bytes)
}

/// The same of an inbound port: everything is denied.
fn inbound_message(inbound: Inbound) -> (v1::Inbound, Vec<u8>) {
    let message = v1::Inbound::from(&inbound);
    let bytes = message.encode_to_vec();
    if bytes.len() <= RESPONSE_BYTES_MAX {
        return (message, bytes);
    }
    let rules = vec![AuthorizationRule::deny_everything("too large".into())];
    let message = v1::Inbound::from(&Inbound { rules, ..inbound });
    let bytes = message.encode_to_vec();
    (message, bytes)
}

/// What changed since the proxy was last sent the backend, or the whole where that says no more.
fn difference(held: &Held, known: &Versioned, version: u64) -> Kind {
    let backend = &*known.backend;
    let before = held.backend.as_deref().map(|before| (before, held.version));
    let delta = before.and_then(|before| Delta::between(before, (backend, version)));
    match delta.filter(|d| 2 * (d.upserted.len() + d.removed.len()) < backend.endpoints.len().max(3)) {
        Some(delta) => Kind::BackendDelta((&delta).into()),
        None => Kind::Backend(v1::BackendResource { version, backend: Some(backend.into()) }),
    }
}

fn read(name: Option<v1::ResourceName>) -> Result<Name, Status> {
    let name = name.ok_or_else(|| Status::invalid_argument("name is missing"))?;
    Name::try_from(name).map_err(|error| Status::invalid_argument(format!("name.{error}")))
}

/// FNV-1a, which is the same everywhere and for ever; 0 is kept for "nothing".
fn digest(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step).max(1)
}
