//! `remora diagnose`: what is odd in a pod's proxy, in words, before everything that it holds.

use super::{
    Asked, ask, endpoints,
    model::{Signals, Sum},
};
use crate::{
    Look, block_on, finish,
    inspect::{Admin, Output, pretty, span},
    signals::millis,
    text::{self, Line, Style},
};
use std::process::ExitCode;

/// A share of the memory's limit, or of a worker's thread, from which on it is odd.
const NEARLY_FULL: f64 = 0.8;

/// `remora diagnose`.
pub(crate) fn diagnose(admin: &Admin, look: Look) -> ExitCode {
    finish(block_on(async {
        let Asked { pods, silent } = ask(admin).await?;
        let good = silent.is_empty() && pods.iter().all(|pod| oddities(pod).is_empty());
        if admin.output() == Output::Json {
            let json =
                |pod: &Signals| serde_json::json!({ "pod": pod.pod, "version": pod.version, "odd": oddities(pod) });
            return pretty(&pods.iter().map(json).collect::<Vec<_>>(), good);
        }
        let mut lines = silent;
        for pod in &pods {
            lines.extend(shown(pod));
        }
        Ok((text::render(&lines, look.coloured), good))
    }))
}

fn shown(pod: &Signals) -> Vec<Line> {
    let up = span(pod.uptime_s.clamp(0.0, 1e9) as u64);
    let mut lines = vec![
        Line::of(Style::Strong, &pod.pod)
            .and(Style::Faint, format!("  {}  version {}, up {up}", pod.identity, pod.version)),
    ];
    let odd = oddities(pod);
    if odd.is_empty() {
        lines.push(Line::of(Style::Good, "  nothing is odd"));
    }
    lines.extend(odd.iter().map(|it| Line::of(Style::Bad, format!("  ! {it}"))));
    let memory = pod.saturation.memory_bytes.unwrap_or_default() as f64 / f64::from(1 << 20);
    let limit = pod.saturation.memory_limit_bytes as f64 / f64::from(1 << 20);
    lines.push(Line::of(
        Style::Plain,
        format!(
            "  memory {memory:.0} of {limit:.0} MiB, processor {:.1} %, discovery {} for {}",
            pod.saturation.cpu * 100.0,
            pod.discovery.state,
            span(pod.discovery.for_ms / 1000)
        ),
    ));
    if !pod.backends.is_empty() {
        lines.extend(endpoints::rows(&pod.backends));
    }
    lines.push(Line::default());
    lines
}

/// Each thing that should not be so, with its figure and its window.
fn oddities(pod: &Signals) -> Vec<String> {
    let mut odd = Vec::new();
    if pod.discovery.state != "open" {
        odd.push(format!(
            "the stream to discovery is {} for {}: known traffic goes on as it was told last, changes do not arrive; look at `remora check`",
            pod.discovery.state,
            span(pod.discovery.for_ms / 1000)
        ));
    }
    let saturation = &pod.saturation;
    let memory = saturation.memory_bytes.unwrap_or_default() as f64 / saturation.memory_limit_bytes.max(1) as f64;
    if memory >= NEARLY_FULL {
        odd.push(format!("memory is {:.0} % of its limit: requests will be shed as `overloaded`", memory * 100.0));
    }
    for (number, busy) in saturation.workers.iter().enumerate().filter(|(_, busy)| **busy >= NEARLY_FULL) {
        odd.push(format!(
            "worker {number} is busy {:.0} % of the last ten seconds: give the proxy more processor",
            busy * 100.0
        ));
    }
    for backend in &pod.backends {
        if backend.endpoints.is_empty() {
            odd.push(format!(
                "{} has no endpoints: look at its Service's selector and the readiness of its pods",
                backend.name
            ));
        }
        if backend.in_flight * 10 >= backend.in_flight_max * 8 {
            odd.push(format!("{} has {} of {} requests open", backend.name, backend.in_flight, backend.in_flight_max));
        }
        if backend.budget < 1.0 {
            odd.push(format!("{} has no retry left in its budget", backend.name));
        }
        for endpoint in backend.endpoints.iter().filter(|endpoint| endpoint.state != "ready") {
            let why = endpoint.why.as_deref().unwrap_or("unknown");
            odd.push(format!("{} of {} is {}: {why}", endpoint.address, backend.name, endpoint.state));
        }
    }
    odd.extend(pod.routes.iter().flat_map(of_route));
    odd
}

fn of_route(route: &super::model::Route) -> Vec<String> {
    let name = format!("{} {} {}", route.direction, route.parent, route.route);
    let (mut now, mut before) = (Sum::default(), Sum::default());
    now.add(&route.m1);
    if let Some(window) = &route.before {
        before.add(window);
    }
    let mut odd = Vec::new();
    if let Some(errors) = now.errors().filter(|errors| *errors >= 0.01) {
        let why = route.failures.iter().max_by_key(|(_, count)| **count).map_or("", |(reason, _)| reason);
        odd.push(format!(
            "{name}: {:.1} % of {} requests failed in the last minute; most since the start for {why}",
            errors * 100.0,
            now.requests
        ));
    }
    if let Some((p99, then)) =
        now.quantile_ms(0.99).zip(before.quantile_ms(0.99)).filter(|(p99, then)| *p99 > 2.0 * then && *p99 > 5.0)
    {
        let time = &route.time;
        let parts = [
            ("the server", time.server_ms),
            ("this proxy (policy, queues, discovery, back-off)", time.before_ms),
            ("connecting", time.connect_ms),
            ("a client that reads slowly", time.after_ms),
        ];
        let (part, mean) = parts.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or_default();
        odd.push(format!(
            "{name}: p99 is {} in the last minute and was {} ten minutes ago; most of the time is {part} ({} in the mean)",
            millis(p99),
            millis(then),
            millis(mean)
        ));
    }
    odd
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(change: impl FnOnce(&mut Value)) -> Signals {
        let window = |requests: u64, failed: u64, ns: u64| json!({"rps": 1.0, "requests": requests, "failed": failed, "latencies_ns": [[ns, requests]]});
        let mut signals = json!({
            "pod": "shop/api-1", "identity": "spiffe://a/ns/shop/sa/api", "version": "1", "uptime_s": 100.0,
            "routes": [{"id": 1, "direction": "inbound", "parent": "shop/api:80", "route": "GET /", "failures": {"timeout": 3}, "retries": 0,
                        "in_flight": 0, "s10": window(10, 0, 1), "m1": window(100, 0, 2_000_000), "m5": window(1, 0, 1), "m15": window(1, 0, 1),
                        "before": window(100, 0, 2_000_000), "time": {"before_ms": 0.1, "connect_ms": 0.0, "server_ms": 30.0, "after_ms": 0.0}}],
            "edges": [],
            "backends": [{"name": "shop/db:80", "balancer": "peak_ewma", "in_flight": 1, "in_flight_max": 100, "budget": 5.0, "endpoints": [
                {"address": "10.0.0.1:80", "pod": "", "zone": "", "state": "ready", "why": null, "for_ms": null, "in_flight": 0,
                 "latency_ms": null, "requests": 0, "failures": 0, "last_failure": null}]}],
            "discovery": {"state": "open", "for_ms": 1000}, "saturation": {"cpu": 0.1, "workers": [0.1], "memory_bytes": 1, "memory_limit_bytes": 100},
        });
        change(&mut signals);
        serde_json::from_value(signals).unwrap()
    }

    #[test]
    fn a_pod_that_is_well_has_nothing_odd() {
        assert_eq!(oddities(&pod(|_| ())), Vec::<String>::new());
    }

    #[test]
    fn each_trouble_is_named_with_its_figure() {
        type Trouble = fn(&mut Value);
        let troubles: [(Trouble, &str); 8] = [
            (|pod| pod["discovery"]["state"] = json!("lost"), "the stream to discovery is lost for 1 s"),
            (|pod| pod["saturation"]["memory_bytes"] = json!(81), "memory is 81 % of its limit"),
            (|pod| pod["saturation"]["workers"] = json!([0.1, 0.95]), "worker 1 is busy 95 %"),
            (|pod| pod["backends"][0]["endpoints"] = json!([]), "shop/db:80 has no endpoints"),
            (|pod| pod["backends"][0]["in_flight"] = json!(80), "shop/db:80 has 80 of 100 requests open"),
            (|pod| pod["backends"][0]["budget"] = json!(0.5), "shop/db:80 has no retry left"),
            (
                |pod| pod["routes"][0]["m1"]["failed"] = json!(7),
                "7.0 % of 100 requests failed in the last minute; most since the start for timeout",
            ),
            (
                |pod| pod["routes"][0]["m1"]["latencies_ns"] = json!([[90_000_000, 100]]),
                "was 2.00ms ten minutes ago; most of the time is the server",
            ),
        ];
        for (trouble, expected) in troubles {
            let odd = oddities(&pod(trouble));
            assert!(odd.len() == 1 && odd[0].contains(expected), "no {expected:?} in {odd:?}");
        }
    }
}
