//! Writes the statuses of routes and policies, where they do not say what they should, and tells as an Event on the object what became
//! a problem with it, and what ceased to be one.
//!
//! In: what should be said, and whether we lead. Out: patches of `status`. Each says which version of the object it was made from, so
//! the API server refuses it if another writer was faster; then the object is read once more, and the patch made anew. What fails comes
//! again with a backoff of its own. What was written is not written again over the same version, unless something else is to be
//! said by now. Two writers at once do no harm: they want the same.

#[cfg(test)]
mod tests;

use crate::{
    index::status::{Condition, ObjectStatus},
    objects::kind::{Registered, StatusList},
    serve::Statuses,
};
use futures_util::stream::{self, StreamExt as _};
use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use remora_kube::{
    client::{CallError, call},
    events::{EventType, Events, Fact},
    names,
};
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// Pause after a write that failed, doubled by each that follows.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Writes at the same time.
const AT_ONCE: usize = 8;

/// Kind, namespace and name.
type Name = (&'static str, String, String);

/// What became of our last write of an object.
#[derive(Debug, Clone, PartialEq)]
enum Written {
    /// Over this version it went through, and said this.
    Over { version: String, said: Value },
    /// It failed, and comes again then.
    Failed { again: Instant, pause: Duration },
}

/// Writes as long as `leads` says so. Ends when the senders are dropped; cancel-safe.
pub(super) async fn write(client: Client, mut wanted: Statuses, mut leads: watch::Receiver<bool>, events: Events) {
    let mut written: HashMap<Name, Written> = HashMap::new();
    loop {
        let latest = wanted.borrow_and_update().clone();
        let lead = *leads.borrow_and_update();
        let due = match lead {
            true => write_all((&client, &events), &latest, &leads, &mut written).await,
            false => None,
        };
        let again = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

fn name(status: &ObjectStatus) -> Name {
    (status.kind.kind, status.namespace.clone(), status.name.clone())
}

/// Writes what is not said yet. Gives when something is to be tried again.
async fn write_all(
    (client, events): (&Client, &Events),
    statuses: &[Arc<ObjectStatus>],
    leads: &watch::Receiver<bool>,
    written: &mut HashMap<Name, Written>,
) -> Option<Instant> {
    let there: HashSet<Name> = statuses.iter().map(|status| name(status)).collect();
    written.retain(|name, _| there.contains(name));
    let due = statuses.iter().filter(|status| is_due(status, written, Instant::now()));
    let writing = due.filter_map(|status| Some((status, status.to_write(&now())?)));
    let writing: Vec<_> = writing.collect();
    let ended: Vec<_> = stream::iter(writing)
        .map(|(status, wanted)| async move {
            // Another replica may lead by now.
            let wrote = if *leads.borrow() { Some(write_one(client, status, wanted).await) } else { None };
            (status, wrote)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let (mut failed, mut last) = (0_usize, None);
    for (status, wrote) in ended {
        let name = name(status);
        let before = match written.remove(&name) {
            Some(Written::Failed { pause, .. }) => Some(pause),
            _ => None,
        };
        match wrote {
            None => {}
            Some(Ok(news)) => {
                metrics::counter!("remora_discovery_statuses_written_total").increment(u64::from(news.is_some()));
                news.into_iter().flatten().for_each(|condition| events.tell(fact(status, condition)));
                let version = status.resource_version.clone().unwrap_or_default();
                written.insert(name, Written::Over { version, said: status.ours().clone() });
            }
            Some(Err(error)) => {
                let pause = before.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX));
                written.insert(name, Written::Failed { again: Instant::now() + pause, pause });
                (failed, last) = (failed + 1, Some((status, error)));
            }
        }
    }
    metrics::gauge!("remora_discovery_statuses_failing").set(failed as f64);
    if let Some((status, error)) = last {
        let (kind, namespace, name) = (status.kind.kind, &status.namespace, &status.name);
        tracing::warn!(failed, kind, namespace, name, %error, "statuses are not written; this is the last of them");
    }
    let again = written.values().filter_map(|written| match written {
        Written::Failed { again, .. } => Some(*again),
        Written::Over { .. } => None,
    });
    again.min()
}

/// Whether a status may be written: not before its pause is over, nor what was written over the same version, since then the
/// index has not seen it yet. Something else over that version is due: our own write is no news, so that nothing
/// else might come after this one.
fn is_due(status: &ObjectStatus, written: &HashMap<Name, Written>, now: Instant) -> bool {
    let Some(version) = &status.resource_version else { return false };
    match written.get(&name(status)) {
        Some(Written::Over { version: over, said }) => over != version || said != status.ours(),
        Some(Written::Failed { again, .. }) => *again <= now,
        None => true,
    }
}

/// What a person should hear of the status that was written. `None`: nothing was left to write.
async fn write_one(client: &Client, status: &ObjectStatus, wanted: Value) -> Result<Option<Vec<Condition>>, CallError> {
    let resource = resource(status.kind);
    let api: Api<DynamicObject> = match status.kind.status {
        Some(StatusList::Features) => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), &status.namespace, &resource),
    };
    match patch(&api, status, wanted).await {
        Err(error) if error.is_conflict() => {}
        // The object was deleted: no status to write.
        Err(error) if error.is_not_found() => return Ok(None),
        done => return done.map(|()| Some(status.news())),
    }
    let object = match call(api.get(&status.name)).await {
        Err(error) if error.is_not_found() => return Ok(None),
        object => object?,
    };
    let current = status.over(&object.data["status"], object.metadata.resource_version);
    match current.to_write(&now()) {
        Some(wanted) => patch(&api, &current, wanted).await.map(|()| Some(current.news())),
        None => Ok(None),
    }
}

fn fact(status: &ObjectStatus, condition: Condition) -> Fact {
    let said = if condition.message.is_empty() { String::new() } else { format!(": {}", condition.message) };
    Fact {
        about: ObjectReference {
            api_version: Some(format!("{}/{}", status.kind.group, status.kind.version)),
            kind: Some(status.kind.kind.to_owned()),
            namespace: Some(status.namespace.clone()),
            name: Some(status.name.clone()),
            uid: status.uid.clone(),
            ..ObjectReference::default()
        },
        kind: if condition.is_a_problem() { EventType::Warning } else { EventType::Normal },
        reason: condition.reason,
        action: "Judge",
        note: format!("{} is {}{said}", condition.kind, if condition.holds { "True" } else { "False" }),
    }
}

async fn patch(api: &Api<DynamicObject>, status: &ObjectStatus, wanted: Value) -> Result<(), CallError> {
    let version = serde_json::json!({ "resourceVersion": status.resource_version });
    let patch = serde_json::json!({ "metadata": version, "status": wanted });
    let params = PatchParams { field_manager: Some(names::DISCOVERY.to_owned()), ..PatchParams::default() };
    call(api.patch_status(&status.name, &params, &Patch::Merge(patch))).await.map(drop)
}

fn resource(kind: Registered) -> ApiResource {
    ApiResource {
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        api_version: format!("{}/{}", kind.group, kind.version),
        kind: kind.kind.to_owned(),
        plural: kind.plural.to_owned(),
    }
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
