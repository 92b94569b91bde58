//! Every metric of the process, for its `HELP` line and for `docs/metrics.md`. A name that was released is API.
//!
//! The families of routes are [`FAMILIES`](super::prometheus::FAMILIES); these are counted where they happen, with the `metrics` crate, and a
//! test finds those that are missing here.

use super::prometheus::Kind;

/// Tells the recorder what each metric says. To be called once, when there is one.
pub(crate) fn describe() {
    for Metric { name, kind, help, .. } in PROCESS {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
}

/// A metric of the process.
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Its labels, with commas between.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the page that a test makes"))]
    pub(super) labels: &'static str,
    pub(super) help: &'static str,
}

const fn counter(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

/// What is counted once per process rather than per route.
pub(super) const PROCESS: &[Metric] = &[
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
        "remora_policy_dry_run_total",
        "rule, would",
        "Requests and byte connections that a rule in dry run (mode: DryRun) matched: it would refuse what is let in (denied), or would let in what is refused (allowed), or would refuse a path without a canonical form (ambiguous), or makes no difference (same). An Allow policy that would refuse what none allows, and a MeshTLSPolicy, are counted by their own name. Beyond 256 rules, further ones are counted as other.",
    ),
    counter(
        "remora_series_full_total",
        "what",
        "Times something was counted under the route other, because the bound on series, path templates, gRPC methods, audit rules or rules in dry run was reached.",
    ),
    counter(
        "remora_access_log_dropped_total",
        "",
        "Lines of the access log that were left out: more ended than are kept, or the reader of standard output was too slow.",
    ),
    counter("remora_trace_spans_exported_total", "", "Spans of requests that a collector has taken."),
    counter(
        "remora_trace_spans_dropped_total",
        "reason",
        "Spans of requests that were lost: more ended at once than are kept (overwritten), the collector takes fewer than there are (queue_full), cannot be reached (unreachable) or refused them (rejected), or the process ended (ended).",
    ),
    counter(
        "remora_ejections_total",
        "reason",
        "Times an endpoint left the rotation, or stayed away after its probe: consecutive_failures, failure_rate, unreachable or wrong_identity (outlier detection).",
    ),
    Metric {
        name: "remora_discovery_connected",
        kind: Kind::Gauge,
        labels: "",
        help: "1 while the stream to discovery is open, 0 once it is lost; not there before it was open once.",
    },
    Metric {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        labels: "",
        help: "Processor time of the process, user and kernel, in seconds.",
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: "",
        help: "Memory of the process that is resident.",
    },
    Metric {
        name: "remora_memory_limit_bytes",
        kind: Kind::Gauge,
        labels: "",
        help: "Memory that the process may have: its container's limit, or the setting.",
    },
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
