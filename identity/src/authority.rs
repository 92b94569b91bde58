//! What the service knows at a moment: the issuer and the token keys, reloaded when their files change.
//!
//! A bad new state is refused and the old one kept, loudly: an operator's slip must not stop renewals. An anchor does not
//! go while leaves may chain to it. Nothing about leaves is written down; what this process cannot know (what it signed
//! before it was started, what another replica signs until it too has seen new files) is taken to be the worst.
//! Limitation: files that change while no replica runs are taken as they are.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use jsonwebtoken::jwk::JwkSet;
use notify::{RecursiveMode, Watcher as _};
use remora_model::TrustDomain;
use tokio::sync::{mpsc, watch};

use crate::issuer::{FORCE_REMOVE, Files, Issuer, IssuerError};

/// The files are looked at this often even if no event says so: events get lost on some file systems.
const POLL: Duration = Duration::from_secs(30);

/// Where the state comes from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Folder with `tls.crt`, `tls.key`, `ca.crt`.
    pub issuer_dir: PathBuf,
    /// JWKS file for tokens.
    pub jwks: PathBuf,
    /// Ours.
    pub trust_domain: TrustDomain,
    /// How long leaves live: after that, none is left of what an earlier process or another replica signed.
    pub leaf_lifetime: Duration,
}

/// Why the service cannot start, or keeps its old state.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// About the issuer.
    #[error("issuer: {0}")]
    Issuer(#[source] IssuerError),
    /// The JWKS cannot be read.
    #[error("cannot read token keys {path}: {source}")]
    ReadKeys {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The JWKS cannot be understood.
    #[error("token keys {path} are no JWKS: {reason}")]
    Keys {
        /// Which file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
}

/// The current state.
#[derive(Debug)]
pub struct Authority {
    sources: Sources,
    issuer: watch::Sender<Arc<Issuer>>,
    files: Mutex<Files>,
    keys: ArcSwap<JwkSet>,
    keys_text: Mutex<String>,
    /// Until when leaves may live, by the anchor they chain to. Bounded: anchors in use, and those that still count.
    leaves: Mutex<Vec<(Vec<u8>, SystemTime)>>,
}

impl Authority {
    /// Loads everything, making an issuer if the folder is empty.
    pub fn open(sources: Sources, now: SystemTime) -> Result<Arc<Self>, AuthorityError> {
        let files = match Files::read(&sources.issuer_dir).map_err(AuthorityError::Issuer)? {
            Some(files) => files,
            None => {
                let files = Files::make(&sources.trust_domain, now).map_err(AuthorityError::Issuer)?;
                files.write(&sources.issuer_dir).map_err(AuthorityError::Issuer)?;
                tracing::info!(dir = %sources.issuer_dir.display(), "made a new issuer");
                files
            }
        };
        let issuer = Issuer::load(&files, &sources.trust_domain, now).map_err(AuthorityError::Issuer)?;
        let keys_text = read_keys(&sources)?;
        let keys = parse_keys(&sources, &keys_text)?;
        let presumed = now + sources.leaf_lifetime;
        let leaves = issuer.anchors().iter().map(|anchor| (anchor.der.clone(), presumed)).collect();
        Ok(Arc::new(Self {
            sources,
            issuer: watch::Sender::new(Arc::new(issuer)),
            files: Mutex::new(files),
            keys: ArcSwap::from_pointee(keys),
            keys_text: Mutex::new(keys_text),
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

    /// The token keys in force.
    #[must_use]
    pub fn keys(&self) -> Arc<JwkSet> {
        self.keys.load_full()
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

    /// Looks at the files, and takes what changed if it is good.
    pub fn reload(&self, now: SystemTime) -> Result<(), AuthorityError> {
        let issuer = self.reload_issuer(now).map_err(AuthorityError::Issuer);
        let keys = self.reload_keys();
        issuer.and(keys)
    }

    fn reload_issuer(&self, now: SystemTime) -> Result<(), IssuerError> {
        let dir = &self.sources.issuer_dir;
        let files = Files::read(dir)?.ok_or_else(|| IssuerError::Incomplete(dir.clone()))?;
        let mut current = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == files {
            return Ok(());
        }
        let issuer = Issuer::load(&files, &self.sources.trust_domain, now)?;
        if !dir.join(FORCE_REMOVE).exists() {
            self.check_removed(&issuer, now)?;
        }
        let old = self.issuer();
        if old.anchor() != issuer.anchor() {
            // Another replica may go on signing with the old issuer until its next look at the files.
            self.issued(old.anchor(), now + POLL + self.sources.leaf_lifetime);
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

    fn reload_keys(&self) -> Result<(), AuthorityError> {
        let text = read_keys(&self.sources)?;
        let mut current = self.keys_text.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != text {
            self.keys.store(Arc::new(parse_keys(&self.sources, &text)?));
            tracing::info!("token keys reloaded");
            *current = text;
        }
        Ok(())
    }

    /// Reloads on file events and every `POLL`, until dropped. Tells `report` how many token keys there are, at once and
    /// after each look.
    pub async fn follow(&self, report: impl Fn(usize)) {
        report(self.keys().keys.len());
        let (sender, mut events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading makes access events; answering those would never end.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                // A full queue already says "look": losing the second notice loses nothing.
                let _full = sender.try_send(()).is_err();
            }
        });
        let watcher = watcher.and_then(|mut watcher| {
            watcher.watch(&self.sources.issuer_dir, RecursiveMode::NonRecursive)?;
            if let Some(dir) = self.sources.jwks.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                watcher.watch(dir, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "cannot watch files; relying on the poll every {POLL:?}");
        }
        let mut last_error = String::new();
        loop {
            if let Ok(None) = tokio::time::timeout(POLL, events.recv()).await {
                // The watcher could not be made and took the sender with it.
                tokio::time::sleep(POLL).await;
            }
            let error = self.reload(SystemTime::now()).err().map(|e| e.to_string()).unwrap_or_default();
            if !error.is_empty() && error != last_error {
                metrics::counter!("remora_identity_reload_failures_total").increment(1);
                tracing::error!(error, "refusing the new state, keeping the old");
            }
            last_error = error;
            report(self.keys().keys.len());
        }
    }
}

fn read_keys(sources: &Sources) -> Result<String, AuthorityError> {
    std::fs::read_to_string(&sources.jwks)
        .map_err(|source| AuthorityError::ReadKeys { path: sources.jwks.clone(), source })
}

fn parse_keys(sources: &Sources, text: &str) -> Result<JwkSet, AuthorityError> {
    serde_json::from_str(text).map_err(|e| AuthorityError::Keys { path: sources.jwks.clone(), reason: e.to_string() })
}
