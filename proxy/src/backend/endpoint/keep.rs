//! How connections to an endpoint are kept, and how many there may be: worked out once, from what a BackendPolicy says and from
//! [`limits`].

use super::http2::Kind;
use crate::limits;
use remora_model::ConnectionSettings;
use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// How long connections are kept, and how their server is asked whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) struct Keep {
    /// An HTTP/1 connection without a request is kept for so long.
    pub(super) http1: Duration,
    /// An HTTP/2 connection without a stream, for so many looks of the worker; it looks every [`limits::IDLE_TIMEOUT`].
    pub(super) sweeps: u32,
    /// Times of PINGs: how long a silence may be, and how long an answer may take. `None`: there are none.
    pub(super) pings: Option<(Duration, Duration)>,
}

impl Keep {
    /// What of it `settings` do not say is by the kind of the server: other servers than our proxies are not asked, because those of gRPC take
    /// frequent PINGs for abuse and close the connection (ENHANCE_YOUR_CALM).
    pub(super) fn of(kind: Kind, settings: &ConnectionSettings) -> Self {
        let (idle, interval) = match kind {
            Kind::Mesh => (limits::MESH_IDLE_TIMEOUT, Some(limits::KEEP_ALIVE_INTERVAL)),
            Kind::Other => (limits::APP_HTTP2_IDLE_TIMEOUT, None),
        };
        let looks = settings.idle_timeout.unwrap_or(idle).as_millis().div_ceil(limits::IDLE_TIMEOUT.as_millis());
        let answered = settings.keep_alive_timeout.unwrap_or(limits::KEEP_ALIVE_TIMEOUT);
        Self {
            http1: settings.idle_timeout.unwrap_or(limits::IDLE_TIMEOUT),
            sweeps: u32::try_from(looks).unwrap_or(u32::MAX),
            pings: settings.keep_alive_interval.or(interval).map(|interval| (interval, answered)),
        }
    }
}

/// The connections that one worker has to an endpoint, of which there may be so many. Atomic, because hyper asks that a connection which may leave
/// HTTP could go to another thread; none does.
#[derive(Debug)]
pub(in crate::backend) struct Places {
    open: AtomicU32,
    most: u32,
}

impl Places {
    /// The worker's part of what the proxy may have.
    pub(super) fn new(settings: &ConnectionSettings, workers: usize) -> Arc<Self> {
        let workers = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
        let most = settings.max_connections.map_or(u32::MAX, NonZeroU32::get).div_ceil(workers);
        Arc::new(Self { open: AtomicU32::new(0), most })
    }

    /// A place for one more connection. `None`: there are as many as there may be.
    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let more = |open: u32| open.checked_add(1).filter(|open| *open <= self.most);
        self.open.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Place(self.clone()))
    }

    /// The most that there may be.
    pub(super) fn most(&self) -> u32 {
        self.most
    }
}

/// Counts a connection for as long as it is open.
#[derive(Debug)]
pub(in crate::backend) struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_changes_what_it_says_and_nothing_else() {
        let unsaid = ConnectionSettings::default();
        let seconds = Duration::from_secs;
        let mesh = Keep::of(Kind::Mesh, &unsaid);
        let pings = (limits::KEEP_ALIVE_INTERVAL, limits::KEEP_ALIVE_TIMEOUT);
        assert_eq!(mesh, Keep { http1: limits::IDLE_TIMEOUT, sweeps: 15, pings: Some(pings) });
        assert_eq!(Keep::of(Kind::Other, &unsaid), Keep { sweeps: 5, pings: None, ..mesh });
        let idle = ConnectionSettings { idle_timeout: Some(seconds(30)), ..unsaid };
        assert_eq!(Keep::of(Kind::Mesh, &idle), Keep { http1: seconds(30), sweeps: 8, ..mesh });
        let asked = ConnectionSettings { keep_alive_interval: Some(seconds(9)), ..unsaid };
        for kind in [Kind::Mesh, Kind::Other] {
            assert_eq!(Keep::of(kind, &asked).pings, Some((seconds(9), limits::KEEP_ALIVE_TIMEOUT)));
        }
        let answered = ConnectionSettings { keep_alive_timeout: Some(seconds(3)), ..unsaid };
        assert_eq!(Keep::of(Kind::Mesh, &answered).pings, Some((limits::KEEP_ALIVE_INTERVAL, seconds(3))));
        assert_eq!(Keep::of(Kind::Other, &answered).pings, None, "who is not asked has nothing to answer");
    }

    #[test]
    fn there_are_no_more_places_than_the_worker_has_its_part_of() {
        for (most, workers, part) in [(4, 1, 4), (4, 2, 2), (5, 2, 3), (1, 8, 1), (4, 0, 4)] {
            let settings = ConnectionSettings { max_connections: NonZeroU32::new(most), ..Default::default() };
            let places = Places::new(&settings, workers);
            let mut taken: Vec<_> = std::iter::from_fn(|| places.take()).take(9).collect();
            assert_eq!((taken.len(), places.most()), (part, part as u32), "{most} of {workers}");
            taken.pop();
            assert!(places.take().is_some_and(|place| places.open.load(Relaxed) == part as u32 && place.0.most > 0));
        }
        assert!(Places::new(&ConnectionSettings::default(), 1).take().is_some());
    }
}
