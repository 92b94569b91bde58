//! Stopping in good order: one signal, many watchers, and a wait until the last of them is done.

use std::io;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Tells every [`Watch`] to finish, and waits for them.
#[derive(Debug)]
pub struct Signal(watch::Sender<bool>);

/// Held by whatever must finish before the process may end. Dropping it says "done".
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<bool>);

/// A signal with its first watch.
#[must_use]
pub fn channel() -> (Signal, Watch) {
    let (sender, receiver) = watch::channel(false);
    (Signal(sender), Watch(receiver))
}

impl Signal {
    /// Says that it is time, once; returns when every watch has been dropped.
    ///
    /// Unbounded: put a timeout of the grace period around it. Cancel-safe: watches stay signalled.
    pub async fn drain(&self) {
        self.0.send_replace(true);
        self.0.closed().await;
    }

    /// Says that it is time, without waiting.
    pub fn start(&self) {
        self.0.send_replace(true);
    }

    /// How many watches are still held.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.0.receiver_count()
    }
}

impl Watch {
    /// Returns once draining has begun; also if the [`Signal`] was dropped, because then nothing could begin it any more.
    ///
    /// Cancel-safe.
    pub async fn signaled(&self) {
        let mut receiver = self.0.clone();
        // The error means that the sender was dropped.
        let _gone = receiver.wait_for(|draining| *draining).await.is_err();
    }

    /// Whether draining has begun.
    #[must_use]
    pub fn is_signaled(&self) -> bool {
        *self.0.borrow()
    }
}

/// Returns the name of the first SIGTERM or SIGINT that arrives.
pub async fn terminated() -> io::Result<&'static str> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, poll_fn},
        pin::Pin,
        task::Poll,
    };

    use super::*;

    async fn poll_once<F: Future<Output = ()>>(mut future: Pin<&mut F>) -> Poll<()> {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }

    #[tokio::test]
    async fn draining_waits_for_the_last_watch() {
        let (signal, watch) = channel();
        let other = watch.clone();
        let worker = tokio::spawn(async move { other.signaled().await });
        assert!(!watch.is_signaled());
        let mut drain = std::pin::pin!(signal.drain());
        assert!(poll_once(drain.as_mut()).await.is_pending());
        worker.await.unwrap();
        assert!(watch.is_signaled());
        assert!(poll_once(drain.as_mut()).await.is_pending());
        drop(watch);
        drain.await;
    }
}
