//! The secret part of a probe's path, without which no client can probe the application or run its hooks
//! (`proxy/src/probe`). Made once for a pod, at its admission; a pod that has one keeps it, so that a second injection
//! changes nothing. Anybody who can read the pod knows it.

use super::json;
use remora_kube::names::PROXY_CONTAINER;
use serde_json::Value;
use std::fmt;

/// The sidecar's setting.
pub(super) const VARIABLE: &str = "REMORA_PROXY_PROBE_TOKEN";
/// 128 bits.
const BYTES: usize = 16;

/// 128 random bits.
#[derive(Clone, PartialEq, Eq)]
pub struct ProbeToken(String);

/// There is no randomness to be had.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

impl ProbeToken {
    /// A new one.
    ///
    /// # Errors
    /// The system's source of randomness does not answer.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut bytes = [0; BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The one that `pod` has already.
    pub(super) fn of(pod: &Value) -> Option<Self> {
        let proxy =
            json::elements(&pod["spec"], "initContainers").iter().find(|it| json::name(it) == PROXY_CONTAINER)?;
        let variable = json::elements(proxy, "env").iter().find(|it| json::name(it) == VARIABLE)?;
        variable["value"].as_str().filter(|text| is_token(text)).map(|text| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Anybody who knows it can run probes.
impl fmt::Debug for ProbeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeToken(…)")
    }
}

/// Whether `text` is a token, or could be one of another version.
pub(super) fn is_token(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (2 * BYTES..=8 * BYTES).contains(&text.len()) && text.bytes().all(digit)
}

#[cfg(any(test, fuzzing))]
impl ProbeToken {
    /// Always the same.
    pub(crate) fn fixed() -> Self {
        Self("0123456789abcdef".repeat(2))
    }
}
