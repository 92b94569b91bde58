//! The Kubernetes API as a source of objects.
//!
//! In: watches of every kind that matters ([`watch`]), read right into what is kept ([`watched`]). Out: changes for the hub. One
//! task owns everything that was read ([`store`]), so there is nothing to lock. Changes that come closely together are applied
//! together; what is to be said to people waits longer ([`SETTLE`]).
//!
//! **Losing the API server changes nothing**: its last valid content stays in force, and the readiness with it.

mod statuses;
mod store;
mod watch;
mod watched;

use crate::{
    objects::{
        Kind, Object,
        registry::{Visitor, visit},
    },
    serve::{Applied, Hub, Statuses},
};
use kube::{Client, config::KubeConfigOptions};
use remora_kube::{
    client::ClientError,
    events::Events,
    lease::{Candidate, elect},
    names,
    outage::Part,
};
use remora_runtime::{admin, drain};
use std::{collections::BTreeSet, time::Duration};
use store::{Change, Store};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

/// Changes this close together are applied together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often statuses and reports are brought up to date while objects change.
const SETTLE: Duration = Duration::from_secs(1);
/// Changes that watches may be ahead by.
const CHANGES_MAX: usize = 256;
/// The condition of readiness.
pub(crate) const CONDITION: &str = "kubernetes";

/// A read that takes longer than this is on a dead connection: the server ends each watch before.
const READ_TIMEOUT: Duration = Duration::from_secs(70);

const PART: Part = Part {
    name: names::DISCOVERY,
    stands_still: "changes of objects reach no proxy; statuses and Events are not written",
    works_on: "what was read before is served, to proxies that come anew as well",
};

/// The way to the API.
pub(crate) async fn client() -> Result<Client, ClientError> {
    let mut config = remora_kube::client::config(&KubeConfigOptions::default()).await?;
    config.read_timeout = Some(READ_TIMEOUT);
    remora_kube::client::client_as(PART, config)
}

/// Watches the API and publishes what its objects mean, until the drain.
pub(crate) async fn run(
    client: Client,
    hub: Hub,
    namespace: String,
    pod: Option<String>,
    readiness: admin::Readiness,
    draining: drain::Watch,
) -> anyhow::Result<()> {
    let telling = tell_statuses(client.clone(), namespace, pod, hub.statuses(), draining.clone());
    let (tell, changes) = mpsc::channel(CHANGES_MAX);
    let mut watches = JoinSet::new();
    let kinds = start(&client, &tell, &mut watches);
    let mut feed = Feed { store: Store::new(kinds), hub, readiness, told: Told::default() };
    // Only the drain ends either, and the lease is given back then.
    let (fed, ()) = tokio::join!(feed.run(changes, draining), telling);
    watches.shutdown().await;
    fed
}

/// Stands for election, and writes the statuses of routes and policies, and Events of them, while it leads, until the drain.
async fn tell_statuses(
    client: Client,
    namespace: String,
    pod: Option<String>,
    wanted: Statuses,
    draining: drain::Watch,
) {
    let Some(me) = pod else { return };
    let (events, telling) = Events::new(client.clone(), names::DISCOVERY, &me, draining.clone());
    let candidate = Candidate { namespace, name: names::DISCOVERY.to_owned(), me };
    let (leads, election) = elect(client.clone(), candidate, draining);
    // Both end with the drain, and the lease is given back then.
    let leading = async { tokio::join!(election, telling) };
    tokio::select! {
        _ = leading => {}
        () = statuses::write(client, wanted, leads, events) => {}
    }
}

/// Starts a watch of each kind.
fn start(client: &Client, tell: &watch::Changes, watches: &mut JoinSet<()>) -> Vec<&'static str> {
    struct Start<'a>(&'a Client, &'a watch::Changes, &'a mut JoinSet<()>, Vec<&'static str>);
    impl Visitor for Start<'_> {
        fn kind<T: Kind + Into<Object>>(&mut self) {
            self.2.spawn(watch::watch::<T>(self.0.clone(), self.1.clone()));
            self.3.push(T::KIND);
        }
    }
    let mut start = Start(client, tell, watches, Vec::new());
    visit(&mut start);
    start.3
}

/// From the store to the hub.
struct Feed {
    store: Store,
    hub: Hub,
    readiness: admin::Readiness,
    told: Told,
}

/// What was said in the log, so that it is said once.
#[derive(Default)]
struct Told {
    unreadable: BTreeSet<String>,
    /// Kinds that cannot be watched, for reasons of their own.
    troubled: BTreeSet<&'static str>,
    too_many: bool,
}

impl Feed {
    async fn run(
        &mut self,
        mut changes: mpsc::Receiver<(&'static str, Change)>,
        draining: drain::Watch,
    ) -> anyhow::Result<()> {
        // When changes are to be applied, and when what is to be said to people is to follow.
        let (mut due, mut settle) = (None::<Instant>, None::<Instant>);
        loop {
            tokio::select! {
                () = draining.signaled() => return Ok(()),
                change = changes.recv() => {
                    let Some(change) = change else { return Ok(()) };
                    let mut changed = self.take(change);
                    while let Ok(change) = changes.try_recv() {
                        changed |= self.take(change);
                    }
                    if changed && due.is_none() {
                        due = Some(Instant::now() + DEBOUNCE);
                    }
                }
                () = sleep_until(due) => {
                    due = None;
                    if self.whole() {
                        self.apply().await?;
                        settle = settle.or(Some(Instant::now() + SETTLE));
                    }
                }
                () = self.hub.unsettled() => settle = settle.or(Some(Instant::now() + SETTLE)),
                () = sleep_until(settle) => {
                    settle = None;
                    self.settle().await?;
                }
            }
        }
    }

    fn take(&mut self, (kind, change): (&'static str, Change)) -> bool {
        let before = self.store.in_trouble(kind);
        if let Change::Trouble(why) | Change::Forbidden(why) = &change
            && self.told.troubled.insert(kind)
        {
            tracing::warn!(kind, why, "cannot be watched; its known objects stay in force");
        }
        let mut changed = self.store.take(kind, change);
        // Another writer removed what we said, or it is out of date.
        changed |= self.store.resaid().is_some_and(|object| !self.hub.is_said(object));
        let after = self.store.in_trouble(kind);
        if !after && self.told.troubled.remove(kind) {
            tracing::info!(kind, "is watched again");
        }
        if before != after {
            metrics::gauge!("remora_discovery_watch_failing", "kind" => kind).set(f64::from(u8::from(after)));
            self.whole();
        }
        changed
    }

    /// Whether everything is known; as long as not, `/ready` says what is missing.
    fn whole(&self) -> bool {
        let missing = self.store.missing();
        if !missing.is_empty() {
            self.readiness.waiting(CONDITION, missing.join("; "));
        }
        missing.is_empty()
    }

    /// Indexing blocks, on a thread where it delays nobody else.
    async fn apply(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let changes = self.store.changes();
        if changes.is_none() != self.told.too_many {
            self.told.too_many = changes.is_none();
            let max = store::OBJECTS_MAX;
            metrics::gauge!("remora_discovery_too_many_objects").set(f64::from(u8::from(self.told.too_many)));
            if self.told.too_many {
                tracing::error!(max, "there are too many objects; what was known is served, changes are not applied");
            } else {
                tracing::info!(max, "there are no longer too many objects; changes are applied again");
            }
        }
        let Some(changes) = changes else { return Ok(()) };
        let (hub, count) = (self.hub.clone(), changes.len());
        let applied = tokio::task::spawn_blocking(move || hub.apply(changes)).await?;
        let took = began.elapsed();
        metrics::histogram!("remora_discovery_index_seconds").record(took.as_secs_f64());
        tracing::debug!(changes = count, took_ms = took.as_secs_f64() * 1000.0, "changes applied");
        tell(&applied);
        self.readiness.ready(CONDITION);
        Ok(())
    }

    /// Brings statuses and reports up to date.
    async fn settle(&mut self) -> anyhow::Result<()> {
        self.tell_unreadable();
        for (kind, count) in self.store.counts() {
            metrics::gauge!("remora_discovery_objects", "kind" => kind).set(count as f64);
        }
        let hub = self.hub.clone();
        for report in tokio::task::spawn_blocking(move || hub.settle()).await? {
            tracing::warn!("{report}");
        }
        Ok(())
    }

    fn tell_unreadable(&mut self) {
        let unreadable: BTreeSet<String> = self.store.unreadable().collect();
        for problem in unreadable.difference(&self.told.unreadable) {
            tracing::error!(
                "{problem}; its last valid content stays in force; a policy without one denies, a route without one answers 500"
            );
        }
        metrics::gauge!("remora_discovery_unreadable_objects").set(unreadable.len() as f64);
        self.told.unreadable = unreadable;
    }
}

fn tell(applied: &Applied) {
    for report in &applied.reports {
        tracing::warn!("{report}");
    }
    for report in &applied.unseen {
        tracing::debug!("{report}");
    }
    crate::feed::count(applied);
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        index::{Change, Mesh},
        objects::Object,
        serve::Hub,
        source::parse::parse,
    };

    fn policy(status: &str) -> Object {
        let text = format!(
            "apiVersion: remora.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {{ name: p, namespace: shop }}
spec: {{ mode: Strict }}
status: {status}
"
        );
        parse(&text, "").whole().unwrap().remove(0)
    }

    #[test]
    fn a_status_that_somebody_took_away_is_news_and_one_that_we_wrote_is_none() {
        let hub = Hub::new(Mesh::default());
        assert!(hub.is_said(&policy("{}")), "nobody wants anything of it");
        hub.apply([Change::Put(policy("{}"))]);
        hub.settle();
        assert!(!hub.is_said(&policy("{ conditions: [] }")));
        let written = hub.statuses().borrow()[0].to_write("2026-11-28T00:00:00Z").unwrap();
        assert!(hub.is_said(&policy(&written.to_string())));
    }
}
