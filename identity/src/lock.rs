//! Locks between processes of one machine: the process that holds a lock file's lock is alone until it drops the lock, or exits.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

/// Between tries to get a lock, which is held for a few file operations.
const PAUSE: Duration = Duration::from_millis(20);
/// How often it is tried: half a second.
const TRIES: u32 = 25;

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum LockError {
    /// The system refuses.
    Io(io::Error),
    /// Another process has held it all the time. It may have been stopped, and must not stop this one.
    Busy,
}

/// The lock file at `path`, made if it is not there.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Takes the lock of `file`, which goes with it. Cancel-safe.
pub(crate) async fn take(file: &File) -> Result<(), LockError> {
    let mut tries = 0;
    while let Err(error) = file.try_lock() {
        tries += 1;
        match error {
            TryLockError::Error(error) => return Err(LockError::Io(error)),
            TryLockError::WouldBlock if tries > TRIES => return Err(LockError::Busy),
            TryLockError::WouldBlock => tokio::time::sleep(PAUSE).await,
        }
    }
    Ok(())
}
