//! What the service signs with and publishes at a moment, and how that changes.
//!
//! [`crate::trust`] decides, by the record that all replicas share ([`crate::store`]) and what the operator offers ([`crate::source`]). This
//! takes it on ([`Authority::turn`]) and holds what follows from it. An offer that cannot sign is refused, loudly, and the issuer in force goes
//! on; a store that cannot be reached stops nothing but promotion and removal.

mod gauges;
mod pace;
#[cfg(test)]
mod tests;

use self::pace::{Pace, Undone};
use crate::{
    held::Held,
    issuer::{Anchor, Files, Issuer, IssuerError},
    limits::TURN_MAX,
    store::{Store, StoreError},
    trust::{Offer, Record, Refused, Rules, Signing, Stepped, reconcile, step},
};
use remora_model::TrustDomain;
use remora_runtime::tls::{InvalidBundle, TrustBundle};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::watch;

/// Why a turn did not take everything.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// What is offered cannot sign.
    #[error("issuer: {0}")]
    Issuer(#[source] IssuerError),
    /// What is offered has no room.
    #[error("issuer: {0}")]
    Refused(#[source] Refused),
    /// The record cannot be had or written.
    #[error("{0}")]
    Store(#[source] StoreError),
    /// What is to be published makes no bundle.
    #[error("trust bundle: {0}")]
    Bundle(#[source] InvalidBundle),
    /// There is nothing yet to go on with.
    #[error("there is no issuer")]
    Nothing,
}

/// What holds at a moment.
#[derive(Debug)]
pub struct InForce {
    /// Who signs; `None` if the issuer in force cannot be used any more.
    issuer: Option<Arc<Issuer>>,
    /// Who signs what we show ourselves if that one cannot: callers may know it by their anchors file.
    next: Option<Arc<Issuer>>,
    bundle: TrustBundle,
    anchors: Vec<Anchor>,
}

impl InForce {
    /// The anchors to trust.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The anchors to trust, one by one, in the bundle's order.
    #[must_use]
    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }
}

/// The current state.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    rules: Rules,
    store: Store,
    state: watch::Sender<Arc<InForce>>,
    local: Mutex<Local>,
}

/// What this replica saw last.
#[derive(Debug)]
struct Local {
    record: Record,
    /// What was offered last and can sign.
    offered: Option<Offered>,
    /// When the offered issuer will sign, if it does not yet.
    signs_at: Option<SystemTime>,
    /// When a turn began or ended last, well or not, on both clocks.
    turned: (Instant, SystemTime),
    pace: Pace,
}

#[derive(Debug, Clone)]
struct Offered {
    files: Files,
    issuer: Arc<Issuer>,
}

/// What an authority begins with.
#[derive(Debug)]
pub struct Beginning {
    trust_domain: TrustDomain,
    rules: Rules,
    state: InForce,
    local: Local,
    error: Option<TurnError>,
}

impl Beginning {
    /// Fails, with what is wrong with the offer, if no issuer can sign as of `now`: neither the issuer in force nor the one that is offered.
    pub fn usable(mut self, now: SystemTime) -> Result<Self, TurnError> {
        let usable = |issuer: &Option<Arc<Issuer>>| issuer.as_ref().is_some_and(|issuer| issuer.not_after() > now);
        if usable(&self.state.issuer) || usable(&self.state.next) {
            return Ok(self);
        }
        Err(self.error.take().unwrap_or(TurnError::Nothing))
    }

    /// The authority over the `store` that this was read from.
    #[must_use]
    pub fn with(self, store: Store) -> Arc<Authority> {
        let Self { trust_domain, rules, state, local, error } = self;
        if let Some(error) = error {
            tracing::error!(%error, "refusing the offered issuer; the current one goes on");
        }
        let (state, local) = (watch::Sender::new(Arc::new(state)), Mutex::new(local));
        Arc::new(Authority { trust_domain, rules, store, state, local })
    }
}

impl Authority {
    /// Begins with what is stored and what is `held`, which may be unusable where there is a record. Without one the first signs at once.
    ///
    /// Cancelled, it may have written the record.
    pub async fn open(
        held: Option<&Held>,
        store: &Store,
        trust_domain: &TrustDomain,
        (lifetime, skew): (Duration, Duration),
        now: SystemTime,
    ) -> Result<Beginning, TurnError> {
        let rules = Rules { lifetime, skew };
        let taken = take(store, trust_domain, rules, None, held, None, now).await?;
        let Taken { record, state, offered, signs_at, error, .. } = taken;
        let local = Local { record, offered, signs_at, turned: (Instant::now(), now), pace: Pace::default() };
        Ok(Beginning { trust_domain: trust_domain.clone(), rules, state, local, error })
    }

    /// Takes the state on to `now` with what is `held`, or with nothing where that cannot be read. The state is good after an
    /// error too.
    ///
    /// Cancelled, it may have written the record, which the next turn reads.
    pub async fn turn(&self, held: Option<&Held>, now: SystemTime) -> Result<(), TurnError> {
        let (known, offered) = {
            let mut local = self.local();
            local.turned = (Instant::now(), now);
            (local.record.clone(), local.offered.clone())
        };
        let taken = take(&self.store, &self.trust_domain, self.rules, Some(&known), held, offered, now).await;
        let mut local = self.local();
        local.turned = (Instant::now(), now);
        let Taken { record, state, offered, signs_at, error, wrote, undone } = taken?;
        if wrote {
            local.pace.wrote(undone.as_ref(), Instant::now(), self.rules.look_every());
        }
        tell(&known, &record, local.signs_at, signs_at, now);
        (local.record, local.offered, local.signs_at) = (record, offered, signs_at);
        drop(local);
        self.state.send_if_modified(|current| {
            let changed = !same(current, &state);
            *current = Arc::new(state);
            changed
        });
        error.map_or(Ok(()), Err)
    }

    /// The issuer in force, to sign with at `now`. A process that was stopped for a while looks first: another may sign by now.
    pub fn issuer(&self, now: SystemTime) -> Result<Arc<Issuer>, String> {
        let (monotonic, wall) = self.local().turned;
        let idle = monotonic.elapsed().max(now.duration_since(wall).unwrap_or_default());
        if idle > self.rules.publish().max(TURN_MAX) {
            return Err("the issuer was not looked at for a while".to_owned());
        }
        match &self.state.borrow().issuer {
            Some(issuer) if issuer.not_after() > now => Ok(Arc::clone(issuer)),
            _ => Err(self.waits(now)),
        }
    }

    /// Why no issuer can sign.
    fn waits(&self, now: SystemTime) -> String {
        match self.local().signs_at.and_then(|at| at.duration_since(now).ok()) {
            Some(left) => {
                format!("it expired; the new one signs in {} s, once its anchor is known to all", left.as_secs() + 1)
            }
            None => "it expired, or cannot be used any more, and there is no other".to_owned(),
        }
    }

    /// The issuer for what we show ourselves.
    pub fn serving(&self, now: SystemTime) -> Result<Arc<Issuer>, String> {
        let usable = |issuer: &Option<Arc<Issuer>>| issuer.clone().filter(|issuer| issuer.not_after() > now);
        let state = self.state.borrow().clone();
        usable(&state.issuer).or_else(|| usable(&state.next)).ok_or_else(|| self.waits(now))
    }

    /// What holds now.
    #[must_use]
    pub fn state(&self) -> Arc<InForce> {
        self.state.borrow().clone()
    }

    /// What holds, as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<InForce>> {
        self.state.subscribe()
    }

    /// The last usable issuer that was offered.
    #[must_use]
    pub fn files(&self) -> Files {
        let local = self.local();
        local.offered.as_ref().map_or_else(|| local.record.issuer.files.clone(), |offered| offered.files.clone())
    }

    /// The folder of the store, if it is one.
    #[must_use]
    pub fn store_dir(&self) -> Option<&std::path::Path> {
        self.store.dir()
    }

    /// When to take the next turn at the latest.
    #[must_use]
    pub fn next_turn(&self, now: SystemTime) -> Duration {
        let signs = self.local().signs_at.and_then(|at| at.duration_since(now).ok());
        self.rules.look_every().min(signs.unwrap_or(Duration::MAX))
    }

    /// How long to wait before the next turn, whatever happens: another replica writes the state too.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.local().pace.pause(Instant::now())
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a turn comes to.
struct Taken {
    record: Record,
    state: InForce,
    offered: Option<Offered>,
    signs_at: Option<SystemTime>,
    /// What was not taken.
    error: Option<TurnError>,
    /// The record was written, and why it was not as it should be.
    wrote: bool,
    undone: Option<Undone>,
}

async fn take(
    store: &Store,
    trust_domain: &TrustDomain,
    rules: Rules,
    local: Option<&Record>,
    held: Option<&Held>,
    last: Option<Offered>,
    now: SystemTime,
) -> Result<Taken, TurnError> {
    let mut error = None;
    let offered = match held {
        None => None,
        Some(held) if last.as_ref().is_some_and(|last| last.files == held.files) => last.clone(),
        Some(Held { files, .. }) => match Issuer::load(files, trust_domain, now) {
            Ok(issuer) => Some(Offered { files: files.clone(), issuer: Arc::new(issuer) }),
            Err(refused) => {
                error = Some(TurnError::Issuer(refused));
                None
            }
        },
    };
    let offer = offered.as_ref().map(|offered| offer(offered, held.is_some_and(|held| held.force_remove)));
    let updated = store.update(|stored| {
        let (stored, foreign) = match stored {
            Some(record) if record.trust_domain != trust_domain.as_str() => (None, Some(record.trust_domain)),
            stored => (stored, None),
        };
        let found = stored.clone();
        let revision = stored.as_ref().map(|stored| stored.revision);
        let known = reconcile(stored, local);
        // What was lost is written again, whether or not it changes.
        let lost = known.as_ref().is_some_and(|known| revision != Some(known.revision));
        let stepped = step(known, offer.as_ref(), trust_domain.as_str(), now, rules);
        let Stepped { record, write, mended, refused, signs_at } = stepped;
        // As we had it before, in another way then, and so again.
        let back = |stored: &Record| {
            let as_before = |record: &Record| local.is_some_and(|local| record.says_as(local));
            !as_before(stored) && record.as_ref().is_some_and(as_before)
        };
        let undone = match foreign {
            Some(trust_domain) => Some(Undone::TrustDomain(trust_domain)),
            None if lost && store.is_shared() => Some(Undone::Lost),
            None if mended => Some(Undone::Clock),
            None => found.as_ref().is_some_and(back).then_some(Undone::Issuer),
        };
        let write = write || lost;
        (record, write, (refused, signs_at, write && store.is_shared(), undone))
    });
    let (record, signs_at, wrote, undone, mut extra) = match updated.await {
        Ok((record, (refused, signs_at, wrote, undone))) => {
            error = error.or(refused.map(TurnError::Refused));
            (record, signs_at, wrote, undone, Vec::new())
        }
        // The offered anchors are published all the same: more anchors do no harm.
        Err(away) => {
            metrics::counter!("remora_identity_state_failures_total").increment(1);
            error = error.or(Some(TurnError::Store(away)));
            let offered = offer.map(|offer| offer.anchors).unwrap_or_default();
            (local.cloned(), None, false, None, offered)
        }
    };
    let Some(record) = record else {
        return Err(error.unwrap_or(TurnError::Nothing));
    };
    extra.retain(|der| record.anchor(der).is_none());
    let offered = offered.or(last);
    let state = state(&record, extra, offered.as_ref(), trust_domain, now)?;
    Ok(Taken { record, state, offered, signs_at, error, wrote, undone })
}

fn offer(offered: &Offered, force_remove: bool) -> Offer {
    let Offered { files, issuer } = offered;
    Offer {
        signing: Signing { files: files.clone(), anchor: issuer.anchor().to_vec(), not_after: issuer.not_after() },
        anchors: issuer.anchors().iter().map(|anchor| anchor.der.clone()).collect(),
        force_remove,
    }
}

fn state(
    record: &Record,
    extra: Vec<Vec<u8>>,
    offered: Option<&Offered>,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<InForce, TurnError> {
    let anchors = record.anchors.iter().map(|known| known.der.clone()).chain(extra);
    let bundle = TrustBundle::new(trust_domain.clone(), anchors).map_err(TurnError::Bundle)?;
    let anchors = bundle.anchors().iter().map(|anchor| Anchor::new(anchor)).collect::<Result<_, _>>();
    let anchors = anchors.map_err(TurnError::Issuer)?;
    let next = offered.map(|offered| Arc::clone(&offered.issuer));
    let issuer = match offered {
        Some(offered) if offered.files == record.issuer.files => Some(Arc::clone(&offered.issuer)),
        _ => match Issuer::load(&record.issuer.files, trust_domain, now) {
            Ok(issuer) => Some(Arc::new(issuer)),
            Err(error) => {
                tracing::debug!(%error, "the issuer in force cannot sign");
                None
            }
        },
    };
    Ok(InForce { issuer, next, bundle, anchors })
}

/// Whether the difference need not be published.
fn same(a: &InForce, b: &InForce) -> bool {
    let chain =
        |issuer: &Option<Arc<Issuer>>| issuer.as_ref().map(|issuer| (issuer.not_after(), issuer.anchor().to_vec()));
    let both = |a: &Option<Arc<Issuer>>, b: &Option<Arc<Issuer>>| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (chain(&Some(Arc::clone(a))) == chain(&Some(Arc::clone(b)))),
        (None, None) => true,
        _ => false,
    };
    a.bundle.version() == b.bundle.version() && both(&a.issuer, &b.issuer) && both(&a.next, &b.next)
}

/// What changed, for the log.
fn tell(before: &Record, after: &Record, waited: Option<SystemTime>, waits: Option<SystemTime>, now: SystemTime) {
    let print = |der: &[u8]| Anchor::new(der).map(|anchor| anchor.fingerprint).unwrap_or_default();
    for known in after.anchors.iter().filter(|known| before.anchor(&known.der).is_none()) {
        tracing::info!(anchor = print(&known.der), anchors = after.anchors.len(), "trust anchor published");
    }
    for known in before.anchors.iter().filter(|known| after.anchor(&known.der).is_none()) {
        tracing::info!(anchor = print(&known.der), anchors = after.anchors.len(), "trust anchor removed");
    }
    if before.issuer.files != after.issuer.files {
        tracing::info!(anchor = print(&after.issuer.anchor), "issuer reloaded");
    } else if let (None, Some(at)) = (waited, waits) {
        let seconds = at.duration_since(now).unwrap_or_default().as_secs();
        tracing::info!(seconds, "a new issuer waits until its anchor has reached every proxy; the current one goes on");
    }
}
