//! Where the issuer is kept: a folder ([`directory`]) or a Secret ([`secret`]), both in cert-manager's shape, made by the
//! first start if there is nothing, and followed from then on.
//!
//! A source reads, and says when to look again; whether what it read may be used is the [`Authority`]'s decision.

mod changes;
pub mod directory;
pub mod secret;

use remora_kube::client::CallError;
use remora_model::TrustDomain;
use std::{sync::Arc, time::SystemTime};

pub(crate) use self::changes::Changes;
use self::{directory::Directory, secret::Secret};
use crate::{
    authority::{Authority, TurnError},
    held::Held,
    issuer::IssuerError,
};

/// Why nothing can be had from a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The issuer's files or Secret exist and are unusable.
    #[error("issuer: {0}")]
    Issuer(#[source] IssuerError),
    /// The issuer's files or Secret were deleted.
    #[error("issuer: {0} is gone")]
    Gone(String),
    /// It cannot be asked.
    #[error("issuer: {0}")]
    Away(#[source] CallError),
    /// What it holds was not taken, or not all of it.
    #[error("{0}")]
    Turn(#[source] TurnError),
}

/// A place that holds an issuer.
#[derive(Debug)]
pub enum Source {
    /// A folder.
    Directory(Directory),
    /// A Secret.
    Secret(Box<Secret>),
}

impl Source {
    /// What it holds, after a new issuer was put there if it held none.
    pub async fn open(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Held, SourceError> {
        match self {
            Self::Directory(directory) => directory.open(trust_domain, now).await,
            Self::Secret(secret) => secret.open(trust_domain, now).await,
        }
    }

    /// What it holds.
    pub async fn look(&self) -> Result<Held, SourceError> {
        match self {
            Self::Directory(directory) => directory.look(),
            Self::Secret(secret) => secret.look().await,
        }
    }

    /// Hands `authority` what it holds, whenever something changes and in any case often enough, until dropped. What it refuses is
    /// said once, and counted; the issuer in force goes on.
    pub async fn follow(&self, authority: Arc<Authority>) {
        let mut changes = match self {
            Self::Directory(directory) => directory.changes(authority.store_dir()),
            Self::Secret(secret) => secret.changes(),
        };
        let mut last_error = String::new();
        loop {
            changes.next(authority.next_turn(SystemTime::now())).await;
            changes.settle(authority.pause()).await;
            let error = self.turn(&authority).await.err();
            let text = error.as_ref().map(SourceError::to_string).unwrap_or_default();
            if text != last_error {
                self.tell(error.as_ref(), &text);
            }
            last_error = text;
        }
    }

    async fn turn(&self, authority: &Authority) -> Result<(), SourceError> {
        let held = match self.look().await {
            Err(SourceError::Gone(name)) => match self.restore(name, authority).await {
                Ok(()) => self.look().await,
                Err(error) => Err(error),
            },
            looked => looked,
        };
        // Without it too: the record goes on.
        let turned = authority.turn(held.as_ref().ok(), SystemTime::now()).await.map_err(SourceError::Turn);
        held.map(drop).and(turned)
    }

    fn tell(&self, error: Option<&SourceError>, text: &str) {
        match error {
            None => tracing::info!("the issuer and its state are in order again"),
            // Says nothing about the issuer: it is the API server's trouble, or the disk's, and passes.
            Some(SourceError::Away(_) | SourceError::Turn(TurnError::Store(_))) => {
                tracing::warn!(error = text, "cannot look for a new issuer, or keep the state");
            }
            Some(_) => {
                metrics::counter!("remora_identity_reload_failures_total").increment(1);
                tracing::error!(error = text, "refusing the new state, keeping the old");
                if let Self::Secret(secret) = self {
                    secret.refused(text);
                }
            }
        }
    }

    async fn restore(&self, name: String, authority: &Authority) -> Result<(), SourceError> {
        match self {
            Self::Secret(secret) => secret.restore(&authority.files()).await,
            Self::Directory(_) => Err(SourceError::Gone(name)),
        }
    }
}
