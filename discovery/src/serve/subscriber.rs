//! What one proxy wants and holds; which messages bring it to a snapshot. No IO.

use super::SUBSCRIPTIONS_MAX;
use crate::index::Snapshot;
use prost::Message as _;
use remora_api::sync::{Delta, Name};
use remora_api::v1::{self, SyncRequest, SyncResponse, sync_request, sync_response::Kind};
use remora_model::{Backend, BackendId};
use std::collections::{BTreeMap, BTreeSet};
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
    wants: BTreeSet<Name>,
    held: BTreeMap<Name, Held>,
}

impl Subscriber {
    /// Takes what it offers to hold.
    pub(super) fn new(hello: v1::Hello) -> Result<Self, Status> {
        if hello.held.len() > 2 * SUBSCRIPTIONS_MAX {
            return Err(Status::resource_exhausted("more resources are offered than may be held"));
        }
        tracing::info!(namespace = hello.namespace, pod = hello.pod, held = hello.held.len(), "proxy connected");
        let (wants, held) = (BTreeSet::new(), BTreeMap::new());
        let mut subscriber = Self { namespace: hello.namespace, pod: hello.pod, wants, held };
        for offered in hello.held {
            let name = read(offered.name)?;
            if !matches!(name, Name::Backend(_)) {
                subscriber.want(name.clone())?;
            }
            subscriber.held.insert(name, Held { version: offered.version, offered: true, delta: false, backend: None });
        }
        Ok(subscriber)
    }

    fn want(&mut self, name: Name) -> Result<(), Status> {
        self.wants.insert(name);
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
                // Asking again asks for the whole: a proxy does so after it lost what it had.
                self.held.remove(&name);
                match name {
                    Name::Backend(_) => Ok(()),
                    name => self.want(name),
                }
            }
            Some(sync_request::Kind::Unsubscribe(name)) => {
                let name = read(Some(name))?;
                self.wants.remove(&name);
                self.held.remove(&name);
                Ok(())
            }
            Some(sync_request::Kind::Ack(_)) => Ok(()),
            Some(sync_request::Kind::Nack(nack)) => {
                let name = read(nack.name)?;
                metrics::counter!("remora_discovery_nacks_total").increment(1);
                tracing::warn!(pod = self.pod, %name, reason = nack.reason, "proxy refused a resource");
                // A delta is replaced by the whole at once. For a whole there is nothing better to send until it
                // changes, and then no delta, as the proxy does not hold what we sent.
                if let Some(held) = self.held.get_mut(&name) {
                    held.backend = None;
                    if std::mem::take(&mut held.delta) {
                        held.version = 0;
                    }
                }
                Ok(())
            }
            Some(sync_request::Kind::Hello(_)) => Err(Status::invalid_argument("hello comes once")),
            None => Err(Status::invalid_argument("a message of a kind that this version does not know")),
        }
    }

    /// The messages that bring the proxy to `snapshot`, backends before the targets that name them.
    pub(super) fn catch_up(&mut self, snapshot: &Snapshot) -> Vec<SyncResponse> {
        let (mut first, mut then) = (Vec::new(), Vec::new());
        let mut backends: BTreeSet<BackendId> = BTreeSet::new();
        for name in self.wants.clone() {
            let (version, kind) = match &name {
                Name::Outbound(target) => {
                    let outbound = snapshot.outbound(&self.namespace, target);
                    backends.extend(outbound.backends().into_iter().cloned());
                    let outbound = v1::Outbound::from(&outbound);
                    let version = digest(&outbound.encode_to_vec());
                    (version, Kind::Outbound(v1::OutboundResource { version, outbound: Some(outbound) }))
                }
                Name::Inbound(port) => {
                    // An unknown pod is most likely a new one: it is answered when it is known.
                    let Some(inbound) = snapshot.inbound(&self.namespace, &self.pod, *port) else { continue };
                    let inbound = v1::Inbound::from(&inbound);
                    let version = digest(&inbound.encode_to_vec());
                    (version, Kind::Inbound(v1::InboundResource { version, inbound: Some(inbound) }))
                }
                Name::Backend(_) => continue,
            };
            then.extend(self.turn(&name, version, None, |_| kind));
        }
        for id in &backends {
            let Some(backend) = snapshot.backend(id) else { continue };
            let message = v1::Backend::from(&*backend);
            let version = digest(&message.encode_to_vec());
            let sent = Some(Arc::clone(&backend));
            first.extend(self.turn(&Name::Backend(id.clone()), version, sent, |held| {
                let before = held.backend.as_deref().map(|before| (before, held.version));
                let delta = before.and_then(|before| Delta::between(before, (&backend, version)));
                // A delta that repeats most of the backend is worth nothing.
                match delta.filter(|d| 2 * (d.upserted.len() + d.removed.len()) < backend.endpoints.len().max(3)) {
                    Some(delta) => Kind::BackendDelta((&delta).into()),
                    None => Kind::Backend(v1::BackendResource { version, backend: Some(message) }),
                }
            }));
        }
        self.held.retain(|name, _| match name {
            Name::Backend(id) => backends.contains(id),
            name => self.wants.contains(name),
        });
        first.append(&mut then);
        first
    }

    /// What to say about a name whose right version is `version`, if anything.
    fn turn(
        &mut self,
        name: &Name,
        version: u64,
        backend: Option<Arc<Backend>>,
        whole: impl FnOnce(&Held) -> Kind,
    ) -> Option<SyncResponse> {
        let held = self.held.entry(name.clone()).or_default();
        let kind = if held.version == version {
            let current = v1::Current { name: Some(name.into()), version };
            held.offered.then_some(Kind::Current(current))
        } else {
            Some(whole(held))
        };
        // The same version keeps what is known of it: a nack has taken `backend` away for good reason.
        *held = match &kind {
            Some(kind) => Held { version, offered: false, delta: matches!(kind, Kind::BackendDelta(_)), backend },
            None => Held { offered: false, ..std::mem::take(held) },
        };
        kind.map(|kind| SyncResponse { kind: Some(kind) })
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
