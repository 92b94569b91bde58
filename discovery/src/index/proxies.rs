//! The settings of running proxies: what annotations of a pod say, else those of its namespace, else the mesh's own.
//!
//! The injector reads the same annotations, by the same functions, for a proxy that starts. An annotation that cannot be read
//! is reported, and its proxies keep the value that they have: no wider one is read in its place.

use super::{derived::Said, facts::Facts};
use crate::objects::Metadata;
use remora_kube::names::{ACCESS_LOG, DRAIN_GRACE, LOG_LEVEL, TRACING, UNKNOWN};
use remora_model::{ProxySettings, Setting};
use remora_runtime::settings::{access_log, drain_grace, log_filter, tracing, unknown_targets};

/// What the annotations of a namespace say; `None`: nothing.
pub(super) fn said(meta: &Metadata) -> Option<Said> {
    let ours = meta
        .annotations
        .iter()
        .filter(|(name, _)| [LOG_LEVEL, UNKNOWN, DRAIN_GRACE, ACCESS_LOG, TRACING].contains(&name.as_str()));
    let said: Said = ours.map(|(name, text)| (name.clone(), text.clone())).collect();
    (!said.is_empty()).then_some(said)
}

/// What is wrong with them.
pub(super) fn problems(meta: &Metadata) -> Vec<String> {
    let said = |name: &str| meta.annotations.get(name).map(|text| text.trim());
    let checks = [
        (LOG_LEVEL, said(LOG_LEVEL).and_then(|text| log_filter(text).err())),
        (UNKNOWN, said(UNKNOWN).and_then(|text| unknown_targets(text).err())),
        (DRAIN_GRACE, said(DRAIN_GRACE).and_then(|text| drain_grace(text).err())),
        (ACCESS_LOG, said(ACCESS_LOG).and_then(|text| access_log(text).err())),
        (TRACING, said(TRACING).and_then(|text| tracing(text).err())),
    ];
    let problem = |(name, wrong): (&str, Option<String>)| {
        let text = said(name).unwrap_or_default();
        Some(format!("metadata.annotations: {name}: {text:?}: {}; running proxies keep what they have", wrong?))
    };
    checks.into_iter().filter_map(problem).collect()
}

impl Facts {
    /// The settings of a pod's proxy. `None`: the pod is not known.
    pub(super) fn proxy_settings(&self, namespace: &str, pod: &str) -> Option<ProxySettings> {
        let pod = self.pods.get(&(namespace.to_owned(), pod.to_owned()))?;
        let namespaces = self.proxies_of.get(namespace);
        let text =
            |name: &str| pod.metadata.annotations.get(name).or_else(|| namespaces?.get(name)).map(|text| text.trim());
        let default = &self.mesh.proxies;
        Some(ProxySettings {
            log_filter: read(text(LOG_LEVEL), log_filter, &default.log_filter),
            unknown_targets: read(text(UNKNOWN), unknown_targets, &default.unknown_targets),
            drain_grace: read(text(DRAIN_GRACE), drain_grace, &default.drain_grace),
            access_log: read(text(ACCESS_LOG), access_log, &default.access_log),
            tracing: read(text(TRACING), tracing, &default.tracing),
        })
    }
}

fn read<T: Clone>(text: Option<&str>, parse: fn(&str) -> Result<T, String>, default: &Setting<T>) -> Setting<T> {
    match text.map(parse) {
        None => default.clone(),
        Some(Ok(value)) => Setting::Said(value),
        Some(Err(_)) => Setting::Unreadable,
    }
}
