//! Applies the webhook configuration whenever what it depends on, or the object itself, changes. Every replica watches the
//! object, because the rotation waits for its authorities to be seen there; the leader writes.

use super::wanted::{Facts, configuration};
use crate::certificate::Serving;
use futures_util::StreamExt as _;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, rbac::v1::ClusterRole};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use remora_kube::{
    apply::apply,
    client::{CallError, call},
    names::INJECTOR,
};
use remora_runtime::drain;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Between two writes: if another writer keeps changing it back, this is how often we revert it.
const PAUSE: Duration = Duration::from_millis(100);
/// After one that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the webhook configuration.
pub(crate) struct Keeper {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// Whether this replica writes.
    pub(crate) leads: watch::Receiver<bool>,
    pub(crate) serving: watch::Receiver<Option<Serving>>,
    /// Namespaces opted in by annotation; `None` until all were read, for a list that is not whole would drop some.
    pub(crate) listed: watch::Receiver<Option<BTreeSet<String>>>,
    /// Hears which authorities the configuration has.
    pub(crate) trusted: watch::Sender<Option<Arc<str>>>,
}

/// What is known of the object.
enum Known {
    Nothing,
    Absent,
    There(Box<MutatingWebhookConfiguration>),
}

impl Keeper {
    /// Runs until `drain`.
    pub(crate) async fn run(mut self, drain: drain::Watch) {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let mut changes = std::pin::pin!(watch_object(api.clone(), INJECTOR).default_backoff());
        let mut known = Known::Nothing;
        let mut owner: Option<String> = None;
        let mut not_before = Instant::now();
        loop {
            let mut wake = None;
            match self.missing(&known, owner.as_deref().filter(|uid| !uid.is_empty())) {
                Some(_) if Instant::now() < not_before => wake = Some(not_before),
                Some(wanted) => {
                    match self.write(&api, wanted, &mut owner).await {
                        Ok(None) => {}
                        Ok(object) => {
                            not_before = Instant::now() + PAUSE;
                            self.look(object, &mut known);
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the webhook configuration could not be written");
                            not_before = Instant::now() + RETRY;
                        }
                    }
                    continue;
                }
                None => {}
            }
            tokio::select! {
                () = drain.signaled() => return,
                change = changes.next() => match change {
                    Some(Ok(object)) => self.look(object, &mut known),
                    Some(Err(error)) => tracing::debug!(%error, "the webhook configuration is not watched"),
                    None => return,
                },
                Ok(()) = self.leads.changed() => {}
                Ok(()) = self.serving.changed() => {}
                Ok(()) = self.listed.changed() => {}
                () = sleep_until(wake.unwrap_or(not_before)), if wake.is_some() => {}
            }
        }
    }

    fn look(&self, object: Option<MutatingWebhookConfiguration>, known: &mut Known) {
        let Some(object) = object else {
            self.trusted.send_replace(None);
            *known = Known::Absent;
            return;
        };
        // The least that is trusted: what all entries have is what the first has, once it is as it should be.
        let first = object.webhooks.as_ref().and_then(|webhooks| webhooks.first());
        let bundle = first.and_then(|webhook| webhook.client_config.ca_bundle.as_ref());
        let bundle = bundle.and_then(|bundle| String::from_utf8(bundle.0.clone()).ok());
        self.trusted.send_replace(bundle.map(Arc::from));
        *known = Known::There(Box::new(object));
    }

    /// The object as it should be, if it is not so and it is for us to write it.
    fn missing(&self, known: &Known, owner: Option<&str>) -> Option<MutatingWebhookConfiguration> {
        if !*self.leads.borrow() || matches!(known, Known::Nothing) {
            return None;
        }
        let serving = self.serving.borrow().clone()?;
        let listed = self.listed.borrow().clone()?;
        let facts = Facts { namespace: &self.namespace, bundle: &serving.bundle, listed: &listed, owner };
        let wanted = match configuration(&facts) {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::error!(%error, "the webhook configuration cannot be made");
                return None;
            }
        };
        match known {
            Known::There(object) if is_so(object, &wanted) => None,
            _ => Some(wanted),
        }
    }

    /// Applies `wanted`. The first write only finds out the owner, with whom the object goes.
    async fn write(
        &self,
        api: &Api<MutatingWebhookConfiguration>,
        wanted: MutatingWebhookConfiguration,
        owner: &mut Option<String>,
    ) -> Result<Option<MutatingWebhookConfiguration>, CallError> {
        if owner.is_none() {
            let roles: Api<ClusterRole> = Api::all(self.client.clone());
            let role = call(roles.get_opt(INJECTOR)).await?;
            if role.is_none() {
                tracing::warn!("there is no ClusterRole {INJECTOR}; the webhook configuration will outlive the chart");
            }
            *owner = Some(role.and_then(|role| role.metadata.uid).unwrap_or_default());
            return Ok(None);
        }
        let object = apply(api, INJECTOR, &wanted).await?;
        tracing::info!(entries = object.webhooks.as_ref().map_or(0, Vec::len), "applied the webhook configuration");
        Ok(Some(object))
    }
}

/// Whether `object` says all that `wanted` says, and has no entry besides.
fn is_so(object: &MutatingWebhookConfiguration, wanted: &MutatingWebhookConfiguration) -> bool {
    let count = |object: &MutatingWebhookConfiguration| object.webhooks.as_ref().map_or(0, Vec::len);
    match (serde_json::to_value(object), serde_json::to_value(wanted)) {
        (Ok(object_value), Ok(wanted_value)) => {
            count(object) == count(wanted) && crate::pod::covers(&object_value, &wanted_value)
        }
        _ => false,
    }
}
