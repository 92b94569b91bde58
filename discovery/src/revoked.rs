//! `/revocations` of the admin port: who is trusted no more, and how many of the proxies that have a stream to this replica have that in use.
//!
//! In: readers of the admin port, who come by `kubectl port-forward`. Out: JSON, of this moment. The command asks until all have it.

use crate::serve::Hub;
use axum::{Json, Router, extract::State, routing::get};
use remora_model::{PodName, Revocation};
use remora_runtime::admin;
use serde_json::{Value, json};

/// The path.
pub(crate) fn router(hub: Hub) -> Router {
    admin::local_only(Router::new().route("/revocations", get(revocations))).with_state(hub)
}

async fn revocations(State(hub): State<Hub>) -> Json<Value> {
    let revoked = hub.revocations();
    let all: Vec<Value> = revoked.revocations.iter().map(one).collect();
    let unable = json!({ "count": revoked.unable.pods, "first": revoked.unable.first });
    let proxies = json!({ "able": revoked.able, "held": revoked.held, "unable": unable });
    Json(json!({ "version": format!("{:016x}", revoked.version), "revocations": all, "proxies": proxies }))
}

fn one(one: &Revocation) -> Value {
    let Revocation { name, reason, until, identity, serial, pod } = one;
    let pod = pod
        .as_ref()
        .map(|PodName { namespace, name, uid }| json!({ "namespace": &**namespace, "name": &**name, "uid": &**uid }));
    json!({
        "name": &**name,
        "reason": &**reason,
        "until": until,
        "identity": identity.as_ref().map(|id| id.as_str()),
        "serial": serial.as_ref().map(ToString::to_string),
        "pod": pod,
    })
}
