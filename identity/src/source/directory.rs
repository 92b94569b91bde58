//! An issuer in a folder: `tls.crt`, `tls.key`, `ca.crt`, and perhaps [`FORCE_REMOVE`].

use super::{Changes, SourceError};
use crate::{
    held::Held,
    issuer::{FORCE_REMOVE, Files, IssuerError},
    lock::{self, LockError},
};
use remora_model::TrustDomain;
use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Held by the process that makes the issuer.
const LOCK: &str = "issuer.lock";

/// The folder.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// At `path`, which need not exist.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// What it holds, after it was filled if it held none of the files. Processes that begin together fill it once: whoever finds
    /// it empty, or half filled, looks again while he holds [`LOCK`].
    ///
    /// Cancel-safe.
    pub async fn open(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Held, SourceError> {
        match Files::read(&self.0) {
            Ok(None) => {}
            Err(IssuerError::Incomplete(_)) if self.0.join(LOCK).exists() => {}
            read => return read.map_err(SourceError::Issuer).and_then(|_| self.look()),
        }
        let lock = self.lock().await.map_err(SourceError::Issuer)?;
        if Files::read(&self.0).map_err(SourceError::Issuer)?.is_none() {
            let files = Files::make(trust_domain, now).map_err(SourceError::Issuer)?;
            files.write(&self.0).map_err(SourceError::Issuer)?;
            tracing::info!(dir = %self.0.display(), "made a new issuer");
        }
        drop(lock);
        self.look()
    }

    async fn lock(&self) -> Result<File, IssuerError> {
        let path = self.0.join(LOCK);
        let failed = |operation, source| IssuerError::File { operation, path: path.clone(), source };
        fs::create_dir_all(&self.0).map_err(|source| failed("create the folder of", source))?;
        let file = lock::open(&path).map_err(|source| failed("open", source))?;
        lock::take(&file).await.map_err(|error| match error {
            LockError::Io(source) => failed("lock", source),
            LockError::Busy => failed("lock", io::Error::new(ErrorKind::WouldBlock, "another process holds it")),
        })?;
        Ok(file)
    }

    /// What it holds.
    pub fn look(&self) -> Result<Held, SourceError> {
        let files = Files::read(&self.0).map_err(SourceError::Issuer)?;
        let files = files.ok_or_else(|| SourceError::Gone(self.0.display().to_string()))?;
        Ok(Held { files, force_remove: self.0.join(FORCE_REMOVE).exists() })
    }

    /// Of the folder, and of the one that the state is in.
    pub(super) fn changes(&self, state: Option<&Path>) -> Changes {
        let state = state.filter(|dir| *dir != self.0);
        Changes::of_files([Some(self.0.as_path()), state].into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use tempfile::TempDir;

    /// What `processes` find that begin together over one folder.
    fn begin_together(dir: &Path, processes: usize) -> Vec<Result<Held, SourceError>> {
        let (trust_domain, now) = (TrustDomain::new("cluster.local").unwrap(), SystemTime::now());
        let barrier = Barrier::new(processes);
        let open = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            barrier.wait();
            runtime.block_on(Directory::new(dir.to_owned()).open(&trust_domain, now))
        };
        std::thread::scope(|scope| {
            let begun: Vec<_> = (0..processes).map(|_| scope.spawn(open)).collect();
            begun.into_iter().map(|process| process.join().unwrap()).collect()
        })
    }

    #[test]
    fn processes_that_begin_together_make_one_issuer() {
        for _ in 0..10 {
            let dir = TempDir::new().unwrap();
            let found = begin_together(&dir.path().join("issuer"), 8);
            let found: Vec<Files> = found.into_iter().map(|held| held.unwrap().files).collect();
            assert!(found.iter().all(|files| *files == found[0]));
        }
    }

    #[tokio::test]
    async fn who_finds_half_an_issuer_waits_for_who_makes_it() {
        let (dir, now) = (TempDir::new().unwrap(), SystemTime::now());
        let (trust_domain, directory) = (TrustDomain::new("cluster.local").unwrap(), Directory::new(dir.path().into()));
        let lock = directory.lock().await.unwrap();
        let files = Files::make(&trust_domain, now).unwrap();
        fs::write(dir.path().join("tls.key"), "half").unwrap();
        let (opened, ()) = tokio::join!(directory.open(&trust_domain, now), async {
            files.write(dir.path()).unwrap();
            drop(lock);
        });
        assert!(opened.unwrap().files == files);
    }

    #[tokio::test]
    async fn half_an_issuer_that_nobody_makes_is_refused() {
        let (dir, now) = (TempDir::new().unwrap(), SystemTime::now());
        let (trust_domain, directory) = (TrustDomain::new("cluster.local").unwrap(), Directory::new(dir.path().into()));
        fs::write(dir.path().join("tls.key"), "half").unwrap();
        for _ in 0..2 {
            let refused = directory.open(&trust_domain, now).await.unwrap_err();
            assert!(matches!(refused, SourceError::Issuer(IssuerError::Incomplete(_))), "{refused}");
            drop(directory.lock().await.unwrap());
        }
    }
}
