//! `remora endpoints`: the endpoints that pods send to, as each proxy sees them: load, latency, and which are out of rotation and why.

use super::{Asked, ask, model::Endpoint};
use crate::{
    Look, block_on, finish,
    inspect::{Admin, Output, pretty},
    signals::millis,
    table::{Align, Table},
    text::{self, Line, Span, Style},
};
use std::process::ExitCode;

/// `remora endpoints`.
pub(crate) fn endpoints(admin: &Admin, look: Look) -> ExitCode {
    finish(block_on(async {
        if admin.output() == Output::Json {
            let all = admin.pages::<serde_json::Value>("/signals").await?;
            let good = all.iter().all(|(_, answer)| answer.is_ok());
            let shown: Vec<_> = all
                .into_iter()
                .map(|(pod, answer)| match answer {
                    Ok(signals) => serde_json::json!({ "pod": pod, "backends": signals["backends"] }),
                    Err(error) => serde_json::json!({ "pod": pod, "error": error }),
                })
                .collect();
            return pretty(&shown, good);
        }
        let Asked { pods, silent } = ask(admin).await?;
        let good = silent.is_empty();
        let mut lines = silent;
        for pod in pods {
            lines.push(Line::of(Style::Strong, &pod.pod));
            if pod.backends.is_empty() {
                lines.push(Line::of(Style::Faint, "  sends to no Service now"));
                continue;
            }
            lines.extend(rows(&pod.backends));
        }
        Ok((text::render(&lines, look.coloured), good))
    }))
}

pub(super) fn rows(backends: &[super::model::Backend]) -> Vec<Line> {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("  ENDPOINT", Left),
        ("POD", Left),
        ("ZONE", Left),
        ("STATE", Left),
        ("OPEN", Right),
        ("LATENCY", Right),
        ("TRIES", Right),
        ("FAILED", Right),
        ("LAST FAILURE", Left),
    ]);
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
            table.row([
                format!("  {}", endpoint.address).into(),
                endpoint.pod.as_str().into(),
                endpoint.zone.as_str().into(),
                state(endpoint),
                endpoint.in_flight.to_string().into(),
                endpoint.latency_ms.map_or_else(|| "-".to_owned(), millis).into(),
                endpoint.requests.to_string().into(),
                endpoint.failures.to_string().into(),
                last(endpoint).into(),
            ]);
        }
    }
    table.lines(usize::MAX)
}

/// Whether it is in rotation, and if not, why and for how long.
pub(super) fn state(endpoint: &Endpoint) -> Span {
    match (endpoint.state.as_str(), &endpoint.why, endpoint.for_ms) {
        ("ready", ..) => Span::new(Style::Good, "ready"),
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
    use super::{
        super::model::{Backend, LastFailure},
        *,
    };

    #[test]
    fn an_endpoint_that_is_out_of_rotation_says_why_and_until_when() {
        let endpoint = |state: &str, why: Option<&str>, for_ms| Endpoint {
            address: "10.0.0.1:80".to_owned(),
            pod: "api-1".to_owned(),
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
        let shown =
            text::render(&rows(&[backend(vec![endpoint("ready", None, None), ejected]), backend(Vec::new())]), false);
        for expected in [
            "shop/api:80  peak_ewma, 1 of 10 open, 2.5 retries left",
            "ejected: unreachable, probed in 2",
            "timeout 1 min 5 s ago",
            "it has no endpoints",
        ] {
            assert!(shown.contains(expected), "no {expected:?} in {shown}");
        }
    }
}
