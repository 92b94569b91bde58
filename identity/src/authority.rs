//! What the service signs with at a moment, and what it may change to.
//!
//! A bad new state is refused and the old one kept, loudly: an operator's slip must not stop renewals. An anchor does not
//! go while leaves may chain to it. Nothing about leaves is written down; what this process cannot know (what it signed
//! before it was started, what another replica signs until it too has seen a new issuer) is taken to be the worst.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use remora_model::TrustDomain;
use tokio::sync::watch;

use crate::issuer::{Files, Issuer, IssuerError};
use crate::source::{Held, POLL};

/// The current state.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    leaf_lifetime: Duration,
    issuer: watch::Sender<Arc<Issuer>>,
    files: Mutex<Files>,
    /// Until when leaves may live, by the anchor they chain to. Bounded: anchors in use, and those that still count.
    leaves: Mutex<Vec<(Vec<u8>, SystemTime)>>,
}

impl Authority {
    /// Begins with what is `held`. After `leaf_lifetime` none is left of what an earlier process or another replica signed.
    pub fn new(
        held: Held,
        trust_domain: TrustDomain,
        leaf_lifetime: Duration,
        now: SystemTime,
    ) -> Result<Arc<Self>, IssuerError> {
        let issuer = Issuer::load(&held.files, &trust_domain, now)?;
        let presumed = now + leaf_lifetime;
        let leaves = issuer.anchors().iter().map(|anchor| (anchor.der.clone(), presumed)).collect();
        Ok(Arc::new(Self {
            trust_domain,
            leaf_lifetime,
            issuer: watch::Sender::new(Arc::new(issuer)),
            files: Mutex::new(held.files),
            leaves: Mutex::new(leaves),
        }))
    }

    /// The issuer in force.
    #[must_use]
    pub fn issuer(&self) -> Arc<Issuer> {
        Arc::clone(&self.issuer.borrow())
    }

    /// The issuer as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Issuer>> {
        self.issuer.subscribe()
    }

    /// What the issuer in force was read from.
    #[must_use]
    pub fn files(&self) -> Files {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers that a leaf chains to `anchor` until `not_after`.
    pub fn issued(&self, anchor: &[u8], not_after: SystemTime) {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        match leaves.iter_mut().find(|(known, _)| known == anchor) {
            Some((_, last)) => *last = (*last).max(not_after),
            None => leaves.push((anchor.to_vec(), not_after)),
        }
    }

    /// The expiries that an operator must know of, in Prometheus' text format. They are not in the metrics recorder
    /// because it cannot forget an anchor that went.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let (issuer, leaves) = (self.issuer(), self.leaves.lock().unwrap_or_else(PoisonError::into_inner));
        let mut text = String::new();
        let mut family = |name: &str, help: &str, samples: &[(String, SystemTime)]| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (labels, at) in samples {
                let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let _ = writeln!(text, "{name}{labels} {seconds}");
            }
        };
        family(
            "remora_identity_issuer_expiry_timestamp_seconds",
            "When the first certificate of the issuer's chain ends, in seconds since 1970.",
            &[(String::new(), issuer.not_after())],
        );
        let anchors = issuer.anchors().iter();
        let labelled = anchors.clone().map(|anchor| {
            let signing = anchor.der == issuer.anchor();
            (format!("{{anchor=\"{}\",signing=\"{signing}\"}}", anchor.fingerprint), anchor.not_after)
        });
        family(
            "remora_identity_anchor_expiry_timestamp_seconds",
            "When a trust anchor ends, in seconds since 1970; signing is whether new certificates chain to it.",
            &labelled.collect::<Vec<_>>(),
        );
        let until = anchors.filter_map(|anchor| {
            let (_, until) = leaves.iter().find(|(known, _)| *known == anchor.der)?;
            Some((format!("{{anchor=\"{}\"}}", anchor.fingerprint), *until))
        });
        family(
            "remora_identity_anchor_leaves_until_timestamp_seconds",
            "Until when certificates may chain to a trust anchor, which is not removed before.",
            &until.collect::<Vec<_>>(),
        );
        text
    }

    /// Changes to what is `held`, if it is another and good.
    pub fn take(&self, held: Held, now: SystemTime) -> Result<(), IssuerError> {
        let Held { files, force_remove } = held;
        let mut current = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == files {
            return Ok(());
        }
        let issuer = Issuer::load(&files, &self.trust_domain, now)?;
        if !force_remove {
            self.check_removed(&issuer, now)?;
        }
        let old = self.issuer();
        if old.anchor() != issuer.anchor() {
            // Another replica may go on signing with the old issuer until its next look.
            self.issued(old.anchor(), now + POLL + self.leaf_lifetime);
        }
        self.forget(&issuer, now);
        tracing::info!(anchors = issuer.bundle().anchors().len(), "issuer reloaded");
        *current = files;
        self.issuer.send_replace(Arc::new(issuer));
        Ok(())
    }

    fn check_removed(&self, new: &Issuer, now: SystemTime) -> Result<(), IssuerError> {
        let leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        for (anchor, not_after) in leaves.iter() {
            let kept = new.bundle().anchors().iter().any(|kept| kept.as_ref() == anchor);
            match not_after.duration_since(now) {
                Ok(left) if !kept && !left.is_zero() => return Err(IssuerError::AnchorInUse(left)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Drops the records of anchors that are gone and signed nothing that lives.
    fn forget(&self, new: &Issuer, now: SystemTime) {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        leaves.retain(|(anchor, until)| *until > now || new.anchors().iter().any(|kept| kept.der == *anchor));
    }
}
