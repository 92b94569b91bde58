//! `remora stat`: golden signals by route, added up over the pods that are meant, what got worse first.

use super::{
    Asked, ask,
    model::{Span, Sum, Time},
};
use crate::{
    Look, Outcome, block_on, finish,
    inspect::{Admin, Output, pretty},
    signals::millis,
    sys,
    table::{Align, Table},
    text::{self, Line, Span as Words, Style},
};
use std::{collections::BTreeMap, process::ExitCode, time::Duration};

/// What `remora stat` is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct StatArgs {
    #[command(flatten)]
    admin: Admin,
    /// Over which time
    #[arg(long, value_enum, default_value_t)]
    window: Span,
    /// Show it anew every second until it is interrupted
    #[arg(short, long)]
    watch: bool,
}

impl StatArgs {
    /// The same, shown anew every second.
    pub(crate) fn watching(self) -> Self {
        Self { watch: true, ..self }
    }
}

/// Tells one route from others: the way, what was called, and the route.
type Key = (String, String, String);

/// One route of all pods.
#[derive(Debug, Default)]
struct Row {
    now: Sum,
    before: Option<Sum>,
    in_flight: u64,
    retries: u64,
    failures: BTreeMap<String, u64>,
    /// Where the time goes, by the requests of each pod.
    times: Vec<(u64, Time)>,
}

/// `remora stat`, and `remora top` where it watches.
pub(crate) fn stat(args: &StatArgs, look: Look) -> ExitCode {
    if !args.watch {
        return finish(block_on(shown(args, look)));
    }
    finish(block_on(async {
        loop {
            let (text, _) = shown(args, look).await?;
            // A terminal is drawn anew; anything else gets one table behind the other.
            let clear = if sys::terminal_size().is_some() { "\x1b[H\x1b[2J" } else { "" };
            text::print(&format!("{clear}{text}"))?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }))
}

async fn shown(args: &StatArgs, look: Look) -> Outcome {
    let Asked { pods, silent } = ask(&args.admin).await?;
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    for route in pods.iter().flat_map(|pod| &pod.routes) {
        let key = (route.direction.clone(), route.parent.clone(), route.route.clone());
        let row = rows.entry(key).or_default();
        let window = route.window(args.window);
        row.now.add(window);
        if let Some(before) = &route.before {
            row.before.get_or_insert_default().add(before);
        }
        row.in_flight += route.in_flight;
        row.retries += route.retries;
        for (reason, count) in &route.failures {
            *row.failures.entry(reason.clone()).or_insert(0) += count;
        }
        row.times.push((window.requests, route.time));
    }
    let good = silent.is_empty();
    if args.admin.output() == Output::Json {
        return pretty(&rows.iter().map(|(key, row)| row.json(key)).collect::<Vec<_>>(), good);
    }
    let mut lines = silent;
    lines.extend(table(rows));
    Ok((text::render(&lines, look.coloured), good))
}

impl Row {
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

    /// The part of the time that is the largest, where it is not the server's.
    fn slow_part(&self) -> Option<&'static str> {
        let requests: u64 = self.times.iter().map(|(requests, _)| requests).sum();
        let mean = |part: fn(&Time) -> f64| {
            let sum: f64 = self.times.iter().map(|(requests, time)| *requests as f64 * part(time)).sum();
            sum / requests.max(1) as f64
        };
        let server = mean(|time| time.server_ms);
        let parts = [
            ("here", mean(|time| time.before_ms)),
            ("connecting", mean(|time| time.connect_ms)),
            ("client reads slowly", mean(|time| time.after_ms)),
        ];
        let largest = parts.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        (largest.1 > server && largest.1 > 1.0).then_some(largest.0)
    }

    fn json(&self, (direction, parent, route): &Key) -> serde_json::Value {
        let sum = |sum: &Sum| {
            serde_json::json!({
                "rps": sum.rps, "requests": sum.requests, "failed": sum.failed, "errors": sum.errors(),
                "p50_ms": sum.quantile_ms(0.5), "p95_ms": sum.quantile_ms(0.95), "p99_ms": sum.quantile_ms(0.99),
            })
        };
        serde_json::json!({
            "direction": direction, "parent": parent, "route": route, "now": sum(&self.now), "before": self.before.as_ref().map(sum),
            "in_flight": self.in_flight, "retries": self.retries, "failures": self.failures,
        })
    }
}

fn table(rows: BTreeMap<Key, Row>) -> Vec<Line> {
    use Align::{Left, Right};
    if rows.is_empty() {
        return vec![Line::of(Style::Faint, "nothing has passed through these proxies yet")];
    }
    let mut rows: Vec<(Key, Row)> = rows.into_iter().collect();
    rows.sort_by(|(_, a), (_, b)| b.worse().partial_cmp(&a.worse()).unwrap_or(std::cmp::Ordering::Equal));
    let mut table = Table::new(&[
        ("WAY", Left),
        ("CALLED", Left),
        ("ROUTE", Left),
        ("REQ/S", Right),
        ("ERRORS", Right),
        ("P50", Right),
        ("P95", Right),
        ("P99", Right),
        ("THAN BEFORE", Right),
        ("OPEN", Right),
        ("RETRIES", Right),
        ("FAILED FOR", Left),
    ]);
    for ((direction, parent, route), row) in rows {
        let quantile = |share| row.now.quantile_ms(share).map_or_else(|| "-".to_owned(), millis);
        let errors = match row.now.errors() {
            None => Words::new(Style::Faint, "-"),
            Some(0.0) => Words::new(Style::Good, "0 %"),
            Some(share) => Words::new(Style::Bad, format!("{:.2} %", share * 100.0)),
        };
        let mut failed: Vec<_> = row.failures.iter().collect();
        failed.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let mut why: Vec<_> = failed.iter().take(3).map(|(reason, count)| format!("{reason} {count}")).collect();
        why.extend(row.slow_part().map(|part| format!("slow: {part}")));
        table.row([
            Words::new(Style::Faint, if direction == "inbound" { "in" } else { "out" }),
            parent.into(),
            route.into(),
            format!("{:.1}", row.now.rps).into(),
            errors,
            quantile(0.5).into(),
            quantile(0.95).into(),
            quantile(0.99).into(),
            row.change(),
            row.in_flight.to_string().into(),
            row.retries.to_string().into(),
            why.join(", ").into(),
        ]);
    }
    table.lines(usize::MAX)
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

    #[test]
    fn what_got_worse_stands_first() {
        let key = |route: &str| ("inbound".to_owned(), "shop/api:80".to_owned(), route.to_owned());
        let rows = BTreeMap::from([
            (key("as before"), row((100, 0, 1_000_000), Some((100, 0, 1_000_000)))),
            (key("slower"), row((100, 0, 9_000_000), Some((100, 0, 1_000_000)))),
            (key("always failed"), row((100, 50, 1_000_000), Some((100, 50, 1_000_000)))),
            (key("fails now"), row((100, 20, 1_000_000), Some((100, 0, 1_000_000)))),
        ]);
        let shown: Vec<String> = table(rows).iter().map(|line| line.render(false)).collect();
        let order: Vec<_> = ["fails now", "slower", "as before"]
            .map(|name| shown.iter().position(|line| line.contains(name)).unwrap())
            .into();
        assert!(order.is_sorted(), "{shown:#?}");
        assert!(shown[order[0]].contains("x1.0 +20.0 %") && shown[order[1]].contains("x9.0"), "{shown:#?}");
    }

    #[test]
    fn where_the_time_goes_is_said_where_it_is_not_the_server() {
        let time = Time { before_ms: 40.0, server_ms: 2.0, ..Time::default() };
        let slow = Row { times: vec![(10, time), (0, Time::default())], ..row((1, 0, 1), None) };
        assert_eq!(slow.slow_part(), Some("here"));
        let time = Time { before_ms: 0.1, server_ms: 0.05, ..Time::default() };
        assert_eq!(Row { times: vec![(10, time)], ..row((1, 0, 1), None) }.slow_part(), None);
    }
}
