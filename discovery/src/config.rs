//! Flags and `REMORA_DISCOVERY_*`.

use crate::objects::names::is_subdomain;
use ipnet::IpNet;
use remora_model::{DefaultInbound, ProxySettings, Setting, network};
use remora_runtime::{
    log,
    settings::{Mistakes, access_log, default_inbound, drain_grace, log_filter, tracing, unknown_targets},
};
use std::{net::SocketAddr, path::PathBuf};

/// Turns Services, EndpointSlices, Gateway API routes and policies into what each proxy needs, and pushes it.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "remora-discovery", version)]
pub struct Config {
    /// Where proxies connect, with mTLS
    #[arg(long, env = "REMORA_DISCOVERY_LISTEN", default_value = "[::]:4181")]
    pub listen: SocketAddr,
    /// Probes, metrics
    #[arg(long, env = "REMORA_DISCOVERY_ADMIN", default_value = "[::]:4193")]
    pub admin: SocketAddr,
    /// Directory of Kubernetes manifests, watched
    #[arg(
        long,
        env = "REMORA_DISCOVERY_MANIFESTS",
        value_name = "DIR",
        required_unless_present = "kubernetes",
        conflicts_with = "kubernetes"
    )]
    pub manifests: Option<PathBuf>,
    /// Read the Kubernetes API instead: the one that KUBECONFIG names, else that of the own pod
    #[arg(long, env = "REMORA_DISCOVERY_KUBERNETES")]
    pub kubernetes: bool,
    /// The control plane's namespace
    #[arg(long, env = "REMORA_DISCOVERY_NAMESPACE", default_value = remora_kube::names::NAMESPACE)]
    pub namespace: String,
    /// The own pod, which stands for election to write the statuses of routes; without it no replica writes them
    #[arg(long, env = "REMORA_DISCOVERY_POD", requires = "kubernetes")]
    pub pod: Option<String>,
    /// The mesh's trust domain
    #[arg(long, env = "REMORA_DISCOVERY_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: remora_model::TrustDomain,
    /// The cluster's DNS domain
    #[arg(long, env = "REMORA_DISCOVERY_CLUSTER_DOMAIN", default_value = crate::index::CLUSTER_DOMAIN)]
    pub cluster_domain: String,
    /// Ranges of the cluster's Services and pods (10.96.0.0/12,fd00::/8), beside those of ServiceCIDRs and nodes
    #[arg(long, env = "REMORA_DISCOVERY_CLUSTER_NETWORKS", value_name = "CIDRS", default_value = "")]
    pub cluster_networks: String,
    /// Log filter of running proxies, where no annotation says another; without it each keeps the one that it was started with
    #[arg(long, env = "REMORA_DISCOVERY_PROXY_LOG_LEVEL", value_name = "FILTER")]
    pub proxy_log_level: Option<String>,
    /// What running proxies do with unknown destinations outside the cluster: pass or deny; the same
    #[arg(long, env = "REMORA_DISCOVERY_PROXY_UNKNOWN", value_name = "WORD")]
    pub proxy_unknown: Option<String>,
    /// How long open requests of running proxies may take when their pod shuts down; the same
    #[arg(long, env = "REMORA_DISCOVERY_PROXY_DRAIN_GRACE", value_name = "TIME")]
    pub proxy_drain_grace: Option<String>,
    /// What running proxies write to their access log: off, or json, logfmt or apache, and a filter behind it; the same
    #[arg(long, env = "REMORA_DISCOVERY_PROXY_ACCESS_LOG", value_name = "TEXT")]
    pub proxy_access_log: Option<String>,
    /// Whether running proxies make spans: off, or host:port of a collector and sample= and a percentage behind it; the same
    #[arg(long, env = "REMORA_DISCOVERY_PROXY_TRACING", value_name = "TEXT")]
    pub proxy_tracing: Option<String>,
    /// Who may call a port that no Allow policy selects, where no annotation says it: allow, authenticated, same-namespace or deny
    #[arg(long, env = "REMORA_DISCOVERY_DEFAULT_INBOUND_POLICY", value_name = "WORD", default_value = "allow")]
    pub default_inbound_policy: String,
    /// host:port of the identity service
    #[arg(long, env = "REMORA_DISCOVERY_IDENTITY_ADDR", required_unless_present = "insecure_listen")]
    pub identity_addr: Option<String>,
    /// PEM file of the trust anchors
    #[arg(
        long,
        env = "REMORA_DISCOVERY_TRUST_ANCHORS",
        value_name = "PEM",
        required_unless_present = "insecure_listen"
    )]
    pub trust_anchors: Option<PathBuf>,
    /// Our service-account token
    #[arg(long, env = "REMORA_DISCOVERY_TOKEN", value_name = "FILE", required_unless_present = "insecure_listen")]
    pub token: Option<PathBuf>,
    /// Serve plaintext to any client instead; for tests only
    #[arg(long, env = "REMORA_DISCOVERY_INSECURE_LISTEN", value_name = "ADDR")]
    pub insecure_listen: Option<SocketAddr>,
    /// Log filter
    #[arg(long, env = "REMORA_DISCOVERY_LOG", default_value = "info")]
    pub log: String,
    /// How log lines look: text or json
    #[arg(long, env = "REMORA_DISCOVERY_LOG_FORMAT", default_value = "text")]
    pub log_format: log::Format,
}

impl Config {
    /// Judges what the parser of the command line cannot.
    pub(crate) fn checked(self) -> Result<Self, Mistakes> {
        let filter = log::check(&self.log).map_err(|error| format!("--log={:?}: {error}", self.log));
        let domain = is_subdomain(&self.cluster_domain);
        let domain =
            domain.then_some(()).ok_or_else(|| format!("--cluster-domain={:?}: is no domain", self.cluster_domain));
        let default = self.default_inbound().err();
        let wrong = [filter.err(), domain.err(), self.networks().err(), self.proxies().err(), default];
        let mistakes: Vec<String> = wrong.into_iter().flatten().collect();
        if mistakes.is_empty() { Ok(self) } else { Err(Mistakes(mistakes)) }
    }

    /// The settings of running proxies that no annotation says.
    pub(crate) fn proxies(&self) -> Result<ProxySettings, String> {
        Ok(ProxySettings {
            log_filter: setting("--proxy-log-level", self.proxy_log_level.as_deref(), log_filter)?,
            unknown_targets: setting("--proxy-unknown", self.proxy_unknown.as_deref(), unknown_targets)?,
            drain_grace: setting("--proxy-drain-grace", self.proxy_drain_grace.as_deref(), drain_grace)?,
            access_log: setting("--proxy-access-log", self.proxy_access_log.as_deref(), access_log)?,
            tracing: setting("--proxy-tracing", self.proxy_tracing.as_deref(), tracing)?,
        })
    }

    /// Who may call a port that no Allow policy selects.
    pub(crate) fn default_inbound(&self) -> Result<DefaultInbound, String> {
        let text = &self.default_inbound_policy;
        default_inbound(text).map_err(|wrong| format!("--default-inbound-policy={text:?}: {wrong}"))
    }

    /// The ranges of `--cluster-networks`.
    pub(crate) fn networks(&self) -> Result<Vec<IpNet>, String> {
        let texts = self.cluster_networks.split(',').map(str::trim).filter(|text| !text.is_empty());
        let read = |text: &str| match network::parse(text) {
            Ok(range) => Ok(range.trunc()),
            Err(problem) => Err(format!("--cluster-networks={:?}: {text:?} {problem}", self.cluster_networks)),
        };
        texts.map(read).collect()
    }
}

fn setting<T>(flag: &str, text: Option<&str>, parse: impl Fn(&str) -> Result<T, String>) -> Result<Setting<T>, String> {
    let Some(text) = text else { return Ok(Setting::AsStarted) };
    parse(text).map(Setting::Said).map_err(|wrong| format!("{flag}={text:?}: {wrong}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn a_log_filter_that_makes_no_sense_is_refused_before_there_is_a_log() {
        assert!(read("--log", "info,remora_discovery=debug").is_ok());
        assert!(read("--log", "a=b=c").unwrap_err().to_string().contains("--log=\"a=b=c\""));
    }

    fn read(flag: &str, value: &str) -> Result<Config, Mistakes> {
        let args = ["remora-discovery", "--manifests", "/m", "--insecure-listen", "127.0.0.1:0", flag, value];
        Config::try_parse_from(args).unwrap().checked()
    }

    #[test]
    fn settings_of_proxies_are_as_annotations_have_them_or_refused() {
        assert_eq!(read("--log", "info").unwrap().proxies(), Ok(ProxySettings::default()));
        let said = read("--proxy-log-level", "info,remora_proxy=debug").unwrap().proxies().unwrap();
        assert_eq!(said.log_filter, Setting::Said("info,remora_proxy=debug".into()));
        for (flag, wrong) in [
            ("--proxy-log-level", ""),
            ("--proxy-unknown", "allow"),
            ("--proxy-drain-grace", "2h"),
            ("--proxy-tracing", "on"),
        ] {
            assert!(read(flag, wrong).unwrap_err().to_string().contains(flag), "{flag}={wrong}");
        }
    }

    #[test]
    fn the_clusters_networks_and_domain_are_read_or_refused() {
        let networks = |value: &str| read("--cluster-networks", value).map(|config| config.networks().unwrap());
        let shown = |value: &str| networks(value).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(""), Vec::<String>::new());
        assert_eq!(shown(" 10.96.7.0/12, fd00::/8,"), ["10.96.0.0/12", "fd00::/8"]);
        for wrong in ["10.0.0.0", "10.0.0.0/33", "fd00::/8;10.0.0.0/8"] {
            assert!(networks(wrong).unwrap_err().to_string().contains("--cluster-networks"), "{wrong}");
        }
        assert!(read("--cluster-domain", "k8s.example").is_ok());
        assert!(read("--cluster-domain", "k8s example.").unwrap_err().to_string().contains("--cluster-domain"));
    }
}
