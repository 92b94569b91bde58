//! What one proxy wants and holds; which message brings it closer to a snapshot. No IO.
//!
//! Work is done when somebody is there to take it: [`Subscriber::next`] looks at one due resource at a time, against the
//! snapshot of that moment. So a proxy that reads slowly skips what it missed, one that asks for a thousand targets
//! costs a thousand looks and not their square, and one that reads nothing costs nothing.

use super::SUBSCRIPTIONS_MAX;
use crate::index::{Snapshot, Versioned};
use prost::Message as _;
use remora_api::sync::{Delta, Name};
use remora_api::v1::{self, SyncRequest, SyncResponse, sync_request, sync_response::Kind};
use remora_model::{Backend, BackendId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tonic::Status;

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
    /// Takes what it offers to hold.
    pub(super) fn new(hello: v1::Hello) -> Result<Self, Status> {
        if hello.held.len() > 2 * SUBSCRIPTIONS_MAX {
            return Err(Status::resource_exhausted("more resources are offered than may be held"));
        }
        tracing::info!(namespace = hello.namespace, pod = hello.pod, held = hello.held.len(), "proxy connected");
        let mut subscriber = Self {
            zoned: !hello.zone.is_empty(),
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
            if !matches!(name, Name::Backend(_)) {
                subscriber.want(name.clone())?;
            }
            subscriber.held.insert(name, Held { version: offered.version, offered: true, ..Held::default() });
        }
        Ok(subscriber)
    }

    fn want(&mut self, name: Name) -> Result<(), Status> {
        self.wants.entry(name.clone()).or_default();
        self.due.insert(name);
        if self.wants.len() > SUBSCRIPTIONS_MAX {
            return Err(Status::resource_exhausted(format!("more than {SUBSCRIPTIONS_MAX} subscriptions")));
        }
        Ok(())
    }

    /// Takes one message of the proxy.
    pub(super) fn take(&mut self, message: SyncRequest) -> Result<(), Status> {
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
                self.want(name)
            }
            Some(sync_request::Kind::Unsubscribe(name)) => {
                let name = read(Some(name))?;
                self.forget(&name);
                self.due.remove(&name);
                self.untidy = true;
                Ok(())
            }
            Some(sync_request::Kind::Ack(_)) => Ok(()),
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

    /// A delta is replaced by the whole at once. For a whole there is nothing better to send until it changes, and then
    /// no delta, as the proxy does not hold what we sent.
    fn refused(&mut self, nack: v1::Nack) -> Result<(), Status> {
        let name = read(nack.name)?;
        metrics::counter!("remora_discovery_nacks_total").increment(1);
        tracing::warn!(pod = self.pod, %name, reason = nack.reason, "proxy refused a resource");
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

    /// The next message that brings the proxy closer to `snapshot`; `None` when it is there. A target comes after the
    /// backends that it leads to.
    pub(super) fn next(&mut self, snapshot: &Snapshot) -> Option<SyncResponse> {
        if !self.zoned
            && let Some(zone) = snapshot.zone(&self.namespace, &self.pod)
        {
            self.zoned = true;
            return Some(SyncResponse { kind: Some(Kind::Zone(zone.to_owned())) });
        }
        loop {
            if let Some(made) = self.made.pop_front() {
                return Some(made);
            }
            match self.due.pop_first() {
                Some(name) => self.look_at(name, snapshot),
                None => {
                    self.tidy();
                    return None;
                }
            }
        }
    }

    fn look_at(&mut self, name: Name, snapshot: &Snapshot) {
        match &name {
            Name::Outbound(target) => {
                let outbound = snapshot.outbound(&self.namespace, target);
                let backends: Vec<BackendId> = outbound.backends().into_iter().cloned().collect();
                for id in &backends {
                    self.look_at_backend(id, snapshot);
                }
                self.wants.insert(name.clone(), backends);
                let outbound = v1::Outbound::from(&outbound);
                let version = digest(&outbound.encode_to_vec());
                let whole = |_: &Held| Kind::Outbound(v1::OutboundResource { version, outbound: Some(outbound) });
                self.turn(&name, version, None, whole);
            }
            Name::Inbound(port) => {
                // An unknown pod is most likely a new one: it is answered when it is known.
                let Some(inbound) = snapshot.inbound(&self.namespace, &self.pod, *port) else { return };
                let inbound = v1::Inbound::from(&inbound);
                let version = digest(&inbound.encode_to_vec());
                let whole = |_: &Held| Kind::Inbound(v1::InboundResource { version, inbound: Some(inbound) });
                self.turn(&name, version, None, whole);
            }
            Name::Backend(id) => {
                if self.wants.values().any(|backends| backends.contains(id)) {
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
            // The same version keeps what is known of it: a nack has taken `backend` away for good reason.
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
