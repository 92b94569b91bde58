//! What the service knows at a moment: the issuer and the token keys, reloaded when their files change.
//!
//! A bad new state is refused and the old one kept, loudly: an operator's slip must not stop renewals.

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
    /// Until when leaves live, by the anchor they chain to. Few: one entry per anchor ever used.
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
        report_expiry(&issuer);
        Ok(Arc::new(Self {
            sources,
            issuer: watch::Sender::new(Arc::new(issuer)),
            files: Mutex::new(files),
            keys: ArcSwap::from_pointee(keys),
            keys_text: Mutex::new(keys_text),
            leaves: Mutex::default(),
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
        report_expiry(&issuer);
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

    /// Reloads on file events and every `POLL`, until dropped.
    pub async fn follow(&self) {
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

fn report_expiry(issuer: &Issuer) {
    let seconds = issuer.not_after().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    metrics::gauge!("remora_identity_issuer_expiry_timestamp_seconds").set(seconds);
    metrics::gauge!("remora_identity_anchors").set(issuer.bundle().anchors().len() as f64);
}
