//! The record, taken on: pure.

use super::{FORMAT, Known, Offer, Record, Rules};
use crate::limits::LEAF_LIFETIME_MAX;
use remora_runtime::tls::ANCHORS_MAX;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An offer that is not taken although it is usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no room for its anchors.
    #[error(
        "with its anchors {0} would be published, and at most {ANCHORS_MAX} are read; wait until certificates under the oldest have ended"
    )]
    TooMany(usize),
}

/// What comes of a step.
#[derive(Debug)]
pub(crate) struct Stepped {
    /// None while there was never an offer.
    pub(crate) record: Option<Record>,
    /// It must be written.
    pub(crate) write: bool,
    /// It held times that this clock cannot believe.
    pub(crate) mended: bool,
    /// The offer is refused.
    pub(crate) refused: Option<Refused>,
    /// When the offered issuer will sign, if it does not yet.
    pub(crate) signs_at: Option<SystemTime>,
}

/// Which of two records holds: what is stored, or what this replica saw last.
///
/// What is stored, but for two cases: it was deleted, or the store was restored to an earlier state. Then what was published since
/// is published still.
pub(crate) fn reconcile(stored: Option<Record>, local: Option<&Record>) -> Option<Record> {
    let Some(local) = local else { return stored };
    match stored {
        Some(stored) if stored.revision >= local.revision => Some(stored),
        Some(stored) => {
            let mut merged = local.clone();
            for known in stored.anchors {
                if merged.anchor(&known.der).is_none() && merged.anchors.len() < ANCHORS_MAX {
                    merged.anchors.push(known);
                }
            }
            Some(merged)
        }
        None => Some(local.clone()),
    }
}

/// Takes `known` on to `now`. Without an `offer` (what the operator wrote is unusable, or cannot be read) nothing is promoted and
/// nothing removed.
pub(crate) fn step(
    known: Option<Record>,
    offer: Option<&Offer>,
    trust_domain: &str,
    now: SystemTime,
    rules: Rules,
) -> Stepped {
    let now = whole_millis(now);
    let Some(mut record) = known else {
        let record = offer.map(|offer| first(offer, trust_domain, now, rules));
        return Stepped { write: record.is_some(), mended: false, record, refused: None, signs_at: None };
    };
    let before = record.clone();
    record.mend_times(now, rules);
    let mended = record != before;
    record.bridge_gap(now, rules);
    for known in &mut record.anchors {
        known.first_published.get_or_insert(now);
    }
    let (mut refused, mut signs_at) = (None, None);
    if let Some(offer) = offer {
        record.remove(offer, now, rules);
        refused = record.publish(offer).err();
        if refused.is_none() {
            signs_at = record.promote(offer, now, rules);
        }
    }
    let promised = record.promise(now, rules);
    let due = elapsed(before.updated, now) >= rules.look_every();
    let write = due || record != before || !promised;
    if write {
        record.renew_promise(now, rules);
        record.updated = now;
        record.revision += 1;
    }
    Stepped { record: Some(record), write, mended, refused, signs_at }
}

/// There is no earlier record. Whatever an older version signed, or a record that was lost, chains to the anchors that are offered,
/// and lives no longer than what is signed now.
fn first(offer: &Offer, trust_domain: &str, now: SystemTime, rules: Rules) -> Record {
    let leaves_until = now + rules.lifetime + rules.publish();
    let known = |der: &Vec<u8>| Known { der: der.clone(), first_published: Some(now), leaves_until };
    Record {
        format: FORMAT,
        trust_domain: trust_domain.to_owned(),
        revision: 1,
        updated: now,
        steady_since: now,
        issuer: offer.signing.clone(),
        anchors: offer.anchors.iter().map(known).collect(),
    }
}

impl Record {
    /// A clock that jumped, here or at the replica that wrote, must not hold anything up for long.
    fn mend_times(&mut self, now: SystemTime, rules: Rules) {
        let latest = now + rules.skew;
        let longest = now + LEAF_LIFETIME_MAX + rules.publish();
        let mend = |time: &mut SystemTime| {
            if *time > latest {
                *time = now;
            }
        };
        mend(&mut self.updated);
        mend(&mut self.steady_since);
        for known in &mut self.anchors {
            known.first_published.as_mut().map(mend);
            known.leaves_until = known.leaves_until.min(longest);
        }
    }

    /// While nobody could write, whoever ran went on with what it knew: what was left of each promise is left still.
    fn bridge_gap(&mut self, now: SystemTime, rules: Rules) {
        let gap = elapsed(self.updated, now);
        if gap <= rules.publish() {
            return;
        }
        for known in &mut self.anchors {
            if known.leaves_until + rules.skew > self.updated {
                known.leaves_until += gap;
            }
        }
        self.steady_since = now;
    }

    /// Lets go what the offer does not list, once nothing lives that chains to it.
    fn remove(&mut self, offer: &Offer, now: SystemTime, rules: Rules) {
        let steady = elapsed(self.steady_since, now) >= rules.publish();
        let (signing, force) = (&self.issuer.anchor, offer.force_remove);
        self.anchors.retain(|known| {
            let gone = force || (steady && known.leaves_until + rules.skew <= now);
            known.der == *signing || offer.anchors.contains(&known.der) || !gone
        });
    }

    /// Adds what the offer lists.
    fn publish(&mut self, offer: &Offer) -> Result<(), Refused> {
        let new: Vec<_> = offer.anchors.iter().filter(|der| self.anchor(der).is_none()).cloned().collect();
        let all = self.anchors.len() + new.len();
        if all > ANCHORS_MAX {
            return Err(Refused::TooMany(all));
        }
        // It counts once it is seen to be stored: a write may take a while.
        let known = |der| Known { der, first_published: None, leaves_until: UNIX_EPOCH };
        self.anchors.extend(new.into_iter().map(known));
        Ok(())
    }

    /// Lets the offered issuer sign, or says when it will. Another replica may go on with the old until its next look.
    fn promote(&mut self, offer: &Offer, now: SystemTime, rules: Rules) -> Option<SystemTime> {
        if offer.signing.files == self.issuer.files {
            return None;
        }
        // Leaves chain to the anchor in force already: proxies that follow the bundle have it.
        if offer.signing.anchor != self.issuer.anchor {
            let published = self.anchor(&offer.signing.anchor)?.first_published.unwrap_or(now);
            let at = published.max(self.steady_since) + rules.publish();
            if now < at {
                return Some(at);
            }
        }
        self.renew_promise(now, rules);
        self.issuer = offer.signing.clone();
        None
    }

    /// Whether the promise for the issuer's anchor covers what this replica signs until it looks again, and again.
    fn promise(&self, now: SystemTime, rules: Rules) -> bool {
        let wanted = (now + rules.lifetime + rules.publish() / 2).min(self.issuer.not_after);
        self.anchor(&self.issuer.anchor).is_some_and(|known| known.leaves_until >= wanted)
    }

    fn renew_promise(&mut self, now: SystemTime, rules: Rules) {
        let until = whole_millis((now + rules.lifetime + rules.publish()).min(self.issuer.not_after));
        let signing = self.issuer.anchor.clone();
        if let Some(known) = self.anchors.iter_mut().find(|known| known.der == signing) {
            known.leaves_until = known.leaves_until.max(until);
        }
    }
}

fn elapsed(since: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}

/// As the record is written, so that what is read compares equal.
fn whole_millis(time: SystemTime) -> SystemTime {
    let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
