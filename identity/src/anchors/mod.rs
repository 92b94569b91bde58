//! The trust anchors in every namespace that needs them: the ConfigMap `remora-trust-anchors`, kept by the leader.
//!
//! A sidecar has trust anchors before its first connection, from a ConfigMap that is mounted into its pod; so it must
//! be there before the pod, hold the anchors in force, and stay that way. In: watches of namespaces and injected pods
//! (metadata only) and of these ConfigMaps, and the issuer as it changes. Out: server-side applies, at most
//! [`WRITES_MAX`] at once. [`plan`] decides. The copy is made from the parsed anchors, never from the text of `ca.crt`, into
//! which a private key may have been pasted.

pub(crate) mod plan;
#[cfg(test)]
mod tests;

use self::plan::{Action, Found, Kind, Plan, State};
use crate::authority::InForce;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Preconditions},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};
use remora_kube::{
    apply::apply,
    client::{CallError, call, watching},
    events::{EventType, Events, Fact},
    names::{CA_CRT, ENABLED, IDENTITY, INJECT, INJECTED, MADE_BY, PART, TRUST_ANCHORS},
};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, interval, interval_at, sleep_until},
};

/// Writes at once; an anchor's change writes to every meshed namespace.
const WRITES_MAX: usize = 16;

/// The ConfigMaps are listed anew this often: an event that a watch lost is made good by then.
const RELIST: Duration = Duration::from_secs(600);
/// Between two looks at how many are not current.
const COUNT: Duration = Duration::from_secs(5);

/// Keeps the ConfigMaps whenever `leads`, and reports those that another writer changes too. Ends when nobody can say any more
/// whether it leads.
pub(crate) async fn keep(
    client: Client,
    events: Events,
    namespace: &str,
    state: watch::Receiver<Arc<InForce>>,
    mut leads: watch::Receiver<bool>,
) {
    loop {
        metrics::gauge!("remora_identity_leader").set(0.0);
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        metrics::gauge!("remora_identity_leader").set(1.0);
        tokio::select! {
            () = lead(&client, &events, namespace, state.clone()) => return,
            _ = leads.wait_for(|leads| !*leads) => {}
        }
    }
}

async fn lead(client: &Client, events: &Events, own: &str, mut state: watch::Receiver<Arc<InForce>>) {
    let mut plan = Plan::new(own);
    let mut text: Arc<str> = pem(&state.borrow_and_update()).into();
    let only = watching().fields(&format!("metadata.name={TRUST_ANCHORS}"));
    let injected = watching().labels(&format!("{INJECTED}=true"));
    let mut namespaces = watched::<PartialObjectMeta<Namespace>>(client, watching());
    let mut pods = watched::<PartialObjectMeta<Pod>>(client, injected);
    let mut config_maps = watched::<ConfigMap>(client, only.clone());
    let mut running = FuturesUnordered::new();
    let (mut relist, mut count) = (interval_at(Instant::now() + RELIST, RELIST), interval(COUNT));
    loop {
        while running.len() < WRITES_MAX {
            let Some((name, action)) = plan.next(Instant::now()) else {
                break;
            };
            running.push(act(client.clone(), name, action, Arc::clone(&text)));
        }
        let wake = wake_at(&plan, running.len());
        tokio::select! {
            Some(event) = namespaces.next() => heard(&mut plan, Kind::Namespaces, event, namespace),
            Some(event) = pods.next() => heard(&mut plan, Kind::Pods, event, pod),
            Some(event) = config_maps.next() => heard(&mut plan, Kind::ConfigMaps, event, |plan, object, exists| {
                config_map(plan, object, exists, &text);
            }),
            Some((name, action, result)) = running.next() => ended(&mut plan, (events, own), &name, action, result),
            _ = relist.tick() => config_maps = watched::<ConfigMap>(client, only.clone()),
            // A gauge of namespaces, of which there are at most some thousands.
            _ = count.tick() => metrics::gauge!("remora_identity_trust_anchors_stale").set(plan.stale() as f64),
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                text = pem(&state.borrow_and_update()).into();
                plan.anchors_changed();
            }
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => plan.wake(Instant::now()),
        }
    }
}

/// When to look for something to do although nothing was heard. Not while there is no room for it: what is due would be due at once, again and
/// again, and the end of a write, which makes room, is heard.
fn wake_at(plan: &Plan, running: usize) -> Option<Instant> {
    plan.wake_at().filter(|_| running < WRITES_MAX)
}

type Watched<K> = std::pin::Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>;

fn watched<K>(client: &Client, config: watcher::Config) -> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    Box::pin(watcher(Api::<K>::all(client.clone()), config).default_backoff())
}

/// Tells `plan` what a watch said; `set` is called with whether the object exists.
fn heard<K>(plan: &mut Plan, kind: Kind, event: watcher::Result<Event<K>>, set: impl Fn(&mut Plan, &K, bool)) {
    match event {
        Ok(Event::Init) => plan.begin(kind),
        Ok(Event::InitApply(object) | Event::Apply(object)) => set(plan, &object, true),
        Ok(Event::Delete(object)) => set(plan, &object, false),
        Ok(Event::InitDone) => plan.done(kind),
        Err(error) => tracing::debug!(%error, ?kind, "not watched"),
    }
}

fn namespace(plan: &mut Plan, object: &PartialObjectMeta<Namespace>, exists: bool) {
    let terminating = object.meta().deletion_timestamp.is_some();
    let state = State { opted_in: is_opted_in(object.meta()), terminating };
    plan.namespace(&object.name_any(), exists.then_some(state));
}

fn pod(plan: &mut Plan, object: &PartialObjectMeta<Pod>, exists: bool) {
    plan.pod(&object.namespace().unwrap_or_default(), &object.name_any(), exists);
}

fn config_map(plan: &mut Plan, object: &ConfigMap, exists: bool, text: &str) {
    let held = object.data.as_ref().and_then(|data| data.get(CA_CRT));
    let made_by = object.labels().get(MADE_BY);
    let ours = made_by.is_some_and(|part| part == IDENTITY);
    let found = Found { ours, current: held.is_some_and(|held| held == text) };
    plan.config_map(&object.namespace().unwrap_or_default(), exists.then_some(found));
}

/// An annotation wins over a label.
fn is_opted_in(meta: &ObjectMeta) -> bool {
    let word = |words: &Option<BTreeMap<String, String>>| words.as_ref().and_then(|words| words.get(INJECT)).cloned();
    word(&meta.annotations).or_else(|| word(&meta.labels)).is_some_and(|word| word == ENABLED)
}

async fn act(
    client: Client,
    namespace: String,
    action: Action,
    text: Arc<str>,
) -> (String, Action, Result<(), CallError>) {
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let result = match action {
        Action::Write => apply(&api, IDENTITY, &object(&namespace, &text)).await.map(drop),
        Action::Remove => remove(&api).await,
    };
    (namespace, action, result)
}

/// Removes our object, if it is still as it was read: another owner may be taking it over.
async fn remove(api: &Api<ConfigMap>) -> Result<(), CallError> {
    let Some(found) = call(api.get_metadata_opt(TRUST_ANCHORS)).await? else {
        return Ok(());
    };
    if found.labels().get(MADE_BY).is_none_or(|part| part != IDENTITY) {
        return Ok(());
    }
    let preconditions = Preconditions { uid: found.uid(), resource_version: found.resource_version() };
    let params = DeleteParams::default().preconditions(preconditions);
    match call(api.delete(TRUST_ANCHORS, &params)).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn ended(
    plan: &mut Plan,
    (events, own): (&Events, &str),
    namespace: &str,
    action: Action,
    result: Result<(), CallError>,
) {
    let outcome = match (&result, action) {
        (Ok(()), Action::Write) => "written",
        (Ok(()), Action::Remove) => "removed",
        (Err(_), _) => "failed",
    };
    metrics::counter!("remora_identity_trust_anchors_total", "outcome" => outcome).increment(1);
    match &result {
        Ok(()) => tracing::info!(namespace, outcome, "ConfigMap {TRUST_ANCHORS}"),
        Err(error) => tracing::warn!(namespace, %error, "ConfigMap {TRUST_ANCHORS} not written"),
    }
    if plan.ended(namespace, action, result.is_ok(), Instant::now()) {
        tracing::warn!(
            namespace,
            "another writer changes ConfigMap {TRUST_ANCHORS} too; its changes are reverted less and less often"
        );
        events.tell(contested(own, namespace));
    }
}

/// Told on the control plane's own ConfigMap: there we may write Events.
fn contested(own: &str, namespace: &str) -> Fact {
    let about = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("ConfigMap".into()),
        name: Some(TRUST_ANCHORS.into()),
        namespace: Some(own.into()),
        ..ObjectReference::default()
    };
    let note = format!(
        "Somebody else writes the one in namespace {namespace} too. Pods that start there meanwhile may not know whom to trust."
    );
    Fact { about, kind: EventType::Warning, reason: "AnchorsContested", action: "Write", note }
}

fn object(namespace: &str, text: &str) -> ConfigMap {
    let labels = [(MADE_BY, IDENTITY), (PART, IDENTITY)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(TRUST_ANCHORS.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from(labels)),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(CA_CRT.to_owned(), text.to_owned())])),
        ..ConfigMap::default()
    }
}

/// The anchors as PEM (RFC 7468 §3), in an order that does not depend on the issuer's files.
fn pem(state: &InForce) -> String {
    let mut text = String::new();
    for anchor in state.anchors() {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for (n, character) in STANDARD.encode(&anchor.der).chars().enumerate() {
            if n > 0 && n % 64 == 0 {
                text.push('\n');
            }
            text.push(character);
        }
        text.push_str("\n-----END CERTIFICATE-----\n");
    }
    text
}
