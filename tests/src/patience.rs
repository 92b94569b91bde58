//! Waiting for what nobody announces. In: a condition. Out: what it found, or a failure that says what did not come.

use anyhow::{Context as _, bail};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a condition may take on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
pub const GLANCE: Duration = Duration::from_millis(5);

/// Looks until `look` finds something, for [`PATIENCE`]. The last error that it met explains a failure.
pub fn until<T>(what: &str, look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    until_within(PATIENCE, what, look)
}

/// Like [`until`], with more or less patience.
pub fn until_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if Instant::now() >= deadline => bail!("waited {patience:?} in vain: {what}"),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("waited {patience:?} in vain: {what}"));
            }
            Ok(None) | Err(_) => thread::park_timeout(GLANCE),
        }
    }
}
