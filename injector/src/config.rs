//! Flags, and `REMORA_INJECTOR_*` from the environment, and the chart's defaults from a file: read once, all mistakes told
//! at once.
//!
//! As the identity service does, it does not refuse names that it does not know: Kubernetes sets
//! `REMORA_INJECTOR_SERVICE_HOST` and its like beside a Service of that name.

use crate::pod::{Defaults, ProxyDefaults};
use clap::Parser;
use remora_runtime::{
    log,
    settings::{Mistakes, Reader, duration_within, parsed},
};
use std::{net::SocketAddr, path::Path, time::Duration};

/// A shorter life leaves no time for every API server to hear of the next one.
const LIFETIME_MIN: Duration = Duration::from_secs(30);
/// A longer lifetime has no use: the certificate is replaced automatically.
const LIFETIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// The longest wait before serving ends; Kubernetes kills what takes much longer.
const DRAIN_DELAY_MAX: Duration = Duration::from_secs(60);

/// The webhook that puts the sidecar into pods: settings as given.
#[derive(Debug, Parser)]
#[command(name = "remora-injector", version, about = "The admission webhook that puts the sidecar into pods")]
pub(crate) struct Raw {
    /// Where to serve the webhook over HTTPS
    #[arg(long, env = "REMORA_INJECTOR_LISTEN", default_value = "[::]:4182")]
    listen: String,
    /// Where to serve /live, /ready, /metrics
    #[arg(long, env = "REMORA_INJECTOR_ADMIN", default_value = "[::]:4194")]
    admin: String,
    /// The control plane's namespace
    #[arg(long, env = "REMORA_INJECTOR_NAMESPACE", default_value = remora_kube::names::NAMESPACE)]
    namespace: String,
    /// This pod's name, for the Lease (required)
    #[arg(long, env = "REMORA_INJECTOR_POD")]
    pod: Option<String>,
    /// The trust domain of all identities
    #[arg(long, env = "REMORA_INJECTOR_TRUST_DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    /// The suffix of the cluster's own DNS names
    #[arg(long, env = "REMORA_INJECTOR_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// The networks of the cluster's Services and pods, with commas between them; found by discovery if empty
    #[arg(long, env = "REMORA_INJECTOR_CLUSTER_NETWORKS", default_value = "", value_name = "CIDRS")]
    cluster_networks: String,
    /// The sidecar's image (required)
    #[arg(long, env = "REMORA_INJECTOR_IMAGE")]
    image: Option<String>,
    /// Always, IfNotPresent or Never
    #[arg(long, env = "REMORA_INJECTOR_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    image_pull_policy: String,
    /// JSON file with the sidecars' defaults: the chart's value `proxy`
    #[arg(long, env = "REMORA_INJECTOR_CONFIG", value_name = "FILE")]
    config: Option<String>,
    /// How long the webhook's certificate lives, 30s to 8784h; replaced at two thirds
    #[arg(long, env = "REMORA_INJECTOR_CERTIFICATE_LIFETIME", default_value = "720h")]
    certificate_lifetime: String,
    /// How long to go on serving after SIGTERM, until no API server calls any more, up to 60s
    #[arg(long, env = "REMORA_INJECTOR_DRAIN_DELAY", default_value = "5s")]
    drain_delay: String,
    /// Log filter
    #[arg(long, env = "REMORA_INJECTOR_LOG", default_value = "info")]
    log: String,
    /// Log format: text or json
    #[arg(long, env = "REMORA_INJECTOR_LOG_FORMAT", default_value = "text")]
    log_format: String,
}

/// Validated settings.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) pod: String,
    /// With the control plane's namespace.
    pub(crate) defaults: Defaults,
    pub(crate) certificate_lifetime: Duration,
    pub(crate) drain_delay: Duration,
    pub(crate) log: String,
    pub(crate) log_format: log::Format,
}

impl Raw {
    /// Validates everything; reads the file.
    pub(crate) fn read(&self) -> Result<Config, Mistakes> {
        let mut read = Reader::default();
        let listen = read.value("--listen", &self.listen, parsed::<SocketAddr>);
        let admin = read.value("--admin", &self.admin, parsed::<SocketAddr>);
        let pod = read.required("--pod", self.pod.as_deref(), |text| Ok(text.to_owned()));
        let image = read.required("--image", self.image.as_deref(), |text| Ok(text.to_owned()));
        let proxy = match &self.config {
            None => Some(ProxyDefaults::default()),
            Some(path) => read.value("--config", path, proxy_defaults),
        };
        let lifetimes = duration_within(LIFETIME_MIN, LIFETIME_MAX);
        let certificate_lifetime = read.value("--certificate-lifetime", &self.certificate_lifetime, lifetimes);
        let drain_delay =
            read.value("--drain-delay", &self.drain_delay, duration_within(Duration::ZERO, DRAIN_DELAY_MAX));
        let log = read.value("--log", &self.log, filter);
        let log_format = read.value("--log-format", &self.log_format, parsed);
        let defaults = image.zip(proxy).map(|(image, proxy)| Defaults {
            control_namespace: self.namespace.clone(),
            trust_domain: self.trust_domain.clone(),
            cluster_domain: self.cluster_domain.clone(),
            cluster_networks: crate::pod::cluster_networks(&self.cluster_networks)
                .unwrap_or_else(|_| self.cluster_networks.clone()),
            image,
            image_pull_policy: self.image_pull_policy.clone(),
            proxy,
        });
        if let Some(Err(wrong)) = defaults.as_ref().map(Defaults::check) {
            wrong.0.into_iter().for_each(|mistake| read.mistake(mistake));
        }
        let all = || {
            Some(Config {
                listen: listen?,
                admin: admin?,
                pod: pod?,
                defaults: defaults?,
                certificate_lifetime: certificate_lifetime?,
                drain_delay: drain_delay?,
                log: log?,
                log_format: log_format?,
            })
        };
        read.finish(all())
    }
}

fn proxy_defaults(path: &str) -> Result<ProxyDefaults, String> {
    let text = std::fs::read(Path::new(path)).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn filter(text: &str) -> Result<String, String> {
    log::check(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Config, Mistakes> {
        Raw::try_parse_from(std::iter::once(&"remora-injector").chain(args)).unwrap().read()
    }

    #[test]
    fn two_settings_are_enough() {
        let config = read(&["--pod", "injector-1", "--image", "remora:dev"]).unwrap();
        assert_eq!(config.defaults.control_namespace, "remora");
        assert_eq!(config.certificate_lifetime, Duration::from_secs(720 * 3600));
    }

    #[test]
    fn the_charts_values_are_read_and_their_mistakes_told_with_all_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("injector.json");
        let path = file.to_str().unwrap();
        std::fs::write(&file, r#"{"log": {"level": "debug"}, "skipOutboundPorts": [25, "5000-5010"]}"#).unwrap();
        let config = read(&["--pod", "p", "--image", "remora:dev", "--config", path]).unwrap();
        assert_eq!(config.defaults.proxy.log.level, "debug");
        std::fs::write(&file, r#"{"drainGrace": "soon"}"#).unwrap();
        let args =
            ["--image", "remora:dev", "--config", path, "--drain-delay", "2m", "--image-pull-policy", "Sometimes"];
        let text = read(&args).unwrap_err().to_string();
        for name in ["--pod", "--drain-delay", "imagePullPolicy", "proxy.drainGrace"] {
            assert!(text.contains(name), "{name} is not in {text}");
        }
    }
}
