//! The proxy's settings: `REMORA_PROXY_*` from the environment, read once, all errors reported at once.

use crate::{
    account,
    discover::{InForce, Networks},
    http::guard::Patience,
    limits,
    probe::{self, Probes},
    telemetry::Filter,
};
use remora_model::{SpiffeId, Tracing, TrustDomain, UnknownTargets, settings::AccessLog};
pub(crate) use remora_runtime::settings::Mistakes;
use remora_runtime::settings::{self, duration, parsed, unknown_targets};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// What every name begins with.
pub(crate) const PREFIX: &str = "REMORA_PROXY_";

/// How connections come to the listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By the redirect rules of `remora-proxy init`: the original destination says where to.
    Redirect,
    /// By themselves: outbound takes HTTP by authority, inbound takes peers that name the port.
    Explicit,
}

/// Validated settings.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub mode: Mode,
    pub outbound_listen: Vec<SocketAddr>,
    pub inbound_listen: Vec<SocketAddr>,
    pub admin_listen: SocketAddr,
    pub namespace: String,
    pub pod: String,
    pub service_account: String,
    pub zone: Arc<str>,
    /// The node of the pod; empty: not known.
    pub node: Arc<str>,
    pub trust_domain: TrustDomain,
    pub trust_anchors: PathBuf,
    pub token: PathBuf,
    pub identity_addr: String,
    pub discovery_addr: String,
    /// Where identity and discovery are, which is part of who they are.
    pub control_namespace: String,
    pub workers: usize,
    pub drain_grace: Duration,
    /// What is written to the access log.
    pub access_log: AccessLog,
    /// Whether spans are made of requests, and who collects them.
    pub tracing: Tracing,
    pub connect_timeout: Duration,
    pub patience: Patience,
    /// What the process may use, of which peers have a part: see [`account`].
    pub memory_limit: u64,
    pub log: String,
    pub log_json: bool,
    pub app_host: IpAddr,
    pub opaque_ports: BTreeSet<u16>,
    /// The ranges of the cluster's Services and pods, until discovery tells them.
    pub networks: Networks,
    /// What becomes of connections to destinations outside of them that the mesh does not know.
    pub unknown: UnknownTargets,
    /// The application's probes, which the kubelet asks us to carry out.
    pub probes: Arc<Probes>,
    /// What the paths of probes and hooks begin with.
    pub probe_token: Option<probe::Token>,
    /// The addresses of the node that the pod runs on.
    pub host_ips: Vec<IpAddr>,
}

impl Config {
    /// Reads the process's environment. An unknown `REMORA_PROXY_*` name is an error too.
    pub(crate) fn from_env() -> Result<Self, Mistakes> {
        let ours = |name: &str| name.starts_with(PREFIX) && !is_service_link(name);
        let mut ours: Vec<(String, String)> = std::env::vars().filter(|(name, _)| ours(name)).collect();
        let config = Self::read(&mut |name| {
            let at = ours.iter().position(|(given, _)| given == name)?;
            Some(ours.swap_remove(at).1)
        });
        let unknown = ours.iter().map(|(name, _)| format!("{name}: no such setting"));
        match config {
            Ok(config) if ours.is_empty() => Ok(config),
            Ok(_) => Err(Mistakes(unknown.collect())),
            Err(Mistakes(mistakes)) => Err(Mistakes(mistakes.into_iter().chain(unknown).collect())),
        }
    }

    /// Reads settings through `lookup`, which is given whole names.
    pub(crate) fn read(lookup: &mut dyn FnMut(&str) -> Option<String>) -> Result<Self, Mistakes> {
        let mut read = Reader { lookup, mistakes: Vec::new() };
        let mode = read.or("MODE", "redirect", mode);
        let default_inbound = if ipv6_available() { "[::]:4143" } else { "0.0.0.0:4143" };
        let default_admin = if ipv6_available() { "[::]:4191" } else { "0.0.0.0:4191" };
        let default_outbound = if ipv6_available() { "127.0.0.1:4140,[::1]:4140" } else { "127.0.0.1:4140" };
        let outbound_listen = read.or("OUTBOUND_LISTEN", default_outbound, addresses);
        let inbound_listen = read.or("INBOUND_LISTEN", default_inbound, addresses);
        let admin_listen = read.or("ADMIN_LISTEN", default_admin, parsed);
        let (namespace, pod) = (read.required("NAMESPACE", label), read.required("POD", label));
        let service_account = read.or("SERVICE_ACCOUNT", "default", label);
        let (zone, node) = (read.or("ZONE", "", text), read.or("NODE", "", text));
        let trust_domain = read.or("TRUST_DOMAIN", "cluster.local", trust_domain);
        let trust_anchors = read.required("TRUST_ANCHORS", text);
        let token = read.required("TOKEN", text);
        let identity_addr = read.required("IDENTITY_ADDR", host_port);
        let discovery_addr = read.required("DISCOVERY_ADDR", host_port);
        let control_namespace = read.or("CONTROL_NAMESPACE", "remora", label);
        let workers = read.or("WORKERS", &default_workers().to_string(), workers);
        let drain_grace = read.or("DRAIN_GRACE", "30s", duration);
        let access_log = read.or("ACCESS_LOG", "off", access_log);
        let tracing = read.or("TRACING", "off", settings::tracing);
        let connect_timeout = read.or("CONNECT_TIMEOUT", "10s", duration);
        let header_timeout = read.or("HEADER_TIMEOUT", &in_ms(limits::HEADER_TIMEOUT), duration);
        let body_timeout = read.or("BODY_TIMEOUT", &in_ms(limits::BODY_TIMEOUT), duration);
        let idle_timeout = read.or("IDLE_TIMEOUT", &in_ms(limits::CLIENT_IDLE_TIMEOUT), duration);
        let memory_limit = read.or("MEMORY_LIMIT", &account::memory_limit().to_string(), memory);
        let (log, log_json) = (read.or("LOG", "info", text), read.or("LOG_FORMAT", "text", log_format));
        let (app_host, opaque_ports) = (read.or("APP_HOST", "127.0.0.1", parsed), read.or("OPAQUE_PORTS", "", ports));
        let networks = read.or("CLUSTER_NETWORKS", "", networks);
        let unknown = read.or("UNKNOWN", "pass", unknown_targets);
        let probes = read.or("PROBES", "", Probes::parse);
        let probe_token = read.or("PROBE_TOKEN", "", probe::Token::parse);
        let host_ips = read.or("HOST_IP", "", ips);
        let Reader { mistakes, .. } = read;
        let all = || {
            Some(Self {
                mode: mode?,
                outbound_listen: outbound_listen?,
                inbound_listen: inbound_listen?,
                admin_listen: admin_listen?,
                namespace: namespace?,
                pod: pod?,
                service_account: service_account?,
                zone: zone?.into(),
                node: node?.into(),
                trust_domain: trust_domain?,
                trust_anchors: trust_anchors?.into(),
                token: token?.into(),
                identity_addr: identity_addr?,
                discovery_addr: discovery_addr?,
                control_namespace: control_namespace?,
                workers: workers?,
                drain_grace: drain_grace?,
                access_log: access_log?,
                tracing: tracing?,
                connect_timeout: connect_timeout?,
                patience: Patience { head: header_timeout?, body: body_timeout?, idle: idle_timeout? },
                memory_limit: memory_limit?,
                log: log?,
                log_json: log_json?,
                app_host: app_host?,
                opaque_ports: opaque_ports?,
                networks: networks?,
                unknown: unknown?,
                probes: Arc::new(probes?),
                probe_token: probe_token?,
                host_ips: host_ips?,
            })
        };
        all().ok_or(Mistakes(mistakes))
    }

    /// Our own identity.
    pub(crate) fn id(&self) -> Option<SpiffeId> {
        SpiffeId::workload(&self.trust_domain, &self.namespace, &self.service_account).ok()
    }

    /// The settings that discovery may change, as the proxy was started.
    pub(crate) fn settings(&self) -> InForce {
        InForce {
            log: self.log.as_str().into(),
            unknown: self.unknown,
            drain_grace: self.drain_grace,
            access_log: self.access_log.clone(),
            tracing: self.tracing.clone(),
        }
    }

    /// The identity of a part of the control plane.
    pub(crate) fn control_plane(&self, service_account: &str) -> Option<SpiffeId> {
        SpiffeId::workload(&self.trust_domain, &self.control_namespace, service_account).ok()
    }

    /// Where this proxy itself takes what others send, if `pod` (`namespace/name`) is its own. No rule redirects what a
    /// pod sends to itself: mesh TLS to the pod's own address would reach the application and not its proxy.
    pub(crate) fn own_proxy(&self, pod: &str) -> Option<SocketAddr> {
        if self.mode != Mode::Redirect || pod.split_once('/') != Some((&self.namespace, &self.pod)) {
            return None;
        }
        let listen = self.inbound_listen.first()?;
        let loopback = if listen.is_ipv4() { IpAddr::from([127, 0, 0, 1]) } else { IpAddr::from(Ipv6Addr::LOCALHOST) };
        Some(SocketAddr::new(if listen.ip().is_unspecified() { loopback } else { listen.ip() }, listen.port()))
    }

    /// Whether `address` is one of this proxy's own listeners: forwarding to it would be a loop. `here` is an address of this
    /// pod: other hosts may have servers on the same ports.
    pub(crate) fn is_own(&self, address: SocketAddr, here: IpAddr) -> bool {
        let own = self.outbound_listen.iter().chain(&self.inbound_listen).chain([&self.admin_listen]);
        own.filter(|own| own.port() == address.port()).any(|own| match self.mode {
            Mode::Redirect => {
                let (to, here) = (address.ip().to_canonical(), here.to_canonical());
                own.port() != self.admin_listen.port() && (to == here || to.is_loopback() || to.is_unspecified())
            }
            Mode::Explicit => own.ip() == address.ip() || own.ip().is_unspecified(),
        })
    }
}

/// Whether Kubernetes made this name from a Service called `remora-proxy` or `remora-proxy-…`, beside which the pod runs.
fn is_service_link(name: &str) -> bool {
    let port = name.rsplit_once("_PORT").is_some_and(|(_, rest)| {
        let mut words = rest.split('_').filter(|word| !word.is_empty());
        words.next().is_none_or(|number| number.bytes().all(|b| b.is_ascii_digit()))
            && words.next().is_none_or(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
            && words.next().is_none_or(|what| ["PROTO", "ADDR", "PORT"].contains(&what))
    });
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || port
}

struct Reader<'a> {
    lookup: &'a mut dyn FnMut(&str) -> Option<String>,
    mistakes: Vec<String>,
}

impl Reader<'_> {
    fn or<T>(&mut self, name: &str, default: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let name = format!("{PREFIX}{name}");
        let given = (self.lookup)(&name);
        self.value(&name, given.as_deref().unwrap_or(default), parse)
    }

    fn required<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let name = format!("{PREFIX}{name}");
        match (self.lookup)(&name) {
            Some(given) if !given.is_empty() => self.value(&name, &given, parse),
            _ => {
                self.mistakes.push(format!("{name}: must be set"));
                None
            }
        }
    }

    fn value<T>(&mut self, name: &str, text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        parse(text).map_err(|problem| self.mistakes.push(format!("{name}={text:?}: {problem}"))).ok()
    }
}

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn label(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if (1..=253).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a Kubernetes name has 1 to 253 of a-z, 0-9, '-' and '.'".to_owned())
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "redirect" => Ok(Mode::Redirect),
        "explicit" => Ok(Mode::Explicit),
        _ => Err("is redirect or explicit".to_owned()),
    }
}

fn log_format(text: &str) -> Result<bool, String> {
    match text {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err("is text or json".to_owned()),
    }
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text).map_err(|error| error.to_string())
}

fn addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    text.split(',').map(|one| parsed(one.trim())).collect()
}

/// As the downward API writes `status.hostIPs`. One that a node does not have yet is left out.
fn ips(text: &str) -> Result<Vec<IpAddr>, String> {
    let given = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    given.map(|one| parsed::<IpAddr>(one).map(|ip| ip.to_canonical())).collect()
}

fn host_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(text.to_owned()),
        _ => Err("is host:port".to_owned()),
    }
}

fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=limits::WORKERS_MAX).contains(&count) => Ok(count),
        _ => Err(format!("is a number from 1 to {}", limits::WORKERS_MAX)),
    }
}

/// With a filter that can be read.
fn access_log(text: &str) -> Result<AccessLog, String> {
    let log = settings::access_log(text)?;
    match &log {
        AccessLog::On { filter, .. } => Filter::parse(filter).map(|_| log).map_err(|error| error.to_string()),
        AccessLog::Off => Ok(log),
    }
}

fn ports(text: &str) -> Result<BTreeSet<u16>, String> {
    let ranges = remora_model::ports::read(text).map_err(|error| error.to_string())?;
    Ok(ranges.into_iter().flatten().collect())
}

fn networks(text: &str) -> Result<Networks, String> {
    let ranges = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    let ranges = ranges.map(|one| one.parse().map_err(|_| format!("{one:?} is no range like 10.96.0.0/12")));
    ranges.collect::<Result<_, _>>().map(Networks::new)
}

fn in_ms(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// `128Mi`, `1Gi`, or bytes; at least so much that anything can be served.
fn memory(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let unit = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(format!("{text:?} is no amount of memory; write 128Mi")),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    let least = limits::MEMORY_BASE_BYTES + (8 << 20);
    match bytes {
        Some(bytes) if bytes >= least => Ok(bytes),
        Some(_) => Err(format!("{text:?} is less than the {} MiB that a proxy needs", least >> 20)),
        None => Err(format!("{text:?} is no amount of memory; write 128Mi")),
    }
}

/// The cgroup's CPU quota, in processors, if there is one (cgroups v2).
pub(crate) fn cpu_limit() -> Option<f64> {
    quota(&std::fs::read_to_string("/sys/fs/cgroup/cpu.max").ok()?)
}

/// What `cpu.max` says: microseconds of processor time in each period of so many.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<u32>().ok()?, period.parse::<u32>().ok().filter(|period| *period > 0)?);
    Some(f64::from(quota) / f64::from(period))
}

/// The cgroup's CPU quota, rounded up; 1 where there is none, because a sidecar is a guest.
fn default_workers() -> usize {
    cpu_limit().map_or(1, |cpus| cpus.ceil() as usize).clamp(1, limits::WORKERS_MAX)
}

fn ipv6_available() -> bool {
    std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// With the settings that there must be, and no others.
    pub(crate) fn least() -> Config {
        read(&LEAST).expect("valid")
    }

    fn read(pairs: &[(&str, &str)]) -> Result<Config, Mistakes> {
        Config::read(&mut |name| {
            let name = name.strip_prefix(PREFIX)?;
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const LEAST: [(&str, &str); 6] = [
        ("NAMESPACE", "shop"),
        ("POD", "web-1"),
        ("TRUST_ANCHORS", "/ca.crt"),
        ("TOKEN", "/token"),
        ("IDENTITY_ADDR", "identity:4180"),
        ("DISCOVERY_ADDR", "discovery:4181"),
    ];

    #[test]
    fn a_quota_is_in_processors_and_none_is_none() {
        assert_eq!((quota("150000 100000\n"), quota("50000 100000")), (Some(1.5), Some(0.5)));
        for none in ["max 100000", "", "100000", "1 0", "-1 100000"] {
            assert_eq!(quota(none), None, "{none:?}");
        }
    }

    #[test]
    fn an_access_log_has_a_filter_that_can_be_read() {
        let with = |text: &str| read(&[&LEAST[..], &[("ACCESS_LOG", text)]].concat());
        assert_eq!(with("json status>=500").unwrap().access_log.to_string(), "json status>=500");
        for (text, expected) in
            [("on", "is off, json, logfmt or apache"), ("json stauts=1", "there is no field `stauts`")]
        {
            let wrong = with(text).unwrap_err().to_string();
            assert!(wrong.contains("REMORA_PROXY_ACCESS_LOG") && wrong.contains(expected), "{wrong}");
        }
    }

    #[test]
    fn six_settings_are_enough() {
        let config = read(&LEAST).expect("valid");
        assert_eq!(config.id().map(|id| id.to_string()).as_deref(), Some("spiffe://cluster.local/ns/shop/sa/default"));
        assert_eq!(config.drain_grace, Duration::from_secs(30));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mut pairs = LEAST.to_vec();
        pairs.retain(|(name, _)| *name != "TOKEN");
        pairs.extend([("MODE", "magic"), ("DRAIN_GRACE", "30"), ("WORKERS", "0"), ("ADMIN_LISTEN", "here")]);
        let mistakes = read(&pairs).expect_err("five mistakes").to_string();
        for name in ["TOKEN", "MODE", "DRAIN_GRACE", "WORKERS", "ADMIN_LISTEN"] {
            assert!(mistakes.contains(&format!("{PREFIX}{name}")), "{mistakes}");
        }
    }

    #[test]
    fn the_clusters_ranges_and_what_becomes_of_the_unknown_are_settings() {
        let with = |name, value| read(&[&LEAST[..], &[(name, value)]].concat());
        let inside = |config: &Config, target: &str| config.networks.contain(&target.parse().expect("a target"));
        let config = with("CLUSTER_NETWORKS", " 10.96.0.0/12, fd00::/8 ,").expect("valid");
        assert!(inside(&config, "10.97.0.1:80") && inside(&config, "[fd00::1]:80") && !inside(&config, "10.0.0.1:80"));
        assert!(inside(&with("CLUSTER_NETWORKS", "").expect("valid"), "10.0.0.1:80"), "none are known: all may be");
        assert_eq!(
            (config.unknown, with("UNKNOWN", "deny").expect("valid").unknown),
            (UnknownTargets::Pass, UnknownTargets::Deny)
        );
        for (name, wrong) in [("UNKNOWN", "Deny"), ("UNKNOWN", ""), ("CLUSTER_NETWORKS", "10.0.0.0")] {
            assert!(with(name, wrong).is_err(), "{name}={wrong}");
        }
    }

    #[test]
    fn opaque_ports_are_a_list_as_annotations_write_it() {
        let ports = |text| {
            let config = read(&[&LEAST[..], &[("OPAQUE_PORTS", text)]].concat()).ok()?;
            Some(config.opaque_ports.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(ports("3306, 5000-5002,"), Some(vec![3306, 5000, 5001, 5002]));
        assert_eq!(ports(""), Some(Vec::new()));
        for wrong in ["0", "5002-5000", "70000", "http"] {
            assert_eq!(ports(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_service_called_like_the_proxy_is_no_mistake() {
        let links = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"];
        for link in links {
            assert!(
                is_service_link(&format!("{PREFIX}{link}")) && is_service_link(&format!("{PREFIX}X_{link}")),
                "{link}"
            );
        }
        for setting in ["OPAQUE_PORTS", "POD", "LOG", "OPAQUE_PORT_LIST", "INBOUND_LISTEN"] {
            assert!(!is_service_link(&format!("{PREFIX}{setting}")), "{setting}");
        }
    }

    #[test]
    fn the_control_planes_namespace_is_part_of_its_identity() {
        let mut pairs = LEAST.to_vec();
        pairs.push(("CONTROL_NAMESPACE", "mesh"));
        let id = read(&pairs).expect("valid").control_plane("remora-identity");
        assert_eq!(id.map(|id| id.to_string()).as_deref(), Some("spiffe://cluster.local/ns/mesh/sa/remora-identity"));
    }

    #[test]
    fn the_proxys_own_ports_are_loops() {
        let mut config = read(&LEAST).expect("valid");
        let here = IpAddr::from([10, 0, 0, 1]);
        assert!(
            config.is_own(([10, 0, 0, 1], 4143).into(), here) && config.is_own(([127, 0, 0, 1], 4140).into(), here)
        );
        assert!(!config.is_own(([10, 0, 0, 1], 80).into(), here));
        assert!(
            !config.is_own(([10, 0, 0, 2], 4143).into(), here) && !config.is_own(([10, 0, 0, 2], 4140).into(), here)
        );
        assert!(config.is_own(([10, 0, 0, 1], 4143).into(), "::ffff:10.0.0.1".parse().expect("an address")));
        let own = format!("{}/{}", config.namespace, config.pod);
        assert!(config.own_proxy(&own).is_some_and(|at| at.ip().is_loopback() && at.port() == 4143));
        assert_eq!(config.own_proxy("other/pod"), None);
        config.mode = Mode::Explicit;
        assert_eq!(config.own_proxy(&own), None, "nothing is redirected, and endpoints name their proxies");
        config.inbound_listen = vec![([127, 77, 0, 1], 4143).into()];
        assert!(config.is_own(([127, 77, 0, 1], 4143).into(), here));
        assert!(!config.is_own(([127, 77, 0, 2], 4143).into(), here));
    }
}
