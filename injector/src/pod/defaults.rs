//! What pods get where they and their namespaces say nothing: the chart's values, as the injector's configuration file.

use serde::Deserialize;
use std::fmt;

/// The chart's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Defaults {
    /// Where the control plane is.
    pub control_namespace: String,
    /// The trust domain of all identities.
    pub trust_domain: String,
    /// The suffix of the cluster's own names.
    pub cluster_domain: String,
    /// The networks of its Services and pods, with commas between them; empty where discovery finds them.
    pub cluster_networks: String,
    /// The image of both our containers.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// What annotations can change.
    pub proxy: ProxyDefaults,
}

/// What annotations can change: the chart's `proxy` values.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyDefaults {
    /// Its log.
    pub log: Log,
    /// How long open requests may take when the pod ends.
    pub drain_grace: String,
    /// What they write to their access log.
    pub access_log: String,
    /// Whether they make spans of requests, and who collects them.
    pub tracing: String,
    /// What it may use.
    pub resources: Resources,
    /// Ports of the pod that bypass the proxy.
    pub skip_inbound_ports: Vec<Entry>,
    /// Destination ports that bypass the proxy.
    pub skip_outbound_ports: Vec<Entry>,
    /// Destination subnets that bypass the proxy.
    pub skip_subnets: Vec<Entry>,
    /// What becomes of a destination outside the cluster that discovery does not know: `pass` or `deny`.
    pub unknown: String,
}

/// The proxy's log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Filter.
    pub level: String,
    /// `text` or `json`.
    pub format: String,
}

/// What the proxy may use. There is no CPU limit by default: to be throttled is to be late.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// What the scheduler reserves.
    pub requests: Amounts,
    /// The most.
    pub limits: Amounts,
}

/// Quantities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    /// Of a CPU.
    #[serde(default)]
    pub cpu: Option<Entry>,
    /// Of memory.
    #[serde(default)]
    pub memory: Option<Entry>,
}

/// A word, or a number that YAML took for one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// `9000-9099`
    Word(String),
    /// `25`
    Number(u64),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// As an annotation would say it.
pub(super) fn joined(entries: &[Entry]) -> String {
    entries.iter().map(Entry::to_string).collect::<Vec<_>>().join(",")
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            control_namespace: remora_kube::names::NAMESPACE.to_owned(),
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_networks: String::new(),
            image: concat!("ghcr.io/remora-mesh/remora:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            proxy: ProxyDefaults::default(),
        }
    }
}

impl Default for ProxyDefaults {
    fn default() -> Self {
        Self {
            log: Log::default(),
            drain_grace: "30s".to_owned(),
            access_log: "off".to_owned(),
            tracing: "off".to_owned(),
            resources: Resources::default(),
            skip_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            skip_subnets: Vec::new(),
            unknown: "pass".to_owned(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: "text".to_owned() }
    }
}

impl Default for Resources {
    fn default() -> Self {
        let some = |text: &str| Some(Entry::Word(text.to_owned()));
        Self {
            requests: Amounts { cpu: some("10m"), memory: some("16Mi") },
            limits: Amounts { cpu: None, memory: some("128Mi") },
        }
    }
}
