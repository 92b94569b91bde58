//! What annotations ask for. In: a pod's and its namespace's annotations, and the chart's defaults. Out: [`Settings`],
//! or all errors at once, each with the setting's name and, for an unknown name, the nearest known one.

use super::{
    Defaults, Meta, Namespace,
    defaults::{Entry, joined},
    nearest::nearest,
    quantity::Quantity,
};
use ipnet::IpNet;
use remora_kube::names::{INJECT, INJECTED, MADE_BY, OPAQUE_PORTS, PART, PROBES, PROXY_ADDRESS, RETRY_ANY_METHOD};
use remora_model::{DefaultInbound, UnknownTargets};
use remora_runtime::settings;
use std::net::IpAddr;

/// What every annotation of ours begins with.
const PREFIX: &str = "remora.dev/";
/// Entries of one list: as many as `remora-proxy init` takes.
const ENTRIES_MAX: usize = 128;

/// An annotation that a person may set.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Without the prefix.
    pub name: &'static str,
    /// What it does, in a few words.
    pub what: &'static str,
    /// A value that makes sense.
    pub example: &'static str,
}

const fn setting(name: &'static str, what: &'static str, example: &'static str) -> Setting {
    Setting { name, what, example }
}

/// The annotations of pods and namespaces that a person may set, in the order of the documentation.
pub const SETTINGS: [Setting; 18] = [
    setting("inject", "whether pods get a sidecar: enabled or disabled", "enabled"),
    setting("skip-inbound-ports", "ports of the pod that bypass the proxy, in plaintext", "22,9000-9099"),
    setting("skip-outbound-ports", "destination ports that bypass the proxy", "3306"),
    setting("skip-subnets", "destination subnets that bypass the proxy", "10.8.0.0/16,fd00::/8"),
    setting(
        "unknown",
        "what happens to connections to an unknown destination outside the cluster: pass or deny",
        "deny",
    ),
    setting("opaque-ports", "ports of the pod without protocol detection: opaque bytes", "6379"),
    setting(
        "default-inbound-policy",
        "who may call a port that no Allow policy selects: allow, authenticated, same-namespace or deny",
        "authenticated",
    ),
    setting("proxy-cpu-request", "CPU request of the proxy", "50m"),
    setting("proxy-cpu-limit", "CPU limit of the proxy; it starts a worker thread per whole CPU", "2"),
    setting("proxy-memory-request", "memory request of the proxy", "32Mi"),
    setting("proxy-memory-limit", "memory limit of the proxy", "512Mi"),
    setting("log-level", "log filter of the proxy", "info,remora_proxy=debug"),
    setting("log-format", "text or json", "json"),
    setting("drain-grace", "how long open requests may take when the pod shuts down", "60s"),
    setting(
        "access-log",
        "what the proxy writes to its standard output: `off`, or `json`, `logfmt` or `apache`, and a filter behind it",
        "json status>=500",
    ),
    setting(
        "tracing",
        "whether the proxy makes spans of requests: `off`, or `host:port` of an OpenTelemetry collector, and `sample=` and a percentage behind it",
        "otel-collector.observability:4317 sample=1%",
    ),
    setting("proxy-image", "another image for this sidecar, to try a version", "registry.example.com/remora:dev"),
    setting("proxy-image-pull-policy", "Always, IfNotPresent or Never", "Always"),
];

/// Names that other parts set or read; the injector ignores them, and they are no errors.
const OTHERS: [&str; 7] = [INJECT, INJECTED, PROBES, PART, MADE_BY, PROXY_ADDRESS, RETRY_ANY_METHOD];

/// What a sidecar is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) image: String,
    pub(super) image_pull_policy: String,
    pub(super) log: String,
    pub(super) log_format: String,
    pub(super) drain_grace: String,
    pub(super) access_log: String,
    pub(super) tracing: String,
    pub(super) skip_inbound_ports: String,
    pub(super) skip_outbound_ports: String,
    pub(super) skip_subnets: String,
    /// `pass` or `deny`.
    pub(super) unknown: String,
    pub(super) cpu: Resource,
    pub(super) memory: Resource,
    /// The pod's or its namespace's word for discovery, which reads it on the pod; `None` where there is none.
    pub(super) opaque_ports: Option<String>,
    /// Whether an annotation, and not only the chart, sets resources.
    pub(super) resources_asked: bool,
}

/// Request and limit of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) request: Option<String>,
    pub(super) limit: Option<String>,
}

type Parse = fn(&str) -> Result<String, String>;

struct Reader<'a> {
    pod: &'a Meta,
    namespace: &'a Namespace,
    mistakes: &'a mut Vec<String>,
}

/// A value, and whether an annotation gave it.
struct Given {
    text: String,
    by_annotation: bool,
}

impl Reader<'_> {
    /// The pod's word, else its namespace's, else the chart's, which was checked when it was read.
    fn read(&mut self, name: &str, default: &str, parse: Parse) -> Option<Given> {
        let name = format!("{PREFIX}{name}");
        let sources = [("pod", &self.pod.annotations), ("namespace", &self.namespace.annotations)];
        for (whose, annotations) in sources {
            let Some(text) = annotations.get(&name) else { continue };
            return match parse(text.trim()) {
                Ok(text) => Some(Given { text, by_annotation: true }),
                Err(wrong) => {
                    self.mistakes.push(format!("the {whose}'s annotation {name}={text:?}: {wrong}"));
                    None
                }
            };
        }
        Some(Given { text: parse(default).unwrap_or_else(|_| default.to_owned()), by_annotation: false })
    }

    fn text(&mut self, name: &str, default: &str, parse: Parse) -> Option<String> {
        self.read(name, default, parse).map(|given| given.text)
    }

    /// Request and limit. Where only one was asked for, the chart's other one makes way.
    fn resource(&mut self, kind: &str, defaults: [Option<&Entry>; 2], parse: Parse) -> Option<(Resource, bool)> {
        let names = ["request", "limit"].map(|what| format!("proxy-{kind}-{what}"));
        let [request, limit] = defaults.map(|default| default.map(Entry::to_string).unwrap_or_default());
        let mut request = self.read(&names[0], &request, parse)?;
        let mut limit = self.read(&names[1], &limit, parse)?;
        if !limit.text.is_empty() && Quantity::parse(&request.text) > Quantity::parse(&limit.text) {
            match (request.by_annotation, limit.by_annotation) {
                (true, false) => limit.text = request.text.clone(),
                (false, true) => request.text = limit.text.clone(),
                _ => {
                    let ([name, other], request, limit) = (names, request.text, limit.text);
                    self.mistakes.push(format!("{PREFIX}{name}={request} is more than {PREFIX}{other}={limit}"));
                    return None;
                }
            }
        }
        let asked = request.by_annotation || limit.by_annotation;
        let [request, limit] = [request, limit].map(|given| Some(given.text).filter(|text| !text.is_empty()));
        Some((Resource { request, limit }, asked))
    }

    /// Names of ours that mean nothing.
    fn strangers(&mut self) {
        let known = || SETTINGS.iter().map(|setting| setting.name).chain(OTHERS.map(bare));
        for (whose, annotations) in [("pod", &self.pod.annotations), ("namespace", &self.namespace.annotations)] {
            for name in annotations.keys() {
                let Some(short) = name.strip_prefix(PREFIX) else { continue };
                if !known().any(|known| known == short) {
                    let meant = nearest(short, SETTINGS.iter().map(|setting| setting.name)).unwrap_or_default();
                    self.mistakes.push(format!(
                        "the {whose}'s annotation {name}: there is no such setting; the nearest is {PREFIX}{meant}"
                    ));
                }
            }
        }
        for name in self.pod.labels.keys() {
            let short = name.strip_prefix(PREFIX).filter(|short| *short != bare(INJECT));
            if short.is_some_and(|short| SETTINGS.iter().any(|setting| setting.name == short)) {
                self.mistakes.push(format!("the pod's label {name}: this is read as an annotation only"));
            }
        }
    }
}

fn bare(name: &'static str) -> &'static str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// Reads all settings of a pod. `None` if there was an error.
pub(super) fn read(
    pod: &Meta,
    namespace: &Namespace,
    defaults: &Defaults,
    mistakes: &mut Vec<String>,
) -> Option<Settings> {
    let before = mistakes.len();
    let proxy = &defaults.proxy;
    let mut reader = Reader { pod, namespace, mistakes };
    reader.strangers();
    let image = reader.text("proxy-image", &defaults.image, image);
    let image_pull_policy = reader.text("proxy-image-pull-policy", &defaults.image_pull_policy, pull_policy);
    let log = reader.text("log-level", &proxy.log.level, log_level);
    let log_format = reader.text("log-format", &proxy.log.format, log_format);
    let drain_grace = reader.text("drain-grace", &proxy.drain_grace, drain_grace);
    let access_log = reader.text("access-log", &proxy.access_log, access_log);
    let tracing = reader.text("tracing", &proxy.tracing, tracing);
    let skip_inbound_ports = reader.text("skip-inbound-ports", &joined(&proxy.skip_inbound_ports), ports);
    let skip_outbound_ports = reader.text("skip-outbound-ports", &joined(&proxy.skip_outbound_ports), ports);
    let skip_subnets = reader.text("skip-subnets", &joined(&proxy.skip_subnets), subnets);
    let [requests, limits] = [&proxy.resources.requests, &proxy.resources.limits];
    let unknown = reader.text("unknown", &proxy.unknown, unknown);
    let cpu = reader.resource("cpu", [requests.cpu.as_ref(), limits.cpu.as_ref()], cpu);
    let memory = reader.resource("memory", [requests.memory.as_ref(), limits.memory.as_ref()], memory);
    let opaque_ports = reader.text("opaque-ports", "", ports);
    let opaque_ports = opaque_ports.filter(|ports| !ports.is_empty() || pod.annotations.contains_key(OPAQUE_PORTS));
    // Discovery reads it, on the running pod; a word that it could not read is refused here.
    let _read = reader.text("default-inbound-policy", DefaultInbound::Allow.name(), default_inbound);
    if mistakes.len() > before {
        return None;
    }
    let ((cpu, cpu_asked), (memory, memory_asked)) = (cpu?, memory?);
    Some(Settings {
        image: image?,
        image_pull_policy: image_pull_policy?,
        log: log?,
        log_format: log_format?,
        drain_grace: drain_grace?,
        access_log: access_log?,
        tracing: tracing?,
        skip_inbound_ports: skip_inbound_ports?,
        skip_outbound_ports: skip_outbound_ports?,
        skip_subnets: skip_subnets?,
        unknown: unknown?,
        cpu,
        memory,
        opaque_ports,
        resources_asked: cpu_asked || memory_asked,
    })
}

/// Checks the chart's values by the rules of the annotations that can replace them.
pub(super) fn check_defaults(defaults: &Defaults, mistakes: &mut Vec<String>) {
    let proxy = &defaults.proxy;
    let [requests, limits] = [&proxy.resources.requests, &proxy.resources.limits];
    let amount = |entry: &Option<Entry>| entry.as_ref().map(Entry::to_string).unwrap_or_default();
    let checks: [(&str, String, Parse); 15] = [
        ("image", defaults.image.clone(), image),
        ("proxy.log.level", proxy.log.level.clone(), log_level),
        ("proxy.log.format", proxy.log.format.clone(), log_format),
        ("proxy.drainGrace", proxy.drain_grace.clone(), drain_grace),
        ("proxy.accessLog", proxy.access_log.clone(), access_log),
        ("proxy.tracing", proxy.tracing.clone(), tracing),
        ("proxy.skipInboundPorts", joined(&proxy.skip_inbound_ports), ports),
        ("proxy.skipOutboundPorts", joined(&proxy.skip_outbound_ports), ports),
        ("proxy.skipSubnets", joined(&proxy.skip_subnets), subnets),
        ("proxy.unknown", proxy.unknown.clone(), unknown),
        ("clusterNetworks", defaults.cluster_networks.clone(), cluster_networks),
        ("proxy.resources.requests.cpu", amount(&requests.cpu), cpu),
        ("proxy.resources.limits.cpu", amount(&limits.cpu), cpu),
        ("proxy.resources.requests.memory", amount(&requests.memory), memory),
        ("proxy.resources.limits.memory", amount(&limits.memory), memory),
    ];
    for (name, value, parse) in checks {
        let absent = value.is_empty() && name.starts_with("proxy.resources.");
        if let Err(wrong) = parse(&value)
            && !absent
        {
            mistakes.push(format!("{name}={value:?}: {wrong}"));
        }
    }
}

fn image(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "./:@_-".contains(c);
    let named = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if named && text.len() <= 512 && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("is no image name such as ghcr.io/remora-mesh/remora:0.1.0".to_owned())
    }
}

fn pull_policy(text: &str) -> Result<String, String> {
    one_of(text, &["Always", "IfNotPresent", "Never"])
}

fn log_format(text: &str) -> Result<String, String> {
    one_of(text, &["text", "json"])
}

fn unknown(text: &str) -> Result<String, String> {
    one_of(text, &UnknownTargets::ALL.map(UnknownTargets::name))
}

fn default_inbound(text: &str) -> Result<String, String> {
    one_of(text, &DefaultInbound::ALL.map(DefaultInbound::name))
}

fn one_of(text: &str, words: &[&str]) -> Result<String, String> {
    if words.contains(&text) {
        return Ok(text.to_owned());
    }
    let meant = nearest(text, words.iter().copied()).unwrap_or_default();
    Err(format!("is one of {}; the nearest is {meant}", words.join(", ")))
}

fn log_level(text: &str) -> Result<String, String> {
    settings::log_filter(text).map(|filter| filter.to_string())
}

fn access_log(text: &str) -> Result<String, String> {
    settings::access_log(text).map(|log| log.to_string())
}

fn tracing(text: &str) -> Result<String, String> {
    settings::tracing(text).map(|tracing| tracing.to_string())
}

fn drain_grace(text: &str) -> Result<String, String> {
    settings::drain_grace(text).map(|_| text.to_owned())
}

fn ports(text: &str) -> Result<String, String> {
    list(text, |entry| {
        let port = |word: &str| match word.trim().parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("{entry:?} is neither a port (22) nor a range (9000-9099)")),
        };
        let Some((first, last)) = entry.split_once('-') else { return port(entry).map(|port| port.to_string()) };
        match (port(first)?, port(last)?) {
            (first, last) if first > last => Err(format!("the range {entry} runs backwards")),
            (first, last) => Ok(format!("{first}-{last}")),
        }
    })
}

fn subnets(text: &str) -> Result<String, String> {
    list(text, |entry| {
        let wrong = || format!("{entry:?} is neither a subnet (10.8.0.0/16, fd00::/8) nor an address");
        let net = entry.parse::<IpNet>().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from)).map_err(|_| wrong())?;
        Ok(net.trunc().to_string())
    })
}

/// The cluster's networks, with commas between them: CIDRs, whose bits behind the prefix say nothing, as to discovery and the proxy, which read
/// the same value. Empty: discovery finds them.
///
/// # Errors
/// Every entry that is none, or that there are too many.
pub fn cluster_networks(text: &str) -> Result<String, String> {
    let words = || text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let wrong: Vec<String> = words().filter_map(|entry| network(entry).err()).collect();
    if !wrong.is_empty() {
        return Err(wrong.join(", "));
    }
    list(text, network)
}

fn network(entry: &str) -> Result<String, String> {
    let net = entry.parse::<IpNet>().map_err(|_| format!("{entry:?} is no subnet such as 10.8.0.0/16 or fd00::/8"))?;
    Ok(net.trunc().to_string())
}

fn list(text: &str, entry: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let entries: Vec<String> = words.map(entry).collect::<Result<_, _>>()?;
    if entries.len() > ENTRIES_MAX {
        return Err(format!("has {} entries, more than {ENTRIES_MAX}: join them to ranges", entries.len()));
    }
    Ok(entries.join(","))
}

fn cpu(text: &str) -> Result<String, String> {
    let (least, most) = (Quantity::milli(1), Quantity::units(256));
    within(text, least, most, "is from 1m to 256")
}

fn memory(text: &str) -> Result<String, String> {
    let (least, most) = (Quantity::units(4 << 20), Quantity::units(64 << 30));
    // The commonest slip: m is a thousandth of a byte.
    let hint = match text.strip_suffix('m') {
        Some(number) => format!("is from 4Mi to 64Gi; did you mean {number}Mi?"),
        None => "is from 4Mi to 64Gi".to_owned(),
    };
    within(text, least, most, &hint)
}

fn within(text: &str, least: Quantity, most: Quantity, bounds: &str) -> Result<String, String> {
    let quantity = Quantity::parse(text)?;
    if (least..=most).contains(&quantity) { Ok(text.to_owned()) } else { Err(bounds.to_owned()) }
}
