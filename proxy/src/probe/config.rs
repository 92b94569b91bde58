//! `REMORA_PROXY_PROBES`: what the injector took from the pod, as JSON: `{"<container>/<kind>": {…}}`. In: the text. Out:
//! [`Probes`], or all errors at once.

use axum::http::{HeaderName, HeaderValue, uri::PathAndQuery};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

/// Probes of one pod: it would take 50 containers with all there are.
const PROBES_MAX: usize = 256;
/// A longer timeout is an error of the pod, but no reason not to start.
const PATIENCE_MAX: Duration = Duration::from_secs(3600);
/// A hook has no patience of its own; the kubelet kills the pod when its grace period is over.
const HOOK_PATIENCE: Duration = Duration::from_secs(600);

/// All probes of the pod, by `<container>/<kind>`.
#[derive(Debug, Default)]
pub(crate) struct Probes(BTreeMap<String, Arc<Probe>>);

/// One probe or hook.
#[derive(Debug)]
pub(crate) struct Probe {
    /// What it is for.
    pub kind: Kind,
    /// How the application is asked.
    pub check: Check,
    /// How long it may take.
    pub patience: Duration,
    /// What is under way.
    pub(super) runs: super::Runs,
    /// How the last one ended.
    pub(super) failing: AtomicBool,
}

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    /// Liveness probe: a failure restarts the container.
    Liveness,
    /// Readiness probe: a failure removes the pod from its Services.
    Readiness,
    /// Startup probe: liveness and readiness probes start after it has succeeded.
    Startup,
    /// Hook: runs once the container has started.
    PostStart,
    /// Hook: runs before the container gets SIGTERM.
    PreStop,
}

impl Kind {
    /// Whether it is a hook, whose response is ignored.
    pub(crate) fn is_hook(self) -> bool {
        matches!(self, Self::PostStart | Self::PreStop)
    }
}

/// How the application is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    /// A GET.
    Http(HttpGet),
    /// A connection to this port.
    Tcp(u16),
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Where.
        port: u16,
        /// Of which service.
        service: String,
    },
}

/// A GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpGet {
    /// Where.
    pub port: u16,
    /// With its query.
    pub path: PathAndQuery,
    /// Over TLS, without verification of the certificate.
    pub https: bool,
    /// In order; a `Host` among them is the request's.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Check {
    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Http(get) => get.port,
            Self::Tcp(port) | Self::Grpc { port, .. } => *port,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    http_get: Option<RawGet>,
    tcp_socket: Option<RawTcp>,
    grpc: Option<RawGrpc>,
    timeout_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGet {
    port: u16,
    path: String,
    #[serde(default)]
    https: bool,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTcp {
    port: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrpc {
    port: u16,
    #[serde(default)]
    service: String,
}

impl Probes {
    /// The probe of this name.
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Probe>> {
        self.0.get(key)
    }

    /// Whether there is a hook among them.
    pub(crate) fn has_hooks(&self) -> bool {
        self.0.values().any(|probe| probe.kind.is_hook())
    }

    /// Reads the setting; empty text is none. The error lists all errors.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let raw: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if raw.len() > PROBES_MAX {
            return Err(format!("has {} probes, more than {PROBES_MAX}", raw.len()));
        }
        let mut mistakes = Vec::new();
        let mut probes = BTreeMap::new();
        for (key, value) in raw {
            match probe(&key, value) {
                Ok(probe) => drop(probes.insert(key, Arc::new(probe))),
                Err(mistake) => mistakes.push(format!("{key}: {mistake}")),
            }
        }
        if mistakes.is_empty() { Ok(Self(probes)) } else { Err(mistakes.join("; ")) }
    }
}

fn probe(key: &str, value: Value) -> Result<Probe, String> {
    let (container, kind) = key.split_once('/').ok_or("is not <container>/<kind>")?;
    if container.is_empty() {
        return Err("names no container".to_owned());
    }
    let kind: Kind = serde_json::from_value(Value::String(kind.to_owned())).map_err(|error| error.to_string())?;
    let raw: Raw = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let check = match (raw.http_get, raw.tcp_socket, raw.grpc) {
        (Some(raw), None, None) => Check::Http(http_get(raw)?),
        (None, Some(raw), None) => Check::Tcp(raw.port),
        (None, None, Some(raw)) => Check::Grpc { port: raw.port, service: raw.service },
        _ => return Err("has not exactly one of httpGet, tcpSocket, grpc".to_owned()),
    };
    if check.port() == 0 {
        return Err("its port is 0".to_owned());
    }
    let patience = raw.timeout_seconds.map_or(HOOK_PATIENCE, |seconds| Duration::from_secs(seconds.max(1)));
    Ok(Probe {
        kind,
        check,
        patience: patience.min(PATIENCE_MAX),
        runs: super::Runs::default(),
        failing: AtomicBool::new(false),
    })
}

fn http_get(raw: RawGet) -> Result<HttpGet, String> {
    let path = escaped(&raw.path);
    let path = PathAndQuery::try_from(path.as_str()).map_err(|error| format!("path {path:?}: {error}"))?;
    let header = |(name, value): (String, String)| {
        let wrong = || format!("header {name:?} cannot be sent");
        let read = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        Ok((read, HeaderValue::from_str(&value).map_err(|_| wrong())?))
    };
    let headers = raw.headers.into_iter().map(header).collect::<Result<_, String>>()?;
    Ok(HttpGet { port: raw.port, path, https: raw.https, headers })
}

/// What cannot stand in a path is escaped, as the kubelet does; a fragment is not sent.
fn escaped(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut escaped = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        escaped.push('/');
    }
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_injector_writes_is_read() {
        let text = r#"{
            "app/liveness": {"httpGet": {"port": 80, "path": "/a b?q=1"}, "timeoutSeconds": 3},
            "app/startup": {"grpc": {"port": 9000, "service": "shop.Web"}, "timeoutSeconds": 1},
            "app/preStop": {"httpGet": {"port": 443, "path": "/", "https": true, "headers": [["X-A", "b"]]}},
            "redis/readiness": {"tcpSocket": {"port": 6379}, "timeoutSeconds": 999999}
        }"#;
        let probes = Probes::parse(text).unwrap();
        let liveness = probes.get("app/liveness").unwrap();
        assert_eq!(liveness.patience, Duration::from_secs(3));
        let Check::Http(get) = &liveness.check else { panic!("{:?}", liveness.check) };
        assert_eq!(get.path, "/a%20b?q=1");
        assert_eq!(probes.get("app/startup").unwrap().check.port(), 9000);
        assert_eq!(probes.get("app/preStop").unwrap().patience, HOOK_PATIENCE);
        assert_eq!(probes.get("redis/readiness").unwrap().patience, PATIENCE_MAX);
        assert!(Probes::parse("").unwrap().get("app/liveness").is_none());
    }

    #[test]
    fn every_mistake_is_told_with_the_probe_it_is_in() {
        let text = r#"{
            "liveness": {"tcpSocket": {"port": 1}},
            "a/lively": {"tcpSocket": {"port": 1}},
            "b/liveness": {},
            "c/liveness": {"tcpSocket": {"port": 0}},
            "d/liveness": {"httpGet": {"port": 1, "path": "/", "headers": [["a b", "c"]]}},
            "e/liveness": {"tcpSocket": {"prot": 1}}
        }"#;
        let mistakes = Probes::parse(text).unwrap_err();
        for start in ["liveness: ", "a/lively: ", "b/liveness: ", "c/liveness: ", "d/liveness: ", "e/liveness: "] {
            assert!(mistakes.split("; ").any(|mistake| mistake.starts_with(start)), "{start} is not in {mistakes}");
        }
        assert!(Probes::parse("[]").is_err());
    }
}
