//! Proof without an API server: signatures against a JWKS file, for the demo, tests, benchmarks and VMs. [`prove`] is pure:
//! text and `now` in, what is proven or the broken rule out.
//!
//! What it cannot know is whether the pod still lives: a token is good until it expires.

use super::{Claims, Kubernetes, Pod, Proven, Rules, SERVICE_ACCOUNT, TokenError};
use crate::{limits::POLL, source::Changes};
use arc_swap::ArcSwap;
use remora_jose::{
    KeySet, Profile,
    claims::{Audience, NumericDate},
};
use remora_runtime::admin::Readiness;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// Condition of `/ready`: there are keys to check tokens with.
pub(crate) const TOKEN_KEYS: &str = "token keys";

/// Checks `token` against `keys` as of `now`.
pub fn prove(keys: &KeySet, token: &str, rules: Rules<'_>, now: SystemTime) -> Result<Proven, TokenError> {
    let claims = verified(keys, token, rules.audience)?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if now >= claims.exp.0.saturating_add(rules.skew) {
        return Err(TokenError::Expired);
    }
    if claims.nbf.is_some_and(|NumericDate(nbf)| now.saturating_add(rules.skew) < nbf) {
        return Err(TokenError::NotYetValid);
    }
    let token_ends = claims.ends();
    let Kubernetes { namespace, serviceaccount, pod } = claims.kubernetes;
    if claims.sub != format!("{SERVICE_ACCOUNT}{namespace}:{}", serviceaccount.name) {
        return Err(TokenError::Subject);
    }
    let pod = pod.map(|pod| Pod { name: pod.name, uid: pod.uid });
    Ok(Proven { subject: claims.sub, pod, token_ends, recalled: false })
}

fn verified(keys: &KeySet, token: &str, audience: &str) -> Result<Claims, TokenError> {
    let claims = keys.verified(token)?;
    let said: Audience = serde_json::from_slice(&claims).map_err(|error| TokenError::claims(&error))?;
    if !said.aud.holds(audience) {
        return Err(TokenError::Audience);
    }
    let claims: Claims = serde_json::from_slice(&claims).map_err(|error| TokenError::claims(&error))?;
    if claims.kubernetes.serviceaccount.uid.is_empty() {
        return Err(TokenError::Claims("kubernetes.io.serviceaccount.uid is empty".into()));
    }
    Ok(claims)
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The JWKS cannot be read.
    #[error("cannot read token keys {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The JWKS cannot be understood.
    #[error("token keys {path} are no JWKS: {reason}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
}

/// The keys of a JWKS file, as it changes. A bad new state is refused and the old kept, loudly.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    keys: ArcSwap<KeySet>,
    text: Mutex<String>,
}

impl Keys {
    /// Reads `path`.
    pub fn open(path: PathBuf) -> Result<Self, KeysError> {
        let text = read(&path)?;
        let keys = ArcSwap::from_pointee(parse(&path, &text)?);
        Ok(Self { path, keys, text: Mutex::new(text) })
    }

    /// The keys in force.
    #[must_use]
    pub fn current(&self) -> Arc<KeySet> {
        self.keys.load_full()
    }

    /// Looks at the file, and takes what changed if it is good.
    pub fn reload(&self) -> Result<(), KeysError> {
        let text = read(&self.path)?;
        let mut current = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != text {
            self.keys.store(Arc::new(parse(&self.path, &text)?));
            tracing::info!("token keys reloaded");
            *current = text;
        }
        Ok(())
    }

    /// Reloads when the file changes, until dropped.
    pub async fn follow(&self, readiness: &Readiness) {
        let mut changes = Changes::of_files(self.path.parent().filter(|dir| !dir.as_os_str().is_empty()));
        let mut last_error = String::new();
        loop {
            match self.current().len() {
                0 => readiness
                    .waiting(TOKEN_KEYS, "the JWKS holds no key that checks signatures, so no token can be checked"),
                _ => readiness.ready(TOKEN_KEYS),
            }
            changes.next(POLL).await;
            let error = self.reload().err().map(|e| e.to_string()).unwrap_or_default();
            if !error.is_empty() && error != last_error {
                metrics::counter!("remora_identity_reload_failures_total").increment(1);
                tracing::error!(error, "refusing the new state, keeping the old");
            }
            last_error = error;
        }
    }
}

fn read(path: &Path) -> Result<String, KeysError> {
    std::fs::read_to_string(path).map_err(|source| KeysError::Read { path: path.to_owned(), source })
}

fn parse(path: &Path, text: &str) -> Result<KeySet, KeysError> {
    KeySet::parse(text, Profile::SERVICE_ACCOUNTS)
        .map_err(|reason| KeysError::Content { path: path.to_owned(), reason })
}
