//! The record in a file, for several processes on one machine: `issuer-state.json`, readable by its owner alone, replaced whole while
//! `issuer-state.lock` is held.

use super::{StoreError, decoded};
use crate::{
    issuer::write_atomically,
    limits::STATE_BYTES_MAX,
    lock::{self, LockError},
    trust::Record,
};
use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

const NAME: &str = "issuer-state.json";
const LOCK: &str = "issuer-state.lock";

#[derive(Debug)]
pub(super) struct File {
    dir: PathBuf,
    lock: PathBuf,
}

impl File {
    /// In `dir`, which must be writable.
    pub(super) fn open(dir: PathBuf) -> Result<Self, StoreError> {
        fs::create_dir_all(&dir).map_err(|source| failed("create", &dir, source))?;
        let file = Self { lock: dir.join(LOCK), dir };
        file.open_lock()?;
        Ok(file)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) async fn update<T>(
        &self,
        mut change: impl FnMut(Option<Record>) -> (Option<Record>, bool, T),
    ) -> Result<(Option<Record>, T), StoreError> {
        let lock = self.open_lock()?;
        // Where it is busy the next look tries again.
        lock::take(&lock).await.map_err(|error| match error {
            LockError::Io(source) => failed("lock", &self.lock, source),
            LockError::Busy => StoreError::Busy,
        })?;
        // The lock goes with its file, below.
        let path = self.dir.join(NAME);
        let stored = read(&path).map_err(|source| failed("read", &path, source))?;
        let stored = stored.map(|bytes| decoded(&bytes, NAME)).transpose()?.flatten();
        let (record, write, rest) = change(stored);
        if let Some(record) = record.as_ref().filter(|_| write) {
            write_atomically(&self.dir, NAME, &record.encode(), 0o600)
                .map_err(|source| failed("write", &path, source))?;
        }
        drop(lock);
        Ok((record, rest))
    }

    fn open_lock(&self) -> Result<fs::File, StoreError> {
        lock::open(&self.lock).map_err(|source| failed("open", &self.lock, source))
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(STATE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::File { operation, path: path.to_owned(), source }
}
