//! `remora diagnose`: what is odd in a pod's proxy, in words, before everything that it holds.

use super::{
    ask::{Asking, Silent},
    endpoints,
    model::{Backend, Route, Signals, Sum},
    state::{self, State},
};
use crate::{
    Look, Outcome, admin, block_on,
    cluster::{
        ControlPlane, FORWARDS_MAX,
        policies::Holds,
        scope::{Found, Scope},
    },
    finish_as,
    inspect::{pretty, span},
    output::Output,
    signals::millis,
    text::{self, Line, Style},
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

/// A share of the memory's limit, or of a worker's thread, from which on it is odd.
const NEARLY_FULL: f64 = 0.8;
/// So many pods are looked at page by page; of more, their signals alone unless everything is asked for.
const CLOSE_MAX: usize = 16;

/// What `remora diagnose` is asked.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The exit code is 1 if anything is odd. Of more than 16 pods the signals alone are judged, unless --full or -o json asks for all."
)]
pub(crate) struct DiagnoseArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    control_plane: ControlPlane,
    /// Everything that the proxy holds too: settings, certificate, limits, policies, routes, endpoints, failures
    #[arg(long)]
    full: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// `remora diagnose`.
pub(crate) fn diagnose(args: &DiagnoseArgs, look: Look) -> ExitCode {
    finish_as(args.output, block_on(run(args, look)))
}

async fn run(args: &DiagnoseArgs, look: Look) -> Outcome {
    let session = args.scope.open().await?;
    let found = session.find().await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if found.len() > CLOSE_MAX && !args.full && args.output == Output::Text {
        return from_afar(args, look).await;
    }
    if let Some(address) = args.scope.address() {
        // Nothing else is worth saying than why it could not be asked.
        admin::get(address, "/live").await?;
    }
    let asked = found.into_iter().map(|Found { name, namespace, admin, .. }| {
        let cluster = session.cluster.as_ref();
        async move { (name, state::read(&admin, &namespace, cluster).await) }
    });
    let all: Vec<(String, Result<State, admin::Error>)> = stream::iter(asked).buffered(FORWARDS_MAX).collect().await;
    let mut good = true;
    let (mut lines, mut values) = (Vec::new(), Vec::new());
    for (name, answer) in all {
        match answer {
            Ok(state) => {
                let odd = [oddities(&state.signals), of_state(&state, now)].concat();
                good &= odd.is_empty();
                values.push(value(&state, &odd));
                lines.extend(shown(&state.signals, &odd));
                if args.full {
                    lines.extend(state.lines(now));
                } else if !state.signals.backends.is_empty() {
                    lines.extend(endpoints::rows(&state.signals.backends, false));
                }
                lines.push(Line::default());
            }
            Err(error) => {
                good = false;
                let silent = Silent { pod: name, error: crate::chain(&error) };
                lines.push(silent.line());
                values.push(json!(silent));
            }
        }
    }
    match args.output {
        Output::Json => pretty(&values, good),
        Output::Text => Ok((text::render(&lines, look.coloured), good)),
    }
}

/// Many pods, by what they say to who asks them all: only those where something is odd are shown.
async fn from_afar(args: &DiagnoseArgs, look: Look) -> Outcome {
    let asking = Asking::of(&args.scope, &args.control_plane).await?;
    let (mut odd, mut well) = (Vec::new(), 0_usize);
    let silent = asking
        .signals(|_, signals| match oddities(&signals) {
            found if found.is_empty() => well += 1,
            found => odd.push((signals, found)),
        })
        .await?;
    odd.sort_by(|(a, _), (b, _)| a.pod.cmp(&b.pod));
    let good = silent.is_empty() && odd.is_empty();
    let mut lines: Vec<_> = silent.iter().map(Silent::line).collect();
    odd.iter().for_each(|(signals, odd)| lines.extend(shown(signals, odd)));
    let judged = "by their signals; name a pod for its certificate, settings and policies";
    lines.push(
        Line::of(Style::Good, format!("in {well} pods nothing is odd")).and(Style::Faint, format!(" ({judged})")),
    );
    Ok((text::render(&lines, look.coloured), good))
}

fn value(state: &State, odd: &[String]) -> Value {
    let signals = &state.signals;
    json!({ "pod": signals.pod, "identity": signals.identity, "version": signals.version, "odd": odd, "state": state.json() })
}

fn shown(pod: &Signals, odd: &[String]) -> Vec<Line> {
    let up = span(pod.uptime_s.clamp(0.0, 1e9) as u64);
    let mut lines = vec![
        Line::of(Style::Strong, &pod.pod)
            .and(Style::Faint, format!("  {}  version {}, up {up}", pod.identity, pod.version)),
    ];
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
    lines
}

/// What counts in the metrics that should be zero, and what it means.
const COUNTED: [(&str, &str); 6] = [
    (
        "remora_discovery_nacks_total",
        "updates from discovery could not be read; the state before them is in force: are discovery and this proxy of versions that know each other?",
    ),
    (
        "remora_discovery_closed_rules_total",
        "rules could not be read and are closed: those routes answer 500, those deny rules deny; `remora check` names the policies",
    ),
    ("remora_discovery_full_total", "destinations could not be followed, for as many as the proxy may hold are in use"),
    (
        "remora_certificate_renewal_failures_total",
        "attempts to renew the certificate failed; look at the log of deploy/remora-identity",
    ),
    ("remora_discovery_ports_refused_total", "connections were refused because the policy of their port is unknown"),
    ("remora_access_log_dropped_total", "lines of the access log were dropped: whoever reads the log is too slow"),
];

/// What its other pages say that should not be so.
pub(super) fn of_state(state: &State, now: u64) -> Vec<String> {
    let mut odd: Vec<String> = state.waits.iter().map(|why| format!("it is not ready: {why}")).collect();
    match &state.certificate {
        None => odd.push("it has no certificate: `remora identity` says why".to_owned()),
        Some(it) if !it.holds(now) => {
            odd.push(format!("its certificate is not valid: it ended {} ago", span(now.saturating_sub(it.not_after))));
        }
        // It is renewed at a third of its life.
        Some(it) if it.not_after - now < (it.not_after - it.not_before) / 3 => odd.push(format!(
            "the renewal of its certificate is overdue, {} are left: can it reach remora-identity?",
            span(it.not_after - now)
        )),
        Some(_) => {}
    }
    let counted = COUNTED.iter().filter_map(|(name, what)| {
        let count = state.metrics.get(*name).filter(|count| **count > 0.0)?;
        Some(format!("since the start {count} {what}"))
    });
    odd.extend(counted);
    let log = state.page("/config").and_then(|config| config["log"].as_str()).unwrap_or_default();
    if log.contains("debug") || log.contains("trace") {
        odd.push(format!("its log level is {log:?}, which costs processor time: `remora.dev/log-level` sets it"));
    }
    for policy in state.policies.iter().flatten().flatten() {
        if let Holds::No(why) = &policy.holds {
            odd.push(format!("{} of its namespace does not hold as it was meant: {why}", policy.title));
        }
    }
    odd
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
    if saturation.workers_silent > 0 {
        odd.push(format!(
            "{} workers did not say in time what they hold: they are busy, or stuck",
            saturation.workers_silent
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
        odd.extend(slow_ones(backend));
    }
    odd.extend(pod.routes.iter().flat_map(of_route));
    odd
}

/// Endpoints whose latency is three times that of the others, and 5 ms more: what the page calls slow.
fn slow_ones(backend: &Backend) -> Vec<String> {
    let ready = || backend.endpoints.iter().filter(|endpoint| endpoint.state == "ready");
    let slow = ready().filter_map(|endpoint| {
        let latency = endpoint.latency_ms?;
        let mut others: Vec<f64> =
            ready().filter(|other| other.address != endpoint.address).filter_map(|other| other.latency_ms).collect();
        others.sort_by(f64::total_cmp);
        let usual = *others.get(others.len() / 2)?;
        let pod = if endpoint.pod.is_empty() { String::new() } else { format!(" ({})", endpoint.pod) };
        (latency > 3.0 * usual && latency > usual + 5.0).then(|| {
            format!(
                "{}{pod} of {} takes {latency:.1} ms, the others {usual:.1}: it is that pod or its node, as the others answer sooner",
                endpoint.address, backend.name
            )
        })
    });
    slow.collect()
}

/// So many of a hundred requests of a route that policy may deny before it is odd.
const DENIED_PERCENT: u64 = 1;

fn of_route(route: &Route) -> Vec<String> {
    let name = format!("{} {} {}", route.direction, route.parent, route.route);
    let (mut now, mut before) = (Sum::default(), Sum::default());
    now.add(&route.m1);
    if let Some(window) = &route.before {
        before.add(window);
    }
    let mut odd = Vec::new();
    let denied = route.failures.get("denied").copied().unwrap_or_default();
    if route.m1.requests > 0 && denied * 100 >= route.requests.max(1) * DENIED_PERCENT {
        let whose = if route.direction == "outbound" { "of this pod's requests" } else { "requests" };
        odd.push(format!(
            "{name}: policy denied {denied} {whose} since the start, of {}: the caller should not ask, or a policy lacks it; `remora tap --filter reason=denied` shows them",
            route.requests
        ));
    }
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
    use crate::admin::Certificate;
    use std::collections::BTreeMap;

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
        let troubles: [(Trouble, &str); 10] = [
            (|pod| pod["discovery"]["state"] = json!("lost"), "the stream to discovery is lost for 1 s"),
            (|pod| pod["saturation"]["memory_bytes"] = json!(81), "memory is 81 % of its limit"),
            (|pod| pod["saturation"]["workers"] = json!([0.1, 0.95]), "worker 1 is busy 95 %"),
            (
                |pod| {
                    let like = pod["backends"][0]["endpoints"][0].clone();
                    let endpoint = |number: u32, latency: f64| {
                        let mut one = like.clone();
                        (one["address"], one["state"]) = (json!(format!("10.0.0.{number}:80")), json!("ready"));
                        one["latency_ms"] = json!(latency);
                        one
                    };
                    pod["backends"][0]["endpoints"] = json!([endpoint(1, 0.8), endpoint(2, 18.9), endpoint(3, 0.9)]);
                },
                "10.0.0.2:80",
            ),
            (
                |pod| {
                    (pod["routes"][0]["requests"], pod["routes"][0]["failures"]) = (json!(100), json!({"denied": 40}));
                },
                "policy denied 40 requests since the start, of 100",
            ),
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

    fn state(change: impl FnOnce(&mut State)) -> State {
        let certificate =
            Certificate { identity: "spiffe://a".to_owned(), not_before: 0, not_after: 900, generation: 1, anchors: 1 };
        let mut state = State {
            signals: pod(|_| ()),
            pages: BTreeMap::from([("/config", Ok(json!({ "log": "info" })))]),
            certificate: Some(certificate),
            waits: Vec::new(),
            metrics: BTreeMap::new(),
            policies: Some(Ok(Vec::new())),
        };
        change(&mut state);
        state
    }

    #[test]
    fn what_a_proxy_holds_is_judged_with_what_it_does() {
        type Trouble = fn(&mut State);
        let troubles: [(Trouble, &str); 6] = [
            (|it| it.waits.push("discovery: no answer yet".to_owned()), "it is not ready: discovery: no answer yet"),
            (|it| it.certificate = None, "it has no certificate"),
            (|it| it.certificate.as_mut().unwrap().not_after = 99, "it ended 1 s ago"),
            (|it| it.certificate.as_mut().unwrap().not_after = 120, "overdue, 20 s are left"),
            (|it| _ = it.metrics.insert("remora_discovery_nacks_total".to_owned(), 2.0), "since the start 2 updates"),
            (|it| _ = it.pages.insert("/config", Ok(json!({ "log": "debug" }))), "its log level is \"debug\""),
        ];
        assert_eq!(of_state(&state(|_| ()), 100), Vec::<String>::new());
        for (trouble, expected) in troubles {
            let odd = of_state(&state(trouble), 100);
            assert!(odd.len() == 1 && odd[0].contains(expected), "no {expected:?} in {odd:?}");
        }
    }

    #[test]
    fn everything_is_shown_and_what_could_not_be_read_says_so() {
        let it = state(|it| _ = it.pages.insert("/routes", Err("no answer within 8 s".to_owned())));
        let shown = text::render(&it.lines(100), false);
        for expected in [
            "settings",
            "log                       info",
            "13 min 20 s left",
            "no answer within 8 s",
            "shop/db:80",
            "policies",
        ] {
            assert!(shown.contains(expected), "no {expected:?} in {shown}");
        }
        let value = value(&it, &[]);
        assert_eq!(value["state"]["config"]["log"], "info");
        assert_eq!(value["state"]["routes"]["error"], "no answer within 8 s");
        assert_eq!(value["state"]["backends"][0]["name"], "shop/db:80");
    }
}
