//! Names: backends, targets, resources.

use super::{At, InvalidMessage, Problem, name, port};
use crate::{name::Name, v1};
use remora_model::{BackendId, BackendKind, Protocol, Target};

impl From<&BackendId> for v1::BackendId {
    fn from(id: &BackendId) -> Self {
        let kind = match id.kind {
            BackendKind::Service => v1::BackendKind::Service,
            BackendKind::Pod => v1::BackendKind::Pod,
            BackendKind::External => v1::BackendKind::External,
        };
        let (namespace, name) = (id.namespace.to_string(), id.name.to_string());
        Self { namespace, name, port: id.port.into(), kind: kind.into() }
    }
}

impl TryFrom<v1::BackendId> for BackendId {
    type Error = InvalidMessage;

    fn try_from(message: v1::BackendId) -> Result<Self, InvalidMessage> {
        let kind = match v1::BackendKind::try_from(message.kind).map_err(|_| Problem::UnknownVariant).at("kind")? {
            v1::BackendKind::Service => BackendKind::Service,
            v1::BackendKind::Pod => BackendKind::Pod,
            v1::BackendKind::External => BackendKind::External,
        };
        if message.name.contains('/') {
            return Err(Problem::Slash.at("name"));
        }
        Ok(Self {
            kind,
            namespace: name(message.namespace).at("namespace")?,
            name: name(message.name).at("name")?,
            port: port(message.port).at("port")?,
        })
    }
}

impl From<&Name> for v1::ResourceName {
    fn from(name: &Name) -> Self {
        use v1::resource_name::Kind;
        let kind = match name {
            Name::Outbound(target) => Kind::Outbound(target.to_string()),
            Name::Backend(id) => Kind::Backend(id.into()),
            Name::Inbound(port) => Kind::Inbound((*port).into()),
            Name::InboundDefault => Kind::InboundDefault(true),
            Name::Settings => Kind::Settings(true),
            Name::Revocations => Kind::Revocations(true),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::ResourceName> for Name {
    type Error = InvalidMessage;

    fn try_from(message: v1::ResourceName) -> Result<Self, InvalidMessage> {
        use v1::resource_name::Kind;
        match message.kind.ok_or_else(|| Problem::Missing.at("kind"))? {
            Kind::Outbound(text) => Ok(Self::Outbound(target(&text).at("outbound")?)),
            Kind::Backend(id) => Ok(Self::Backend(id.try_into().at("backend")?)),
            Kind::Inbound(number) => Ok(Self::Inbound(port(number).at("inbound")?)),
            Kind::InboundDefault(_) => Ok(Self::InboundDefault),
            Kind::Settings(_) => Ok(Self::Settings),
            Kind::Revocations(_) => Ok(Self::Revocations),
        }
    }
}

/// A target; the port must be said, so an authority without one is refused.
pub(super) fn target(text: &str) -> Result<Target, Problem> {
    // A default of 0 cannot come from a text that names its port.
    let target = Target::parse(text, 0)?;
    if target.port() == 0 { Err(Problem::OutOfRange) } else { Ok(target) }
}

pub(super) fn to_protocol(protocol: Protocol) -> i32 {
    match protocol {
        Protocol::Detect => v1::Protocol::Unspecified,
        Protocol::Http1 => v1::Protocol::Http1,
        Protocol::Http2 => v1::Protocol::Http2,
        Protocol::Opaque => v1::Protocol::Opaque,
    }
    .into()
}

pub(super) fn protocol(value: i32) -> Result<Protocol, Problem> {
    match v1::Protocol::try_from(value).map_err(|_| Problem::UnknownVariant)? {
        v1::Protocol::Unspecified => Ok(Protocol::Detect),
        v1::Protocol::Http1 => Ok(Protocol::Http1),
        v1::Protocol::Http2 => Ok(Protocol::Http2),
        v1::Protocol::Opaque => Ok(Protocol::Opaque),
    }
}
