//! The Kubernetes API as a source of objects.
//!
//! In: watches of every kind that matters ([`watch`]), read right into what is kept ([`watched`]). Out: snapshots, when
//! something changed. One task owns everything that is known ([`store`]), so there is nothing to lock. Changes that come
//! closely together are indexed together. After an indexing that took t the next begins 9 t later, so that indexing takes a
//! tenth of the time, but no later than [`TURN_MAX`]: one that takes longer than a ninth of that takes more.
//!
//! **Losing the API server changes nothing**: its last valid content stays in force, and the readiness with it.

mod statuses;
mod store;
mod watch;
mod watched;

use crate::{
    index::{Mesh, Snapshot},
    objects::{Kind, Object, core, policy, routes},
};
use kube::{Client, config::KubeConfigOptions};
use remora_kube::{
    client::ClientError,
    lease::{Candidate, elect},
    names,
};
use remora_runtime::{admin, drain};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use store::{Change, Store};
use tokio::{
    sync::{mpsc, watch as latest},
    task::JoinSet,
    time::Instant,
};

/// Changes this close together are indexed together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The longest that a change waits for its turn after one that took long to index.
const TURN_MAX: Duration = Duration::from_millis(500);
/// Changes that watches may be ahead by.
const CHANGES_MAX: usize = 256;
/// The condition of readiness.
const CONDITION: &str = "kubernetes";

/// A read that takes longer than this is on a dead connection: the server ends each watch before.
const READ_TIMEOUT: Duration = Duration::from_secs(70);

/// The way to the API.
pub(crate) async fn client() -> Result<Client, ClientError> {
    let mut config = remora_kube::client::config(&KubeConfigOptions::default()).await?;
    config.read_timeout = Some(READ_TIMEOUT);
    remora_kube::client::client(config, names::DISCOVERY)
}

/// Watches the API and publishes what its objects mean, until the drain.
pub(crate) async fn run(
    client: Client,
    mesh: Mesh,
    pod: Option<String>,
    publish: latest::Sender<Option<Arc<Snapshot>>>,
    readiness: admin::Readiness,
    draining: drain::Watch,
) -> anyhow::Result<()> {
    readiness.waiting(CONDITION, "nothing is listed yet");
    let telling = tell_statuses(client.clone(), mesh.namespace.clone(), pod, publish.subscribe(), draining.clone());
    let (tell, changes) = mpsc::channel(CHANGES_MAX);
    let mut watches = JoinSet::new();
    let kinds = start(&client, &tell, &mut watches);
    let mut feed =
        Feed { store: Store::new(kinds), mesh, publish, readiness, told: Told::default(), wanted: Wanted::default() };
    // Only the drain ends either, and the lease is given back then.
    let (fed, ()) = tokio::join!(feed.run(changes, draining), telling);
    watches.shutdown().await;
    fed
}

/// Stands for election, and writes the statuses of routes and policies while it leads, until the drain.
async fn tell_statuses(
    client: Client,
    namespace: String,
    pod: Option<String>,
    snapshots: crate::serve::Snapshots,
    draining: drain::Watch,
) {
    let Some(me) = pod else { return };
    let candidate = Candidate { namespace, name: names::DISCOVERY.to_owned(), me };
    let (leads, election) = elect(client.clone(), candidate, draining);
    tokio::select! {
        () = election => {}
        () = statuses::write(client, snapshots, leads) => {}
    }
}

/// Starts a watch of each kind.
fn start(client: &Client, tell: &watch::Changes, watches: &mut JoinSet<()>) -> Vec<&'static str> {
    macro_rules! each {
        ($($kind:ty),* $(,)?) => {{
            $(watches.spawn(watch::watch::<$kind>(client.clone(), tell.clone()));)*
            vec![$(<$kind>::KIND),*]
        }};
    }
    each![
        core::Namespace,
        core::Node,
        core::Pod,
        core::Service,
        core::ServiceCidr,
        core::EndpointSlice,
        routes::HttpRoute,
        routes::GrpcRoute,
        routes::ReferenceGrant,
        policy::AuthorizationPolicy,
        policy::MeshTlsPolicy,
        policy::BackendPolicy,
    ]
}

/// From changes to snapshots.
struct Feed {
    store: Store,
    mesh: Mesh,
    publish: latest::Sender<Option<Arc<Snapshot>>>,
    readiness: admin::Readiness,
    told: Told,
    wanted: Wanted,
}

/// Where the statuses that the last snapshot wants stand in it, by kind, namespace and name.
#[derive(Default)]
struct Wanted(HashMap<(&'static str, String, String), usize>);

impl Wanted {
    fn of(snapshot: &Snapshot) -> Self {
        let statuses = snapshot.statuses.iter().enumerate();
        Self(statuses.map(|(at, one)| ((one.kind, one.namespace.clone(), one.name.clone()), at)).collect())
    }

    /// Whether the status of `object` differs from the one in `snapshot`: another writer removed it, or ours is out of
    /// date. The writer of statuses sees snapshots only, so a new one must show the difference.
    fn is_missing(&self, snapshot: &Snapshot, object: &Object) -> bool {
        let meta = object.metadata();
        let wanted = self.0.get(&(object.kind(), meta.namespace.clone(), meta.name.clone()));
        let wanted = wanted.and_then(|at| snapshot.statuses.get(*at));
        wanted.zip(object.said()).is_some_and(|(wanted, said)| !wanted.is_said(said))
    }
}

/// What was said in the log, so that it is said once.
#[derive(Default)]
struct Told {
    reports: BTreeSet<String>,
    unreadable: BTreeSet<String>,
    too_many: bool,
}

impl Feed {
    async fn run(
        &mut self,
        mut changes: mpsc::Receiver<(&'static str, Change)>,
        draining: drain::Watch,
    ) -> anyhow::Result<()> {
        // When the objects, which are others than those that were indexed, are to be indexed.
        let (mut due, mut earliest) = (None::<Instant>, Instant::now());
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
                        due = Some(earliest.max(Instant::now() + DEBOUNCE));
                    }
                }
                () = sleep_until(due) => {
                    due = None;
                    if self.whole() {
                        let took = self.index().await?;
                        earliest = Instant::now() + (took * 9).min(TURN_MAX);
                    }
                }
            }
        }
    }

    fn take(&mut self, (kind, change): (&'static str, Change)) -> bool {
        let before = self.store.in_trouble(kind);
        if let Change::Trouble(why) | Change::Forbidden(why) = &change
            && !before
        {
            tracing::warn!(kind, why, "cannot be watched; its known objects stay in force");
        }
        let mut changed = self.store.take(kind, change);
        if let (Some(object), Some(snapshot)) = (self.store.resaid(), &*self.publish.borrow()) {
            changed |= self.wanted.is_missing(snapshot, object);
        }
        let after = self.store.in_trouble(kind);
        if before && !after {
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

    /// Indexing blocks, on a thread where it delays no stream. Gives how long it took.
    async fn index(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.tell_unreadable();
        let objects = self.store.objects();
        if objects.is_none() != self.told.too_many {
            self.told.too_many = objects.is_none();
            let max = store::OBJECTS_MAX;
            metrics::gauge!("remora_discovery_too_many_objects").set(f64::from(u8::from(self.told.too_many)));
            if self.told.too_many {
                tracing::error!(max, "there are too many objects; serving the last snapshot, changes are not applied");
            } else {
                tracing::info!(max, "there are no longer too many objects; changes are applied again");
            }
        }
        let Some(objects) = objects else { return Ok(began.elapsed()) };
        let (mesh, before) = (self.mesh.clone(), self.publish.borrow().clone());
        let build = move || Snapshot::build(objects, &mesh, before.as_deref());
        let snapshot = tokio::task::spawn_blocking(build).await?;
        let took = began.elapsed();
        metrics::histogram!("remora_discovery_index_seconds").record(took.as_secs_f64());
        self.tell(&snapshot, took);
        self.wanted = Wanted::of(&snapshot);
        self.publish.send_replace(Some(Arc::new(snapshot)));
        self.readiness.ready(CONDITION);
        Ok(took)
    }

    fn tell(&mut self, snapshot: &Snapshot, took: Duration) {
        for report in snapshot.reports.iter().filter(|report| !self.told.reports.contains(*report)) {
            tracing::warn!("{report}");
        }
        self.told.reports = snapshot.reports.iter().cloned().collect();
        for report in &snapshot.unseen {
            tracing::debug!("{report}");
        }
        crate::feed::count(snapshot);
        for (kind, count) in self.store.counts() {
            metrics::gauge!("remora_discovery_objects", "kind" => kind).set(count as f64);
        }
        tracing::debug!(took_ms = took.as_secs_f64() * 1000.0, "new snapshot");
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

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::parse::parse;

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
        let snapshot = Snapshot::build(vec![policy("{}")], &Mesh::default(), None);
        let wanted = Wanted::of(&snapshot);
        assert!(wanted.is_missing(&snapshot, &policy("{ conditions: [] }")));
        let written = snapshot.statuses[0].to_write("2026-11-28T00:00:00Z").unwrap();
        assert!(!wanted.is_missing(&snapshot, &policy(&written.to_string())));
        assert!(!Wanted::default().is_missing(&snapshot, &policy("{}")), "nobody wants anything of it");
    }
}
