//! The live table. In: what was seen. Out: lines that fit the terminal. It decides nothing.

use super::{
    judge::RETURN_MS,
    layout::{Layout, Role, TRUST_DOMAIN},
    report::Event,
    watch::{Hop, Pod, Sight},
    web::{Tally, unix_ms},
};
use crate::{
    signals::{SignalTable, arrow, millis, share, short_id, short_route},
    table::{Align, Table},
    text::{Line, Span, Style},
};
use std::time::Duration;

/// How many of the last events are shown where there is room.
const EVENTS_SHOWN: usize = 6;
/// From this width on there is room for whole SPIFFE ids and whole route names.
const WIDE: usize = 108;

/// What a frame shows.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) ran: Duration,
    pub(super) layout: Layout,
    pub(super) load: &'a Tally,
    pub(super) sight: &'a Sight,
    pub(super) events: &'a [Event],
    pub(super) broken: Option<(&'static str, Duration)>,
}

/// The frame's lines, none longer than `width`, and not more of them than `height`: events go first, then what is below.
pub(super) fn lines(frame: &Frame<'_>, width: usize, height: usize) -> Vec<Line> {
    let mut lines = head(frame, width >= WIDE);
    lines.push(Line::default());
    lines.extend(hop_table(&frame.sight.hops(), width));
    lines.push(Line::default());
    lines.extend(pod_table(frame).lines(width));
    lines.push(Line::default());
    let room = height.saturating_sub(lines.len()).clamp(1, EVENTS_SHOWN);
    lines.extend(frame.events.iter().skip(frame.events.len().saturating_sub(room)).map(event));
    if lines.len() > height {
        // What separates is worth less than what is said.
        lines.retain(|line| !line.0.is_empty());
    }
    lines.into_iter().take(height).map(|line| line.cut(width)).collect()
}

/// Something that happened.
pub(super) fn event(event: &Event) -> Line {
    Line::of(Style::Faint, format!("{:>5.1}s  ", event.at_s)).and(Style::Plain, &event.text)
}

fn head(frame: &Frame<'_>, wide: bool) -> Vec<Line> {
    let title = Line::of(Style::Strong, "remora demo").and(Style::Plain, format!("  {} s  ", frame.ran.as_secs()));
    let title = match frame.broken {
        None => title.and(Style::Faint, "break it: --break endpoint|slow|deny|identity|discovery"),
        Some((what, left)) => title.and(Style::Bad, format!("broken: {what}, for {} s more", left.as_secs() + 1)),
    };
    let load = frame.load;
    let mut web = Line::from("web sees ".to_owned());
    web.0.push(share(load.ok, load.failed()));
    web = web.and(
        Style::Plain,
        format!(
            " of {} requests succeed, p50 {} p95 {} p99 {}",
            load.ok + load.failed(),
            millis(load.p50_ms),
            millis(load.p95_ms),
            millis(load.p99_ms)
        ),
    );
    let mut lines = vec![title, web];
    let failures = load.failures.iter().map(|(why, count)| Line::of(Style::Bad, format!("  {count} failed: {why}")));
    lines.extend(failures);
    if !wide {
        lines.push(Line::of(Style::Faint, format!("identities are spiffe://{TRUST_DOMAIN}/ and what is said below")));
    }
    lines
}

fn hop_table(hops: &[Hop], width: usize) -> Vec<Line> {
    let wide = width >= WIDE;
    let id = |id: &String| if wide && !id.is_empty() { id.clone() } else { short_id(id, TRUST_DOMAIN) };
    let mut table = SignalTable::new();
    for hop in hops {
        let between =
            arrow(&id(&hop.caller), &hop.tls, &id(&hop.callee)).and(Style::Plain, format!("  {}", hop.target));
        let route = if wide { hop.route.clone() } else { short_route(&hop.route) };
        table.route(between, &route, &hop.protocol, &hop.signals());
    }
    table.lines(width)
}

fn pod_table(frame: &Frame<'_>) -> Table {
    use Align::{Left, Right};
    let columns = [("POD", Left), ("VERSION", Left), ("ZONE", Left), ("STATE", Left)];
    let numbers = [("IN/S", Right), ("IN P95", Right), ("CERT", Right), ("ADMIN", Left)];
    let mut table = Table::new(&[columns, numbers].concat());
    let state = |up| if up { Span::new(Style::Good, "up") } else { Span::new(Style::Bad, "DOWN") };
    for it in &frame.sight.control {
        let empty = Span::default;
        let page = if it.name == "discovery" { "/mesh" } else { "" };
        let admin = format!("http://{}{page}", it.admin).into();
        table.row([it.name.into(), empty(), empty(), state(it.ready), empty(), empty(), empty(), admin]);
    }
    let mut pods: Vec<_> = frame.layout.pods().iter().collect();
    pods.sort_by_key(|pod| (pod.role as u8, pod.name));
    for pod in pods {
        let Some(seen) = frame.sight.pods.iter().find(|seen| seen.name == pod.name) else { continue };
        let (rps, p95) = seen.inbound();
        let serves = pod.role != Role::Web && seen.now.is_some();
        table.row([
            pod.name.into(),
            pod.version.into(),
            pod.zone.into(),
            state(seen.now.is_some()),
            if serves { format!("{rps:.0}").into() } else { Span::default() },
            if serves && p95 > 0.0 { millis(p95).into() } else { Span::default() },
            certificate(seen),
            format!("http://{}", seen.admin).into(),
        ]);
    }
    table
}

/// How long a pod's certificate lives on.
fn certificate(seen: &Pod) -> Span {
    match seen.certificate.as_ref().map(|it| it.not_after.saturating_sub(unix_ms() / 1000)) {
        None => Span::default(),
        // A renewal is tried again and again from a third of its life on.
        Some(left) => Span::new(if left * 1000 < RETURN_MS { Style::Warn } else { Style::Plain }, format!("{left}s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with the most rows that a run without failures has.
    fn shown(width: usize, height: usize) -> Vec<String> {
        let layout = Layout::candidates().next().expect("there are candidates");
        let event = |at: u8| Event { at_s: f64::from(at), text: format!("event {at} {}", "x".repeat(100)) };
        let events: Vec<_> = (0..20).map(event).collect();
        let frame = Frame {
            ran: Duration::from_secs(9),
            layout,
            load: &Tally::default(),
            sight: &Sight::new(layout),
            events: &events,
            broken: None,
        };
        lines(&frame, width, height).iter().map(|line| line.render(false)).collect()
    }

    #[test]
    fn a_frame_fits_its_terminal() {
        for (width, height) in [(80, 24), (80, 40), (200, 60), (20, 5)] {
            let lines = shown(width, height);
            assert!(lines.len() <= height, "{width}x{height}: {} lines", lines.len());
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}x{height}");
        }
    }

    #[test]
    fn the_admin_addresses_are_whole_at_80_columns() {
        let lines = shown(80, 24);
        assert!(lines.iter().any(|line| line.ends_with("http://127.77.0.11:4191")), "{lines:#?}");
    }

    #[test]
    fn the_last_events_are_shown_where_there_is_room() {
        assert!(shown(80, 40).iter().any(|line| line.contains("event 19")));
    }
}
