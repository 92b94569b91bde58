//! A record as a span. In: what ended, with the series that it was counted in. Out: the span, by OpenTelemetry's semantic conventions for HTTP and
//! for RPC, and what the mesh knows besides (`remora.*`). Pure.

use crate::telemetry::{Direction, Ended, Entry, OTHER, Outcome, Proto};
use http::{StatusCode, uri::Authority};
use remora_api::otlp::{Attribute, Kind, Span, Value};
use std::time::Duration;

/// Methods that have a name of their own there.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];
/// The names of gRPC's status codes, by their number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// Those that say that the server failed.
const SERVER_FAILED: [u8; 6] = [2, 4, 12, 13, 14, 15];

/// The span of what ended; `None` if it is not sampled.
pub(super) fn span(ended: &Ended) -> Option<Span> {
    let Ended { key, entry, began } = ended;
    let ids = entry.span?;
    let kind = match key.direction {
        Direction::Inbound => Kind::Server,
        Direction::Outbound => Kind::Client,
    };
    let grpc = key.protocol == Proto::Grpc;
    let mut attributes = Attributes(Vec::with_capacity(32));
    let (status, code) = answered(entry, grpc);
    attributes.request(entry, grpc, kind);
    attributes.add("http.response.status_code", status.map(|status| Value::Int(status.into())));
    attributes.add("rpc.response.status_code", code.and_then(code_name).map(text));
    if !grpc && &*key.route != OTHER {
        attributes.text("http.route", route(&entry.head.method, &key.route));
    }
    let failed = error(entry, kind, status, code);
    attributes.add("error.type", failed.clone().map(Value::Text));
    attributes.mesh(ended);
    Some(Span {
        trace: ids.trace,
        id: ids.id,
        parent: ids.parent,
        name: name(&entry.head.method, &key.route, grpc),
        kind,
        began_ns: nanos(*began),
        ended_ns: nanos(*began + entry.latency),
        attributes: attributes.0,
        error: failed.map(|_| entry.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default()),
    })
}

struct Attributes(Vec<Attribute>);

impl Attributes {
    fn add(&mut self, name: &'static str, value: Option<Value>) {
        self.0.extend(value.map(|value| (name, value)));
    }

    /// Nothing of what is empty.
    fn text(&mut self, name: &'static str, value: &str) {
        self.add(name, Some(value).filter(|value| !value.is_empty()).map(text));
    }

    fn number(&mut self, name: &'static str, value: u64) {
        self.add(name, i64::try_from(value).ok().map(Value::Int));
    }

    /// What was asked, and of whom.
    fn request(&mut self, entry: &Entry, grpc: bool, kind: Kind) {
        let head = &entry.head;
        let known = METHODS.contains(&&*head.method);
        self.text("http.request.method", if known { &head.method } else { "_OTHER" });
        self.text("http.request.method_original", if known { "" } else { &head.method });
        self.text("url.scheme", "http");
        self.text("url.path", &head.path);
        if let Some(authority) = head.field(":authority").or_else(|| head.field("host"))
            && let Ok(authority) = authority.parse::<Authority>()
        {
            self.text("server.address", authority.host().trim_matches(['[', ']']));
            self.number("server.port", authority.port_u16().unwrap_or(80).into());
        }
        if grpc {
            self.text("rpc.system.name", "grpc");
            self.text("rpc.method", head.path.trim_start_matches('/'));
        }
        match kind {
            Kind::Server => self.text("user_agent.original", head.field("user-agent").unwrap_or_default()),
            // Into the pod, the record has the application's address.
            Kind::Client => {
                if let Some(endpoint) = entry.endpoint {
                    self.text("network.peer.address", &endpoint.ip().to_string());
                    self.number("network.peer.port", endpoint.port().into());
                }
            }
        }
        self.number("http.request.body.size", entry.bytes_in);
        self.number("http.response.body.size", entry.bytes_out);
    }

    /// What the mesh knows.
    fn mesh(&mut self, Ended { key, entry, .. }: &Ended) {
        let version = if key.protocol == Proto::Http1 { "1.1" } else { "2" };
        self.text("network.protocol.version", version);
        self.text("remora.direction", key.direction.as_str());
        self.text("remora.parent", &key.parent);
        self.text("remora.route", &key.route);
        self.text("remora.peer", entry.head.peer().unwrap_or(&key.peer));
        self.text("remora.tls", key.tls.as_str());
        self.text("remora.outcome", entry.outcome.as_str());
        self.text("remora.reason", entry.reason.map_or("", |reason| reason.as_str()));
        self.text("remora.fault", entry.fault.map_or("", |fault| fault.as_str()));
        self.number("remora.tries", entry.tries.into());
        let times = entry.times;
        let ms = |time: Duration| Some(Value::Double((time.as_secs_f64() * 1e6).round() / 1e3));
        self.add("remora.before_ms", ms(times.before));
        self.add("remora.connect_ms", ms(times.connect));
        self.add("remora.server_ms", ms(times.server));
        self.add("remora.after_ms", ms(times.after));
    }
}

/// What was answered: the proxy's own answer has its reason's codes.
fn answered(entry: &Entry, grpc: bool) -> (Option<u16>, Option<u8>) {
    let own = entry.reason.filter(|_| entry.status.is_none());
    let (status, code) = match (own, grpc) {
        (None, _) => (None, None),
        (Some(reason), false) => (Some(reason.http_status().as_u16()), None),
        (Some(reason), true) => (Some(StatusCode::OK.as_u16()), Some(reason.grpc_code())),
    };
    (entry.status.or(status), entry.grpc.or(code).filter(|_| grpc))
}

/// Why it failed, as a word of a small set; `None`: it did not. What the client did wrong is an error of its own span alone.
fn error(entry: &Entry, kind: Kind, status: Option<u16>, code: Option<u8>) -> Option<String> {
    if let (Outcome::Failure, Some(reason)) = (entry.outcome, entry.reason) {
        return Some(reason.as_str().to_owned());
    }
    let client = kind == Kind::Client;
    if let Some(code) = code.filter(|code| SERVER_FAILED.contains(code) || (client && *code != 0)) {
        return Some(code_name(code).map_or_else(|| code.to_string(), str::to_owned));
    }
    let failed = |status: &u16| *status >= 500 || (client && *status >= 400);
    status.filter(failed).map(|status| status.to_string())
}

fn code_name(code: u8) -> Option<&'static str> {
    CODES.get(usize::from(code)).copied()
}

/// The name of a route without the method that names of templates begin with.
fn route<'a>(method: &str, route: &'a str) -> &'a str {
    let path = route.strip_prefix(method).and_then(|rest| rest.strip_prefix(' '));
    path.unwrap_or(route)
}

fn name(method: &str, label: &str, grpc: bool) -> String {
    let method = if METHODS.contains(&method) { method } else { "HTTP" };
    match (label.strip_prefix('/'), grpc) {
        _ if label == OTHER => method.to_owned(),
        (Some(called), true) => called.to_owned(),
        (None, true) => label.to_owned(),
        (_, false) => format!("{method} {}", route(method, label)),
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Who makes the spans of this process.
pub(super) fn resource(namespace: &str, pod: &str, service_account: &str, node: &str) -> Vec<Attribute> {
    let mut attributes = Attributes(Vec::new());
    let service = if service_account == "default" { workload(pod) } else { service_account };
    attributes.text("service.name", service);
    attributes.text("service.namespace", namespace);
    attributes.text("service.instance.id", &format!("{namespace}.{pod}"));
    attributes.text("k8s.namespace.name", namespace);
    attributes.text("k8s.pod.name", pod);
    attributes.text("k8s.node.name", node);
    attributes.0
}

/// The name of a pod without what its Deployment, DaemonSet, Job or StatefulSet has put behind it.
pub(super) fn workload(pod: &str) -> &str {
    // What Kubernetes draws names from: no vowels, nor digits that look like some.
    let drawn = |word: &str| word.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte));
    let Some((rest, last)) = pod.rsplit_once('-').filter(|(rest, _)| !rest.is_empty()) else { return pod };
    if !last.is_empty() && last.len() < 5 && last.bytes().all(|byte| byte.is_ascii_digit()) {
        return rest;
    }
    if last.len() != 5 || !drawn(last) {
        return pod;
    }
    match rest.rsplit_once('-') {
        Some((name, hash)) if (6..=10).contains(&hash.len()) && drawn(hash) && !name.is_empty() => name,
        _ => rest,
    }
}
