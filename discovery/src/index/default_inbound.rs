//! Who may call a port that no Allow policy selects: what an annotation of the pod says, else one of its namespace, else the mesh's own
//! word. It holds as soon as it is said, for running pods too.
//!
//! A word that cannot be read opens nothing: nobody may call the port until it can.

use super::facts::Facts;
use crate::objects::{Metadata, core::Pod};
use remora_kube::names::DEFAULT_INBOUND;
use remora_model::DefaultInbound;
use remora_runtime::settings::default_inbound;

/// What the annotation says, if it is there.
pub(super) fn said(meta: &Metadata) -> Option<&str> {
    meta.annotations.get(DEFAULT_INBOUND).map(|text| text.trim())
}

/// What is wrong with it.
pub(super) fn problem(meta: &Metadata) -> Option<String> {
    let text = said(meta)?;
    let wrong = default_inbound(text).err()?;
    Some(format!(
        "metadata.annotations: {DEFAULT_INBOUND}: {text:?}: {wrong}; where no Allow policy selects a port, nobody may call it"
    ))
}

impl Facts {
    /// What holds for the ports of a pod that no Allow policy selects.
    pub(super) fn default_inbound(&self, pod: &Pod) -> DefaultInbound {
        let of_namespace = || self.default_inbound.get(&pod.metadata.namespace).map(String::as_str);
        match said(&pod.metadata).or_else(of_namespace) {
            Some(text) => default_inbound(text).unwrap_or(DefaultInbound::Deny),
            None => self.mesh.default_inbound,
        }
    }
}
