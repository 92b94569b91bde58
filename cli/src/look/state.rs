//! Everything that a proxy says of itself, page by page, with the policies of its namespace: what `remora diagnose` reads, and shows by `--full`.

use super::{ask::PATH, endpoints, model::Signals};
use crate::{
    admin::{self, Certificate, Place},
    cluster::{Cluster, policies},
    inspect::span,
    text::{Line, Style},
};
use remora_runtime::utc::Utc;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The last failures that are shown for people.
const FAILURES_SHOWN_MAX: usize = 10;

/// What one proxy holds.
#[derive(Debug)]
pub(super) struct State {
    pub(super) signals: Signals,
    /// Of each of [`PAGES`], or why there is none.
    pub(super) pages: BTreeMap<&'static str, Result<Value, String>>,
    pub(super) certificate: Option<Certificate>,
    /// What it waits for; empty where it is ready.
    pub(super) waits: Vec<String>,
    /// Its counters and gauges without labels, and the sums of those with labels.
    pub(super) metrics: BTreeMap<String, f64>,
    /// The policies of its namespace, or why they could not be read. None where no cluster was asked.
    pub(super) policies: Option<Result<Vec<policies::Policy>, String>>,
}

/// What is read beside the signals.
const PAGES: [&str; 4] = ["/config", "/certificate", "/routes", "/errors"];

/// Reads it. Only without the signals is there nothing to say.
pub(super) async fn read(place: &Place, namespace: &str, cluster: Option<&Cluster>) -> Result<State, admin::Error> {
    let raw: Value = admin::page(place.clone(), PATH).await?;
    let shape = |source| admin::Error::Shape { place: place.clone(), source };
    let signals: Signals = serde_json::from_value(raw).map_err(shape)?;
    let mut pages = BTreeMap::new();
    for path in PAGES {
        let page = admin::page::<Value>(place.clone(), path).await;
        pages.insert(path, page.map_err(|error| crate::chain(&error)));
    }
    let certificate = pages.get("/certificate").and_then(|page| page.as_ref().ok());
    let certificate = certificate.and_then(|page| serde_json::from_value(page.clone()).ok());
    let waits = match admin::get(place.clone(), "/ready").await {
        Ok(answer) if answer.status.is_success() => Vec::new(),
        Ok(answer) => String::from_utf8_lossy(&answer.body).lines().map(str::to_owned).collect(),
        Err(error) => vec![crate::chain(&error)],
    };
    let metrics = match admin::get(place.clone(), "/metrics").await {
        Ok(answer) => sums(&String::from_utf8_lossy(&answer.body)),
        Err(_) => BTreeMap::new(),
    };
    let policies = match cluster {
        Some(cluster) if !namespace.is_empty() => {
            Some(policies::all(cluster, Some(namespace)).await.map_err(|error| crate::chain(&error)))
        }
        _ => None,
    };
    Ok(State { signals, pages, certificate, waits, metrics, policies })
}

/// The metrics of a page, those of one name added up whatever their labels; histograms are left out.
pub(super) fn sums(page: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series);
        if name.ends_with("_bucket") || name.ends_with("_sum") || name.ends_with("_count") {
            continue;
        }
        if let Ok(value) = value.parse::<f64>() {
            *sums.entry(name.to_owned()).or_insert(0.0) += value;
        }
    }
    sums
}

impl State {
    /// A page, if it could be had.
    pub(super) fn page(&self, path: &str) -> Option<&Value> {
        self.pages.get(path)?.as_ref().ok()
    }

    /// Everything, for scripts. The signals' latencies are left out: they are for adding up.
    pub(super) fn json(&self) -> Value {
        let mut all: Map<String, Value> = self
            .pages
            .iter()
            .map(|(path, page)| {
                let page = page.as_ref().map_or_else(|error| json!({ "error": error }), Value::clone);
                (path.trim_start_matches('/').to_owned(), page)
            })
            .collect();
        let policies = match &self.policies {
            Some(Ok(policies)) => json!(policies.iter().map(|it| &it.value).collect::<Vec<_>>()),
            Some(Err(error)) => json!({ "error": error }),
            None => Value::Null,
        };
        all.extend([
            ("waits".to_owned(), json!(self.waits)),
            ("backends".to_owned(), json!(self.signals.backends)),
            ("discovery".to_owned(), json!(self.signals.discovery)),
            ("saturation".to_owned(), json!(self.signals.saturation)),
            ("metrics".to_owned(), json!(self.metrics)),
            ("policies".to_owned(), policies),
        ]);
        Value::Object(all)
    }

    /// Everything, for people.
    pub(super) fn lines(&self, now: u64) -> Vec<Line> {
        let mut lines = Vec::new();
        section(&mut lines, "settings", self.of_page("/config", |config| config.as_object().map(fields)));
        section(&mut lines, "certificate", self.certificate_lines(now));
        section(&mut lines, "limits and load", self.load());
        section(&mut lines, "from discovery since the start", self.counted("remora_discovery_"));
        if let Some(policies) = self.policy_lines() {
            section(&mut lines, "policies of the namespace", policies);
        }
        section(&mut lines, "refused by policy since the start", self.counted("remora_policy_"));
        section(&mut lines, "routes since the start", self.of_page("/routes", routes));
        let backends = &self.signals.backends;
        let backends = if backends.is_empty() { Vec::new() } else { endpoints::rows(backends, true) };
        section(&mut lines, "backends and their endpoints", backends);
        section(&mut lines, "the last failures", self.of_page("/errors", |errors| failures(errors, now)));
        lines
    }

    fn of_page(&self, path: &str, shown: impl Fn(&Value) -> Option<Vec<Line>>) -> Vec<Line> {
        match self.pages.get(path) {
            Some(Ok(page)) => shown(page).unwrap_or_default(),
            Some(Err(error)) => vec![Line::of(Style::Bad, format!("    {error}"))],
            None => Vec::new(),
        }
    }

    fn certificate_lines(&self, now: u64) -> Vec<Line> {
        let Some(it) = &self.certificate else { return vec![Line::of(Style::Bad, "    there is none")] };
        let left = it.not_after.saturating_sub(now);
        vec![
            named("identity", &it.identity),
            named("valid", &format!("{} to {}, {} left", Utc::of(it.not_before), Utc::of(it.not_after), span(left))),
            named("trust anchors", &it.anchors.to_string()),
        ]
    }

    fn load(&self) -> Vec<Line> {
        let it = &self.signals.saturation;
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let workers: Vec<_> = it.workers.iter().map(|busy| format!("{:.0} %", busy * 100.0)).collect();
        let memory = it.memory_bytes.map_or_else(|| "unknown".to_owned(), mib);
        let mut lines = vec![
            named("memory", &format!("{memory} of {}", mib(it.memory_limit_bytes))),
            named("workers busy", &workers.join(", ")),
        ];
        if let Some(charged) = self.metrics.get("remora_memory_charged_bytes") {
            let bound = it.memory_limit_bytes / 8 * 3;
            lines.push(named("charged to peers", &format!("{} of {}", mib(*charged as u64), mib(bound))));
        }
        lines.extend(self.signals.backends.iter().map(|backend| {
            let open = format!("{} of {} requests open", backend.in_flight, backend.in_flight_max);
            named(&backend.name, &format!("{open}, {} retries left", backend.budget))
        }));
        lines
    }

    /// The metrics that begin so and are not zero.
    fn counted(&self, prefix: &str) -> Vec<Line> {
        let with = self.metrics.iter().filter(|(name, value)| name.starts_with(prefix) && **value != 0.0);
        with.map(|(name, value)| named(name, &value.to_string())).collect()
    }

    fn policy_lines(&self) -> Option<Vec<Line>> {
        Some(match self.policies.as_ref()? {
            Err(error) => vec![Line::of(Style::Bad, format!("    {error}"))],
            Ok(policies) => policies
                .iter()
                .map(|policy| match &policy.holds {
                    policies::Holds::Yes => named(&policy.title, "holds"),
                    policies::Holds::Unsaid => named(&policy.title, "discovery has not said yet"),
                    policies::Holds::No(why) => Line::of(Style::Bad, format!("    {}  {why}", policy.title)),
                })
                .collect(),
        })
    }
}

fn section(lines: &mut Vec<Line>, title: &str, of: Vec<Line>) {
    lines.push(Line::of(Style::Strong, format!("  {title}")));
    match of.is_empty() {
        true => lines.push(Line::of(Style::Faint, "    nothing")),
        false => lines.extend(of),
    }
}

fn named(name: &str, value: &str) -> Line {
    Line::of(Style::Faint, format!("    {name:24}  ")).and(Style::Plain, value)
}

fn fields(object: &Map<String, Value>) -> Vec<Line> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    object.iter().map(|(name, value)| named(name, &text(value))).collect()
}

fn routes(page: &Value) -> Option<Vec<Line>> {
    let routes = serde_json::from_value::<admin::Routes>(page.clone()).ok()?.routes;
    let line = |it: &admin::Route| {
        let failed: u64 = it.failures.values().sum();
        let said = format!("{} requests, {failed} failed, {} with {}", it.requests, it.tls, it.peer);
        named(&format!("{} {} {}", it.direction, it.parent, it.route), &said)
    };
    Some(routes.iter().map(line).collect())
}

fn failures(page: &Value, now: u64) -> Option<Vec<Line>> {
    let line = |it: &Value| {
        let word = |field: &str| it[field].as_str().unwrap_or_default();
        let ago = now.saturating_sub(it["unix_time"].as_f64().unwrap_or_default().max(0.0) as u64);
        let what = format!("{} {} {}", word("direction"), word("parent"), word("route"));
        named(
            &format!("{} ago", span(ago)),
            &format!("{} ({}): {what} with {}", word("reason"), word("fault"), word("peer")),
        )
    };
    Some(page["errors"].as_array()?.iter().take(FAILURES_SHOWN_MAX).map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_a_name_are_added_up_and_histograms_left_out() {
        let page =
            "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2\"} 3\nb 1.5\nc_bucket{le=\"1\"} 9\nc_sum 1\nc_count 9\nodd\n";
        assert_eq!(sums(page), BTreeMap::from([("a".to_owned(), 5.0), ("b".to_owned(), 1.5)]));
    }
}
