//! `remora endpoints`: the endpoints that pods send to, as each proxy sees them: load, latency, and which are out of rotation and why.

use super::{
    ask::{Asking, Silent},
    model::{Backend, Endpoint},
    watch::{Drawn, Shown, Watch, json},
};
use crate::{
    Look, block_on,
    cluster::{ControlPlane, scope::Scope},
    finish_as,
    output::{Output, WideOutput},
    signals::millis,
    table::{Align, Table},
    text::{Line, Span, Style},
};
use serde_json::{Value, json as value};
use std::{collections::BTreeMap, process::ExitCode};

/// What `remora endpoints` is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct EndpointsArgs {
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

/// `remora endpoints`.
pub(crate) fn endpoints(args: &EndpointsArgs, look: Look) -> ExitCode {
    finish_as(
        args.output.into(),
        block_on(async {
            let asking = Asking::of(&args.scope, &args.control_plane).await?;
            args.watch.run(look, async || shown(args, &asking).await).await
        }),
    )
}

async fn shown(args: &EndpointsArgs, asking: &Asking<'_>) -> Drawn {
    let mut pods: BTreeMap<String, Vec<Backend>> = BTreeMap::new();
    let silent = asking
        .signals(|_, signals| {
            pods.insert(signals.pod, signals.backends);
        })
        .await?;
    let good = silent.is_empty();
    if Output::from(args.output) == Output::Json {
        let said = pods.iter().map(|(pod, backends)| value!({ "pod": pod, "backends": backends }));
        let all: Vec<Value> = said.chain(silent.iter().map(|it| value!(it))).collect();
        return json(&all, good);
    }
    let mut lines: Vec<_> = silent.iter().map(Silent::line).collect();
    for (pod, backends) in pods {
        lines.push(Line::of(Style::Strong, pod));
        if backends.is_empty() {
            lines.push(Line::of(Style::Faint, "  sends to no Service now"));
            continue;
        }
        lines.extend(rows(&backends, args.output.wide()));
    }
    Ok((Shown::Lines(lines), good))
}

/// A line for each backend, and a row for each of its endpoints.
pub(super) fn rows(backends: &[Backend], wide: bool) -> Vec<Line> {
    use Align::{Left, Right};
    let mut columns = vec![
        ("  ENDPOINT", Left),
        ("POD", Left),
        ("ZONE", Left),
        ("STATE", Left),
        ("OPEN", Right),
        ("LATENCY", Right),
        ("TRIES", Right),
        ("FAILED", Right),
        ("LAST FAILURE", Left),
    ];
    if wide {
        columns.push(("IDENTITY", Left));
    }
    let mut table = Table::new(&columns);
    for backend in backends {
        let (name, balancer, budget) = (&backend.name, &backend.balancer, backend.budget);
        let open = format!("{} of {} open", backend.in_flight, backend.in_flight_max);
        table.across(
            Line::of(Style::Strong, name).and(Style::Faint, format!("  {balancer}, {open}, {budget} retries left")),
        );
        if backend.endpoints.is_empty() {
            table.across(Line::of(Style::Bad, "  it has no endpoints"));
        }
        for endpoint in &backend.endpoints {
            let mut cells = vec![
                Span::from(format!("  {}", endpoint.address)),
                endpoint.pod.as_str().into(),
                endpoint.zone.as_str().into(),
                state(endpoint),
                endpoint.in_flight.to_string().into(),
                endpoint.latency_ms.map_or_else(|| "-".to_owned(), millis).into(),
                endpoint.requests.to_string().into(),
                endpoint.failures.to_string().into(),
                last(endpoint).into(),
            ];
            if wide {
                cells.push(endpoint.identity.as_str().into());
            }
            table.row(cells);
        }
    }
    table.lines(usize::MAX)
}

/// Whether it is in rotation, and if not, why and for how long.
pub(super) fn state(endpoint: &Endpoint) -> Span {
    match (endpoint.state.as_str(), &endpoint.why, endpoint.for_ms) {
        ("ready", ..) => Span::new(Style::Good, "ready"),
        ("limited", _, ms) => {
            let ms = ms.unwrap_or_default();
            Span::new(Style::Bad, format!("limited: passed over for {}", millis(ms as f64)))
        }
        (state, Some(why), Some(ms)) if ms > 0 => {
            Span::new(Style::Bad, format!("{state}: {why}, probed in {}", millis(ms as f64)))
        }
        (state, Some(why), _) => Span::new(Style::Bad, format!("{state}: {why}, next request probes it")),
        (state, ..) => Span::new(Style::Bad, state),
    }
}

fn last(endpoint: &Endpoint) -> String {
    let said = |failure: &super::model::LastFailure| {
        format!("{} {} ago", failure.reason, crate::inspect::span(failure.ago_ms / 1000))
    };
    endpoint.last_failure.as_ref().map_or_else(String::new, said)
}

#[cfg(test)]
mod tests {
    use super::{super::model::LastFailure, *};
    use crate::text;

    #[test]
    fn an_endpoint_that_is_out_of_rotation_says_why_and_until_when() {
        let endpoint = |state: &str, why: Option<&str>, for_ms| Endpoint {
            address: "10.0.0.1:80".to_owned(),
            pod: "api-1".to_owned(),
            identity: "spiffe://a/ns/shop/sa/api".to_owned(),
            zone: String::new(),
            state: state.to_owned(),
            why: why.map(str::to_owned),
            for_ms,
            in_flight: 1,
            latency_ms: Some(1.5),
            requests: 10,
            failures: 2,
            last_failure: Some(LastFailure { reason: "timeout".to_owned(), ago_ms: 65_000 }),
        };
        let backend = |endpoints| Backend {
            name: "shop/api:80".to_owned(),
            balancer: "peak_ewma".to_owned(),
            in_flight: 1,
            in_flight_max: 10,
            budget: 2.5,
            endpoints,
        };
        let ejected = endpoint("ejected", Some("unreachable"), Some(2000));
        let limited = endpoint("limited", Some("rate_limited"), Some(2000));
        assert!(format!("{:?}", state(&limited)).contains("limited: passed over for 2"), "{:?}", state(&limited));
        let shown = rows(&[backend(vec![endpoint("ready", None, None), ejected]), backend(Vec::new())], true);
        let shown = text::render(&shown, false);
        for expected in [
            "shop/api:80  peak_ewma, 1 of 10 open, 2.5 retries left",
            "ejected: unreachable, probed in 2",
            "timeout 1 min 5 s ago",
            "it has no endpoints",
            "spiffe://a/ns/shop/sa/api",
        ] {
            assert!(shown.contains(expected), "no {expected:?} in {shown}");
        }
    }
}
