//! What is revoked, as a person types it, and what the object for it is called.

use crate::cluster::target;
use remora_kube::revoked::{KIND, PodSpec, Spec};
use remora_model::{Serial, SpiffeId};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Identity(SpiffeId),
    Serial(Serial),
    /// By name.
    Pod(String),
}

/// Names of objects are no longer.
const NAME_BYTES_MAX: usize = 253;

/// What was named is not revoked.
#[derive(Debug, thiserror::Error)]
#[error("no {KIND} is called {0} or revokes it: `remora identity list` shows all")]
pub(crate) struct Absent(String);

pub(super) fn parse(text: &str) -> Result<What, String> {
    if text.starts_with("spiffe:") {
        return SpiffeId::parse(text).map(What::Identity).map_err(|error| error.to_string());
    }
    match text.split_once('/') {
        Some(("serial", serial)) => serial.parse().map(What::Serial).map_err(|error| error.to_string()),
        Some(("pod" | "pods" | "po", name)) => target::name(name).map(What::Pod),
        _ => Err("say spiffe://DOMAIN/ns/NAMESPACE/sa/NAME, pod/NAME or serial/HEX".to_owned()),
    }
}

/// A name that no other target has: `identity.shop.web`, `pod.shop.web-1.UID`, `serial.4f0a`.
pub(super) fn name(spec: &Spec) -> String {
    let parts: Vec<String> = if let Some(text) = &spec.identity {
        let id = SpiffeId::parse(text).ok();
        let workload = id.as_ref().and_then(|id| Some((id.namespace()?, id.service_account()?)));
        match workload {
            Some((namespace, account)) if text.starts_with("spiffe://cluster.local/") => {
                vec!["identity".into(), namespace.into(), account.into()]
            }
            _ => vec!["identity".into(), digest(text)],
        }
    } else if let Some(PodSpec { namespace, name, uid, .. }) = &spec.pod {
        ["pod", namespace, name].into_iter().chain(uid.as_deref()).map(str::to_owned).collect()
    } else {
        vec!["serial".into(), spec.serial.as_deref().unwrap_or_default().replace(':', "")]
    };
    let name = parts.join(".");
    let plain = name.len() <= NAME_BYTES_MAX && target::name(&name).is_ok();
    // What cannot be a name, or is too long, is told apart by all of it.
    if plain { name } else { format!("{}.{}", parts[0], digest(&name)) }
}

/// FNV-1a of 128 bits, as hexadecimal digits.
fn digest(text: &str) -> String {
    let step = |hash: u128, byte: u8| (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    format!("{:032x}", text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, step))
}

/// In words.
pub(super) fn words(spec: &Spec) -> String {
    let pod = spec.pod.as_ref().map(|PodSpec { namespace, name, uid, .. }| match uid {
        Some(uid) => format!("pod {namespace}/{name} ({uid})"),
        None => format!("any pod {namespace}/{name}"),
    });
    let identity = spec.identity.clone();
    let all: Vec<String> =
        identity.into_iter().chain(spec.serial.as_ref().map(|it| format!("certificate {it}"))).chain(pod).collect();
    if all.is_empty() { "nobody".to_owned() } else { all.join(", ") }
}

/// The objects that are meant by a name, or by what is revoked.
pub(super) fn meant(given: &str, namespace: &str, there: &[(String, Spec)]) -> Result<Vec<String>, Absent> {
    let what = parse(given);
    let is = |(name, spec): &&(String, Spec)| {
        name == given
            || match &what {
                Ok(What::Identity(id)) => spec.identity.as_deref() == Some(id.as_str()),
                Ok(What::Serial(serial)) => {
                    spec.serial.as_deref().and_then(|it| it.parse().ok()).as_ref() == Some(serial)
                }
                Ok(What::Pod(pod)) => spec.pod.as_ref().is_some_and(|it| it.name == *pod && it.namespace == namespace),
                Err(_) => false,
            }
    };
    let found: Vec<String> = there.iter().filter(is).map(|(name, _)| name.clone()).collect();
    if found.is_empty() { Err(Absent(given.to_owned())) } else { Ok(found) }
}
