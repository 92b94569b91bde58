//! The typed side of `Discovery.Sync`: what discovery sends to a proxy, as values of the model.
//!
//! In: [`v1::SyncResponse`]. Out: an [`Update`], or the reason to nack. [`Delta::apply`] turns the backend that is held
//! into the next one. It holds no state and no stream: who subscribes, acks and keeps is the proxy's business.

pub use crate::name::Name;

use crate::{
    convert::{At, InvalidMessage, Problem, addresses, closed, endpoints, networks, optional_text, required},
    receive::Received,
    v1,
};
use ipnet::IpNet;
use remora_model::{Backend, BackendId, Endpoint, Inbound, InboundDefault, Outbound, ProxySettings, Revocations};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

/// In the metadata of an UNAVAILABLE that refuses a stream: after how many milliseconds the proxy is to come again.
pub const RETURN_AFTER_MS: &str = "remora-return-after-ms";

/// A resource as the proxy holds it.
#[derive(Clone, PartialEq, Debug)]
pub enum Resource {
    Outbound(Outbound),
    Backend(Backend),
    Inbound(Inbound),
    InboundDefault(InboundDefault),
}

impl Resource {
    /// The name under which it is held.
    pub fn name(&self) -> Name {
        match self {
            Self::Outbound(outbound) => Name::Outbound(outbound.target.clone()),
            Self::Backend(backend) => Name::Backend(backend.id.clone()),
            Self::Inbound(inbound) => Name::Inbound(inbound.port),
            Self::InboundDefault(_) => Name::InboundDefault,
        }
    }
}

/// One thing that discovery says.
#[derive(Clone, PartialEq, Debug)]
pub enum Update {
    /// Take this into use, whatever was held. `closed` says which rules could not be read and stand in their closed form.
    Whole { version: u64, resource: Resource, closed: Vec<InvalidMessage> },
    /// Change the backend that is held.
    Delta(Delta),
    /// What is held is right.
    Current { name: Name, version: u64 },
    /// There is no such thing for us.
    Refused { name: Name, reason: Arc<str> },
    /// The zone of the proxy's own pod.
    Zone(Arc<str>),
    /// The cluster's address ranges; none: not known.
    Networks(Vec<IpNet>),
    /// The proxy's own settings.
    Settings { version: u64, settings: ProxySettings },
    /// Who is trusted no more.
    Revocations { version: u64, revocations: Revocations },
    /// Tell what the admin port shows at `path`, by an answer of the same number.
    Ask { id: u32, path: Arc<str> },
}

/// What changed among the endpoints of a backend.
#[derive(Clone, PartialEq, Debug)]
pub struct Delta {
    pub id: BackendId,
    pub from_version: u64,
    pub version: u64,
    pub upserted: Vec<Endpoint>,
    pub removed: Vec<SocketAddr>,
}

/// Why a delta does not apply: nack it, and the whole backend comes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    #[error("delta is for backend {delta}, not for {held}")]
    OtherBackend { held: BackendId, delta: BackendId },
    #[error("delta of {id} starts at version {from:x}, but {held:x} is held")]
    Version { id: BackendId, held: u64, from: u64 },
    #[error("delta of {id} removes {address}, which is not held")]
    Unknown { id: BackendId, address: SocketAddr },
}

impl Delta {
    /// The backend after the change, if `held` at `held_version` is the one that it was made for.
    pub fn apply(&self, held: &Backend, held_version: u64) -> Result<Backend, DeltaError> {
        let id = || self.id.clone();
        if held.id != self.id {
            return Err(DeltaError::OtherBackend { held: held.id.clone(), delta: id() });
        }
        if held_version != self.from_version {
            return Err(DeltaError::Version { id: id(), held: held_version, from: self.from_version });
        }
        let mut endpoints: BTreeMap<SocketAddr, &Endpoint> = held.endpoints.iter().map(|e| (e.address, e)).collect();
        for address in &self.removed {
            if endpoints.remove(address).is_none() {
                return Err(DeltaError::Unknown { id: id(), address: *address });
            }
        }
        endpoints.extend(self.upserted.iter().map(|endpoint| (endpoint.address, endpoint)));
        let endpoints = endpoints.into_values().cloned().collect();
        Ok(Backend { endpoints, ..held.clone() })
    }

    /// The change from one backend to another, if only endpoints differ.
    pub fn between(from: (&Backend, u64), to: (&Backend, u64)) -> Option<Self> {
        let (old, new) = (from.0, to.0);
        if old.id != new.id || old.protocol != new.protocol || old.settings != new.settings {
            return None;
        }
        let before: BTreeMap<SocketAddr, &Endpoint> = old.endpoints.iter().map(|e| (e.address, e)).collect();
        let after: BTreeMap<SocketAddr, &Endpoint> = new.endpoints.iter().map(|e| (e.address, e)).collect();
        let changed = after.iter().filter(|(address, endpoint)| before.get(address) != Some(endpoint));
        Some(Self {
            id: new.id.clone(),
            from_version: from.1,
            version: to.1,
            upserted: changed.map(|(_, endpoint)| (*endpoint).clone()).collect(),
            removed: before.keys().filter(|address| !after.contains_key(address)).copied().collect(),
        })
    }
}

impl From<&Delta> for v1::BackendDelta {
    fn from(delta: &Delta) -> Self {
        Self {
            id: Some((&delta.id).into()),
            from_version: delta.from_version,
            version: delta.version,
            upserted: delta.upserted.iter().map(Into::into).collect(),
            removed: delta.removed.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::BackendDelta> for Delta {
    type Error = InvalidMessage;

    fn try_from(message: v1::BackendDelta) -> Result<Self, InvalidMessage> {
        Ok(Self {
            id: required("id", message.id)?,
            from_version: message.from_version,
            version: message.version,
            upserted: endpoints("upserted", message.upserted)?,
            removed: addresses("removed", message.removed)?,
        })
    }
}

impl TryFrom<v1::SyncResponse> for Update {
    type Error = InvalidMessage;

    fn try_from(message: v1::SyncResponse) -> Result<Self, InvalidMessage> {
        use v1::sync_response::Kind;
        match message.kind.ok_or_else(|| Problem::UnknownVariant.at("kind"))? {
            Kind::Outbound(m) => {
                let message = m.outbound.ok_or_else(|| Problem::Missing.at("outbound"))?;
                let (outbound, problems) = closed::outbound(message).at("outbound")?;
                let closed = within("outbound", problems);
                Ok(Self::Whole { version: m.version, resource: Resource::Outbound(outbound), closed })
            }
            Kind::Backend(m) => {
                let message = m.backend.ok_or_else(|| Problem::Missing.at("backend"))?;
                let (backend, problems) = closed::backend(message).at("backend")?;
                let closed = within("backend", problems);
                Ok(Self::Whole { version: m.version, resource: Resource::Backend(backend), closed })
            }
            Kind::Inbound(m) => {
                let message = m.inbound.ok_or_else(|| Problem::Missing.at("inbound"))?;
                let (inbound, problems) = closed::inbound(message).at("inbound")?;
                let closed = within("inbound", problems);
                Ok(Self::Whole { version: m.version, resource: Resource::Inbound(inbound), closed })
            }
            Kind::InboundDefault(m) => {
                let message = m.inbound_default.ok_or_else(|| Problem::Missing.at("inbound_default"))?;
                let (default, problems) = closed::inbound_default(message).at("inbound_default")?;
                let closed = within("inbound_default", problems);
                Ok(Self::Whole { version: m.version, resource: Resource::InboundDefault(default), closed })
            }
            Kind::Networks(m) => Ok(Self::Networks(networks("cidrs", m.cidrs).at("networks")?)),
            Kind::Settings(m) => {
                let settings = required("settings", m.settings).at("settings")?;
                Ok(Self::Settings { version: m.version, settings })
            }
            Kind::Revocations(m) => {
                let revocations = required("revocations", m.revocations).at("revocations")?;
                Ok(Self::Revocations { version: m.version, revocations })
            }
            Kind::BackendDelta(delta) => Ok(Self::Delta(delta.try_into().at("backend_delta")?)),
            Kind::Zone(zone) => Ok(Self::Zone(optional_text("zone", zone)?)),
            Kind::Current(m) => Ok(Self::Current { name: required("name", m.name)?, version: m.version }),
            Kind::Ask(m) => Ok(Self::Ask { id: m.id, path: optional_text("path", m.path)? }),
            Kind::Refused(m) => {
                Ok(Self::Refused { name: required("name", m.name)?, reason: optional_text("reason", m.reason)? })
            }
        }
    }
}

/// What has fields that this version does not know is closed as a whole: what is left of it may hold for more than was meant.
impl TryFrom<Received> for Update {
    type Error = InvalidMessage;

    fn try_from(Received { message, known }: Received) -> Result<Self, InvalidMessage> {
        use v1::sync_response::Kind;
        if known {
            return message.try_into();
        }
        let unknown = |field| Problem::UnknownFields.at(field);
        let missing = |field| move || Problem::Missing.at(field);
        let (version, resource, closed) = match message.kind.ok_or_else(|| Problem::UnknownVariant.at("kind"))? {
            Kind::Outbound(m) => {
                let message = m.outbound.ok_or_else(missing("outbound"))?;
                let read = closed::unknown_outbound(&message, unknown("outbound")).at("outbound")?;
                (m.version, Resource::Outbound(read.0), read.1)
            }
            Kind::Backend(m) => {
                let message = m.backend.ok_or_else(missing("backend"))?;
                let read = closed::unknown_backend(message, unknown("backend")).at("backend")?;
                (m.version, Resource::Backend(read.0), read.1)
            }
            Kind::Inbound(m) => {
                let message = m.inbound.ok_or_else(missing("inbound"))?;
                let read = closed::unknown_inbound(message, unknown("inbound")).at("inbound")?;
                (m.version, Resource::Inbound(read.0), read.1)
            }
            Kind::InboundDefault(m) => {
                let message = m.inbound_default.ok_or_else(missing("inbound_default"))?;
                let read = closed::unknown_inbound_default(message, unknown("inbound_default"));
                let read = read.at("inbound_default")?;
                (m.version, Resource::InboundDefault(read.0), read.1)
            }
            // None is known, which is to be taken for everything.
            Kind::Networks(_) => return Ok(Self::Networks(Vec::new())),
            Kind::BackendDelta(_) => return Err(unknown("backend_delta")),
            Kind::Current(_) => return Err(unknown("current")),
            Kind::Zone(_) => return Err(unknown("zone")),
            Kind::Settings(_) => return Err(unknown("settings")),
            Kind::Revocations(_) => return Err(unknown("revocations")),
            Kind::Ask(_) => return Err(unknown("ask")),
            // Whatever else it says, it is refused.
            kind @ Kind::Refused(_) => return v1::SyncResponse { kind: Some(kind) }.try_into(),
        };
        Ok(Self::Whole { version, resource, closed })
    }
}

fn within(field: &'static str, problems: Vec<InvalidMessage>) -> Vec<InvalidMessage> {
    problems.into_iter().map(|problem| problem.within(field, None)).collect()
}

/// The name and version of a response, read without looking into it: what to nack when it is malformed.
pub fn envelope(message: &v1::SyncResponse) -> Option<(v1::ResourceName, u64)> {
    use v1::{resource_name::Kind as Of, sync_response::Kind};
    let (kind, version) = match message.kind.as_ref()? {
        Kind::Outbound(m) => (Of::Outbound(m.outbound.as_ref()?.target.clone()), m.version),
        Kind::Backend(m) => (Of::Backend(m.backend.as_ref()?.id.clone()?), m.version),
        Kind::BackendDelta(m) => (Of::Backend(m.id.clone()?), m.version),
        Kind::Inbound(m) => (Of::Inbound(m.inbound.as_ref()?.port), m.version),
        Kind::Current(m) => return Some((m.name.clone()?, m.version)),
        Kind::Refused(m) => return Some((m.name.clone()?, 0)),
        Kind::InboundDefault(m) => (Of::InboundDefault(true), m.version),
        Kind::Settings(m) => (Of::Settings(true), m.version),
        Kind::Revocations(m) => (Of::Revocations(true), m.version),
        Kind::Zone(_) | Kind::Networks(_) | Kind::Ask(_) => return None,
    };
    Some((v1::ResourceName { kind: Some(kind) }, version))
}

/// Requests of the proxy's side, by value.
pub mod request {
    use super::Name;
    use crate::v1::{self, SyncRequest, sync_request::Kind};

    fn request(kind: Kind) -> SyncRequest {
        SyncRequest { kind: Some(kind) }
    }

    /// Says who we are; once, first.
    pub fn hello(hello: v1::Hello) -> SyncRequest {
        request(Kind::Hello(hello))
    }

    /// Asks for a resource and its changes.
    pub fn subscribe(name: &Name) -> SyncRequest {
        request(Kind::Subscribe(name.into()))
    }

    /// Asks for it no more.
    pub fn unsubscribe(name: &Name) -> SyncRequest {
        request(Kind::Unsubscribe(name.into()))
    }

    /// Says that a version is in use.
    pub fn ack(name: &Name, version: u64) -> SyncRequest {
        ack_closed::<String>(name, version, &[])
    }

    /// Says that a version is in use, and which of its rules stand in their closed form.
    pub fn ack_closed<T: ToString>(name: &Name, version: u64, closed: &[T]) -> SyncRequest {
        let closed = closed.iter().map(T::to_string).collect();
        request(Kind::Ack(v1::Ack { name: Some(name.into()), version, closed }))
    }

    /// Says that a version was refused, by the name that [`super::envelope`] read.
    pub fn nack(name: v1::ResourceName, version: u64, reason: String) -> SyncRequest {
        request(Kind::Nack(v1::Nack { name: Some(name), version, reason }))
    }

    /// A part of an answer to what discovery asked; the status is that of the last part.
    pub fn answer(id: u32, body: Vec<u8>, last: Option<u16>) -> SyncRequest {
        let (status, last) = (last.map_or(0, u32::from), last.is_some());
        request(Kind::Answer(v1::Answer { id, body, last, status }))
    }

    /// A resource that we hold, for [`v1::Hello::held`].
    pub fn held(name: &Name, version: u64) -> v1::Held {
        v1::Held { name: Some(name.into()), version }
    }
}
