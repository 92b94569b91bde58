//! Rules of connections that are no requests.

use super::{At, InvalidMessage, Problem, list, text};
use crate::v1;
use remora_model::{BackendRef, HostPattern, TcpRule, TlsRule};

impl From<&TlsRule> for v1::TlsRule {
    fn from(rule: &TlsRule) -> Self {
        Self {
            label: rule.label.to_string(),
            hostnames: rule.hostnames.iter().map(|host| host.as_str().to_owned()).collect(),
            backends: rule.backends.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::TlsRule> for TlsRule {
    type Error = InvalidMessage;

    fn try_from(message: v1::TlsRule) -> Result<Self, InvalidMessage> {
        Ok(Self {
            label: text(message.label).at("label")?,
            hostnames: list("hostnames", message.hostnames, |host| HostPattern::parse(&host).map_err(Problem::from))?,
            backends: list("backends", message.backends, share)?,
        })
    }
}

impl From<&TcpRule> for v1::TcpRule {
    fn from(rule: &TcpRule) -> Self {
        Self { label: rule.label.to_string(), backends: rule.backends.iter().map(Into::into).collect() }
    }
}

impl TryFrom<v1::TcpRule> for TcpRule {
    type Error = InvalidMessage;

    fn try_from(message: v1::TcpRule) -> Result<Self, InvalidMessage> {
        let label = text(message.label).at("label")?;
        Ok(Self { label, backends: list("backends", message.backends, share)? })
    }
}

/// A share of connections, which nothing filters.
fn share(message: v1::BackendRef) -> Result<BackendRef, InvalidMessage> {
    if message.filters.is_empty() { message.try_into() } else { Err(Problem::OutOfRange.at("filters")) }
}

/// What stands in for a rule that cannot be read: it takes the connections of the names that can be, and refuses them.
pub(super) fn closed_tls(label: String, hostnames: &[String]) -> TlsRule {
    let hostnames = hostnames.iter().filter_map(|host| HostPattern::parse(host).ok()).collect();
    TlsRule { label: label_of(label), hostnames, backends: Vec::new() }
}

/// The same of a rule that takes all connections.
pub(super) fn closed_tcp(label: String) -> TcpRule {
    TcpRule { label: label_of(label), backends: Vec::new() }
}

fn label_of(label: String) -> std::sync::Arc<str> {
    super::name(label).unwrap_or_else(|_| "unreadable".into())
}
