//! The live table. In: what was seen. Out: lines that fit the terminal. It decides nothing.

use std::time::Duration;

use super::layout::{Layout, Role, TRUST_DOMAIN};
use super::report::Event;
use super::watch::{Hop, Seen, Sight};
use super::web::Tally;
use crate::admin::{millis, percent};
use crate::table::{Align, Table};

/// How many of the last events are shown.
const EVENTS_SHOWN: usize = 6;

/// What a frame shows.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) ran: Duration,
    pub(super) layout: Layout,
    pub(super) load: &'a Tally,
    pub(super) hops: &'a [Hop],
    pub(super) sight: &'a Sight,
    pub(super) events: &'a [Event],
    pub(super) broken: Option<(&'static str, Duration)>,
}

/// The frame's lines, none longer than `width`.
pub(super) fn lines(frame: &Frame<'_>, width: usize) -> Vec<String> {
    let mut lines = head(frame);
    lines.push(String::new());
    lines.extend(hop_table(frame.hops).lines(width));
    lines.push(String::new());
    lines.extend(pod_table(frame).lines(width));
    lines.push(String::new());
    let skip = frame.events.len().saturating_sub(EVENTS_SHOWN);
    lines.extend(frame.events.iter().skip(skip).map(|event| format!("{:>5.1}s  {}", event.at_s, event.text)));
    lines.into_iter().map(|line| line.chars().take(width).collect()).collect()
}

fn head(frame: &Frame<'_>) -> Vec<String> {
    let load = frame.load;
    let failed: u64 = load.failures.values().sum();
    let broken = frame.broken.map_or_else(
        || "break it: remora demo --break endpoint|identity|discovery|slow|deny".to_owned(),
        |(what, left)| format!("broken: {what}, for {} s more", left.as_secs() + 1),
    );
    let mut web = format!(
        "web sees   {} requests, {} ok, p50 {} p95 {} p99 {}",
        load.ok + failed,
        percent(load.ok, load.ok + failed),
        millis(load.p50_ms),
        millis(load.p95_ms),
        millis(load.p99_ms)
    );
    for (reason, count) in &load.failures {
        web.push_str(&format!(", {count} x {reason}"));
    }
    let control = [("identity", frame.layout.identity().1), ("discovery", frame.layout.discovery().1)];
    let control = control.map(|(name, admin)| format!("{name} http://{admin}"));
    vec![
        format!("remora demo   {} s   {broken}   Ctrl-C ends it", frame.ran.as_secs()),
        web,
        format!("control    {}   identities below are spiffe://{TRUST_DOMAIN}/…", control.join("   ")),
    ]
}

fn hop_table(hops: &[Hop]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("CALLER", Left),
        ("CALLEE", Left),
        ("TARGET", Left),
        ("ROUTE", Left),
        ("TLS", Left),
        ("PROTO", Left),
        ("REQ/S", Right),
        ("SUCCESS", Right),
        ("P50", Right),
        ("P95", Right),
        ("P99", Right),
        ("RETRIES", Right),
        ("FAILURES", Left),
    ]);
    for hop in hops {
        let failures = hop.failures.iter().map(|(reason, count)| format!("{reason} {count}"));
        table.row([
            short_id(&hop.caller),
            short_id(&hop.callee),
            hop.target.clone(),
            hop.route.clone(),
            if hop.tls == "mtls" { "mTLS".to_owned() } else { hop.tls.clone() },
            hop.protocol.clone(),
            format!("{:.0}", hop.rps),
            percent(hop.success, hop.requests),
            millis(hop.p50_ms),
            millis(hop.p95_ms),
            millis(hop.p99_ms),
            hop.retries.to_string(),
            failures.collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

fn pod_table(frame: &Frame<'_>) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("POD", Left),
        ("VERSION", Left),
        ("ZONE", Left),
        ("STATE", Left),
        ("IN/S", Right),
        ("IN P95", Right),
        ("ADMIN", Left),
    ]);
    let mut pods: Vec<_> = frame.layout.pods().iter().collect();
    pods.sort_by_key(|pod| (pod.role as u8, pod.name));
    for pod in pods {
        let seen = frame.sight.iter().find(|seen| seen.pod == pod.name);
        let (rps, p95) = seen.map_or((0.0, 0.0), Seen::inbound);
        let up = seen.is_some_and(|seen| seen.now.is_some());
        let serves = pod.role != Role::Web;
        table.row([
            pod.name.to_owned(),
            pod.version.to_owned(),
            pod.zone.to_owned(),
            if up { "up" } else { "DOWN" }.to_owned(),
            if serves { format!("{rps:.0}") } else { String::new() },
            if serves { millis(p95) } else { String::new() },
            seen.map(|seen| format!("http://{}", seen.admin)).unwrap_or_default(),
        ]);
    }
    table
}

/// `ns/shop/sa/web`: all of a SPIFFE id but the trust domain, which the heading names.
fn short_id(id: &str) -> String {
    let short = id
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.strip_prefix(TRUST_DOMAIN))
        .and_then(|rest| rest.strip_prefix('/'));
    if id.is_empty() { "-".to_owned() } else { short.unwrap_or(id).to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_trust_domain_is_left_out() {
        assert_eq!(short_id("spiffe://cluster.local/ns/shop/sa/web"), "ns/shop/sa/web");
        assert_eq!(short_id("spiffe://other/ns/shop/sa/web"), "spiffe://other/ns/shop/sa/web");
        assert_eq!(short_id("spiffe://cluster.local"), "spiffe://cluster.local");
        assert_eq!(short_id(""), "-");
    }
}
