//! Names of resources.

use remora_model::{BackendId, Target};
use std::fmt;

/// The name of a resource, and the key under which it is held.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Name {
    Outbound(Target),
    Backend(BackendId),
    /// A port of the proxy's own pod.
    Inbound(u16),
    /// All ports of the pod that have no resource of their own.
    InboundDefault,
    /// The proxy's own settings.
    Settings,
    /// Who is trusted no more.
    Revocations,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outbound(target) => write!(f, "outbound {target}"),
            Self::Backend(id) => write!(f, "backend {id}"),
            Self::Inbound(port) => write!(f, "inbound {port}"),
            Self::InboundDefault => f.write_str("inbound default"),
            Self::Settings => f.write_str("settings"),
            Self::Revocations => f.write_str("revocations"),
        }
    }
}
