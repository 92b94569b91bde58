//! The Kubernetes API as a source of objects.
//!
//! In: watches of every kind that matters ([`watch`]), read right into what is kept ([`watched`]). Out: snapshots, when
//! something changed. One task owns everything that is known ([`store`]), so there is nothing to lock. Changes that come
//! closely together are indexed together, and indexing takes no more than a tenth of the time however much changes.
//!
//! **Losing the API server changes nothing**: what it last said stays, and the readiness with it.

mod statuses;
mod store;
mod watch;
mod watched;

use crate::index::{Mesh, Snapshot};
use crate::objects::{Kind, core, policy, routes};
use kube::Client;
use kube::config::KubeConfigOptions;
use remora_kube::client::ClientError;
use remora_kube::lease::{Candidate, elect};
use remora_kube::names;
use remora_runtime::{admin, drain};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use store::{Change, Store};
use tokio::sync::{mpsc, watch as latest};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Changes this close together are indexed together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The longest that a change waits for its turn after one that took long to index.
const TURN_MAX: Duration = Duration::from_millis(500);
/// Changes that watches may be ahead by.
const CHANGES_MAX: usize = 256;
/// The condition of readiness.
const CONDITION: &str = "kubernetes";

/// A read that takes longer than this has nobody at its other end: the server ends each watch before.
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
    let telling = tell_routes(client.clone(), mesh.namespace.clone(), pod, publish.subscribe(), draining.clone());
    let (tell, changes) = mpsc::channel(CHANGES_MAX);
    let mut watches = JoinSet::new();
    let kinds = start(&client, &tell, &mut watches);
    let mut feed = Feed { store: Store::new(kinds), mesh, publish, readiness, told: Told::default() };
    // Only the drain ends either, and the lease is given back then.
    let (fed, ()) = tokio::join!(feed.run(changes, draining), telling);
    watches.shutdown().await;
    fed
}

/// Stands for election, and writes the statuses of routes while it leads, until the drain.
async fn tell_routes(
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
        if let Change::Trouble(why) = &change
            && !before
        {
            tracing::warn!(kind, why, "cannot be watched; what is known of it stays");
        }
        let changed = self.store.take(kind, change);
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
            tracing::error!(max = store::OBJECTS_MAX, too_many = self.told.too_many, "objects; the last state is kept");
        }
        let Some(objects) = objects else { return Ok(began.elapsed()) };
        let (mesh, before) = (self.mesh.clone(), self.publish.borrow().clone());
        let build = move || Snapshot::build(objects, &mesh, before.as_deref());
        let snapshot = tokio::task::spawn_blocking(build).await?;
        let took = began.elapsed();
        metrics::histogram!("remora_discovery_index_seconds").record(took.as_secs_f64());
        self.tell(&snapshot, took);
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
            tracing::error!("{problem}; what it last said stays, and a policy that said nothing yet denies");
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
