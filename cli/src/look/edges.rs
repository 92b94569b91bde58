//! `remora edges`: who calls whom, how it is protected, and how it goes.

use super::{Asked, ask, model::Signals, short};
use crate::{
    Look, block_on, finish,
    inspect::{Admin, Output, pretty},
    signals::share,
    table::{Align, Table},
    text::{self, Line, Span, Style},
};
use serde::Serialize;
use std::{collections::BTreeMap, process::ExitCode};

/// One who calls another.
#[derive(Debug, Default, Serialize)]
struct Edge {
    rps: f64,
    requests: u64,
    success: u64,
    failed: u64,
}

/// From whom to whom, and how it is protected.
type Key = (String, String, String);

/// `remora edges`.
pub(crate) fn edges(admin: &Admin, look: Look) -> ExitCode {
    finish(block_on(async {
        let Asked { pods, silent } = ask(admin).await?;
        let (good, all) = (silent.is_empty(), added_up(&pods));
        if admin.output() == Output::Json {
            let json = |((from, to, tls), edge): (&Key, &Edge)| {
                serde_json::json!({ "from": from, "to": to, "tls": tls, "rps": edge.rps, "requests": edge.requests,
                                    "success": edge.success, "failed": edge.failed })
            };
            return pretty(&all.iter().map(json).collect::<Vec<_>>(), good);
        }
        let mut lines = silent;
        lines.extend(table(&all));
        Ok((text::render(&lines, look.coloured), good))
    }))
}

/// What came in is counted at the server, and what went out at the client: an edge within the mesh is seen by both, and shown as its server
/// saw it if both were asked.
fn added_up(pods: &[Signals]) -> BTreeMap<Key, Edge> {
    let mut all: BTreeMap<Key, Edge> = BTreeMap::new();
    for inbound in [true, false] {
        let mut seen: BTreeMap<Key, Edge> = BTreeMap::new();
        for pod in pods {
            for edge in &pod.edges {
                let Some(route) = pod.routes.iter().find(|route| route.id == edge.route) else { continue };
                if (route.direction == "inbound") != inbound {
                    continue;
                }
                let key = match inbound {
                    true => (short(&edge.peer, &pod.identity), route.parent.clone(), edge.tls.clone()),
                    false => (short(&pod.identity, &pod.identity), route.parent.clone(), edge.tls.clone()),
                };
                let sum = seen.entry(key).or_default();
                sum.rps += edge.rps;
                sum.requests += edge.requests;
                sum.success += edge.success;
                sum.failed += edge.failures.values().sum::<u64>();
            }
        }
        for (key, edge) in seen {
            all.entry(key).or_insert(edge);
        }
    }
    all
}

fn table(all: &BTreeMap<Key, Edge>) -> Vec<Line> {
    use Align::{Left, Right};
    if all.is_empty() {
        return vec![Line::of(Style::Faint, "nobody has called anybody yet")];
    }
    let mut table = Table::new(&[
        ("FROM", Left),
        ("TO", Left),
        ("PROTECTED", Left),
        ("REQ/S", Right),
        ("SUCCESS", Right),
        ("REQUESTS", Right),
    ]);
    for ((from, to, tls), edge) in all {
        let style = if tls == "mtls" { Style::Good } else { Style::Warn };
        table.row([
            from.as_str().into(),
            to.as_str().into(),
            Span::new(style, tls),
            format!("{:.1}", edge.rps).into(),
            share(edge.success, edge.failed),
            edge.requests.to_string().into(),
        ]);
    }
    table.lines(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, direction: &str, peer: &str, requests: u64) -> Signals {
        let window = serde_json::json!({"rps": 0.0, "requests": 0, "failed": 0});
        let identity = format!("spiffe://cluster.local/ns/shop/sa/{name}");
        serde_json::from_value(serde_json::json!({
            "pod": format!("shop/{name}-1"), "identity": identity, "version": "1", "uptime_s": 1.0,
            "routes": [{"id": 1, "direction": direction, "parent": "shop/api:80", "route": "GET /", "failures": {}, "retries": 0,
                        "in_flight": 0, "s10": window, "m1": window, "m5": window, "m15": window, "before": null,
                        "time": {"before_ms": 0.0, "connect_ms": 0.0, "server_ms": 0.0, "after_ms": 0.0}}],
            "edges": [{"route": 1, "peer": peer, "tls": "mtls", "requests": requests, "success": requests, "failures": {}, "rps": 1.0}],
            "backends": [], "discovery": {"state": "open", "for_ms": 1}, "saturation": {"memory_bytes": 1, "memory_limit_bytes": 1},
        }))
        .unwrap()
    }

    #[test]
    fn an_edge_that_both_ends_saw_is_shown_once() {
        let web = "spiffe://cluster.local/ns/shop/sa/web";
        let api = "spiffe://cluster.local/ns/shop/sa/api";
        let all = added_up(&[
            pod("api", "inbound", web, 7),
            pod("web", "outbound", api, 8),
            pod("batch", "outbound", api, 3),
        ]);
        let shown: Vec<_> =
            all.iter().map(|((from, to, _), edge)| (from.as_str(), to.as_str(), edge.requests)).collect();
        assert_eq!(shown, [("shop/batch", "shop/api:80", 3), ("shop/web", "shop/api:80", 7)]);
    }
}
