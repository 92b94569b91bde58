//! Golden signals: what is counted, under which names, and how it is shown.
//!
//! In: a [`RouteKey`] when a route is built, which gives the [`RouteStats`] that requests then increment without locks
//! or look-ups; and for each request or byte connection one [`Record`]. Out: JSON for people and programs ([`view`]), Prometheus text for
//! scrapers. No key is made of unchecked request data: a path becomes a name only by [`PathTemplates`]. History is kept for fifteen
//! minutes; a scraper keeps more.

mod catalog;
mod counters;
mod details;
mod filter;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod histogram;
mod history;
mod map;
#[cfg(test)]
mod metrics_page;
pub(crate) mod prometheus;
pub(crate) mod reason;
mod record;
mod routes;
mod sampling;
mod spans;
mod stats;
mod tap;
mod template;
mod tracks;
mod view;

pub(crate) use catalog::describe;
pub(crate) use counters::Counters;
pub(crate) use filter::Filter;
pub(crate) use reason::{Blame, Fault, Reason};
pub(crate) use record::{Begun, Entry, Journal, Outcome, Record, Span};
#[cfg(test)]
pub(crate) use record::{Times, Which};
use routes::Found;
pub(crate) use routes::{Direction, Proto, RouteKey, Routes, Tls};
pub(crate) use sampling::Sampling;
pub(crate) use spans::{Ended, FollowSpans};
pub(crate) use stats::{RouteStats, STATUS_5XX};
pub(crate) use tap::{Follow, Tapped};
pub(crate) use template::OTHER;
use template::{PathTemplates, TemplateId};

/// The name of all that is refused before it is looked at any further.
pub(crate) const DENIED: &str = "denied";

/// Counts that something had to be counted under `other`, for want of room for a `what` (series, template or method) of its own.
pub(crate) fn series_full(what: &'static str) {
    metrics::counter!("remora_series_full_total", "what" => what).increment(1);
}

/// Counts a request that was refused before it had a route, or bytes that never became one. `detail` is one of a closed
/// set of words.
pub(crate) fn refused(direction: Direction, reason: Reason, detail: &'static str) {
    let (direction, reason) = (direction.as_str(), reason.as_str());
    metrics::counter!("remora_requests_refused_total", "direction" => direction, "reason" => reason, "detail" => detail)
        .increment(1);
}

#[cfg(test)]
mod tap_tests;
