//! The response to a review: makes the decision (a pure function), counts it, sends its Event, and words the message.

use super::{
    review::{Answer, Request, Review},
    stats::{Outcome as Counted, Stats},
};
use crate::{
    pod::{Defaults, Outcome, ProbeToken, Skip, inject},
    registration::Namespaces,
};
use k8s_openapi::api::core::v1::ObjectReference;
use remora_kube::events::{EventType, Events, Fact};
use serde_json::Value;
use std::{sync::Arc, time::Instant};

/// The namespace of the self-check's pod, which no real namespace can have; its reviews are not counted.
pub(crate) const SELF_CHECK: &str = "self:check";

/// Decides about pods.
#[derive(Debug)]
pub(crate) struct Decider {
    pub(crate) defaults: Defaults,
    pub(crate) namespaces: Namespaces,
    pub(crate) events: Events,
    pub(crate) stats: Arc<Stats>,
}

impl Decider {
    /// The answer to `body`, as JSON; or why it is no question. `opted_in` is whether the API server called because of the
    /// pod's namespace.
    pub(super) fn answer(&self, body: &[u8], opted_in: bool) -> Result<Vec<u8>, String> {
        let began = Instant::now();
        let request =
            Review::parse(body).inspect_err(|_| self.stats.count(Counted::Unreadable, "", began.elapsed()))?;
        let (outcome, reason, answer) = self.decide(&request, opted_in);
        if request.namespace != SELF_CHECK {
            self.stats.count(outcome, reason, began.elapsed());
        }
        serde_json::to_vec(&answer).map_err(|error| error.to_string())
    }

    fn decide(&self, request: &Request, opted_in: bool) -> (Counted, &'static str, Answer) {
        let uid = request.uid.clone();
        if !request.creates_a_pod() {
            return (Counted::Skipped, "no_pod", Answer::allowed(uid));
        }
        let pod = &request.object;
        let namespace = self.namespaces.get(&request.namespace, opted_in);
        let token = match ProbeToken::random() {
            Ok(token) => token,
            Err(error) => return (Counted::Refused, "randomness", Answer::denied(uid, format!("remora: {error}"))),
        };
        match inject(pod, &namespace, &self.defaults, &token) {
            Outcome::Inject(injection) => match Answer::patched(uid.clone(), &injection.patch) {
                Ok(answer) => {
                    self.tell(request, "Injected", "the sidecar was added".to_owned());
                    (Counted::Injected, "", answer)
                }
                Err(error) => (Counted::Refused, "patch", Answer::denied(uid, format!("remora: {error}"))),
            },
            Outcome::Skip(skip) => (Counted::Skipped, skip.reason(), self.skipped(request, skip)),
            Outcome::Refuse(mistakes) => {
                let message = format!("remora cannot add its sidecar: {mistakes}");
                tracing::info!(namespace = request.namespace, pod = name(pod), %mistakes, "a pod is rejected");
                self.tell(request, "InjectionRefused", message.clone());
                (Counted::Refused, "settings", Answer::denied(uid, message))
            }
        }
    }

    fn skipped(&self, request: &Request, skip: Skip) -> Answer {
        let uid = request.uid.clone();
        if !skip.surprises() {
            return Answer::allowed(uid);
        }
        let text = format!("remora: this pod gets no sidecar: {skip}");
        self.tell(request, "InjectionSkipped", text.clone());
        Answer::warned(uid, text)
    }

    /// An Event about the pod's owner: the pod itself has no name yet.
    fn tell(&self, request: &Request, reason: &'static str, note: String) {
        if request.dry_run {
            return;
        }
        let Some(about) = owner(&request.object, &request.namespace) else { return };
        let kind = if reason == "Injected" { EventType::Normal } else { EventType::Warning };
        self.events.tell(Fact { about, kind, reason, action: "Inject", note });
    }
}

fn name(pod: &Value) -> &str {
    let metadata = &pod["metadata"];
    metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or_default()
}

/// What made the pod: a ReplicaSet, a Job, and so on.
fn owner(pod: &Value, namespace: &str) -> Option<ObjectReference> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let text = |field: &str| owner[field].as_str().map(str::to_owned);
    Some(ObjectReference {
        api_version: text("apiVersion"),
        kind: text("kind"),
        name: text("name"),
        uid: text("uid"),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    })
}
