//! An issuer in a Secret: the type `kubernetes.io/tls` with `ca.crt`, as cert-manager writes it.
//!
//! All replicas follow it; whichever is first makes it, and the API server's "already exists" tells the others to read.
//! A Secret that we made and that somebody deletes is put back as it was: a replica that starts without it would make
//! another root, and the mesh would change to that one, once it is published, for nothing. Rights, all but `create` limited to the one name: `get`, `list`, `watch`, `create`.

use super::{Changes, SourceError};
use crate::{
    held::Held,
    issuer::{Files, IssuerError},
};
use futures_util::{StreamExt as _, stream::select};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ObjectReference, Secret as Object},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{WatchStreamExt as _, watcher},
};
use remora_kube::{
    client::{call, watching},
    events::{EventType, Events, Fact},
    names::{CA_CRT, FORCE_REMOVE, IDENTITY, ISSUER_SECRET, ISSUER_STATE_SECRET, MADE_BY, PART},
};
use remora_model::TrustDomain;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// The type that kubectl and cert-manager give to a certificate with its key.
const TYPE: &str = "kubernetes.io/tls";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// The Secret.
#[derive(Debug)]
pub struct Secret {
    api: Api<Object>,
    namespace: String,
    seen: Mutex<Seen>,
    events: Option<Events>,
}

/// The last that was seen.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Made by this part, and not by cert-manager, Vault or a person.
    ours: bool,
    uid: Option<String>,
}

impl Secret {
    /// In `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.to_owned(), seen: Mutex::default(), events: None }
    }

    /// Tells people by `events` what is wrong with it.
    #[must_use]
    pub fn with_events(self, events: Events) -> Self {
        Self { events: Some(events), ..self }
    }

    /// What it holds, after it was made if it did not exist.
    pub async fn open(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Held, SourceError> {
        match self.look().await {
            Err(SourceError::Gone(_)) => {
                let files = Files::make(trust_domain, now).map_err(SourceError::Issuer)?;
                self.create(&files).await?;
                // Another replica may have made it: the stored one counts.
                self.look().await
            }
            looked => looked,
        }
    }

    /// What it holds.
    pub async fn look(&self) -> Result<Held, SourceError> {
        let found = call(self.api.get_opt(ISSUER_SECRET)).await.map_err(SourceError::Away)?;
        let object = found.ok_or_else(|| SourceError::Gone(format!("Secret {ISSUER_SECRET}")))?;
        let ours = object.metadata.labels.as_ref().and_then(|labels| labels.get(MADE_BY));
        let ours = ours.is_some_and(|part| part == IDENTITY);
        *self.seen() = Seen { ours, uid: object.metadata.uid.clone() };
        held(object).map_err(SourceError::Issuer)
    }

    /// Puts back what we made.
    pub(super) async fn restore(&self, files: &Files) -> Result<(), SourceError> {
        if !self.seen().ours {
            return Err(SourceError::Gone(format!("Secret {ISSUER_SECRET}")));
        }
        tracing::warn!("Secret {ISSUER_SECRET} was deleted; putting it back");
        self.create(files).await
    }

    /// It is refused, because of `why`.
    pub(super) fn refused(&self, why: &str) {
        let Some(events) = &self.events else { return };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Secret".into()),
            name: Some(ISSUER_SECRET.into()),
            namespace: Some(self.namespace.clone()),
            uid: self.seen().uid.clone(),
            ..ObjectReference::default()
        };
        let note = format!("{why}. The issuer in force goes on.");
        events.tell(Fact { about, kind: EventType::Warning, reason: "IssuerRefused", action: "Load", note });
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it; that it exists already is as good.
    async fn create(&self, files: &Files) -> Result<(), SourceError> {
        let params = PostParams { field_manager: Some(IDENTITY.to_owned()), ..PostParams::default() };
        match call(self.api.create(&params, &object(files))).await {
            Ok(_) => tracing::info!("made Secret {ISSUER_SECRET}"),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(SourceError::Away(error)),
        }
        Ok(())
    }

    /// Of the issuer, and of the state that the replicas share.
    pub(super) fn changes(&self) -> Changes {
        let watched = |name: &'static str| {
            let only = watching().fields(&format!("metadata.name={name}"));
            let events = watcher(self.api.clone(), only).default_backoff();
            events.filter_map(move |event| {
                // What the event holds is not used: it may be older than what a poll has seen.
                std::future::ready(match event {
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
                    Ok(_) => Some(()),
                    Err(error) => {
                        tracing::debug!(%error, "Secret {name} is not watched");
                        None
                    }
                })
            })
        };
        Changes::of(select(watched(ISSUER_SECRET), watched(ISSUER_STATE_SECRET)))
    }
}

fn held(object: Object) -> Result<Held, IssuerError> {
    let mut data = object.data.unwrap_or_default();
    let mut take = |key| data.remove(key).filter(|value| !value.0.is_empty()).map(|value| value.0);
    let (certificate, key, anchors) = (take(CERTIFICATE), take(KEY), take(CA_CRT));
    let Some(((certificate, key), anchors)) = certificate.zip(key).zip(anchors) else {
        return Err(IssuerError::Incomplete(format!("Secret {ISSUER_SECRET}")));
    };
    let annotations = object.metadata.annotations.unwrap_or_default();
    let force_remove = annotations.get(FORCE_REMOVE).is_some_and(|value| value == "true");
    Ok(Held { files: Files::new(certificate, key, anchors), force_remove })
}

fn object(files: &Files) -> Object {
    let labels = [(MADE_BY, IDENTITY), (PART, IDENTITY)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let data = [(CERTIFICATE, files.certificate()), (KEY, files.key()), (CA_CRT, files.anchors())];
    Object {
        metadata: ObjectMeta {
            name: Some(ISSUER_SECRET.to_owned()),
            labels: Some(BTreeMap::from(labels)),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.to_vec()))).collect()),
        ..Object::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files::make(&TrustDomain::new("cluster.local").unwrap(), SystemTime::now()).unwrap()
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let files = files();
        let held = held(object(&files)).unwrap();
        assert!(held.files == files && !held.force_remove);
    }

    #[test]
    fn a_secret_without_one_of_the_three_is_incomplete() {
        for key in [CERTIFICATE, KEY, CA_CRT] {
            let mut without = object(&files());
            without.data.as_mut().unwrap().remove(key);
            assert!(matches!(held(without), Err(IssuerError::Incomplete(_))));
            let mut empty = object(&files());
            empty.data.as_mut().unwrap().insert(key.into(), ByteString::default());
            assert!(matches!(held(empty), Err(IssuerError::Incomplete(_))));
        }
    }

    #[test]
    fn the_annotation_forces_if_it_says_true() {
        let forced = |value: &str| {
            let mut annotated = object(&files());
            annotated.metadata.annotations = Some(BTreeMap::from([(FORCE_REMOVE.to_owned(), value.to_owned())]));
            held(annotated).unwrap().force_remove
        };
        assert!(forced("true"));
        assert!(!forced("false") && !forced(""));
    }
}
