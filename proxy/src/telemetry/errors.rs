//! The latest failures one by one, for `/errors`: the counters say how many, these say when and where.
//!
//! In: each failure as it is counted. Out: the last [`limits::ERRORS_KEPT`], the latest first. Bounded in memory, and in time: of a storm
//! one failure in [`limits::ERRORS_PAUSE`] is kept, and no worker waits for a reader.

use super::{Blame, Direction, RouteKey};
use crate::limits;
use serde::Serialize;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// One failure of the mesh.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RecentError {
    /// When, in seconds since 1970.
    pub unix_time: f64,
    /// Which way the request went, seen from the application.
    pub direction: Direction,
    /// The Service (or port, or external authority) that was called.
    pub parent: Arc<str>,
    /// The route that it was counted under.
    pub route: Arc<str>,
    /// The SPIFFE ID at the other end, empty if it has none.
    pub peer: Arc<str>,
    /// The reason, as counted.
    pub reason: &'static str,
    /// Whose fault it was.
    pub fault: &'static str,
    /// How long after the request's arrival it failed, in milliseconds.
    pub after_ms: f64,
}

/// The failures of this proxy.
#[derive(Debug, Default)]
pub(crate) struct Errors(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    errors: VecDeque<RecentError>,
    latest: Option<Instant>,
}

impl Errors {
    /// Keeps a failure of this moment, `after` the request's arrival.
    pub(super) fn note(&self, key: &RouteKey, why: Blame, after: Duration) {
        self.note_at(key, why, after, Instant::now());
    }

    fn note_at(&self, key: &RouteKey, why: Blame, after: Duration, now: Instant) {
        // The lock is held by a reader, or for another failure of this moment.
        let Ok(mut kept) = self.0.try_lock() else { return };
        if kept.latest.is_some_and(|latest| now.saturating_duration_since(latest) < limits::ERRORS_PAUSE) {
            return;
        }
        kept.latest = Some(now);
        if kept.errors.len() == limits::ERRORS_KEPT {
            kept.errors.pop_front();
        }
        kept.errors.push_back(RecentError {
            unix_time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            direction: key.direction,
            parent: key.parent.clone(),
            route: key.route.clone(),
            peer: key.peer.clone(),
            reason: why.reason.as_str(),
            fault: why.fault.as_str(),
            after_ms: (after.as_secs_f64() * 1e6).round() / 1e3,
        });
    }

    /// What is kept, the latest first.
    pub(super) fn latest(&self) -> Vec<RecentError> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.errors.iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Proto, Reason, Tls};

    fn key(route: &str) -> RouteKey {
        RouteKey {
            direction: Direction::Outbound,
            parent: "shop/api:80".into(),
            route: route.into(),
            peer: "".into(),
            tls: Tls::Mtls,
            protocol: Proto::Http1,
        }
    }

    #[test]
    fn the_last_errors_are_kept_and_of_a_storm_one_in_a_while() {
        let (errors, start) = (Errors::default(), Instant::now());
        let kept = u32::try_from(limits::ERRORS_KEPT).unwrap();
        for number in 0..kept + 5 {
            let now = start + limits::ERRORS_PAUSE * number;
            errors.note_at(&key(&number.to_string()), Reason::Timeout.into(), Duration::from_millis(1500), now);
            errors.note_at(&key("storm"), Reason::Denied.into(), Duration::ZERO, now + limits::ERRORS_PAUSE / 2);
        }
        let latest = errors.latest();
        assert_eq!(latest.len(), limits::ERRORS_KEPT);
        assert_eq!(
            (&*latest[0].route, &*latest[limits::ERRORS_KEPT - 1].route),
            ((kept + 4).to_string().as_str(), "5")
        );
        let json = serde_json::to_value(&latest[0]).unwrap();
        assert_eq!(
            (&json["reason"], &json["fault"], &json["after_ms"], &json["direction"]),
            (&"timeout".into(), &"application".into(), &1500.0.into(), &"outbound".into())
        );
    }
}
