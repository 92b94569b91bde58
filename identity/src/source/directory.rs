//! An issuer in a folder: `tls.crt`, `tls.key`, `ca.crt`, and perhaps [`FORCE_REMOVE`].
//!
//! Limitation: files that change while no replica runs are taken as they are.

use std::path::PathBuf;
use std::time::SystemTime;

use remora_model::TrustDomain;

use super::{Changes, Held, SourceError};
use crate::issuer::{FORCE_REMOVE, Files};

/// The folder.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// At `path`, which need not exist.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// What it holds, after it was filled if it held none of the files.
    pub fn open(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Held, SourceError> {
        if Files::read(&self.0).map_err(SourceError::Issuer)?.is_none() {
            let files = Files::make(trust_domain, now).map_err(SourceError::Issuer)?;
            files.write(&self.0).map_err(SourceError::Issuer)?;
            tracing::info!(dir = %self.0.display(), "made a new issuer");
        }
        self.look()
    }

    /// What it holds.
    pub fn look(&self) -> Result<Held, SourceError> {
        let files = Files::read(&self.0).map_err(SourceError::Issuer)?;
        let files = files.ok_or_else(|| SourceError::Gone(self.0.display().to_string()))?;
        Ok(Held { files, force_remove: self.0.join(FORCE_REMOVE).exists() })
    }

    pub(super) fn changes(&self) -> Changes {
        Changes::of_files([self.0.as_path()])
    }
}
