//! Writes the statuses of routes, where they do not say what they should.
//!
//! In: snapshots, and whether we lead. Out: patches of `status`. Each says which version of the route it was made from, so
//! the API refuses it when somebody was faster; then a new snapshot follows by itself, and with it the next attempt. Two
//! writers at once do no harm: they want the same.

use crate::index::Snapshot;
use crate::index::status::RouteStatus;
use crate::objects::{Kind, routes};
use crate::serve::Snapshots;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use remora_kube::client::{CallError, call};
use remora_kube::names;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pause after a write that failed for another reason than that somebody was faster.
const RETRY: Duration = Duration::from_secs(2);

/// Which version of a route, by kind, namespace and name, was written over.
type Written = HashMap<(&'static str, String, String), String>;

/// Writes as long as `leads` says so. Ends when nobody publishes or elects any more; cancel-safe.
pub(super) async fn write(client: Client, mut snapshots: Snapshots, mut leads: watch::Receiver<bool>) {
    let mut written = Written::new();
    loop {
        let latest = snapshots.borrow_and_update().clone();
        let due = match latest.filter(|_| *leads.borrow_and_update()) {
            Some(snapshot) => write_all(&client, &snapshot, &leads, &mut written).await,
            None => None,
        };
        let again = async {
            match due {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// Writes what one snapshot asks for. Gives after what pause something is to be tried again.
async fn write_all(
    client: &Client,
    snapshot: &Arc<Snapshot>,
    leads: &watch::Receiver<bool>,
    written: &mut Written,
) -> Option<Duration> {
    let name = |status: &RouteStatus| (status.kind, status.namespace.clone(), status.name.clone());
    written.retain(|key, _| snapshot.statuses.iter().any(|status| name(status) == *key));
    let mut again = None;
    for status in &snapshot.statuses {
        let Some(version) = &status.resource_version else { continue };
        if !*leads.borrow() || written.get(&name(status)) == Some(version) {
            continue;
        }
        let Some(parents) = status.to_write(&now()) else { continue };
        match patch(client, status, version, parents).await {
            Ok(()) => {
                metrics::counter!("remora_discovery_statuses_written_total").increment(1);
                written.insert(name(status), version.clone());
            }
            // What the watch tells next leads here again.
            Err(error) if error.is_conflict() || error.is_not_found() => {
                tracing::debug!(route = status.name, %error, "the route has changed since it was read");
            }
            Err(error) => {
                tracing::warn!(kind = status.kind, namespace = status.namespace, route = status.name, %error,
                    "the status is not written");
                again = Some(RETRY);
            }
        }
    }
    again
}

async fn patch(
    client: &Client,
    status: &RouteStatus,
    version: &str,
    parents: Vec<serde_json::Value>,
) -> Result<(), CallError> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), &status.namespace, &resource(status.kind));
    let patch = json!({"metadata": {"resourceVersion": version}, "status": {"parents": parents}});
    let params = PatchParams { field_manager: Some(names::DISCOVERY.to_owned()), ..PatchParams::default() };
    call(api.patch_status(&status.name, &params, &Patch::Merge(patch))).await.map(drop)
}

fn resource(kind: &str) -> ApiResource {
    fn of<T: Kind>() -> ApiResource {
        ApiResource {
            group: T::GROUP.to_owned(),
            version: T::VERSION.to_owned(),
            api_version: format!("{}/{}", T::GROUP, T::VERSION),
            kind: T::KIND.to_owned(),
            plural: T::PLURAL.to_owned(),
        }
    }
    if kind == routes::GrpcRoute::KIND { of::<routes::GrpcRoute>() } else { of::<routes::HttpRoute>() }
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
