//! The kubelet's probes and hooks of the application. The kubelet speaks plaintext, which strict mode refuses, and a
//! connection that the proxy takes says nothing of the application behind it. So `httpGet`, `tcpSocket` and `grpc` are
//! rewritten to ask the proxy's admin server, which carries the original out (`proxy/src/probe`); the pod keeps it in an
//! annotation, for the next injector to find. What stays: `exec`, `sleep`, and whatever names another host.

use super::{
    json,
    token::{ProbeToken, is_token},
};
use remora_kube::names::{ADMIN_PORT, PROXY_CONTAINER};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What a probe or hook is for; also the last part of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `livenessProbe`
    Liveness,
    /// `readinessProbe`
    Readiness,
    /// `startupProbe`
    Startup,
    /// `lifecycle.postStart`
    PostStart,
    /// `lifecycle.preStop`
    PreStop,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Liveness, Self::Readiness, Self::Startup, Self::PostStart, Self::PreStop];

    /// As in the path.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        }
    }

    /// Where a container has it.
    const fn pointer(self) -> &'static str {
        match self {
            Self::Liveness => "/livenessProbe",
            Self::Readiness => "/readinessProbe",
            Self::Startup => "/startupProbe",
            Self::PostStart => "/lifecycle/postStart",
            Self::PreStop => "/lifecycle/preStop",
        }
    }

    const fn is_hook(self) -> bool {
        matches!(self, Self::PostStart | Self::PreStop)
    }
}

/// What the proxy is to carry out; the proxy reads it from `REMORA_PROXY_PROBES`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// How.
    #[serde(flatten)]
    pub handler: Handler,
    /// The kubelet's patience; a hook has none of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
}

/// How the application is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Handler {
    /// A status from 200 to 399 is good.
    #[serde(rename_all = "camelCase")]
    HttpGet {
        /// Of the application.
        port: u16,
        /// With its query.
        path: String,
        /// Over TLS, without verification of the certificate.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        https: bool,
        /// Name and value, in order.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        headers: Vec<(String, String)>,
    },
    /// A connection is good.
    TcpSocket {
        /// Of the application.
        port: u16,
    },
    /// The answer SERVING of `grpc.health.v1.Health/Check` is good.
    Grpc {
        /// Of the application.
        port: u16,
        /// As which the health is asked for.
        #[serde(skip_serializing_if = "String::is_empty")]
        service: String,
    },
}

/// What was rewritten, by `container/kind`.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    /// For the proxy.
    pub(super) probes: BTreeMap<String, Probe>,
    /// As they were, for the annotation.
    pub(super) originals: Map<String, Value>,
}

/// The handlers that we rewrite, as fields of a probe or hook.
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Rewrites the probes and hooks of every container of `spec` that runs beside the proxy.
pub(super) fn rewrite(spec: &mut Value, token: &ProbeToken) -> Rewritten {
    let mut rewritten = Rewritten::default();
    for container in beside(spec) {
        for kind in Kind::ALL {
            let Some(probe) = probe_of(container, kind) else { continue };
            let key = key(container, kind);
            let Some(Value::Object(fields)) = container.pointer_mut(kind.pointer()) else { continue };
            let mut original = Map::new();
            for handler in HANDLERS {
                original.extend(fields.remove_entry(handler));
            }
            fields.insert("httpGet".to_owned(), asking(&key, token));
            rewritten.originals.insert(key.clone(), Value::Object(original));
            rewritten.probes.insert(key, probe);
        }
    }
    rewritten
}

/// Puts `originals` back wherever our own rewriting stands.
pub(super) fn restore(spec: &mut Value, originals: &Map<String, Value>) {
    for container in beside(spec) {
        for kind in Kind::ALL {
            let key = key(container, kind);
            let Some(Value::Object(original)) = originals.get(&key) else { continue };
            let Some(Value::Object(fields)) = container.pointer_mut(kind.pointer()) else { continue };
            if fields.get("httpGet").is_some_and(|asked| is_asking(asked, &key)) {
                fields.remove("httpGet");
                fields.extend(original.clone());
            }
        }
    }
}

/// The containers that run beside the proxy: the pod's own and its sidecars, but not ours.
fn beside(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    let fields = spec.as_object_mut().into_iter().flatten();
    fields
        .filter(|(field, _)| *field == "containers" || *field == "initContainers")
        .flat_map(|(field, list)| {
            let is_init = field == "initContainers";
            let list = list.as_array_mut().into_iter().flatten();
            list.filter(move |container| !is_init || container["restartPolicy"] == "Always")
        })
        .filter(|container| json::name(container) != PROXY_CONTAINER)
}

fn key(container: &Value, kind: Kind) -> String {
    format!("{}/{}", json::name(container), kind.word())
}

/// The handler that asks the proxy; with what the API server would fill in.
fn asking(key: &str, token: &ProbeToken) -> Value {
    json!({ "path": format!("/probe/{}/{key}", token.as_str()), "port": ADMIN_PORT, "scheme": "HTTP" })
}

/// Whether `handler` is such a one, with whatever token.
fn is_asking(handler: &Value, key: &str) -> bool {
    let path = handler["path"].as_str().and_then(|path| path.strip_prefix("/probe/")?.strip_suffix(key));
    let ours = path.is_some_and(|between| between.is_empty() || between.strip_suffix('/').is_some_and(is_token));
    ours && json::covers(handler, &json!({ "port": ADMIN_PORT, "scheme": "HTTP" }))
}

/// What the proxy has to do for this probe; `None` where there is none, or none that it could do.
fn probe_of(container: &Value, kind: Kind) -> Option<Probe> {
    let at = container.pointer(kind.pointer())?;
    let handler = if let Some(get) = at.get("httpGet") {
        http_get(container, get)?
    } else if let Some(tcp) = at.get("tcpSocket").filter(|_| !kind.is_hook()) {
        let port = own_port(container, tcp)?;
        Handler::TcpSocket { port }
    } else {
        let grpc = at.get("grpc").filter(|_| !kind.is_hook())?;
        let port = u16::try_from(grpc["port"].as_u64()?).ok()?;
        Handler::Grpc { port, service: grpc["service"].as_str().unwrap_or_default().to_owned() }
    };
    let timeout_seconds = (!kind.is_hook()).then(|| at["timeoutSeconds"].as_u64().filter(|it| *it > 0).unwrap_or(1));
    Some(Probe { handler, timeout_seconds })
}

fn http_get(container: &Value, get: &Value) -> Option<Handler> {
    let path = get["path"].as_str().unwrap_or_default();
    // As the kubelet reads it: a relative path begins at the root.
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let header = |header: &Value| Some((header["name"].as_str()?.to_owned(), header["value"].as_str()?.to_owned()));
    Some(Handler::HttpGet {
        port: own_port(container, get)?,
        path,
        https: get["scheme"].as_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        headers: json::elements(get, "httpHeaders").iter().filter_map(header).collect(),
    })
}

/// The port of the container itself that a handler names. A handler for another host is not ours to carry out, one for
/// the proxy's own port needs no help, and a name that no port has is for the kubelet to complain about.
fn own_port(container: &Value, handler: &Value) -> Option<u16> {
    if handler["host"].as_str().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    let number = match &handler["port"] {
        Value::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => {
                let ports = json::elements(container, "ports");
                ports.iter().find(|port| port["name"] == **name)?["containerPort"].as_u64()?
            }
        },
        port => port.as_u64()?,
    };
    u16::try_from(number).ok().filter(|port| *port != 0 && *port != ADMIN_PORT)
}
