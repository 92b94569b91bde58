//! One rate limit, as all workers of a process share it. In: who asks, for what. Out: whether the rate is kept.

use super::{
    bucket::{Bucket, Pace},
    keys::{All, Keys},
    limits::HEADER_KEY_BYTES,
    record::LimitCounters,
    which::Asked,
};
use crate::policy::Peer;
use http::HeaderName;
use remora_model::{By, RateLimit, SpiffeId};
use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc, time::Duration};
use tokio::time::Instant;

/// See the module.
pub(crate) struct Limit {
    pub(crate) rule: RateLimit,
    pace: Pace,
    /// Of callers whose rate is another one.
    own: HashMap<SpiffeId, Pace>,
    /// When counting began: times are told as nanoseconds since.
    began: Instant,
    /// Of all callers together.
    whole: Arc<Bucket>,
    /// Of each.
    keys: Option<Keys>,
    pub(crate) counters: LimitCounters,
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit").field("rule", &self.rule).finish_non_exhaustive()
    }
}

/// What counts for one caller, or one value of a field.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    bucket: Arc<Bucket>,
    pace: Pace,
}

/// The values of a field that are too long, and its absence, each count together.
const TOO_LONG: &[u8] = b"\0long";
const ABSENT: &[u8] = b"\0none";

impl Limit {
    pub(crate) fn new(rule: &RateLimit, all: &All, now: Instant) -> Self {
        let own =
            rule.overrides.iter().flat_map(|one| one.identities.iter().map(|id| (id.clone(), Pace::new(one.rate))));
        Self {
            pace: Pace::new(rule.rate),
            own: own.collect(),
            began: now,
            whole: Arc::default(),
            keys: (rule.by != By::Target).then(|| Keys::new(all)),
            counters: LimitCounters::new(&rule.name),
            rule: rule.clone(),
        }
    }

    /// Whether it counts all callers together: such a limit is asked last, so that who is over a limit of its own takes nothing from others.
    pub(crate) fn is_whole(&self) -> bool {
        self.keys.is_none()
    }

    /// Whether a caller that it refuses is refused whatever it asks for.
    pub(crate) fn is_of_all(&self) -> bool {
        self.rule.only.is_any() && !matches!(self.rule.by, By::Header(_))
    }

    /// What counts for all that a caller sends; `None`: that depends on the request.
    pub(crate) fn of(&self, peer: &Peer) -> Option<Slot> {
        let key = |keys: &Keys, key: &[u8], pace| Some(Slot { bucket: keys.of(key), pace });
        match (&self.keys, &self.rule.by) {
            (None, _) => Some(Slot { bucket: self.whole.clone(), pace: self.pace }),
            (_, By::Header(_)) => None,
            (Some(keys), By::ClientAddress) => key(keys, &octets(peer.address), self.pace),
            (Some(keys), _) => match &peer.identity {
                Some(id) => key(keys, id.as_str().as_bytes(), self.own.get(id).copied().unwrap_or(self.pace)),
                None => key(keys, ABSENT, self.pace),
            },
        }
    }

    /// What counts for a request of a limit by a field.
    fn of_request(&self, name: &HeaderName, asked: &Asked<'_>) -> Slot {
        let value = asked.headers.get(name).map(http::HeaderValue::as_bytes);
        let key = match value {
            None => ABSENT,
            Some(value) if value.len() > HEADER_KEY_BYTES => TOO_LONG,
            Some(value) => value,
        };
        let bucket = self.keys.as_ref().map_or_else(|| self.whole.clone(), |keys| keys.of(key));
        Slot { bucket, pace: self.pace }
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX / 2)
    }

    /// Whether one more goes at `now`, which is counted then; else how long that takes. `slot`: what counts for the caller, if that is known.
    pub(crate) fn take(&self, slot: Option<&Slot>, asked: Option<&Asked<'_>>, now: Instant) -> Result<(), Duration> {
        let by_request;
        let slot = match (slot, &self.rule.by, asked) {
            (Some(slot), ..) => slot,
            (None, By::Header(name), Some(asked)) => {
                by_request = self.of_request(name, asked);
                &by_request
            }
            // Nobody asks so.
            (None, ..) => return Ok(()),
        };
        slot.bucket.take(self.nanos(now), &slot.pace).map_err(Duration::from_nanos)
    }

    /// Whether one more would go.
    pub(crate) fn look(&self, slot: &Slot, now: Instant) -> Result<(), Duration> {
        slot.bucket.look(self.nanos(now), &slot.pace).map_err(Duration::from_nanos)
    }

    /// How many bytes may go now.
    pub(crate) fn room(&self, slot: &Slot, now: Instant) -> u64 {
        slot.bucket.room(self.nanos(now), &slot.pace)
    }

    /// So many bytes went.
    pub(crate) fn spend(&self, slot: &Slot, now: Instant, bytes: u64) {
        slot.bucket.spend(self.nanos(now), &slot.pace, bytes);
    }

    /// When `bytes` may go, of at most the burst.
    pub(crate) fn wait(&self, slot: &Slot, now: Instant, bytes: u64) -> Duration {
        Duration::from_nanos(slot.bucket.wait(self.nanos(now), &slot.pace, bytes))
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
