//! Golden signals for people: one row per route, below a line that says who calls whom. What `remora demo` and
//! `remora routes` show. In: counts that were already added up. Out: lines. It reads no port and decides nothing.

use crate::{
    table::{Align, Table},
    text::{Line, Span, Style},
};
use std::collections::BTreeMap;

/// The golden signals of one route.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    pub(crate) rps: f64,
    pub(crate) success: u64,
    /// By reason.
    pub(crate) failures: BTreeMap<String, u64>,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) retries: u64,
}

/// Rows under the lines that say who calls whom.
#[derive(Debug)]
pub(crate) struct SignalTable {
    table: Table,
    last: Option<Line>,
}

impl SignalTable {
    pub(crate) fn new() -> Self {
        use Align::{Left, Right};
        let table = Table::new(&[
            ("  ROUTE", Left),
            ("PROTO", Left),
            ("REQ/S", Right),
            ("SUCCESS", Right),
            ("P50", Right),
            ("P95", Right),
            ("P99", Right),
            ("RETRIES", Right),
        ]);
        Self { table, last: None }
    }

    /// Adds a route; `between` is shown once for all routes that follow each other between the same two.
    pub(crate) fn route(&mut self, between: Line, route: &str, protocol: &str, signals: &Signals) {
        if self.last.as_ref() != Some(&between) {
            self.table.across(between.clone());
            self.last = Some(between);
        }
        let failed: u64 = signals.failures.values().sum();
        let latency = |ms: f64| Span::from(if signals.success + failed > 0 { millis(ms) } else { "-".to_owned() });
        self.table.row([
            format!("  {route}").into(),
            protocol.into(),
            format!("{:.0}", signals.rps).into(),
            share(signals.success, failed),
            latency(signals.p50_ms),
            latency(signals.p95_ms),
            latency(signals.p99_ms),
            Span::new(if signals.retries > 0 { Style::Warn } else { Style::Plain }, signals.retries.to_string()),
        ]);
        if failed > 0 {
            let reasons: Vec<_> = signals.failures.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            self.table.across(Line::of(Style::Bad, format!("    failed: {}", reasons.join(", "))));
        }
    }

    pub(crate) fn lines(self, width: usize) -> Vec<Line> {
        self.table.lines(width)
    }
}

/// `mTLS`, or what there is instead, between two names.
pub(crate) fn arrow(from: &str, tls: &str, to: &str) -> Line {
    let (tls, style) = if tls == "mtls" { ("mTLS", Style::Good) } else { (tls, Style::Bad) };
    let from = Line::of(Style::Strong, from);
    from.and(Style::Faint, " ═ ").and(style, tls).and(Style::Faint, " ═▶ ").and(Style::Strong, to)
}

/// A SPIFFE id without its trust domain if that is `trust_domain`; a dash if there is none.
pub(crate) fn short_id(id: &str, trust_domain: &str) -> String {
    let rest = id.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(trust_domain));
    let short = rest.and_then(|rest| rest.strip_prefix('/'));
    if id.is_empty() { "-".to_owned() } else { short.unwrap_or(id).to_owned() }
}

/// A route's name without the namespace and name of its object, which the line above says nearly: `HTTPRoute rule read`.
pub(crate) fn short_route(route: &str) -> String {
    match route.split_once(' ') {
        Some((object, rest)) if object.split('/').count() == 3 => {
            format!("{} {rest}", object.split('/').next().unwrap_or(object))
        }
        _ => route.to_owned(),
    }
}

/// How many of those that ended did well, coloured.
pub(crate) fn share(success: u64, failed: u64) -> Span {
    let style = match (success, failed) {
        (0, 0) => Style::Plain,
        (_, 0) => Style::Good,
        _ => Style::Bad,
    };
    Span::new(style, percent(success, success + failed))
}

/// `part` of `whole` as people read it: 100 % only if nothing is missing, 0 % only if nothing is there.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match (part, whole) {
        (_, 0) => "-".to_owned(),
        (0, _) => "0%".to_owned(),
        (part, whole) if part >= whole => "100%".to_owned(),
        (part, whole) => {
            #[allow(clippy::cast_precision_loss, reason = "a percentage with two digits needs no 53 bits")]
            let share = part as f64 * 100.0 / whole as f64;
            format!("{:.2}%", share.clamp(0.01, 99.99))
        }
    }
}

/// A latency as people read it: three digits.
pub(crate) fn millis(ms: f64) -> String {
    match ms {
        ms if ms >= 9_995.0 => format!("{:.1}s", ms / 1000.0),
        ms if ms >= 999.5 => format!("{:.2}s", ms / 1000.0),
        ms if ms >= 99.95 => format!("{ms:.0}ms"),
        ms if ms >= 9.995 => format!("{ms:.1}ms"),
        ms => format!("{ms:.2}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(signals: &Signals) -> Vec<String> {
        let mut table = SignalTable::new();
        for route in ["GET /", "POST /cart"] {
            table.route(arrow("web", "mtls", "api"), route, "http1", signals);
        }
        table.lines(80).iter().map(|line| line.render(false)).collect()
    }

    #[test]
    fn one_failure_in_a_million_is_not_a_hundred_percent() {
        assert_eq!(percent(999_999, 1_000_000), "99.99%");
        assert_eq!(percent(1, 1_000_000), "0.01%");
        assert_eq!(percent(7, 7), "100%");
        assert_eq!(percent(0, 7), "0%");
        assert_eq!(percent(1, 3), "33.33%");
        assert_eq!(percent(0, 0), "-");
    }

    #[test]
    fn latencies_have_three_digits() {
        let shown = [0.4567, 4.567, 9.996, 45.67, 99.96, 456.7, 4567.0, 45_670.0].map(millis);
        assert_eq!(shown, ["0.46ms", "4.57ms", "10.0ms", "45.7ms", "100ms", "457ms", "4.57s", "45.7s"]);
    }

    #[test]
    fn only_our_own_trust_domain_is_left_out() {
        let short = |id| short_id(id, "cluster.local");
        assert_eq!(short("spiffe://cluster.local/ns/shop/sa/web"), "ns/shop/sa/web");
        assert_eq!(short("spiffe://other/ns/shop/sa/web"), "spiffe://other/ns/shop/sa/web");
        assert_eq!(short("spiffe://cluster.localhost/ns/a/sa/b"), "spiffe://cluster.localhost/ns/a/sa/b");
        assert_eq!(short("spiffe://cluster.local"), "spiffe://cluster.local");
        assert_eq!(short(""), "-");
    }

    #[test]
    fn a_short_route_keeps_its_kind_and_rule_and_other_names_stay() {
        assert_eq!(short_route("HTTPRoute/shop/api rule read"), "HTTPRoute rule read");
        assert_eq!(short_route("GET /users/:id"), "GET /users/:id");
        assert_eq!(short_route("/shop.v1.Pricing/Quote"), "/shop.v1.Pricing/Quote");
        assert_eq!(short_route("tcp"), "tcp");
    }

    #[test]
    fn routes_between_the_same_two_stand_below_one_line() {
        let lines = shown(&Signals { success: 7, rps: 3.0, ..Signals::default() });
        assert_eq!(lines.iter().filter(|line| line.contains("web ═ mTLS ═▶ api")).count(), 1);
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn failures_stand_below_their_route_and_a_request_under_way_is_none() {
        let lines = shown(&Signals { success: 3, failures: [("timeout".to_owned(), 1)].into(), ..Signals::default() });
        assert!(lines[2].contains("75.00%") && lines[3] == "    failed: 1 timeout", "{lines:?}");
        let lines = shown(&Signals::default());
        assert!(lines[2].contains("  -  "), "nothing ended yet, so there is no share: {lines:?}");
    }
}
