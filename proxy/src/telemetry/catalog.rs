//! Every metric of the proxy, from which `docs/metrics.md` is made. A name that was released is API.
//!
//! The families of routes are [`FAMILIES`]; the others are counted where they happen, with the `metrics` crate, and a
//! test finds those that are missing here.

use super::{
    Blame, Fault, Reason,
    histogram::BOUNDS,
    prometheus::{DURATION, FAMILIES, Kind, LABELS},
};
use crate::{limits, tls};
use remora_runtime::tls::{Failure, VerifyError};
use std::fmt::Write as _;

/// Where the page is, below the top of the repository.
pub(crate) const PAGE: &str = "docs/metrics.md";

struct Metric {
    name: &'static str,
    kind: Kind,
    labels: &'static str,
    help: &'static str,
}

const fn counter(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

/// What is counted once per process rather than per route.
const PROCESS: &[Metric] = &[
    counter(
        "remora_accept_errors_total",
        "",
        "Connections that could not be accepted, because the process had no descriptors or memory left.",
    ),
    counter(
        "remora_connections_refused_total",
        "reason",
        "Connections closed before they had a route, by one of the reasons below.",
    ),
    counter(
        "remora_requests_refused_total",
        "direction, reason, detail",
        "Requests refused before they had a route, and bytes that never became a request; detail says what was wrong.",
    ),
    counter(
        "remora_tls_refused_total",
        "direction, reason",
        "TLS handshakes of the mesh that failed, from peers (inbound) or to them (outbound).",
    ),
    counter(
        "remora_connections_revoked_total",
        "cause",
        "Open connections and tunnels that were closed because they are not allowed any more: a new policy denies them (denied) or demands mesh TLS (plaintext), or no trust anchor vouches for the peer any more (untrusted).",
    ),
    counter(
        "remora_policy_audit_total",
        "rule, outcome",
        "Requests and byte connections that an Audit rule matched, or may have matched, because the rule names paths and the request's has no canonical form (ambiguous). Beyond 256 rules, further ones are counted as other.",
    ),
    counter(
        "remora_series_full_total",
        "what",
        "Times something was counted under the route other, because the bound on series, path templates, gRPC methods or audit rules was reached.",
    ),
    counter(
        "remora_connections_outlived_total",
        "",
        "Connections closed because a certificate that they were made with had expired.",
    ),
    counter(
        "remora_mirror_skipped_total",
        "",
        "Mirrored requests that were not sent: the body was larger than the replay buffer, or the backend was full.",
    ),
    Metric {
        name: "remora_memory_charged_bytes",
        kind: Kind::Gauge,
        labels: "",
        help: "Memory that is charged to peers' connections. The bound is three eighths of the process's limit; beyond it connections and requests are refused as overloaded.",
    },
    counter(
        "remora_log_lines_dropped_total",
        "",
        "Log lines that were dropped because the reader of standard error was too slow; the proxy never waits for it.",
    ),
    Metric {
        name: "remora_http_connections",
        kind: Kind::Gauge,
        labels: "direction, version",
        help: "Connections of clients over which HTTP is served: of this pod's own (outbound), of peers and other clients (inbound).",
    },
    Metric {
        name: "remora_http2_connections",
        kind: Kind::Gauge,
        labels: "",
        help: "HTTP/2 connections to peers and applications that are open for requests, as of the last few seconds.",
    },
    counter(
        "remora_stream_waits_total",
        "outcome",
        "Requests that waited because no HTTP/2 connection had a stream left: they got one (served), or did not (queue_full).",
    ),
    counter("remora_certificate_renewals_total", "", "Certificates received from the identity service."),
    counter("remora_certificate_renewal_failures_total", "reason", "Attempts to get a certificate that failed."),
    counter(
        "remora_certificate_unchained_total",
        "",
        "Times that the proxy's own certificate chained to no trust anchor any more, and the proxy asked for another at once.",
    ),
    Metric {
        name: "remora_certificate_expiry_timestamp_seconds",
        kind: Kind::Gauge,
        labels: "",
        help: "When the current certificate expires, in seconds since 1970.",
    },
    counter(
        "remora_control_handshake_failures_total",
        "reason",
        "TLS handshakes with control-plane clients that failed.",
    ),
    counter(
        "remora_admin_refused_total",
        "reason",
        "Requests to the admin port that were refused: not_local came from outside the pod, host and origin may come from a foreign web page, token and hook asked for a probe without the pod's token, scrapes came too often from one address. Also connections: silent was closed to make room for another, overloaded was refused because there was none.",
    ),
    counter("remora_discovery_disconnects_total", "", "Losses of the stream from discovery."),
    counter(
        "remora_discovery_doubts_total",
        "",
        "Times the proxy asked discovery again because a backend's endpoints could not be reached, or because discovery's response was missing, was refused or could not be used.",
    ),
    counter(
        "remora_discovery_nacks_total",
        "",
        "Updates from discovery that were invalid; the proxy kept the last valid state, or, without one, refuses the target.",
    ),
    counter(
        "remora_discovery_closed_rules_total",
        "",
        "Rules from discovery that could not be read and are in force in their closed form: a route's rule answers 500, a deny rule denies everything.",
    ),
    counter(
        "remora_discovery_waits_total",
        "outcome",
        "Connections and requests that waited for discovery to describe their destination, by outcome: answered, refused, or passed through because it is outside the cluster's ranges.",
    ),
    Metric {
        name: "remora_discovery_waiting",
        kind: Kind::Gauge,
        labels: "",
        help: "Connections and requests that wait for discovery now.",
    },
    counter("remora_discovery_evicted_total", "", "Destinations that were forgotten to make room for others."),
    counter(
        "remora_discovery_full_total",
        "",
        "Subscriptions that were not made because the bound was reached and all are in use.",
    ),
    counter("remora_settings_changes_total", "", "Changes of the proxy's settings that discovery sent while it ran."),
    counter(
        "remora_discovery_ports_refused_total",
        "reason",
        "Connections to a port that were refused because its policy is unknown, by one of the reasons below.",
    ),
];

/// Every fault, and what it says.
const FAULTS: [(Fault, &str); 6] = [
    (
        Fault::Client,
        "who asked: it broke a rule of the protocol, left in the middle of its request, or may not do what it asked for",
    ),
    (Fault::Proxy, "this proxy: a bound of it was reached, it was about to end, or has a bug"),
    (Fault::Network, "what lies between: nothing came back in time"),
    (Fault::Peer, "the proxy at the other end: it is not there, ended in the middle, or is not who it should be"),
    (Fault::Application, "who was asked: it is not there, takes no more, broke off, or answered with an error"),
    (Fault::Configuration, "what was applied to the cluster, or discovery, which did not tell of it"),
];

/// The text of `docs/metrics.md`.
pub(crate) fn page() -> String {
    let mut page = String::from(
        "# Metrics of the proxy\n\n\
         Made from `proxy/src/telemetry/catalog.rs` by `REMORA_WRITE_DOCS=1 cargo test -p remora-proxy the_metrics_page`; \
         do not edit. Names and labels, once released, stay.\n\n\
         Served at `/metrics` of the admin port (4191) in Prometheus' text format.\n\n\
         ## Per route\n\n",
    );
    for &(label, help) in LABELS {
        line(&mut page, format_args!("- `{label}`: {help}"));
    }
    let (series, tracks) = (limits::SERIES_MAX, limits::TRACKS_MAX);
    line(
        &mut page,
        format_args!(
            "\nAt most {series} combinations, of {tracks} routes and {tracks} peers, have series of their own; later ones are counted under the route \
         `other`. A series that was idle for ten minutes makes room for another. A scrape has at most {series} samples of each family below, and {tracks} \
         times {} of latencies, which a route has and not its peers.\n",
            BOUNDS.len() + 3
        ),
    );
    head(&mut page);
    for family in FAMILIES {
        let label: String = family.labels.iter().map(|label| format!(", `{label}`")).collect();
        row(&mut page, family.name, family.kind, &format!("those above{label}"), family.help);
    }
    let (name, help, labels) = DURATION;
    let labels: Vec<_> = LABELS[..labels].iter().map(|(label, _)| format!("`{label}`")).collect();
    row(&mut page, name, Kind::Histogram, &labels.join(", "), help);
    page.push_str("\n## Per process\n\n");
    head(&mut page);
    for metric in PROCESS {
        let labels: Vec<_> = metric.labels.split(", ").filter(|l| !l.is_empty()).map(|l| format!("`{l}`")).collect();
        row(&mut page, metric.name, metric.kind, &labels.join(", "), metric.help);
    }
    page.push_str(
        "\n## Reasons\n\n\
         The label `reason` of `remora_failures_total`, the response header `x-remora-error` and the log field `reason` \
         say the same words. `status_5xx` is the application's own failure and has no header.\n\n\
         | reason | HTTP status | gRPC code | fault |\n|--|--|--|--|\n",
    );
    for reason in Reason::ALL {
        let (status, grpc, fault) = (reason.http_status().as_u16(), reason.grpc_code(), reason.fault().as_str());
        let peer = Blame::from(*reason).at_peer().fault;
        let or =
            if peer == reason.fault() { String::new() } else { format!(", between two proxies `{}`", peer.as_str()) };
        line(&mut page, format_args!("| `{}` | {status} | {grpc} | `{fault}`{or} |", reason.as_str()));
    }
    page.push_str(
        "\n## Faults\n\n\
         Whose fault a failure is, as far as the proxy that counts it can know: the label `fault` of `remora_failures_total`, `faults` in `/routes` and \
         `fault` in `/errors`. The proxies at both ends of a request count the same.\n\n\
         | fault | |\n|--|--|\n",
    );
    for (fault, meaning) in FAULTS {
        line(&mut page, format_args!("| `{}` | {meaning} |", fault.as_str()));
    }
    page.push_str(
        "\n## Reasons of refused handshakes\n\n\
         The label `reason` of `remora_tls_refused_total` and the log field `reason` of the same event say the same words.\n\n\
         | reason | the peer … |\n|--|--|\n",
    );
    for (reason, meaning) in VerifyError::REASONS.iter().chain(&Failure::REASONS).chain(&tls::REASONS) {
        line(&mut page, format_args!("| `{reason}` | {meaning} |"));
    }
    page
}

fn head(page: &mut String) {
    page.push_str("| name | type | labels | what it says |\n|--|--|--|--|\n");
}

fn row(page: &mut String, name: &str, kind: Kind, labels: &str, help: &str) {
    line(page, format_args!("| `{name}` | {} | {labels} | {help} |", kind.as_str()));
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "{text}");
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn top() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn the_metrics_page_is_current() {
        if std::env::var_os("REMORA_WRITE_DOCS").is_some() {
            std::fs::write(top().join(PAGE), page()).unwrap();
        }
        let shown = std::fs::read_to_string(top().join(PAGE)).unwrap();
        assert!(shown == page(), "{PAGE} is old: REMORA_WRITE_DOCS=1 cargo test -p remora-proxy the_metrics_page");
    }

    #[test]
    fn every_metric_in_the_sources_is_documented() {
        let mut folders = vec![top().join("proxy/src"), top().join("mesh/runtime/src")];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    for name in ["counter!(", "gauge!(", "histogram!("].iter().flat_map(|call| text.split(call).skip(1))
                    {
                        let Some(name) = name.trim_start().strip_prefix('"') else { continue };
                        let name = name.split('"').next().unwrap();
                        seen += 1;
                        assert!(
                            PROCESS.iter().any(|metric| metric.name == name) || !name.starts_with("remora_"),
                            "{name} of {} is not in the catalog",
                            path.display()
                        );
                    }
                }
            }
        }
        assert!(seen > 0, "the sources were not found");
    }
}
