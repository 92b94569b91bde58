//! `docs/metrics.md`, made from the catalog.

use super::{
    Blame, Fault, Reason,
    catalog::PROCESS,
    histogram::BOUNDS,
    prometheus::{DURATION, FAMILIES, Kind, LABELS},
};
use crate::{limits, tls};
use remora_runtime::tls::{Failure, VerifyError};
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// Where the page is, below the top of the repository.
const PAGE: &str = "docs/metrics.md";

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

/// In which forms metrics are told.
const FORMS: &str = "\
         Served at `/metrics` of the admin port (4191), in the form that the scraper's `Accept` likes best:\n\n\
         | form | what it has more |\n|--|--|\n\
         | Prometheus' text 0.0.4 | |\n\
         | OpenMetrics 1.0.0, which Prometheus asks for | exemplars: for each bucket of a route the latest request that said its trace \
         (`traceparent`), of those that tap keeps; Prometheus keeps them with `--enable-feature=exemplar-storage` |\n\
         | Prometheus' protobuf (`io.prometheus.client.MetricFamily`) | exemplars, and native histograms of schema 3 (a bucket is 9 % wider than \
         the one before; a latency may stand in a neighbouring bucket if it is within 1.6 % of the bound) beside the classic buckets; Prometheus asks \
         for it with `--enable-feature=native-histograms`, and then keeps these alone, unless `scrape_classic_histograms` says otherwise |\n\n";

/// The text of `docs/metrics.md`.
fn page() -> String {
    let mut page = String::from(
        "# Metrics of the proxy\n\n\
         Made from `proxy/src/telemetry/catalog.rs` by `REMORA_WRITE_DOCS=1 cargo test -p remora-proxy the_metrics_page`; \
         do not edit. Names and labels, once released, stay.\n\n",
    );
    page.push_str(FORMS);
    page.push_str("## Per route\n\n");
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
                for name in ["counter!(", "gauge!(", "histogram!("].iter().flat_map(|call| text.split(call).skip(1)) {
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
