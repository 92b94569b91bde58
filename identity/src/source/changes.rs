//! When to look again: on an event, and after a while whatever the events say.

use crate::limits::POLL;
use futures_util::stream::{Stream, StreamExt as _};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::{path::Path, pin::Pin, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Says when to look.
pub(crate) struct Changes {
    events: Pin<Box<dyn Stream<Item = ()> + Send>>,
    /// Ends its events when dropped.
    _watcher: Option<RecommendedWatcher>,
}

impl Changes {
    /// Of the files in `dirs`.
    pub(crate) fn of_files<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading makes access events; answering those would never end.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                // A full queue already says "look": losing the second notice loses nothing.
                let _full = sender.try_send(()).is_err();
            }
        });
        let watcher = watcher.and_then(|mut watcher| {
            dirs.into_iter().try_for_each(|dir| watcher.watch(dir, RecursiveMode::NonRecursive))?;
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "cannot watch files; relying on the poll every {POLL:?} or sooner");
        }
        Self { events: Box::pin(ReceiverStream::new(events)), _watcher: watcher.ok() }
    }

    /// Of whatever makes `events`.
    pub(crate) fn of(events: impl Stream<Item = ()> + Send + 'static) -> Self {
        Self { events: Box::pin(events), _watcher: None }
    }

    /// Returns when it is time to look: at an event, or after `poll`. Cancel-safe.
    pub(crate) async fn next(&mut self, poll: Duration) {
        if let Ok(None) = tokio::time::timeout(poll, self.events.next()).await {
            // The watcher could not be made and took the sender with it.
            tokio::time::sleep(poll).await;
        }
    }

    /// Returns after `pause`: one look is for all events until then. Cancel-safe.
    pub(crate) async fn settle(&mut self, pause: Duration) {
        let heard = async {
            while self.events.next().await.is_some() {}
            std::future::pending().await
        };
        let _over: Result<(), _> = tokio::time::timeout(pause, heard).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn what_happens_in_a_pause_calls_for_one_look_at_its_end() {
        let (sender, events) = mpsc::channel(9);
        let mut changes = Changes::of(ReceiverStream::new(events));
        for _ in 0..9 {
            sender.send(()).await.unwrap();
        }
        assert!(changes.next(POLL).now_or_never().is_some());
        assert!(changes.settle(POLL).now_or_never().is_none(), "it is not over");
        assert_eq!(sender.capacity(), 9, "but all is heard");
        assert!(changes.next(POLL).now_or_never().is_none(), "and none is left");
    }
}
