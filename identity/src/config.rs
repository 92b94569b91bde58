//! Flags, and `REMORA_IDENTITY_*` from the environment: read once, all errors reported at once.
//!
//! Unlike the proxy it does not refuse names that it does not know: Kubernetes sets `REMORA_IDENTITY_SERVICE_HOST` and
//! its like in every pod beside a Service `remora-identity`.

use crate::limits::LEAF_LIFETIME_MAX;
use clap::Parser;
use remora_kube::names::{AUDIENCE, NAMESPACE};
use remora_model::TrustDomain;
use remora_runtime::{
    log,
    settings::{Mistakes, Reader, duration_within, parsed},
};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// A shorter life leaves no time to renew at a third of it, and to try again.
const LEAF_LIFETIME_MIN: Duration = Duration::from_secs(5);
/// Clocks that are further apart than this want mending, not tolerance.
const SKEW_MAX: Duration = Duration::from_secs(600);

/// The cluster's certificate authority: settings as given.
#[derive(Debug, Parser)]
#[command(name = "remora-identity", version, about = "The cluster's certificate authority")]
pub(crate) struct Raw {
    /// Where to serve gRPC over TLS
    #[arg(long, env = "REMORA_IDENTITY_LISTEN", default_value = "[::]:4180")]
    listen: String,
    /// Where to serve /live, /ready, /metrics
    #[arg(long, env = "REMORA_IDENTITY_ADMIN", default_value = "[::]:4192")]
    admin: String,
    /// The trust domain of all identities
    #[arg(long, env = "REMORA_IDENTITY_TRUST_DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    /// In Kubernetes: the issuer is the Secret remora-issuer, made if there is none, and the API server checks tokens
    #[arg(long, env = "REMORA_IDENTITY_KUBERNETES")]
    kubernetes: bool,
    /// The namespace that this runs in, which is part of its own identity
    #[arg(long, env = "REMORA_IDENTITY_NAMESPACE", default_value = NAMESPACE)]
    namespace: String,
    /// This pod's name, for the leader election (required in Kubernetes)
    #[arg(long, env = "REMORA_IDENTITY_POD")]
    pod: Option<String>,
    /// Folder with tls.crt, tls.key, ca.crt; filled on first start if it holds none of them (required elsewhere)
    #[arg(long, env = "REMORA_IDENTITY_ISSUER_DIR", value_name = "DIR")]
    issuer_dir: Option<String>,
    /// Folder for what must outlive this process and what replicas share: issuer-state.json, which holds a key [default: the
    /// issuer's folder]
    #[arg(long, env = "REMORA_IDENTITY_STATE_DIR", value_name = "DIR")]
    state_dir: Option<String>,
    /// JWKS file with the keys that sign service-account tokens (required elsewhere)
    #[arg(long, env = "REMORA_IDENTITY_JWKS", value_name = "FILE")]
    jwks: Option<String>,
    /// Folder of manifests whose RevokedIdentities get no certificate; elsewhere than in Kubernetes, where the API has them
    #[arg(long, env = "REMORA_IDENTITY_REVOCATIONS", value_name = "DIR")]
    revocations: Option<String>,
    /// The audience that tokens must be for
    #[arg(long, env = "REMORA_IDENTITY_AUDIENCE", default_value = AUDIENCE)]
    audience: String,
    /// How long certificates live, from 5s to 720h
    #[arg(long, env = "REMORA_IDENTITY_LEAF_LIFETIME", default_value = "24h")]
    leaf_lifetime: String,
    /// How far clocks may be apart, up to 600s
    #[arg(long, env = "REMORA_IDENTITY_SKEW", default_value = "60s")]
    skew: String,
    /// Log filter
    #[arg(long, env = "REMORA_IDENTITY_LOG", default_value = "info")]
    log: String,
    /// Log format: text or json
    #[arg(long, env = "REMORA_IDENTITY_LOG_FORMAT", default_value = "text")]
    log_format: String,
}

/// Validated settings.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) namespace: String,
    pub(crate) place: Place,
    pub(crate) audience: String,
    pub(crate) leaf_lifetime: Duration,
    pub(crate) skew: Duration,
    pub(crate) log: String,
    pub(crate) log_format: log::Format,
}

/// Where this runs, and so where issuer and proof of tokens come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The issuer is in `issuer_dir`, what replicas share in `state_dir`, the keys of tokens are in `jwks`,
    /// and who is revoked in `revocations`.
    Files { issuer_dir: PathBuf, state_dir: PathBuf, jwks: PathBuf, revocations: Option<PathBuf> },
    /// The API server has both; this is the pod `pod`.
    Kubernetes { pod: String },
}

impl Raw {
    /// Validates everything.
    pub(crate) fn read(&self) -> Result<Config, Mistakes> {
        let mut read = Reader::default();
        let listen = read.value("--listen", &self.listen, parsed::<SocketAddr>);
        let admin = read.value("--admin", &self.admin, parsed::<SocketAddr>);
        let trust_domain = read.value("--trust-domain", &self.trust_domain, parsed);
        let namespace = read.value("--namespace", &self.namespace, label);
        let place = self.place(&mut read);
        let audience = read.required("--audience", Some(&self.audience), text);
        let lifetimes = duration_within(LEAF_LIFETIME_MIN, LEAF_LIFETIME_MAX);
        let leaf_lifetime = read.value("--leaf-lifetime", &self.leaf_lifetime, lifetimes);
        let skew = read.value("--skew", &self.skew, duration_within(Duration::ZERO, SKEW_MAX));
        let log = read.value("--log", &self.log, filter);
        let log_format = read.value("--log-format", &self.log_format, parsed);
        if listen.is_some() && listen == admin && admin.is_some_and(|admin| admin.port() != 0) {
            read.mistake(format!("--listen and --admin are both {}", self.listen));
        }
        let all = || {
            Some(Config {
                listen: listen?,
                admin: admin?,
                trust_domain: trust_domain?,
                namespace: namespace?,
                place: place?,
                audience: audience?,
                leaf_lifetime: leaf_lifetime?,
                skew: skew?,
                log: log?,
                log_format: log_format?,
            })
        };
        read.finish(all())
    }

    fn place(&self, read: &mut Reader) -> Option<Place> {
        if !self.kubernetes {
            let issuer_dir = read.required("--issuer-dir", self.issuer_dir.as_deref(), path);
            let jwks = read.required("--jwks", self.jwks.as_deref(), path);
            let issuer_dir = issuer_dir?;
            let state_dir = self.state_dir.as_ref().map_or_else(|| issuer_dir.clone(), PathBuf::from);
            let revocations = self.revocations.as_ref().map(PathBuf::from);
            return Some(Place::Files { issuer_dir, state_dir, jwks: jwks?, revocations });
        }
        let files = [
            ("--issuer-dir", &self.issuer_dir),
            ("--state-dir", &self.state_dir),
            ("--jwks", &self.jwks),
            ("--revocations", &self.revocations),
        ];
        for (name, given) in files {
            if given.is_some() {
                read.mistake(format!("{name} and --kubernetes exclude each other"));
            }
        }
        Some(Place::Kubernetes { pod: read.required("--pod", self.pod.as_deref(), text)? })
    }
}

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// RFC 1123, as namespaces are named.
fn label(text: &str) -> Result<String, String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good =
        (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-');
    if good { Ok(text.to_owned()) } else { Err("not the name of a namespace".to_owned()) }
}

fn path(text: &str) -> Result<PathBuf, String> {
    Ok(text.into())
}

fn filter(text: &str) -> Result<String, String> {
    log::check(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Config, Mistakes> {
        Raw::try_parse_from(std::iter::once(&"remora-identity").chain(args)).unwrap().read()
    }

    #[test]
    fn two_settings_are_enough() {
        let config = read(&["--issuer-dir", "/issuer", "--jwks", "/jwks.json"]).unwrap();
        assert_eq!(config.leaf_lifetime, Duration::from_secs(24 * 3600));
        assert_eq!(config.trust_domain.as_str(), "cluster.local");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let args = "--listen here --admin 4192 --trust-domain UPPER --leaf-lifetime 1s --skew 1h --log a=b=c \
                    --log-format xml --audience=";
        let args: Vec<_> = args.split_whitespace().collect();
        let mistakes = read(&args).unwrap_err().to_string();
        for name in
            ["listen", "admin", "trust-domain", "issuer-dir", "jwks", "leaf-lifetime", "skew", "log", "audience"]
        {
            assert!(mistakes.contains(&format!("  --{name}")), "no {name} in {mistakes}");
        }
    }

    #[test]
    fn in_kubernetes_the_pods_name_is_enough() {
        let config = read(&["--kubernetes", "--pod", "remora-identity-1"]).unwrap();
        assert_eq!(config.place, Place::Kubernetes { pod: "remora-identity-1".into() });
        assert_eq!(config.namespace, "remora");
        let mistakes = read(&["--kubernetes", "--jwks", "/j", "--namespace", "No"]).unwrap_err().to_string();
        for name in ["--pod", "--jwks and --kubernetes", "--namespace"] {
            assert!(mistakes.contains(name), "no {name} in {mistakes}");
        }
    }

    #[test]
    fn one_address_cannot_serve_two_things() {
        let mut args = vec!["--issuer-dir", "/i", "--jwks", "/j", "--listen", "127.0.0.1:1", "--admin", "127.0.0.1:1"];
        assert!(read(&args).unwrap_err().to_string().contains("both 127.0.0.1:1"));
        args[5..].copy_from_slice(&["127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        assert!(read(&args).is_ok());
    }
}
