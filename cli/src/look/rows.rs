//! Signals of pods added up: a row for each route, workload, pod or namespace, and the table of it, what got worse first.

use super::model::{Route, Signals, Span, Sum, Time};
use crate::{
    cluster::scope::Found,
    signals::millis,
    table::{Align, Table},
    text::{Line, Span as Words, Style},
};
use serde_json::{Map, Value, json};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum By {
    /// A route of what was called
    Route,
    /// A Deployment, StatefulSet, DaemonSet or Job
    Workload,
    /// A pod
    Pod,
    /// A namespace
    Namespace,
}

/// Tells one row from others: the way, and two names: what was called and the route, or the namespace and what is in it.
type Key = (String, String, String);

/// One row.
#[derive(Debug, Default)]
struct Row {
    now: Sum,
    before: Option<Sum>,
    in_flight: u64,
    retries: u64,
    failures: BTreeMap<String, u64>,
    time: Spent,
    pods: BTreeSet<String>,
}

/// Where the time of requests went, added up.
#[derive(Debug, Default)]
struct Spent {
    requests: f64,
    sum: Time,
}

impl Spent {
    fn add(&mut self, requests: u64, mean: &Time) {
        let requests = requests as f64;
        self.requests += requests;
        self.sum.before_ms += requests * mean.before_ms;
        self.sum.connect_ms += requests * mean.connect_ms;
        self.sum.server_ms += requests * mean.server_ms;
        self.sum.after_ms += requests * mean.after_ms;
    }

    fn mean(&self) -> Time {
        let of = |sum: f64| sum / self.requests.max(1.0);
        Time {
            before_ms: of(self.sum.before_ms),
            connect_ms: of(self.sum.connect_ms),
            server_ms: of(self.sum.server_ms),
            after_ms: of(self.sum.after_ms),
        }
    }

    /// The part of the time that is the largest, where it is not the server's.
    fn slow_part(&self) -> Option<&'static str> {
        let mean = self.mean();
        let parts = [("here", mean.before_ms), ("connecting", mean.connect_ms), ("client reads slowly", mean.after_ms)];
        let largest = parts.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        (largest.1 > mean.server_ms && largest.1 > 1.0).then_some(largest.0)
    }
}

impl Row {
    fn add(&mut self, pod: &str, route: &Route, span: Span) {
        let window = route.window(span);
        self.now.add(window);
        if let Some(before) = &route.before {
            self.before.get_or_insert_default().add(before);
        }
        self.in_flight += route.in_flight;
        self.retries += route.retries;
        for (reason, count) in &route.failures {
            *self.failures.entry(reason.clone()).or_insert(0) += count;
        }
        self.time.add(window.requests, &route.time);
        if !self.pods.contains(pod) {
            self.pods.insert(pod.to_owned());
        }
    }

    /// How much worse than ten minutes ago: first by failures, then by the slowest.
    fn worse(&self) -> (f64, f64) {
        let errors = |sum: &Sum| sum.errors().unwrap_or_default();
        let grown = errors(&self.now) - self.before.as_ref().map_or(0.0, errors);
        (grown.max(0.0), self.slower().unwrap_or(1.0))
    }

    /// The 99th percentile as a multiple of what it was.
    fn slower(&self) -> Option<f64> {
        let before = self.before.as_ref()?.quantile_ms(0.99)?;
        Some(self.now.quantile_ms(0.99)? / before.max(1e-6))
    }

    fn change(&self) -> Words {
        let Some(slower) = self.slower() else { return Words::new(Style::Faint, "-") };
        let (errors, _) = self.worse();
        let text = match errors {
            0.001.. => format!("x{slower:.1} +{:.1} %", errors * 100.0),
            _ => format!("x{slower:.1}"),
        };
        let style = if errors >= 0.01 || slower >= 2.0 { Style::Bad } else { Style::Plain };
        Words::new(style, text)
    }

    /// The most frequent reasons since the start, and where the time goes if not to the server.
    fn why(&self) -> String {
        let mut failed: Vec<_> = self.failures.iter().collect();
        failed.sort_by_key(|(_, count)| Reverse(**count));
        let mut why: Vec<_> = failed.iter().take(3).map(|(reason, count)| format!("{reason} {count}")).collect();
        why.extend(self.time.slow_part().map(|part| format!("slow: {part}")));
        why.join(", ")
    }
}

/// All rows.
#[derive(Debug)]
pub(super) struct Rows {
    by: By,
    span: Span,
    rows: BTreeMap<Key, Row>,
}

impl Rows {
    pub(super) fn new(by: By, span: Span) -> Self {
        Self { by, span, rows: BTreeMap::new() }
    }

    /// Adds what one pod says.
    pub(super) fn add(&mut self, found: &Found, signals: &Signals) {
        let namespace = signals.pod.split_once('/').map_or("", |(namespace, _)| namespace);
        // Of an address nobody knows the workload: it is the pod's own.
        let pod = signals.pod.split_once('/').map_or(signals.pod.as_str(), |(_, pod)| pod);
        let workload = if found.workload.is_empty() { format!("pod/{pod}") } else { found.workload.clone() };
        for route in &signals.routes {
            let (first, second) = match self.by {
                By::Route => (route.parent.clone(), route.route.clone()),
                By::Workload => (namespace.to_owned(), workload.clone()),
                By::Pod => (namespace.to_owned(), pod.to_owned()),
                By::Namespace => (namespace.to_owned(), String::new()),
            };
            let row = self.rows.entry((route.direction.clone(), first, second)).or_default();
            row.add(&signals.pod, route, self.span);
        }
    }

    /// For scripts.
    pub(super) fn json(&self) -> Vec<Value> {
        self.rows.iter().map(|(key, row)| self.row_json(key, row)).collect()
    }

    fn row_json(&self, (direction, first, second): &Key, row: &Row) -> Value {
        let sum = |sum: &Sum| {
            json!({
                "rps": sum.rps, "requests": sum.requests, "failed": sum.failed, "errors": sum.errors(),
                "p50_ms": sum.quantile_ms(0.5), "p95_ms": sum.quantile_ms(0.95), "p99_ms": sum.quantile_ms(0.99),
            })
        };
        let time = row.time.mean();
        let mut shown = Map::from_iter([("direction".to_owned(), json!(direction))]);
        let names = self.names();
        shown.extend(names.into_iter().zip([first, second]).map(|(name, value)| (name.to_owned(), json!(value))));
        let Value::Object(rest) = json!({
            "now": sum(&row.now), "before": row.before.as_ref().map(sum), "in_flight": row.in_flight, "retries": row.retries,
            "failures": row.failures, "pods": row.pods.len(),
            "time": { "before_ms": time.before_ms, "connect_ms": time.connect_ms, "server_ms": time.server_ms, "after_ms": time.after_ms },
        }) else {
            return Value::Null;
        };
        shown.extend(rest);
        Value::Object(shown)
    }

    /// What the names of a row's key are called.
    fn names(&self) -> Vec<&'static str> {
        match self.by {
            By::Route => vec!["parent", "route"],
            By::Workload => vec!["namespace", "workload"],
            By::Pod => vec!["namespace", "pod"],
            By::Namespace => vec!["namespace"],
        }
    }

    /// For people.
    pub(super) fn table(self, wide: bool) -> Vec<Line> {
        if self.rows.is_empty() {
            return vec![Line::of(Style::Faint, "nothing has passed through these proxies yet")];
        }
        let mut table = Table::new(&columns(self.by, wide));
        let by = self.by;
        let mut rows: Vec<(Key, Row)> = self.rows.into_iter().collect();
        rows.sort_by(|(_, a), (_, b)| b.worse().partial_cmp(&a.worse()).unwrap_or(std::cmp::Ordering::Equal));
        for (key, row) in rows {
            table.row(cells(by, wide, key, &row));
        }
        table.lines(usize::MAX)
    }
}

fn columns(by: By, wide: bool) -> Vec<(&'static str, Align)> {
    use Align::{Left, Right};
    let mut columns = vec![("WAY", Left)];
    columns.extend_from_slice(match by {
        By::Route => &[("CALLED", Left), ("ROUTE", Left)],
        By::Workload => &[("NAMESPACE", Left), ("WORKLOAD", Left), ("PODS", Right)],
        By::Pod => &[("NAMESPACE", Left), ("POD", Left)],
        By::Namespace => &[("NAMESPACE", Left), ("PODS", Right)],
    });
    columns.extend([
        ("REQ/S", Right),
        ("ERRORS", Right),
        ("P50", Right),
        ("P95", Right),
        ("P99", Right),
        ("THAN BEFORE", Right),
        ("OPEN", Right),
        ("RETRIES", Right),
    ]);
    if wide {
        columns.extend([
            ("REQUESTS", Right),
            ("P99 BEFORE", Right),
            ("HERE", Right),
            ("CONNECT", Right),
            ("SERVER", Right),
            ("CLIENT", Right),
        ]);
    }
    columns.push(("FAILED FOR", Left));
    columns
}

fn cells(by: By, wide: bool, (direction, first, second): Key, row: &Row) -> Vec<Words> {
    let ms = |ms: Option<f64>| Words::from(ms.map_or_else(|| "-".to_owned(), millis));
    let errors = match row.now.errors() {
        None => Words::new(Style::Faint, "-"),
        Some(0.0) => Words::new(Style::Good, "0 %"),
        Some(share) => Words::new(Style::Bad, format!("{:.2} %", share * 100.0)),
    };
    let mut cells = vec![Words::new(Style::Faint, if direction == "inbound" { "in" } else { "out" }), first.into()];
    if by != By::Namespace {
        cells.push(second.into());
    }
    if matches!(by, By::Workload | By::Namespace) {
        cells.push(row.pods.len().to_string().into());
    }
    cells.extend([
        format!("{:.1}", row.now.rps).into(),
        errors,
        ms(row.now.quantile_ms(0.5)),
        ms(row.now.quantile_ms(0.95)),
        ms(row.now.quantile_ms(0.99)),
        row.change(),
        row.in_flight.to_string().into(),
        row.retries.to_string().into(),
    ]);
    if wide {
        let time = row.time.mean();
        cells.extend([
            row.now.requests.to_string().into(),
            ms(row.before.as_ref().and_then(|before| before.quantile_ms(0.99))),
            ms(Some(time.before_ms)),
            ms(Some(time.connect_ms)),
            ms(Some(time.server_ms)),
            ms(Some(time.after_ms)),
        ]);
    }
    cells.push(row.why().into());
    cells
}

#[cfg(test)]
mod tests {
    use super::{super::model::Window, *};

    fn row(now: (u64, u64, u64), before: Option<(u64, u64, u64)>) -> Row {
        let sum = |(requests, failed, ns): (u64, u64, u64)| {
            let mut sum = Sum::default();
            sum.add(&Window { rps: 1.0, requests, failed, latencies_ns: vec![(ns, requests)] });
            sum
        };
        Row { now: sum(now), before: before.map(sum), ..Row::default() }
    }

    fn shown(rows: Rows, wide: bool) -> Vec<String> {
        rows.table(wide).iter().map(|line| line.render(false)).collect()
    }

    #[test]
    fn what_got_worse_stands_first() {
        let key = |route: &str| ("inbound".to_owned(), "shop/api:80".to_owned(), route.to_owned());
        let rows = BTreeMap::from([
            (key("as before"), row((100, 0, 1_000_000), Some((100, 0, 1_000_000)))),
            (key("slower"), row((100, 0, 9_000_000), Some((100, 0, 1_000_000)))),
            (key("always failed"), row((100, 50, 1_000_000), Some((100, 50, 1_000_000)))),
            (key("fails now"), row((100, 20, 1_000_000), Some((100, 0, 1_000_000)))),
        ]);
        let shown = shown(Rows { rows, ..Rows::new(By::Route, Span::Minute) }, false);
        let order: Vec<_> = ["fails now", "slower", "as before"]
            .map(|name| shown.iter().position(|line| line.contains(name)).unwrap())
            .into();
        assert!(order.is_sorted(), "{shown:#?}");
        assert!(shown[order[0]].contains("x1.0 +20.0 %") && shown[order[1]].contains("x9.0"), "{shown:#?}");
    }

    #[test]
    fn where_the_time_goes_is_said_where_it_is_not_the_server() {
        let mut slow = Spent::default();
        slow.add(10, &Time { before_ms: 40.0, server_ms: 2.0, ..Time::default() });
        slow.add(0, &Time { server_ms: 1000.0, ..Time::default() });
        assert_eq!(slow.slow_part(), Some("here"));
        let mut quick = Spent::default();
        quick.add(10, &Time { before_ms: 0.1, server_ms: 0.05, ..Time::default() });
        assert_eq!(quick.slow_part(), None);
    }

    #[test]
    fn pods_of_a_workload_are_one_row_with_their_latencies_added_up() {
        let mut rows = Rows::new(By::Workload, Span::Minute);
        for (pod, requests, ns) in [("web-1", 98, 1_000_000), ("web-2", 2, 900_000_000)] {
            let (found, signals) = super::super::tests::pod(&format!("shop/{pod}"), requests, ns);
            rows.add(&found, &signals);
        }
        let json = rows.json();
        assert_eq!(json.len(), 1);
        assert_eq!(
            (&json[0]["namespace"], &json[0]["workload"], &json[0]["pods"]),
            (&json!("shop"), &json!("deploy/web"), &json!(2))
        );
        assert_eq!((&json[0]["now"]["requests"], &json[0]["now"]["p50_ms"]), (&json!(100), &json!(1.0)));
        assert_eq!(json[0]["now"]["p99_ms"], json!(900.0), "never the mean of two");
        let shown = shown(rows, true);
        assert!(shown[0].contains("WORKLOAD") && shown[0].contains("P99 BEFORE"), "{shown:#?}");
        assert_eq!(shown.len(), 2);
    }
}
