//! Who is in the demo: pods, services and their addresses. Pure values.
//!
//! Every pod has a loopback address of its own (Linux answers on all of 127.0.0.0/8), so that ports are the usual
//! ones everywhere and the tables read like a cluster's.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// The namespace of the application.
pub(crate) const NAMESPACE: &str = "shop";
/// The control plane's namespace.
pub(crate) const CONTROL_NAMESPACE: &str = "remora";
/// The trust domain of every identity.
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";

/// How long certificates live here. Every proxy renews its own each third of it, so that a demo of a minute shows it,
/// and `--break identity` keeps all of them from it.
pub(super) const LEAF_LIFETIME: Duration = Duration::from_secs(60);

/// Where a proxy takes its application's requests.
pub(crate) const OUTBOUND_PORT: u16 = 4140;
/// Where a proxy takes its peers' connections.
pub(crate) const INBOUND_PORT: u16 = 4143;
/// Where a proxy answers people.
pub(crate) const ADMIN_PORT: u16 = 4191;
/// Where identity signs certificates, and its admin port.
pub(crate) const IDENTITY_PORTS: (u16, u16) = (4180, 4192);
/// Where discovery serves its stream, and its admin port.
pub(crate) const DISCOVERY_PORTS: (u16, u16) = (4181, 4193);

/// See [`Layout::claim`].
const CLAIM_PORT: u16 = 4179;

/// What a pod of the application does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Calls `api` steadily.
    Web,
    /// HTTP/1.1: asks `pricing`, writes to `store`.
    Api,
    /// gRPC.
    Pricing,
    /// Lines over raw TCP.
    Store,
}

impl Role {
    /// Its service account, and the Service it stands behind.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Api => "api",
            Self::Pricing => "pricing",
            Self::Store => "store",
        }
    }

    /// Where it serves, if it serves.
    pub(crate) const fn port(self) -> Option<u16> {
        match self {
            Self::Web => None,
            Self::Api => Some(8080),
            Self::Pricing => Some(9090),
            Self::Store => Some(7000),
        }
    }

    /// The Service port's `appProtocol`, where detection can be spared.
    pub(crate) const fn app_protocol(self) -> Option<&'static str> {
        match self {
            Self::Web | Self::Store => None,
            Self::Api => Some("http"),
            Self::Pricing => Some("kubernetes.io/h2c"),
        }
    }
}

/// One pod: an application process and its proxy.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    pub(crate) version: &'static str,
    pub(crate) zone: &'static str,
    host: u8,
}

const PODS: [Pod; 7] = [
    Pod { name: "store-1", role: Role::Store, version: "v1", zone: "a", host: 41 },
    Pod { name: "pricing-1", role: Role::Pricing, version: "v1", zone: "a", host: 31 },
    Pod { name: "pricing-2", role: Role::Pricing, version: "v1", zone: "b", host: 32 },
    Pod { name: "api-1", role: Role::Api, version: "v1", zone: "a", host: 21 },
    Pod { name: "api-2", role: Role::Api, version: "v1", zone: "b", host: 22 },
    Pod { name: "api-3", role: Role::Api, version: "v2", zone: "b", host: 23 },
    // Last, so that its load begins when all it calls is there.
    Pod { name: "web-1", role: Role::Web, version: "v1", zone: "a", host: 11 },
];

/// The replica of `api` that `--break endpoint` and `--break slow` choose: the one in `web`'s zone, which has most of the
/// load. To break one that idles would show nothing.
pub(crate) const VICTIM: &str = "api-1";

/// The demo's addresses: one of several equal blocks of loopback, so that a block in use is no obstacle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    block: u8,
}

impl Layout {
    /// The blocks to try, in order.
    pub(crate) fn candidates() -> impl Iterator<Item = Self> {
        (77..85).map(|block| Self { block })
    }

    /// The pods, in the order in which they start.
    pub(crate) fn pods(self) -> &'static [Pod] {
        &PODS
    }

    /// A pod's own address.
    pub(crate) fn ip(self, pod: &Pod) -> IpAddr {
        Ipv4Addr::new(127, self.block, 0, pod.host).into()
    }

    /// The address behind which all pods of a role stand.
    pub(crate) fn cluster_ip(self, role: Role) -> IpAddr {
        Ipv4Addr::new(127, self.block, 96, role as u8 + 1).into()
    }

    /// Where a pod answers on one of the ports above.
    pub(crate) fn at(self, pod: &Pod, port: u16) -> SocketAddr {
        (self.ip(pod), port).into()
    }

    /// Where identity and its admin port listen.
    pub(crate) fn identity(self) -> (SocketAddr, SocketAddr) {
        self.control(1, IDENTITY_PORTS)
    }

    /// Where discovery and its admin port listen.
    pub(crate) fn discovery(self) -> (SocketAddr, SocketAddr) {
        self.control(2, DISCOVERY_PORTS)
    }

    fn control(self, host: u8, (port, admin): (u16, u16)) -> (SocketAddr, SocketAddr) {
        let ip = IpAddr::from(Ipv4Addr::new(127, self.block, 0, host));
        ((ip, port).into(), (ip, admin).into())
    }

    /// Bound for as long as a demo runs, and for nothing else: who has it has the block, so that two demos that start at
    /// the same time do not choose the same one.
    pub(crate) fn claim(self) -> SocketAddr {
        (Ipv4Addr::new(127, self.block, 0, 1), CLAIM_PORT).into()
    }

    /// Everything the demo will listen on.
    pub(crate) fn listeners(self) -> Vec<SocketAddr> {
        let mut all = Vec::new();
        for (serve, admin) in [self.identity(), self.discovery()] {
            all.extend([serve, admin]);
        }
        for pod in self.pods() {
            all.extend([OUTBOUND_PORT, INBOUND_PORT, ADMIN_PORT].map(|port| self.at(pod, port)));
            all.extend(pod.role.port().map(|port| self.at(pod, port)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_listeners_share_an_address() {
        let layout = Layout::candidates().next().expect("there are candidates");
        let all = layout.listeners();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn api_has_replicas_of_two_versions_in_two_zones() {
        let apis: Vec<_> = PODS.iter().filter(|pod| pod.role == Role::Api).collect();
        assert_eq!(apis.iter().map(|pod| pod.version).collect::<HashSet<_>>().len(), 2);
        assert_eq!(apis.iter().map(|pod| pod.zone).collect::<HashSet<_>>().len(), 2);
        let zone = |name| PODS.iter().find(|pod| pod.name == name).map(|pod| pod.zone);
        assert_eq!(zone(VICTIM), zone("web-1"), "the victim is the one that web prefers");
        assert_eq!(apis.iter().filter(|pod| Some(pod.zone) == zone(VICTIM)).count(), 1);
    }
}
