//! The routes' counters in Prometheus' text format 0.0.4. Every family has the same labels and every label is always
//! there; a failure's reason appears with its first failure.

use super::{
    Direction, RouteKey, Routes,
    histogram::{BOUNDS, Snapshot},
    stats::{Failures, Reading},
    tracks::{Of, Track},
};
use std::fmt::{Display, Write as _};

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl Kind {
    /// The word in a `TYPE` line.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A family of metrics, as documented. Released names are API.
#[derive(Debug)]
pub(crate) struct Family {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it says.
    pub help: &'static str,
    /// The labels that it has beside [`LABELS`].
    pub labels: &'static [&'static str],
    write: fn(&mut Series<'_>, &Reading),
}

/// The labels that every family of routes has, and what they say.
pub(crate) const LABELS: &[(&str, &str)] = &[
    ("direction", "`inbound` (to the application of this pod) or `outbound` (from it)"),
    (
        "parent",
        "what was called: a Service (`shop/api:8080`), a pod by its own address (`shop/pod/api-1:8080`), something outside (`shop/external/NAME:443`), or `unknown`",
    ),
    (
        "route",
        "the route rule, gRPC method or learned path template; `tcp` for opaque bytes; `denied` for every request that policy refused; `other` beyond the bound",
    ),
    (
        "peer",
        "the SPIFFE ID at the other end; empty if it has none, `several` if the endpoints of the backend have several",
    ),
    (
        "tls",
        "`mtls`, `plain`, `mixed` (some endpoints are outside the mesh) or `passthrough` (the application's own TLS)",
    ),
    ("protocol", "`http1`, `http2`, `grpc` or `tcp`"),
];

/// Every family of routes.
pub(crate) const FAMILIES: &[Family] = &[
    Family {
        name: "remora_requests_total",
        kind: Kind::Counter,
        help: "Requests, and opaque connections, that began.",
        labels: &[],
        write: |series, reading| series.sample("", &[], reading.requests),
    },
    Family {
        name: "remora_failures_total",
        kind: Kind::Counter,
        help: "Requests that failed, by reason and by whose fault it is; status_5xx is the application's own.",
        labels: &["reason", "fault"],
        write: |series, reading| {
            for Failures { reason, fault, count } in &reading.failures {
                series.sample("", &[reason, fault.as_str()], count);
            }
        },
    },
    Family {
        name: "remora_cancelled_total",
        kind: Kind::Counter,
        help: "Requests that their client cancelled before the response.",
        labels: &[],
        write: |series, reading| series.sample("", &[], reading.cancelled),
    },
    Family {
        name: "remora_retries_total",
        kind: Kind::Counter,
        help: "Requests sent again: within the retry budget, or to the next endpoint because one was unreachable.",
        labels: &[],
        write: |series, reading| series.sample("", &[], reading.retries),
    },
    Family {
        name: "remora_retry_overflow_total",
        kind: Kind::Counter,
        help: "Retries that were not made because the retry budget was spent.",
        labels: &[],
        write: |series, reading| series.sample("", &[], reading.retry_overflow),
    },
    Family {
        name: "remora_connections",
        kind: Kind::Gauge,
        help: "Byte connections, and tunnels, that are open.",
        labels: &[],
        write: |series, reading| series.sample("", &[], reading.connections),
    },
    Family {
        name: "remora_bytes_total",
        kind: Kind::Counter,
        help: "Bytes of payload, from the client (in) and to it (out): of HTTP, those of bodies.",
        labels: &["flow"],
        write: |series, reading| {
            series.sample("", &["in"], reading.bytes_in);
            series.sample("", &["out"], reading.bytes_out);
        },
    },
];

/// The family of latencies, which routes have and not their peers: its labels are the first of [`LABELS`].
pub(crate) const DURATION: (&str, &str, usize) = (
    "remora_request_duration_seconds",
    "Time from a request to the end of its response, failures included, whoever called.",
    3,
);

impl Routes {
    /// Appends everything in Prometheus' text format.
    pub(crate) fn prometheus(&self, out: &mut String) {
        let now = tokio::time::Instant::now();
        let readings: Vec<_> = self.series().iter().map(|stats| (stats.key.clone(), stats.read(now))).collect();
        render(&readings, out);
        durations(&self.tracks().0, out);
    }
}

/// The labels of a route's latencies.
pub(super) fn route_labels(direction: Direction, parent: &str, route: &str) -> String {
    pairs(&[direction.as_str(), parent, route])
}

fn durations(routes: &[std::sync::Arc<Track>], out: &mut String) {
    let (name, help, _) = DURATION;
    line(out, format_args!("# HELP {name} {help}"));
    line(out, format_args!("# TYPE {name} {}", Kind::Histogram.as_str()));
    for track in routes {
        if let Of::Route { direction, parent, route } = &track.of {
            let labels = route_labels(*direction, parent, route);
            write_histogram(&mut Series { out, name, labels: &labels, own: &[] }, &track.latency());
        }
    }
}

/// Appends all families of series.
fn render(routes: &[(RouteKey, Reading)], out: &mut String) {
    let routes: Vec<(String, &Reading)> = routes.iter().map(|(key, reading)| (labels(key), reading)).collect();
    for family in FAMILIES {
        line(out, format_args!("# HELP {} {}", family.name, family.help));
        line(out, format_args!("# TYPE {} {}", family.name, family.kind.as_str()));
        for (labels, reading) in &routes {
            (family.write)(&mut Series { out, name: family.name, labels, own: family.labels }, reading);
        }
    }
}

/// Where the samples of one family and route go.
struct Series<'a> {
    out: &'a mut String,
    name: &'static str,
    labels: &'a str,
    own: &'static [&'static str],
}

impl Series<'_> {
    /// Appends one sample, with the values of the labels that the family has beside the common ones.
    fn sample(&mut self, suffix: &str, values: &[&str], number: impl Display) {
        let own: String = self.own.iter().zip(values).map(|(label, value)| format!(",{label}=\"{value}\"")).collect();
        line(self.out, format_args!("{}{suffix}{{{}{own}}} {number}", self.name, self.labels));
    }
}

fn write_histogram(series: &mut Series<'_>, latency: &Snapshot) {
    series.own = &["le"];
    for (bound, count) in BOUNDS.iter().zip(latency.cumulative()) {
        series.sample("_bucket", &[&bound.as_secs_f64().to_string()], count);
    }
    series.sample("_bucket", &["+Inf"], latency.count());
    series.own = &[];
    series.sample("_sum", &[], latency.sum().as_secs_f64());
    series.sample("_count", &[], latency.count());
}

fn labels(key: &RouteKey) -> String {
    pairs(&[key.direction.as_str(), &key.parent, &key.route, &key.peer, key.tls.as_str(), key.protocol.as_str()])
}

/// The first of [`LABELS`] with these values.
fn pairs(values: &[&str]) -> String {
    let mut text = String::new();
    for ((name, _), value) in LABELS.iter().zip(values) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        escape(value, &mut text);
        text.push('"');
    }
    text
}

/// What the text format demands in a label's value: backslash, quote and line feed.
fn escape(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{Reason, Routes, routes::tests::key},
        *,
    };

    fn shown(routes: &Routes) -> String {
        let mut out = String::new();
        routes.prometheus(&mut out);
        out
    }

    #[test]
    fn label_values_are_escaped() {
        let mut out = String::new();
        escape("a\"b\\c\nd", &mut out);
        assert_eq!(out, r#"a\"b\\c\nd"#);
    }

    #[test]
    fn every_family_has_help_and_type_before_its_samples_and_every_label() {
        let routes = Routes::new("shop/web-1".into());
        let stats = routes.stats(key("GET /"));
        stats.request();
        stats.failure(Reason::Denied.into(), Duration::from_millis(7));
        let text = shown(&routes);
        for family in FAMILIES {
            let help = text.find(&format!("# HELP {} ", family.name)).unwrap();
            let kind = text.find(&format!("# TYPE {} {}\n", family.name, family.kind.as_str())).unwrap();
            let first = text.find(&format!("\n{}", family.name)).unwrap();
            assert!(help < kind && kind < first, "{}", family.name);
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let labels = if line.starts_with(DURATION.0) { &LABELS[..DURATION.2] } else { LABELS };
            for (label, _) in labels {
                assert!(line.contains(&format!("{label}=\"")), "{label} is missing in {line}");
            }
        }
    }

    #[test]
    fn samples_are_what_was_counted() {
        let routes = Routes::new("shop/web-1".into());
        let stats = routes.stats(key("GET /"));
        stats.request();
        stats.failure(Reason::Denied.into(), Duration::from_millis(7));
        stats.bytes_out(9);
        let text = shown(&routes);
        let labels = "direction=\"outbound\",parent=\"shop/api:8080\",route=\"GET /\",\
                      peer=\"spiffe://cluster.local/ns/shop/sa/api\",tls=\"mtls\",protocol=\"http1\"";
        let route = "direction=\"outbound\",parent=\"shop/api:8080\",route=\"GET /\"";
        for wanted in [
            format!("remora_requests_total{{{labels}}} 1"),
            format!("remora_request_duration_seconds_bucket{{{route},le=\"0.005\"}} 0"),
            format!("remora_request_duration_seconds_bucket{{{route},le=\"0.01\"}} 1"),
            format!("remora_request_duration_seconds_bucket{{{route},le=\"10\"}} 1"),
            format!("remora_request_duration_seconds_bucket{{{route},le=\"+Inf\"}} 1"),
            format!("remora_request_duration_seconds_sum{{{route}}} 0.007"),
            format!("remora_request_duration_seconds_count{{{route}}} 1"),
            format!("remora_failures_total{{{labels},reason=\"denied\",fault=\"client\"}} 1"),
            format!("remora_bytes_total{{{labels},flow=\"out\"}} 9"),
        ] {
            assert!(text.lines().any(|line| line == wanted), "no {wanted} in\n{text}");
        }
    }
}
