//! Where a request can go: a backend (one port of a Service, a pod, or something outside), its endpoints, and how to treat them.

use crate::{ConnectionSettings, LoadBalancer, Locality, SpiffeId};
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

/// What kind of thing a backend is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum BackendKind {
    #[default]
    Service,
    /// A pod, reached by its own address.
    Pod,
    /// What is outside of the cluster, declared by an object of a namespace.
    External,
}

impl BackendKind {
    /// Its word in a backend's name, which is API: labels of metrics and output of the CLI have it. A Service needs none.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Service => None,
            Self::Pod => Some("pod"),
            Self::External => Some("external"),
        }
    }
}

/// The name of a backend: a port of a Service, of a pod, or of something outside.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BackendId {
    pub kind: BackendKind,
    pub namespace: Arc<str>,
    /// Of the object; it has no slash.
    pub name: Arc<str>,
    pub port: u16,
}

impl BackendId {
    /// A Service's port.
    pub fn service(namespace: &str, name: &str, port: u16) -> Self {
        Self { kind: BackendKind::Service, namespace: namespace.into(), name: name.into(), port }
    }

    /// A pod's port.
    pub fn pod(namespace: &str, name: &str, port: u16) -> Self {
        Self { kind: BackendKind::Pod, ..Self::service(namespace, name, port) }
    }
}

/// `shop/api:8080`, `shop/pod/api-1:8080`, `shop/external/api.example.com:443`.
impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.namespace)?;
        if let Some(word) = self.kind.word() {
            write!(f, "{word}/")?;
        }
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// The protocol of a port, if it is declared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Protocol {
    /// Not declared: detect it by the first bytes.
    #[default]
    Detect,
    Http1,
    /// HTTP/2 with prior knowledge, gRPC included.
    Http2,
    /// Bytes: do not look.
    Opaque,
}

/// One pod port that serves a backend.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    /// The pod's own address and target port.
    pub address: SocketAddr,
    /// Who must answer there. `None`: not in the mesh, reached in plaintext.
    pub identity: Option<SpiffeId>,
    /// Where its proxy takes connections when nothing redirects them to it: dial this, and name `address` in a PROXY
    /// protocol header inside TLS.
    pub proxy: Option<SocketAddr>,
    /// Relative share; 1 unless said otherwise, never 0.
    pub weight: u32,
    /// Topology zone; empty when unknown.
    pub zone: Arc<str>,
    /// The node that its pod is on, if the backend's [`Locality`] asks for it.
    pub node: Option<Arc<str>>,
    /// `namespace/name` of the pod; for people.
    pub pod: Arc<str>,
}

/// When an endpoint leaves the rotation, and for how long.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Accrual {
    /// Failures in a row.
    pub consecutive: u32,
    /// Least share of successes over ten seconds, 0 to 1.
    pub success_rate: f32,
    /// Requests in the window before the share counts.
    pub minimum_requests: u32,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for Accrual {
    fn default() -> Self {
        Self {
            consecutive: 7,
            success_rate: 0.8,
            minimum_requests: 10,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        }
    }
}

/// Over which times the retries to a backend are bounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryIntervals {
    /// For how long a request counts for the share of [`BackendSettings::retry_ratio`]; from 1 s to 1 h.
    pub budget: Duration,
    /// In which time [`BackendSettings::min_retries`] are allowed; from 1 s to 1 h.
    pub rate: Duration,
}

impl Default for RetryIntervals {
    fn default() -> Self {
        Self { budget: Duration::from_secs(10), rate: Duration::from_secs(1) }
    }
}

/// How a backend is balanced and protected.
#[derive(Clone, PartialEq, Debug)]
pub struct BackendSettings {
    pub accrual: Accrual,
    /// Retries allowed on top of requests, as a share.
    pub retry_ratio: f32,
    /// Retries allowed in each [`RetryIntervals::rate`] whatever the traffic.
    pub min_retries: u32,
    pub retry_intervals: RetryIntervals,
    /// Requests of one proxy that may wait for the beginning of their answers (circuit breaking), as far as that is less than the proxy's own
    /// bound.
    pub pending_max: u32,
    pub connect_timeout: Duration,
    pub load_balancer: LoadBalancer,
    pub connection: ConnectionSettings,
    pub locality: Locality,
}

impl Default for BackendSettings {
    fn default() -> Self {
        Self {
            accrual: Accrual::default(),
            retry_ratio: 0.2,
            min_retries: 10,
            retry_intervals: RetryIntervals::default(),
            pending_max: u32::MAX,
            connect_timeout: Duration::from_secs(1),
            load_balancer: LoadBalancer::default(),
            connection: ConnectionSettings::default(),
            locality: Locality::default(),
        }
    }
}

/// A backend with all that is needed to reach it. Endpoints are in the order of their address.
#[derive(Clone, PartialEq, Debug)]
pub struct Backend {
    pub id: BackendId,
    pub protocol: Protocol,
    pub settings: BackendSettings,
    pub endpoints: Vec<Endpoint>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backends_name_says_its_kind_and_no_two_have_the_same() {
        let service = BackendId::service("shop", "api", 80);
        let external = BackendId { kind: BackendKind::External, ..BackendId::service("shop", "api.example", 443) };
        assert_eq!(service.to_string(), "shop/api:80");
        assert_eq!(BackendId::pod("shop", "api", 80).to_string(), "shop/pod/api:80");
        assert_eq!(external.to_string(), "shop/external/api.example:443");
        assert_ne!(BackendId::pod("shop", "api", 80), service);
    }
}
