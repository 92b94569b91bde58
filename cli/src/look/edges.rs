//! `remora edges`: who calls whom, how it is protected, and how it goes.

use super::{
    ask::{Asking, Silent},
    model::Signals,
    short,
    watch::{Drawn, Shown, Watch, json},
};
use crate::{
    Look, block_on,
    cluster::{ControlPlane, scope::Scope},
    finish_as,
    output::{Output, WideOutput},
    signals::share,
    table::{Align, Table},
    text::{Line, Span, Style},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

/// What `remora edges` is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct EdgesArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    control_plane: ControlPlane,
    #[command(flatten)]
    watch: Watch,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: WideOutput,
}

/// One who calls another.
#[derive(Debug, Default)]
struct Edge {
    rps: f64,
    requests: u64,
    success: u64,
    failed: u64,
    bytes_in: u64,
    bytes_out: u64,
    protocols: BTreeSet<String>,
}

/// From whom to whom, and how it is protected.
type Key = (String, String, String);

/// `remora edges`.
pub(crate) fn edges(args: &EdgesArgs, look: Look) -> ExitCode {
    finish_as(
        args.output.into(),
        block_on(async {
            let asking = Asking::of(&args.scope, &args.control_plane).await?;
            args.watch.run(look, async || shown(args, &asking).await).await
        }),
    )
}

async fn shown(args: &EdgesArgs, asking: &Asking<'_>) -> Drawn {
    let mut seen = Seen { whole: args.output.wide(), ..Seen::default() };
    let silent = asking.signals(|_, signals| seen.add(&signals)).await?;
    let (good, all) = (silent.is_empty(), seen.merged());
    if Output::from(args.output) == Output::Json {
        let edge = |((from, to, tls), edge): (&Key, &Edge)| {
            serde_json::json!({ "from": from, "to": to, "tls": tls, "protocols": edge.protocols, "rps": edge.rps, "requests": edge.requests,
                                "success": edge.success, "failed": edge.failed, "bytes_in": edge.bytes_in, "bytes_out": edge.bytes_out })
        };
        let edges: Vec<_> = all.iter().map(edge).collect();
        return json(&serde_json::json!({ "edges": edges, "silent": silent }), good);
    }
    let mut lines: Vec<_> = silent.iter().map(Silent::line).collect();
    lines.extend(table(&all, args.output.wide()));
    Ok((Shown::Lines(lines), good))
}

/// What came in is counted at the server, and what went out at the client: an edge within the mesh is seen by both, and shown as its server
/// saw it if both were asked.
#[derive(Debug, Default)]
struct Seen {
    inbound: BTreeMap<Key, Edge>,
    outbound: BTreeMap<Key, Edge>,
    /// Whole SPIFFE IDs.
    whole: bool,
}

impl Seen {
    fn add(&mut self, pod: &Signals) {
        for edge in &pod.edges {
            let Some(route) = pod.routes.iter().find(|route| route.id == edge.route) else { continue };
            let (seen, from) = match route.direction.as_str() {
                "inbound" => (&mut self.inbound, &edge.peer),
                _ => (&mut self.outbound, &pod.identity),
            };
            let from = match self.whole && !from.is_empty() {
                true => from.clone(),
                false => short(from, &pod.identity),
            };
            let sum = seen.entry((from, route.parent.clone(), edge.tls.clone())).or_default();
            sum.rps += edge.rps;
            sum.requests += edge.requests;
            sum.success += edge.success;
            sum.failed += edge.failures.values().sum::<u64>();
            sum.bytes_in += edge.bytes_in;
            sum.bytes_out += edge.bytes_out;
            if !edge.protocol.is_empty() {
                sum.protocols.insert(edge.protocol.clone());
            }
        }
    }

    fn merged(self) -> BTreeMap<Key, Edge> {
        let mut all = self.inbound;
        for (key, edge) in self.outbound {
            all.entry(key).or_insert(edge);
        }
        all
    }
}

fn table(all: &BTreeMap<Key, Edge>, wide: bool) -> Vec<Line> {
    use Align::{Left, Right};
    if all.is_empty() {
        return vec![Line::of(Style::Faint, "nobody has called anybody yet")];
    }
    let mut columns = vec![("FROM", Left), ("TO", Left), ("PROTECTED", Left), ("REQ/S", Right), ("SUCCESS", Right)];
    columns.push(("REQUESTS", Right));
    if wide {
        columns.extend([("PROTOCOL", Left), ("BYTES IN", Right), ("BYTES OUT", Right)]);
    }
    let mut table = Table::new(&columns);
    for ((from, to, tls), edge) in all {
        let style = if tls == "mtls" { Style::Good } else { Style::Warn };
        let mut cells = vec![
            from.as_str().into(),
            to.as_str().into(),
            Span::new(style, tls),
            format!("{:.1}", edge.rps).into(),
            share(edge.success, edge.failed),
            edge.requests.to_string().into(),
        ];
        if wide {
            let protocols: Vec<_> = edge.protocols.iter().map(String::as_str).collect();
            cells.extend([
                protocols.join(",").into(),
                edge.bytes_in.to_string().into(),
                edge.bytes_out.to_string().into(),
            ]);
        }
        table.row(cells);
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
    fn an_edge_that_both_ends_saw_is_shown_once_in_whatever_order_they_were_asked() {
        let web = "spiffe://cluster.local/ns/shop/sa/web";
        let api = "spiffe://cluster.local/ns/shop/sa/api";
        let pods = [pod("api", "inbound", web, 7), pod("web", "outbound", api, 8), pod("batch", "outbound", api, 3)];
        for order in [[0, 1, 2], [1, 2, 0], [2, 1, 0]] {
            let mut seen = Seen::default();
            order.iter().for_each(|at| seen.add(&pods[*at]));
            let all = seen.merged();
            let shown: Vec<_> =
                all.iter().map(|((from, to, _), edge)| (from.as_str(), to.as_str(), edge.requests)).collect();
            assert_eq!(shown, [("shop/batch", "shop/api:80", 3), ("shop/web", "shop/api:80", 7)]);
        }
    }

    #[test]
    fn wide_names_whole_identities() {
        let mut seen = Seen { whole: true, ..Seen::default() };
        seen.add(&pod("api", "inbound", "spiffe://cluster.local/ns/shop/sa/web", 7));
        let shown: Vec<_> = table(&seen.merged(), true).iter().map(|line| line.render(false)).collect();
        assert!(
            shown[1].starts_with("spiffe://cluster.local/ns/shop/sa/web") && shown[0].contains("BYTES IN"),
            "{shown:?}"
        );
    }
}
