//! How `remora demo --break X` reaches the running demo: a lock that says there is one, and a socket beside it.

use super::breaks::Break;
use crate::sys;
use clap::ValueEnum;
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

/// Both sides are on this machine and answer from memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request is one word, an answer one line.
const MESSAGE_BYTES_MAX: u64 = 4096;

/// Why the running demo could not be found, or did not take the command.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot use {path} to be found by `remora demo --break`")]
    Directory { path: PathBuf, source: io::Error },
    #[error("{path} belongs to another user; remove it, or name another place with --runtime-dir")]
    Foreign { path: PathBuf },
    #[error(
        "a demo of yours is running already: end it, break it with --break, or name another place with --runtime-dir"
    )]
    Running,
    #[error("no demo is running: start one with `remora demo` in another terminal, or add --for 40s")]
    NotRunning,
    #[error("the running demo did not answer")]
    Talk(#[source] io::Error),
    #[error("{0}")]
    Refused(String),
}

/// Being the one running demo of this user (and runtime directory).
#[derive(Debug)]
pub(super) struct Server {
    listener: UnixListener,
    dir: PathBuf,
    _lock: File,
}

impl Server {
    /// Takes the place, unless another demo has it.
    pub(super) fn bind(runtime_dir: Option<&Path>) -> Result<Self, Error> {
        let dir = directory(runtime_dir);
        let error = |source| Error::Directory { path: dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(error)?;
        if fs::metadata(&dir).map_err(error)?.uid() != sys::user_id() {
            return Err(Error::Foreign { path: dir });
        }
        let lock = File::create(dir.join("lock")).map_err(error)?;
        lock.try_lock().map_err(|failure| match failure {
            fs::TryLockError::WouldBlock => Error::Running,
            fs::TryLockError::Error(source) => error(source),
        })?;
        // The demo that ended a moment ago took its lock file away, maybe after we opened that one.
        let same = fs::metadata(dir.join("lock")).and_then(|named| Ok(named.ino() == lock.metadata()?.ino()));
        if !same.is_ok_and(|same| same) {
            return Err(Error::Running);
        }
        let socket = dir.join("socket");
        // A demo that was killed left it; we hold the lock, so no demo listens there.
        fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).map_err(error)?;
        Ok(Self { listener, dir, _lock: lock })
    }

    /// The next wish. Cancel safe up to the accepted connection: a wish that was not read whole is refused by its drop.
    pub(super) async fn next(&self) -> Option<Wish> {
        let (mut stream, _) = self.listener.accept().await.ok()?;
        let mut word = String::new();
        let mut limited = (&mut stream).take(MESSAGE_BYTES_MAX);
        timeout(PATIENCE, limited.read_to_string(&mut word)).await.ok()?.ok()?;
        Some(Wish { what: Break::from_str(word.trim(), false).ok()?, stream })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        fs::remove_file(self.dir.join("socket")).ok();
        fs::remove_file(self.dir.join("lock")).ok();
        fs::remove_dir(&self.dir).ok();
    }
}

/// What to break.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) what: Break,
    stream: UnixStream,
}

impl Wish {
    /// Says what came of it.
    pub(super) async fn answer(mut self, outcome: &Result<String, String>) {
        let (Ok(text) | Err(text)) = outcome;
        let line = format!("{} {text}\n", if outcome.is_ok() { "ok" } else { "no" });
        // Who asked may be gone; the demo goes on.
        timeout(PATIENCE, self.stream.write_all(line.as_bytes())).await.ok();
    }
}

/// Asks the running demo to break something; its answer.
pub(super) fn ask(runtime_dir: Option<&Path>, what: Break) -> Result<String, Error> {
    let mut stream =
        StdUnixStream::connect(directory(runtime_dir).join("socket")).map_err(|failure| match failure.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NotRunning,
            _ => Error::Talk(failure),
        })?;
    let mut answer = String::new();
    let talk = || {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(what.name().as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.take(MESSAGE_BYTES_MAX).read_to_string(&mut answer)
    };
    talk().map_err(Error::Talk)?;
    match answer.trim().split_once(' ') {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some((_, text)) => Err(Error::Refused(text.to_owned())),
        None => Err(Error::Talk(io::ErrorKind::UnexpectedEof.into())),
    }
}

fn directory(runtime_dir: Option<&Path>) -> PathBuf {
    runtime_dir.map_or_else(
        || std::env::temp_dir().join(format!("remora-demo-{}", sys::user_id())),
        |dir| dir.join("remora-demo"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wish_reaches_the_running_demo_and_is_answered() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().to_owned();
        let server = Server::bind(Some(&path)).expect("a place");
        assert!(matches!(Server::bind(Some(&path)), Err(Error::Running)));
        let asking = tokio::task::spawn_blocking(move || ask(Some(&path), Break::Slow));
        let wish = server.next().await.expect("a wish");
        assert_eq!(wish.what, Break::Slow);
        wish.answer(&Ok("done".to_owned())).await;
        assert_eq!(asking.await.expect("no panic").expect("an answer"), "done");
        drop(server);
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0, "nothing is left behind");
    }

    #[test]
    fn without_a_demo_the_asker_learns_how_to_start_one() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = ask(Some(dir.path()), Break::Deny).expect_err("nobody is there");
        assert!(error.to_string().contains("start one with `remora demo`"));
    }
}
