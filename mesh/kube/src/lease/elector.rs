//! Who leads, decided: pure. What was seen of the Lease and `now` in, what to write or how long to wait out.
//!
//! Clocks of different machines are never compared: a foreign lease has run out when it has not *changed* for its own
//! duration by our monotonic clock, as client-go does it. Our own runs out `step_down` after we asked for its last renewal,
//! well before another candidate may take it. If two candidates write at once, the resource version decides.

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use std::time::Duration;
use tokio::time::Instant;

/// A foreign lease is not waited for longer than this, whatever it says.
const DURATION_MAX: Duration = Duration::from_secs(300);

/// How long things last.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Others wait this long after the last change.
    pub duration: Duration,
    /// We renew this long after the last renewal.
    pub renew: Duration,
    /// We stop leading this long after the last renewal that was heard of: before `duration`, with room for a write
    /// that is on its way.
    pub step_down: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { duration: Duration::from_secs(15), renew: Duration::from_secs(5), step_down: Duration::from_secs(10) }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Nothing is known yet.
    Look,
    /// Nothing, until then.
    Wait(Instant),
    /// Write this.
    Write(Box<Write>),
}

/// What to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// The Lease does not exist.
    Create(Lease),
    /// The Lease is another, whose resource version is in this one.
    Replace(Lease),
}

/// One candidate's view.
#[derive(Debug)]
pub struct Elector {
    name: String,
    me: String,
    terms: Terms,
    seen: Option<Seen>,
    leads_until: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    lease: Option<Lease>,
    /// When its spec was first seen as it is.
    at: Instant,
}

impl Elector {
    /// The candidate `me` for the Lease `name`. `me` must be unique: a pod's name is.
    #[must_use]
    pub fn new(name: &str, me: &str, terms: Terms) -> Self {
        Self { name: name.into(), me: me.into(), terms, seen: None, leads_until: None }
    }

    /// A watch says that the Lease is this at `now`, or is not there. News that are older than what is known are ignored: a watch
    /// may lag.
    pub fn observe(&mut self, lease: Option<Lease>, now: Instant) {
        if let (Some(new), Some(Seen { lease: Some(known), .. })) = (&lease, &self.seen)
            && version(new).zip(version(known)).is_some_and(|(new, known)| new < known)
        {
            return;
        }
        self.believe(lease, now);
    }

    /// The API server answered our own question at `now`: the Lease is this, or is not there. That holds whatever its version: after
    /// a restore of etcd versions begin again at an earlier one, and to wait for later ones would be to stand still.
    ///
    /// A lease that changed is waited for anew, so that of two that were put back neither is taken from whoever renews it.
    pub fn believe(&mut self, lease: Option<Lease>, now: Instant) {
        if lease.as_ref().is_none_or(|lease| holder(lease) != self.me) {
            self.leads_until = None;
        }
        let spec = |lease: &Option<Lease>| lease.as_ref().and_then(|lease| lease.spec.clone());
        let at = match &self.seen {
            Some(seen) if spec(&seen.lease) == spec(&lease) => seen.at,
            _ => now,
        };
        self.seen = Some(Seen { lease, at });
    }

    /// Our write, which was sent at `asked`, was accepted as `lease`.
    pub fn wrote(&mut self, lease: Lease, asked: Instant) {
        self.leads_until = (holder(&lease) == self.me).then(|| asked + self.terms.step_down);
        self.seen = Some(Seen { lease: Some(lease), at: asked });
    }

    /// Whether we lead at `now`.
    #[must_use]
    pub fn leads(&self, now: Instant) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    /// Until when we lead if nothing more is heard.
    #[must_use]
    pub fn leads_until(&self) -> Option<Instant> {
        self.leads_until
    }

    /// What to do at `now`, which the wall clock shows as `wall`. (That time is written for people to read.)
    #[must_use]
    pub fn next(&self, now: Instant, wall: Timestamp) -> Next {
        let Some(Seen { lease, at }) = &self.seen else {
            return Next::Look;
        };
        let Some(lease) = lease else {
            return Next::Write(Box::new(Write::Create(self.taken(None, wall))));
        };
        if holder(lease) == self.me {
            let renew_at = *at + self.terms.renew;
            return match self.leads(now) && now < renew_at {
                true => Next::Wait(renew_at),
                false => Next::Write(Box::new(Write::Replace(self.taken(Some(lease), wall)))),
            };
        }
        let free_at = *at + if holder(lease).is_empty() { Duration::ZERO } else { self.duration_of(lease) };
        match now < free_at {
            true => Next::Wait(free_at),
            false => Next::Write(Box::new(Write::Replace(self.taken(Some(lease), wall)))),
        }
    }

    /// The Lease without holder, if we hold it: any candidate may take it at once.
    #[must_use]
    pub fn released(&self, wall: Timestamp) -> Option<Lease> {
        let mut lease = self.seen.as_ref()?.lease.clone().filter(|lease| holder(lease) == self.me)?;
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(wall));
        Some(lease)
    }

    fn taken(&self, old: Option<&Lease>, wall: Timestamp) -> Lease {
        let was = old.and_then(|lease| lease.spec.as_ref());
        let mine = was.filter(|spec| spec.holder_identity.as_deref() == Some(self.me.as_str()));
        let transitions = was.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let fresh = || ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        Lease {
            metadata: old.map_or_else(fresh, |lease| lease.metadata.clone()),
            spec: Some(LeaseSpec {
                acquire_time: mine.and_then(|spec| spec.acquire_time.clone()).or(Some(MicroTime(wall))),
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(self.terms.duration.as_secs()).ok(),
                lease_transitions: Some(match (old, mine) {
                    (Some(_), None) => transitions.saturating_add(1),
                    _ => transitions,
                }),
                renew_time: Some(MicroTime(wall)),
                ..LeaseSpec::default()
            }),
        }
    }

    fn duration_of(&self, lease: &Lease) -> Duration {
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let given = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        given.unwrap_or(self.terms.duration).min(DURATION_MAX)
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// Resource versions are decimal numbers that only grow (KEP-5504); what is not a number is not compared.
fn version(lease: &Lease) -> Option<u64> {
    lease.metadata.resource_version.as_deref()?.parse().ok()
}
