//! One kind of objects, watched for as long as the process lives.
//!
//! In: the API. Out: [`Change`]s. Each attempt lists everything and then follows the changes until something fails; then
//! the next attempt, after a pause that grows. So what is known after a failure is the truth again, and not the truth but
//! for what was missed. What an attempt has listed counts only if it went through without an error.
//!
//! A kind whose CRD is not installed is looked for again every [`ABSENT_POLL`]; that it is not there is believed only of
//! the API's own list of kinds, since a 404 might come from any proxy on the way.

use super::{
    store::{Change, Entry},
    watched::Watched,
};
use crate::{
    index::Key,
    objects::{Kind, Object, kind::Defined},
};
use futures_util::StreamExt as _;
use kube::{
    Api, Client,
    core::Status,
    runtime::watcher::{self, Event, watcher},
};
use remora_kube::client::{CallError, call, chain, watching};
use std::{collections::BTreeSet, time::Duration};
use tokio::sync::mpsc;

/// How often an API without a CRD is asked for it.
pub(super) const ABSENT_POLL: Duration = Duration::from_secs(3);
/// The first pause after a failure, doubled by each that follows.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause. New pods must be in the mesh within half a minute of the API server's return.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Objects asked for at once of a server that cannot stream lists.
const PAGE: u32 = 250;

/// Where changes go: the kind, and what its watch tells.
pub(super) type Changes = mpsc::Sender<(&'static str, Change)>;

/// Why an attempt ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The receiver was dropped.
    #[error("the receiver was dropped")]
    Deaf,
    /// The server knows no such kind.
    #[error("the API server does not know it")]
    Unknown,
    /// The server lists only page by page.
    #[error("the API server streams no lists")]
    NoStreaming,
    /// Some object could not be read, so what is missing in the list is unknown.
    #[error("the list was not whole")]
    NotWhole,
    /// We have no right to list or watch it.
    #[error("{0}")]
    Forbidden(String),
    #[error("{}", refusal(.0).map_or_else(|| chain(.0), |status| status.message.clone()))]
    Watch(#[source] watcher::Error),
}

impl From<watcher::Error> for Failure {
    fn from(error: watcher::Error) -> Self {
        match refusal(&error) {
            Some(status) if status.code == 404 => Self::Unknown,
            Some(status) if status.code == 403 => Self::Forbidden(status.message.clone()),
            // What a server says to `sendInitialEvents` that does not know or not want it.
            Some(status) if matches!(status.code, 400 | 422) => Self::NoStreaming,
            _ => Self::Watch(error),
        }
    }
}

/// What the API server said, if it said something.
fn refusal(error: &watcher::Error) -> Option<&Status> {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => Some(status),
        _ => None,
    }
}

/// Watches one kind. Ends when the receiver is dropped; cancel-safe.
pub(super) async fn watch<T: Kind + Into<Object>>(client: Client, changes: Changes) {
    let (mut pause, mut streaming) = (PAUSE_MIN, true);
    loop {
        let mut attempt = Attempt { changes: &changes, kind: T::KIND, listing: None, listed: false };
        let failure = attempt.follow::<T>(client.clone(), streaming).await;
        if attempt.listed {
            pause = PAUSE_MIN;
        }
        match failure {
            Failure::Deaf => return,
            Failure::NoStreaming if streaming => {
                tracing::info!(kind = T::KIND, "this API server streams no lists; they are read page by page");
                streaming = false;
                continue;
            }
            Failure::Unknown if T::DEFINED != Defined::BuiltIn => match unknown::<T>(&client).await {
                Ok(true) => {
                    if changes.send((T::KIND, Change::Absent)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(ABSENT_POLL).await;
                    continue;
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(kind = T::KIND, %error, "cannot find out whether the API has the kind"),
            },
            _ => {}
        }
        let trouble = match failure {
            Failure::Forbidden(why) => Change::Forbidden(why),
            other => Change::Trouble(other.to_string()),
        };
        if changes.send((T::KIND, trouble)).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether the API's own list of kinds says that it has none of this name.
async fn unknown<T: Kind>(client: &Client) -> Result<bool, CallError> {
    let version = format!("{}/{}", T::GROUP, T::VERSION);
    match call(client.list_api_group_resources(&version)).await {
        Ok(list) => Ok(list.resources.iter().all(|resource| resource.name != T::PLURAL)),
        Err(error) if error.is_not_found() => Ok(true),
        Err(error) => Err(error),
    }
}

/// One listing, and what follows it.
struct Attempt<'a> {
    changes: &'a Changes,
    kind: &'static str,
    /// The objects of the list that is under way.
    listing: Option<BTreeSet<Key>>,
    /// Whether a list went through.
    listed: bool,
}

impl Attempt<'_> {
    async fn follow<T: Kind + Into<Object>>(&mut self, client: Client, streaming: bool) -> Failure {
        let config = if streaming { watching().streaming_lists() } else { watching().page_size(PAGE) };
        let mut events = std::pin::pin!(watcher(Api::<Watched<T>>::all(client), config));
        while let Some(event) = events.next().await {
            let taken = match event {
                Ok(event) => self.take(event).await,
                Err(error) => return error.into(),
            };
            if let Err(failure) = taken {
                return failure;
            }
        }
        Failure::NotWhole
    }

    async fn take<T: Kind + Into<Object>>(&mut self, event: Event<Watched<T>>) -> Result<(), Failure> {
        match event {
            Event::Init => {
                self.listing = Some(BTreeSet::new());
                Ok(())
            }
            Event::InitApply(mut object) => {
                let listing = self.listing.as_mut().ok_or(Failure::NotWhole)?;
                listing.insert(object.key());
                self.applied(object.entry()).await
            }
            Event::InitDone => {
                let listing = self.listing.take().ok_or(Failure::NotWhole)?;
                self.listed = true;
                self.send(Change::Listed(listing)).await
            }
            Event::Apply(object) => self.applied(object.entry()).await,
            Event::Delete(mut object) => self.send(Change::Deleted(object.key())).await,
        }
    }

    async fn applied(&self, entry: Entry) -> Result<(), Failure> {
        self.send(Change::Applied(entry)).await
    }

    async fn send(&self, change: Change) -> Result<(), Failure> {
        self.changes.send((self.kind, change)).await.map_err(|_| Failure::Deaf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(error: impl Fn(Box<Status>) -> watcher::Error, code: u16) -> Failure {
        error(Box::new(Status::failure("no", "no").with_code(code))).into()
    }

    #[test]
    fn what_the_server_says_decides_how_it_is_asked_next() {
        let start = |status| watcher::Error::WatchStartFailed(kube::Error::Api(status));
        let list = |status| watcher::Error::InitialListFailed(kube::Error::Api(status));
        assert!(matches!(failure(start, 404), Failure::Unknown));
        assert!(matches!(failure(list, 404), Failure::Unknown));
        assert!(matches!(failure(start, 422), Failure::NoStreaming));
        for code in [401, 429, 500, 503] {
            assert!(matches!(failure(start, code), Failure::Watch(_)), "{code}");
        }
        let forbidden = Status::failure("pods is forbidden", "Forbidden").with_code(403);
        let failure = Failure::from(list(Box::new(forbidden)));
        assert!(matches!(failure, Failure::Forbidden(_)));
        assert_eq!(failure.to_string(), "pods is forbidden", "in its own words, once");
    }
}
