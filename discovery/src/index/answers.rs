//! What proxies ask for, and what they are answered.

use super::{Key, Proof, facts::Facts};
use ipnet::IpNet;
use remora_api::sync::Name;
use remora_model::{Backend, BackendId, Inbound, InboundDefault, Outbound, ProxySettings, Revocations, Target};
use std::{net::IpAddr, sync::Arc};

/// What a proxy asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asked {
    /// The ranges of the cluster's addresses.
    Networks,
    /// Who is trusted no more.
    Revocations,
    /// What is known of the pod that a caller of this service account says it is, and of the address that it calls from.
    Own { pod: Key, account: String, address: Option<IpAddr> },
    /// What a target is to clients in this namespace.
    Outbound(String, Target),
    /// A backend that a target leads to.
    Backend(BackendId),
    /// A port of a pod.
    Inbound(Key, u16),
    /// All ports of a pod that are not declared.
    InboundDefault(Key),
}

impl Asked {
    /// Its name on the wire; `None` for what is told without being asked for.
    pub fn name(&self) -> Option<Name> {
        match self {
            Self::Networks | Self::Revocations | Self::Own { .. } => None,
            Self::Outbound(_, target) => Some(Name::Outbound(target.clone())),
            Self::Backend(id) => Some(Name::Backend(id.clone())),
            Self::Inbound(_, port) => Some(Name::Inbound(*port)),
            Self::InboundDefault(_) => Some(Name::InboundDefault),
        }
    }

    /// Whether its answer has rules or settings, which not every proxy can carry out.
    pub fn has_rules(&self) -> bool {
        !matches!(self, Self::Networks | Self::Revocations)
    }
}

/// What is known of the caller's own pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Whether the caller is that pod.
    pub proof: Proof,
    /// The zone that it is in.
    pub zone: Option<String>,
    /// The settings of its proxy. `None`: the pod is not known.
    pub settings: Option<ProxySettings>,
}

/// What it is answered. `None`: nobody knows yet.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Networks(Arc<[IpNet]>),
    Revocations(Arc<Revocations>),
    Own(Own),
    Outbound(Outbound),
    Backend(Option<Arc<Backend>>),
    Inbound(Option<Inbound>),
    InboundDefault(Option<InboundDefault>),
}

impl Facts {
    pub(super) fn answer(&self, asked: &Asked) -> Answer {
        match asked {
            Asked::Networks => Answer::Networks(self.networks()),
            Asked::Revocations => Answer::Revocations(self.revocations()),
            Asked::Own { pod: (namespace, pod), account, address } => Answer::Own(Own {
                proof: self.prove(namespace, pod, account, *address),
                zone: self.zone(namespace, pod).map(str::to_owned),
                settings: self.proxy_settings(namespace, pod),
            }),
            Asked::Outbound(namespace, target) => Answer::Outbound(self.outbound(namespace, target)),
            Asked::Backend(id) => Answer::Backend(self.backend(id)),
            Asked::Inbound((namespace, pod), port) => Answer::Inbound(self.inbound(namespace, pod, *port)),
            Asked::InboundDefault((namespace, pod)) => Answer::InboundDefault(self.inbound_default(namespace, pod)),
        }
    }
}
