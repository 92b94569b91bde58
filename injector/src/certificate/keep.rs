//! Makes, follows and rotates the Secret. Every replica follows it; a replica that finds none makes one, and the loser of that race
//! takes the winner's; the leader rotates.

use super::{
    make,
    state::{State, Step, Unusable},
};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use remora_kube::{
    client::{CallError, call},
    names::{INJECTOR, INJECTOR_SECRET, MADE_BY},
};
use remora_runtime::{
    admin::Readiness,
    drain,
    tls::{ServerConfig, web},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::watch;

/// The condition of `/ready`.
const CONDITION: &str = "certificate";
/// Pause after something failed.
const RETRY: Duration = Duration::from_secs(1);
/// The longest sleep between looks at the wall clock, which may jump.
const CLOCK_CHECK: Duration = Duration::from_secs(15);

/// What is served, and what the webhook configuration must trust.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) bundle: Arc<str>,
}

/// Keeps the certificate.
pub(crate) struct Keeper {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// The Service's name as the API server dials it.
    pub(crate) host: String,
    pub(crate) lifetime: Duration,
    pub(crate) readiness: Readiness,
    /// Whether this replica may write at all: one that is ending leaves it to the one that comes.
    pub(crate) keeping: drain::Watch,
    /// Whether this replica rotates.
    pub(crate) leads: watch::Receiver<bool>,
    /// The bundle that the webhook configuration was last seen with.
    pub(crate) trusted: watch::Receiver<Option<Arc<str>>>,
    pub(crate) serving: watch::Sender<Option<Serving>>,
}

/// What is known of the Secret.
enum Known {
    /// Not looked yet.
    Nothing,
    Absent,
    Unusable(Box<Secret>),
    Usable(Box<Secret>, State),
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("cannot read the certificate: {0}")]
    Read(#[from] web::WebError),
}

impl Keeper {
    /// Runs until `drain`.
    pub(crate) async fn run(mut self, drain: drain::Watch) {
        self.readiness.waiting(CONDITION, "the Secret has not been read yet");
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut changes = std::pin::pin!(watch_object(api.clone(), INJECTOR_SECRET).default_backoff());
        let mut known = Known::Nothing;
        // The next authority, and since when it was seen to be trusted.
        let mut seen: Option<(String, SystemTime)> = None;
        loop {
            let now = SystemTime::now();
            seen = self.seen(&known, seen, now);
            let wait = match self.act(&api, &known, seen.as_ref().map(|(_, since)| *since), now).await {
                Ok(until) => until.duration_since(now).unwrap_or_default().min(CLOCK_CHECK),
                Err(Failed::Call(error)) if error.is_conflict() => RETRY, // the watch tells what the other one did
                Err(error) => {
                    tracing::warn!(%error, "the webhook's certificate could not be written");
                    RETRY
                }
            };
            tokio::select! {
                () = drain.signaled() => return,
                change = changes.next() => match change {
                    Some(Ok(secret)) => known = self.look(secret),
                    Some(Err(error)) => tracing::debug!(%error, "the Secret is not watched"),
                    None => return,
                },
                Ok(()) = self.leads.changed() => {}
                Ok(()) = self.trusted.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes what the Secret holds now. What cannot be served changes nothing.
    fn look(&self, secret: Option<Secret>) -> Known {
        let Some(secret) = secret else { return Known::Absent };
        let read = State::read(secret.data.as_ref().unwrap_or(&BTreeMap::new()));
        let loaded = read.and_then(|state| {
            let pair = &state.current;
            let tls = web::server_config(pair.certificate.as_bytes(), pair.key.as_bytes()).map_err(Unusable::Web)?;
            Ok((state, tls))
        });
        match loaded {
            Ok((state, tls)) => {
                let bundle = state.bundle().into();
                self.serving.send_replace(Some(Serving { tls, bundle }));
                self.readiness.ready(CONDITION);
                Known::Usable(Box::new(secret), state)
            }
            Err(error) => {
                tracing::warn!(%error, "the Secret {INJECTOR_SECRET} is unusable; the leader replaces it");
                Known::Unusable(Box::new(secret))
            }
        }
    }

    /// Since when the webhook configuration has the next authority, as far as this replica saw.
    fn seen(
        &self,
        known: &Known,
        before: Option<(String, SystemTime)>,
        now: SystemTime,
    ) -> Option<(String, SystemTime)> {
        let Known::Usable(_, State { next: Some(next), .. }) = known else { return None };
        let trusted = self.trusted.borrow();
        if !trusted.as_ref().is_some_and(|bundle| bundle.contains(next.authority.trim())) {
            return None;
        }
        Some(before.filter(|(authority, _)| *authority == next.authority).unwrap_or((next.authority.clone(), now)))
    }

    /// Does what is to be done, and says when to look again.
    async fn act(
        &self,
        api: &Api<Secret>,
        known: &Known,
        trusted: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<SystemTime, Failed> {
        let later = now + CLOCK_CHECK;
        let leads = *self.leads.borrow();
        let new = || make::pair(&self.host, now, self.lifetime);
        let (secret, state) = match known {
            Known::Nothing => return Ok(later),
            Known::Absent if self.keeping.is_signaled() => return Ok(later),
            Known::Absent => {
                let secret = self.secret(ObjectMeta::default(), &State::new(new()?));
                match call(api.create(&params(), &secret)).await {
                    Ok(_) => tracing::info!("made the webhook's certificate"),
                    Err(error) if error.is_conflict() => {}
                    Err(error) => return Err(error.into()),
                }
                return Ok(later);
            }
            Known::Unusable(secret) if leads => (secret, State::new(new()?)),
            Known::Usable(secret, state) if leads => {
                let next = match state.step(now, trusted)? {
                    Step::Wait(until) => return Ok(until),
                    Step::Prepare => State { next: Some(new()?), ..state.clone() },
                    Step::Promote => state.clone().promoted(),
                    Step::Retire => State { previous: None, ..state.clone() },
                };
                (secret, next)
            }
            Known::Unusable(_) | Known::Usable(..) => return Ok(later),
        };
        let secret = self.secret(secret.metadata.clone(), &state);
        // With the resource version that was read, so that a faster writer is not overwritten.
        call(api.replace(INJECTOR_SECRET, &params(), &secret)).await?;
        tracing::info!(prepared = state.next.is_some(), "the webhook's certificate: next step of the rotation");
        Ok(later)
    }

    fn secret(&self, metadata: ObjectMeta, state: &State) -> Secret {
        let mut metadata = ObjectMeta {
            name: Some(INJECTOR_SECRET.to_owned()),
            namespace: Some(self.namespace.clone()),
            managed_fields: None,
            ..metadata
        };
        metadata.labels.get_or_insert_default().insert(MADE_BY.to_owned(), INJECTOR.to_owned());
        Secret { metadata, type_: Some("kubernetes.io/tls".to_owned()), data: Some(state.data()), ..Secret::default() }
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(INJECTOR.to_owned()), ..PostParams::default() }
}
