//! One kind of objects, watched for as long as the process lives.
//!
//! In: the API. Out: [`Change`]s. All objects are listed once. From then on a watch that ends, is refused or breaks goes on from the
//! last version that was seen, so that an API server that comes back has little to send. Everything is listed anew where that
//! version is no longer known (410), where the server is behind it, since then its past is another (etcd from a snapshot), and
//! after [`RESUME_MAX`]. What was listed counts only if the list went through without an error.
//!
//! kube-runtime's watcher does as much, but does not tell that a watch goes on (so that nobody could say that a trouble is over),
//! takes a 410 in the answer itself for a reason to ask the same again, and would wait for versions of a past that is no more.
//!
//! A kind whose CRD is not installed is looked for again every [`ABSENT_POLL`]; that it is not there is believed only of
//! the API's own list of kinds, since a 404 might come from any proxy on the way.

#[cfg(test)]
mod tests;

use super::{
    store::{Change, Entry},
    watched::Watched,
};
use crate::{
    index::Key,
    objects::{Kind, Object, kind::Defined},
};
use futures_util::{Stream, StreamExt as _};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, WatchParams},
    core::{Status, WatchEvent},
};
use remora_kube::client::{CallError, WATCH_SECONDS, call, chain};
use std::{collections::BTreeSet, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

/// How often an API without a CRD is asked for it.
pub(super) const ABSENT_POLL: Duration = Duration::from_secs(3);
/// The same of a kind that most clusters never have, and without which the picture is whole.
const OPTIONAL_POLL: Duration = Duration::from_secs(30);
/// The first pause after a failure, doubled by each that follows. All pauses are within half of theirs longer or shorter, by
/// chance, so that kinds and replicas do not come back at once.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause. New pods must be in the mesh within half a minute of the API server's return.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A watch that ended earlier, though nobody said why, is a failure: else it would be asked for without end.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// The server ends each watch after [`WATCH_SECONDS`]. One that is silent for longer has a dead connection.
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// What changed within this time is asked for; after longer, what there is. An API server keeps changes for five minutes, and the
/// longer the time, the less its versions prove.
const RESUME_MAX: Duration = Duration::from_secs(300);
/// Objects asked for at once of a server that cannot stream lists.
const PAGE: u32 = 250;
/// The bookmark with which the list in a watch ends.
const LIST_END: &str = "k8s.io/initial-events-end";

/// Where changes go: the kind, and what its watch tells.
pub(super) type Changes = mpsc::Sender<(&'static str, Change)>;

/// Why a watch ended.
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
    /// What is missing in the list is unknown.
    #[error("the list was not whole")]
    NotWhole,
    /// The server does not know what changed since.
    #[error("the API server no longer knows what changed since; it is listed anew")]
    Gone,
    /// Its versions are lower than those that it gave before.
    #[error("the API server is behind what it said before; it is listed anew")]
    Behind,
    /// It ended at once, or said nothing.
    #[error("the watch ended without a word")]
    Mute,
    /// We have no right to list or watch it.
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Call(CallError),
    #[error("{}", chain(.0))]
    Watch(#[source] kube::Error),
    #[error("{}", .0.message)]
    Refused(Box<Status>),
}

impl Failure {
    /// Whether nobody answered, or the answer broke off.
    fn is_away(&self) -> bool {
        let (Self::Call(CallError::Away(error)) | Self::Watch(error)) = self else { return false };
        matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_))
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(status),
            other => Self::Watch(other),
        }
    }
}

impl From<Box<Status>> for Failure {
    fn from(status: Box<Status>) -> Self {
        match status.code {
            403 => Self::Forbidden(status.message.clone()),
            404 => Self::Unknown,
            410 => Self::Gone,
            _ => Self::Refused(status),
        }
    }
}

/// Watches one kind. Ends when the receiver is dropped; cancel-safe.
pub(super) async fn watch<T: Kind + Into<Object>>(client: Client, changes: Changes) {
    let mut watch = Watch {
        changes: &changes,
        kind: T::KIND,
        at: None,
        heard: Instant::now(),
        proven: false,
        listing: BTreeSet::new(),
    };
    let (mut pause, mut streaming, mut is_well) = (PAUSE_MIN, true, true);
    loop {
        let began = Instant::now();
        let failure = match watch.follow::<T>(client.clone(), streaming, &mut is_well).await {
            Ok(()) if began.elapsed() >= LIFE_MIN => {
                // Else it is not the server's own time that was over.
                watch.proven = began.elapsed() >= Duration::from_secs(WATCH_SECONDS.into());
                continue;
            }
            Ok(()) => Failure::Mute,
            Err(failure) => failure,
        };
        if is_well && began.elapsed() >= LIFE_MIN {
            pause = PAUSE_MIN;
        }
        match failure {
            Failure::Deaf => return,
            Failure::NoStreaming => {
                tracing::info!(kind = T::KIND, "this API server streams no lists; they are read page by page");
                streaming = false;
                continue;
            }
            Failure::Unknown if T::DEFINED != Defined::BuiltIn => match unknown::<T>(&client).await {
                Ok(true) => {
                    watch.at = None;
                    if changes.send((T::KIND, Change::Absent)).await.is_err() {
                        return;
                    }
                    sleep(jittered(if T::DEFINED == Defined::Later { OPTIONAL_POLL } else { ABSENT_POLL })).await;
                    continue;
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(kind = T::KIND, %error, "cannot find out whether the API has the kind"),
            },
            Failure::Gone | Failure::Behind => watch.at = None,
            _ => {}
        }
        (is_well, watch.proven) = (false, false);
        let trouble = match failure {
            Failure::Forbidden(why) => Change::Forbidden(why),
            away if away.is_away() => Change::Away(away.to_string()),
            other => Change::Trouble(other.to_string()),
        };
        if changes.send((T::KIND, trouble)).await.is_err() {
            return;
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
        if watch.heard.elapsed() > RESUME_MAX {
            watch.at = None;
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
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

/// A watch, and how far it came.
struct Watch<'a> {
    changes: &'a Changes,
    kind: &'static str,
    /// The last version that was seen, of a list that went through. `None`: nothing is listed.
    at: Option<String>,
    /// When that was.
    heard: Instant,
    /// Whether the server that said it is the one that is asked next, as far as one can know.
    proven: bool,
    /// The objects of the list that is under way.
    listing: BTreeSet<Key>,
}

impl Watch<'_> {
    /// Lists if need be, and follows the changes until the server ends the watch. `is_well` is what the last did until now; it is set as
    /// soon as this one goes well.
    async fn follow<T: Kind + Into<Object>>(
        &mut self,
        client: Client,
        streaming: bool,
        is_well: &mut bool,
    ) -> Result<(), Failure> {
        let api = Api::<Watched<T>>::all(client);
        let params = WatchParams { timeout: Some(WATCH_SECONDS), bookmarks: true, ..WatchParams::default() };
        let at = match self.at.clone() {
            Some(at) => {
                if !self.proven {
                    self.is_same_past(&api, &at).await?;
                }
                at
            }
            None => {
                *is_well = false;
                self.listing = BTreeSet::new();
                metrics::counter!("remora_discovery_lists_total", "kind" => T::KIND).increment(1);
                if streaming {
                    let events = call(api.watch(&params.initial_events(), "0")).await.map_err(no_streaming)?;
                    return self.listen(events, is_well).await;
                }
                let at = self.pages(&api).await?;
                *is_well = true;
                at
            }
        };
        let events = call(api.watch(&params, &at)).await.map_err(refused)?;
        // It knows what changed since.
        self.heard = Instant::now();
        if !*is_well {
            self.send(Change::Resumed).await?;
            *is_well = true;
        }
        self.listen(events, is_well).await
    }

    /// That the server has not forgotten what it said before: it would send nothing until its versions are as high again.
    async fn is_same_past<T: Kind>(&self, api: &Api<Watched<T>>, at: &str) -> Result<(), Failure> {
        let list = call(api.list_metadata(&ListParams::default().limit(1))).await.map_err(refused)?;
        let now = list.metadata.resource_version.unwrap_or_default();
        match (now.parse::<u64>(), at.parse::<u64>()) {
            (Ok(now), Ok(at)) if now >= at => Ok(()),
            // Versions that are no numbers prove nothing.
            _ => Err(Failure::Behind),
        }
    }

    /// Takes a list page by page. Its version.
    async fn pages<T: Kind + Into<Object>>(&mut self, api: &Api<Watched<T>>) -> Result<String, Failure> {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = call(api.list(&params)).await.map_err(refused)?;
            for mut object in page.items {
                self.listing.insert(object.key());
                self.applied(object.entry()).await?;
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => {
                    let version = page.metadata.resource_version.unwrap_or_default();
                    self.listed(version.clone()).await?;
                    return Ok(version);
                }
            }
        }
    }

    async fn listen<T: Kind + Into<Object>>(
        &mut self,
        events: impl Stream<Item = kube::Result<WatchEvent<Watched<T>>>>,
        is_well: &mut bool,
    ) -> Result<(), Failure> {
        let mut events = std::pin::pin!(events);
        loop {
            let event = match timeout(SILENCE_MAX, events.next()).await {
                Ok(Some(event)) => event?,
                Ok(None) if self.at.is_none() => return Err(Failure::NotWhole),
                Ok(None) => return Ok(()),
                Err(_) => return Err(Failure::Mute),
            };
            match event {
                WatchEvent::Added(mut object) | WatchEvent::Modified(mut object) => {
                    self.heard_of(object.resource_version());
                    if self.at.is_none() {
                        self.listing.insert(object.key());
                    }
                    self.applied(object.entry()).await?;
                }
                WatchEvent::Deleted(mut object) => {
                    self.heard_of(object.resource_version());
                    self.send(Change::Deleted(object.key())).await?;
                }
                WatchEvent::Bookmark(bookmark) if self.at.is_none() => {
                    if bookmark.metadata.annotations.contains_key(LIST_END) {
                        self.listed(bookmark.metadata.resource_version).await?;
                        *is_well = true;
                    }
                }
                WatchEvent::Bookmark(bookmark) => self.heard_of(Some(bookmark.metadata.resource_version)),
                WatchEvent::Error(status) => return Err(Failure::from(status)),
            }
        }
    }

    /// A change up to this version was seen; only after the list its versions are in order.
    fn heard_of(&mut self, version: Option<String>) {
        if let (Some(at), Some(version)) = (&mut self.at, version.filter(|version| !version.is_empty())) {
            *at = version;
            self.heard = Instant::now();
        }
    }

    async fn listed(&mut self, version: String) -> Result<(), Failure> {
        if version.is_empty() {
            return Err(Failure::NotWhole);
        }
        let all = std::mem::take(&mut self.listing);
        self.send(Change::Listed(all)).await?;
        (self.at, self.heard) = (Some(version), Instant::now());
        Ok(())
    }

    async fn applied(&self, entry: Entry) -> Result<(), Failure> {
        self.send(Change::Applied(entry)).await
    }

    async fn send(&self, change: Change) -> Result<(), Failure> {
        self.changes.send((self.kind, change)).await.map_err(|_| Failure::Deaf)
    }
}

fn refused(error: CallError) -> Failure {
    match error {
        CallError::Refused(status) => Failure::from(status),
        other => Failure::Call(other),
    }
}

/// What a server says to `sendInitialEvents` that does not know or not want it.
fn no_streaming(error: CallError) -> Failure {
    if matches!(error.code(), Some(400 | 422)) { Failure::NoStreaming } else { refused(error) }
}
