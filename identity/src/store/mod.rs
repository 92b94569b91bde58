//! Who keeps the [`Record`]: a Secret beside the issuer's ([`secret`]), a file beside the issuer's folder ([`file`]), or nobody but this
//! process where neither can be written.
//!
//! In: what is to become of the record, as a function of what is stored. Out: the record that is stored then. A write never replaces
//! what another replica wrote meanwhile.

mod file;
mod secret;
#[cfg(test)]
mod tests;

use self::{file::File, secret::Secret};
use crate::trust::{Record, RecordError};
use kube::Client;
use remora_kube::client::CallError;
use std::path::PathBuf;

/// Why the record could not be had or written. Nothing is promoted or removed until it can; what signs goes on.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server does not answer, or refuses.
    #[error("issuer state: {0}")]
    Call(#[source] CallError),
    /// The file cannot be read or written.
    #[error("issuer state: cannot {operation} {path}: {source}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A later version wrote it, so it is not replaced.
    #[error(
        "issuer state: {problem}; it is left unchanged, and until this replica has that version, or {what} is removed, no new issuer signs"
    )]
    Later {
        /// What holds it.
        what: &'static str,
        /// In which format it is.
        problem: String,
    },
    /// Other replicas were faster, again and again.
    #[error("issuer state: other replicas write it all the time")]
    Busy,
}

/// A place for the record.
#[derive(Debug)]
pub struct Store(Place);

#[derive(Debug)]
enum Place {
    File(File),
    Secret(Box<Secret>),
    Memory,
}

impl Store {
    /// A file in the folder `dir`. Where that cannot be written the record is in memory, which is said once: a restart then knows
    /// only what `ca.crt` says.
    #[must_use]
    pub fn file(dir: PathBuf) -> Self {
        match File::open(dir) {
            Ok(file) => Self(Place::File(file)),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "the issuer's state is kept in memory only: after a restart, anchors that ca.crt does not list are \
                     forgotten; give a folder that can be written by --state-dir"
                );
                Self::memory()
            }
        }
    }

    /// In this process alone.
    #[must_use]
    pub fn memory() -> Self {
        Self(Place::Memory)
    }

    /// A Secret in `namespace`.
    #[must_use]
    pub fn secret(client: Client, namespace: &str) -> Self {
        Self(Place::Secret(Box::new(Secret::new(client, namespace))))
    }

    /// Replaces what is stored by what `change` makes of it, if it makes anything, and returns what is stored then: `change` sees
    /// `None` where nothing usable is stored, and says whether its record is to be written. It may be called several times.
    ///
    /// Cancelled, it may have written.
    pub(crate) async fn update<T>(
        &self,
        change: impl FnMut(Option<Record>) -> (Option<Record>, bool, T),
    ) -> Result<(Option<Record>, T), StoreError> {
        match &self.0 {
            Place::File(file) => file.update(change).await,
            Place::Secret(secret) => secret.update(change).await,
            Place::Memory => {
                let mut change = change;
                // What this process saw last is what there is.
                let (record, _, rest) = change(None);
                Ok((record, rest))
            }
        }
    }

    /// Whether others may write it.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(self.0, Place::Memory)
    }

    /// The folder whose changes are news, if any.
    pub(crate) fn dir(&self) -> Option<&std::path::Path> {
        match &self.0 {
            Place::File(file) => Some(file.dir()),
            Place::Secret(_) | Place::Memory => None,
        }
    }
}

/// What is stored, or nothing, loudly, if it is no record. A later version's is not nothing.
fn decoded(bytes: &[u8], what: &'static str) -> Result<Option<Record>, StoreError> {
    match Record::decode(bytes) {
        Ok(record) => Ok(Some(record)),
        Err(error @ RecordError::Format(_)) => Err(StoreError::Later { what, problem: error.to_string() }),
        Err(error) => {
            metrics::counter!("remora_identity_state_failures_total").increment(1);
            tracing::error!(%error, what, "the issuer's state is unusable, and is written again from memory");
            Ok(None)
        }
    }
}
