//! Whether a pod is opted in: `remora.dev/inject` as annotation or label, of the pod before its namespace.

use super::{Meta, Namespace, Skip, nearest::nearest};
use remora_kube::names::{DISABLED, ENABLED, INJECT};
use std::collections::BTreeMap;

/// What `remora.dev/inject` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Yes.
    Enabled,
    /// No.
    Disabled,
}

/// The word of one object, its annotation before its label. The error says what it says instead.
pub fn word(annotations: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> Result<Option<Word>, String> {
    let read = |what: &str, value: &String| match value.as_str() {
        ENABLED => Ok(Some(Word::Enabled)),
        DISABLED => Ok(Some(Word::Disabled)),
        other => {
            let meant = nearest(other, [ENABLED, DISABLED]).unwrap_or(ENABLED);
            Err(format!("{what} {INJECT}={other:?} is neither {ENABLED} nor {DISABLED}; the nearest is {meant}"))
        }
    };
    match (annotations.get(INJECT), labels.get(INJECT)) {
        (Some(value), _) => read("annotation", value),
        (None, Some(value)) => read("label", value),
        (None, None) => Ok(None),
    }
}

/// Why the pod stays as it is; `None` if it is wanted in the mesh.
pub(super) fn decide(pod: &Meta, namespace: &Namespace) -> Result<Option<Skip>, String> {
    match word(&pod.annotations, &pod.labels).map_err(|wrong| format!("the pod's {wrong}"))? {
        Some(Word::Enabled) => return Ok(None),
        Some(Word::Disabled) => return Ok(Some(Skip::DisabledByPod)),
        None => {}
    }
    let word = word(&namespace.annotations, &namespace.labels).map_err(|wrong| format!("the namespace's {wrong}"))?;
    Ok(match word {
        Some(Word::Enabled) => None,
        Some(Word::Disabled) => Some(Skip::DisabledByNamespace),
        None if namespace.opted_in => None,
        None => Some(Skip::NotOptedIn),
    })
}
