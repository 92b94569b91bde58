//! Reads running components' admin ports and prints them: `remora routes`, `remora identity`, and `remora check` of
//! addresses.
//!
//! In: addresses, or pods that are found and reached through the API server. Out: tables for people (coloured on a
//! terminal), or the ports' own JSON for scripts. It changes nothing.

use crate::{
    Look, Outcome,
    admin::{self, Certificate, Routes},
    block_on,
    cluster::{
        FORWARDS_MAX,
        scope::{Found, Scope},
    },
    finish_as,
    output::Output,
    signals::{SignalTable, arrow},
    sys,
    table::{Align, Table},
    text::{self, Line, Span, Style},
};
use futures_util::{StreamExt as _, stream};
use remora_runtime::utc::Utc;
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Where routes are shown that are not on a terminal: nothing is cut.
const PLAIN_WIDTH: usize = 400;

/// Whose admin port to ask, and how to print what it says.
#[derive(Debug, clap::Args)]
pub(crate) struct Admin {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// What a pod said.
struct Answered<T> {
    pod: String,
    answer: Result<T, admin::Error>,
}

/// A page of every pod that is meant, with its name; or why it could not be had. Where one address was meant, nothing else is
/// worth saying than why it could not be asked.
pub(crate) async fn pages<T: for<'de> Deserialize<'de>>(
    scope: &Scope,
    path: &str,
) -> anyhow::Result<Vec<(String, Result<T, String>)>> {
    if let Some(address) = scope.address() {
        return Ok(vec![(address.to_string(), Ok(admin::page(address, path).await?))]);
    }
    let told = |Answered { pod, answer }: Answered<T>| (pod, answer.map_err(|error| crate::chain(&error)));
    Ok(ask(scope, path).await?.into_iter().map(told).collect())
}

/// Asks every pod that is meant for a page, a few at a time.
async fn ask<T: for<'de> Deserialize<'de>>(scope: &Scope, path: &str) -> anyhow::Result<Vec<Answered<T>>> {
    let found = scope.open().await?.find().await?;
    let asked = found
        .into_iter()
        .map(|Found { name: pod, admin, .. }| async { Answered { pod, answer: admin::page(admin, path).await } });
    Ok(stream::iter(asked).buffered(FORWARDS_MAX).collect().await)
}

/// `remora routes`.
pub(crate) fn routes(args: &Admin, look: Look) -> ExitCode {
    let width = sys::terminal_size().map_or(PLAIN_WIDTH, |(columns, _)| columns.into());
    finish_as(
        args.output,
        block_on(async {
            if let Some(address) = args.scope.address() {
                if args.output == Output::Json {
                    return pretty(&admin::page::<serde_json::Value>(address, "/routes").await?, true);
                }
                let routes: Routes = admin::page(address, "/routes").await?;
                return Ok((text::render(&route_lines(&routes, width), look.coloured), true));
            }
            let all = ask::<serde_json::Value>(&args.scope, "/routes").await?;
            let good = all.iter().all(|it| it.answer.is_ok());
            if args.output == Output::Json {
                return pretty(&json(all), good);
            }
            let mut lines = Vec::new();
            for Answered { pod, answer } in all {
                if !lines.is_empty() {
                    lines.push(Line::default());
                }
                match answer.map(serde_json::from_value) {
                    Ok(Ok(routes)) => lines.extend(route_lines(&routes, width)),
                    Ok(Err(error)) => lines.push(unread(&pod, &error)),
                    Err(error) => lines.push(unread(&pod, &error)),
                }
            }
            Ok((text::render(&lines, look.coloured), good))
        }),
    )
}

/// `remora identity`.
pub(crate) fn identity(args: &Admin, look: Look) -> ExitCode {
    finish_as(
        args.output,
        block_on(async {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            if let Some(address) = args.scope.address() {
                let certificate: Option<Certificate> = admin::page(address, "/certificate").await?;
                let good = certificate.as_ref().is_some_and(|it| it.holds(now));
                return match args.output {
                    Output::Json => pretty(&certificate, good),
                    Output::Text => {
                        Ok((text::render(&certificate_lines(certificate.as_ref(), now), look.coloured), good))
                    }
                };
            }
            let all = ask::<Option<Certificate>>(&args.scope, "/certificate").await?;
            let good = all.iter().all(|it| matches!(&it.answer, Ok(Some(it)) if it.holds(now)));
            match args.output {
                Output::Json => pretty(&json(all), good),
                Output::Text => Ok((text::render(&certificate_rows(&all, now), look.coloured), good)),
            }
        }),
    )
}

/// One JSON object per pod: its name, and what it said, or why it could not be asked.
fn json<T: Serialize>(all: Vec<Answered<T>>) -> Vec<serde_json::Value> {
    let value = |Answered { pod, answer }: Answered<T>| match answer {
        Ok(answer) => serde_json::json!({ "pod": pod, "answer": answer }),
        Err(error) => serde_json::json!({ "pod": pod, "error": crate::chain(&error) }),
    };
    all.into_iter().map(value).collect()
}

fn unread(pod: &str, error: &dyn std::error::Error) -> Line {
    Line::of(Style::Strong, pod).and(Style::Bad, format!("  {}", crate::chain(error)))
}

/// What one component said of its readiness.
#[derive(Debug, Serialize)]
struct Checked {
    admin: SocketAddr,
    ready: bool,
    /// Empty if it is ready.
    why: Vec<String>,
}

/// `remora check` of addresses.
pub(crate) fn check(addresses: &[SocketAddr], output: Output, look: Look) -> ExitCode {
    finish_as(
        output,
        block_on(async {
            let asked = addresses.iter().map(|&admin| checked(admin));
            let all = futures_util::future::join_all(asked).await;
            let good = all.iter().all(|it| it.ready);
            match output {
                Output::Json => pretty(&all, good),
                Output::Text => Ok((text::render(&check_lines(&all), look.coloured), good)),
            }
        }),
    )
}

async fn checked(admin: SocketAddr) -> Checked {
    let (ready, why) = match admin::get(admin, "/ready").await {
        Ok(answer) if answer.status.is_success() => (true, Vec::new()),
        Ok(answer) => (false, String::from_utf8_lossy(&answer.body).lines().map(str::to_owned).collect()),
        Err(error) => (false, vec![crate::chain(&error)]),
    };
    Checked { admin, ready, why }
}

fn check_lines(all: &[Checked]) -> Vec<Line> {
    let mut table = Table::new(&[("ADMIN", Align::Left), ("READY", Align::Left), ("WHY NOT", Align::Left)]);
    for it in all {
        let ready = if it.ready { Span::new(Style::Good, "yes") } else { Span::new(Style::Bad, "no") };
        table.row([it.admin.to_string().into(), ready, it.why.join("; ").into()]);
    }
    table.lines(usize::MAX)
}

fn route_lines(routes: &Routes, width: usize) -> Vec<Line> {
    let up = Duration::from_secs_f64(routes.uptime_s.clamp(0.0, 1e9)).as_secs();
    let mut lines = vec![
        Line::of(Style::Strong, &routes.pod).and(Style::Faint, format!("  {}  up {up} s", routes.identity)),
        Line::default(),
    ];
    if routes.routes.is_empty() {
        lines.push(Line::of(Style::Faint, "nothing has passed through this proxy yet"));
        return lines;
    }
    let mut table = SignalTable::new();
    for route in &routes.routes {
        let peer = if route.peer.is_empty() { "-" } else { &route.peer };
        let between = match route.direction.as_str() {
            "inbound" => arrow(peer, &route.tls, &route.parent).and(Style::Faint, "  in"),
            _ => arrow(&route.parent, &route.tls, peer).and(Style::Faint, "  out"),
        };
        table.route(between, &route.route, &route.protocol, &route.signals());
    }
    lines.extend(table.lines(width));
    lines
}

fn certificate_lines(certificate: Option<&Certificate>, now: u64) -> Vec<Line> {
    let Some(it) = certificate else {
        return vec![Line::of(Style::Bad, "no certificate yet: `remora check` says why")];
    };
    let lives = it.holds(now);
    let until = match it.not_after.checked_sub(now) {
        Some(left) if left > 0 => format!("{} ({} from now)", utc(it.not_after), span(left)),
        _ => format!("{} (ended {} ago)", utc(it.not_after), span(now - it.not_after)),
    };
    let rows = [
        ("identity   ", it.identity.clone(), Style::Strong),
        ("valid from ", utc(it.not_before), Style::Plain),
        ("valid until", until, if lives { Style::Good } else { Style::Bad }),
        ("anchors    ", format!("{} trusted", it.anchors), Style::Plain),
    ];
    rows.map(|(name, value, style)| Line::of(Style::Faint, format!("{name}  ")).and(style, value)).into()
}

fn utc(seconds: u64) -> String {
    Utc::of(seconds).to_string()
}

/// A length of time in its two largest units.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A row per pod.
fn certificate_rows(all: &[Answered<Option<Certificate>>], now: u64) -> Vec<Line> {
    use Align::{Left, Right};
    let mut table =
        Table::new(&[("POD", Left), ("IDENTITY", Left), ("VALID UNTIL", Left), ("LEFT", Right), ("ANCHORS", Right)]);
    for Answered { pod, answer } in all {
        match answer {
            Ok(Some(it)) => table.row([
                pod.as_str().into(),
                it.identity.as_str().into(),
                utc(it.not_after).into(),
                match it.holds(now) {
                    true => Span::new(Style::Good, span(it.not_after - now)),
                    false => Span::new(Style::Bad, "ended"),
                },
                it.anchors.to_string().into(),
            ]),
            Ok(None) => table.across(Line::of(Style::Plain, pod).and(Style::Bad, "  no certificate yet")),
            Err(error) => table.across(unread(pod, error)),
        }
    }
    table.lines(usize::MAX)
}

/// JSON for people.
pub(crate) fn pretty(value: &impl Serialize, good: bool) -> Outcome {
    Ok((serde_json::to_string_pretty(value)? + "\n", good))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_by_people() {
        assert_eq!([5, 65, 3700, 90_000].map(span), ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn a_certificate_that_ended_is_said_to_have_ended() {
        let it = Certificate {
            identity: "spiffe://cluster.local/ns/shop/sa/web".to_owned(),
            not_before: 100,
            not_after: 200,
            generation: 1,
            anchors: 1,
        };
        let shown = |now| text::render(&certificate_lines(Some(&it), now), false);
        assert!(shown(150).contains("(50 s from now)"));
        for now in [200, 260] {
            assert!(shown(now).contains("(ended "), "{now}");
        }
        assert!(text::render(&certificate_lines(None, 0), false).contains("no certificate yet"));
    }

    #[test]
    fn a_pod_that_cannot_be_asked_does_not_hide_the_others() {
        let it = Certificate {
            identity: "spiffe://a/ns/b/sa/c".to_owned(),
            not_before: 0,
            not_after: 90,
            generation: 1,
            anchors: 2,
        };
        let place = admin::Place::Address(SocketAddr::from(([127, 0, 0, 1], 4191)));
        let lost = admin::Error::Timeout { place, limit: Duration::from_secs(2) };
        let all = [
            Answered { pod: "shop/web-1".to_owned(), answer: Ok(Some(it)) },
            Answered { pod: "shop/web-2".to_owned(), answer: Err(lost) },
        ];
        let shown = text::render(&certificate_rows(&all, 30), false);
        assert!(
            shown.contains("shop/web-1  spiffe://a/ns/b/sa/c  1970-01-01T00:01:30Z  1 min 0 s        2"),
            "{shown}"
        );
        assert!(shown.contains("shop/web-2  127.0.0.1:4191 did not answer within 2 s"), "{shown}");
    }

    #[test]
    fn a_proxy_without_traffic_says_so() {
        assert!(text::render(&route_lines(&Routes::default(), 80), false).contains("nothing has passed"));
    }
}
