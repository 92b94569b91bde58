//! Which anchors are published and which issuer signs, so that no order of writes can split the mesh.
//!
//! A [`Record`] is what all replicas agree on, and what outlives them: the issuer that signs, and each anchor with the time since when
//! it is published and the time until when certificates may chain to it. [`step`] takes the record on, from what the operator's
//! Secret or folder holds (an [`Offer`]) and the time: pure. Who keeps the record is [`crate::store`].
//!
//! - **Union.** What is published is what the offer says and every anchor that may still have live leaves, whatever the offer says.
//! - **Publish before sign.** A new issuer signs once its anchor has been published for [`Rules::publish`]; the old goes on until then, over
//!   restarts too, for the record holds it. A first start signs at once.
//! - **Promise before sign.** The record says until when leaves may live *before* they are signed: each write promises for
//!   [`Rules::publish`] ahead, and is renewed long before that. So nothing is written per certificate.
//! - **A gap counts for nothing.** While nobody could write the record (the API server was away, or nothing ran) others may have signed
//!   unseen. The record's clock stands still for that time, and after it nothing is promoted or removed before all who are back have looked.
//!
//! Limitation: a replica that alone cannot reach the API server, while another replaces the root, knows nothing of it, and what it signs
//! (by [`crate::token`]'s memory) may outlive its anchor.

mod step;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use crate::{
    issuer::Files,
    limits::{LOOKS, POLL, PUBLISH_MAX, PUBLISH_PART},
};
use k8s_openapi::ByteString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub(crate) use self::step::{Refused, Stepped, reconcile, step};

/// The format of the record. Fields may join it that a version without them may ignore, and lose when it writes; what must not be
/// ignored is another format.
const FORMAT: u32 = 1;

/// What replicas agree on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    format: u32,
    /// Of the identities that the anchors vouch for. A record of another trust domain belongs to another mesh.
    pub(crate) trust_domain: String,
    /// Counts the writes. A store that was put back to an earlier state shows by it.
    pub(crate) revision: u64,
    /// The last write.
    #[serde(with = "millis")]
    pub(crate) updated: SystemTime,
    /// Since when replicas have written it regularly.
    #[serde(with = "millis")]
    pub(crate) steady_since: SystemTime,
    /// Who signs.
    pub(crate) issuer: Signing,
    /// What is published.
    pub(crate) anchors: Vec<Known>,
}

/// The issuer that signs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Signing {
    /// Certificate, key and anchors, as they were offered.
    pub(crate) files: Files,
    /// The anchor that its leaves chain to.
    #[serde(with = "base64")]
    pub(crate) anchor: Vec<u8>,
    /// When its chain ends, and so every leaf.
    #[serde(with = "millis")]
    pub(crate) not_after: SystemTime,
}

/// A published anchor.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Known {
    #[serde(with = "base64")]
    pub(crate) der: Vec<u8>,
    /// Since when: it was seen in what is stored then. Not yet: somebody writes it just now.
    #[serde(with = "maybe_millis")]
    pub(crate) first_published: Option<SystemTime>,
    /// No leaf that chains to it lives longer. The epoch: there is none.
    #[serde(with = "millis")]
    pub(crate) leaves_until: SystemTime,
}

/// An issuer that can sign, as the operator offers it.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) signing: Signing,
    /// All of its `ca.crt`.
    pub(crate) anchors: Vec<Vec<u8>>,
    /// Anchors that it does not list may go although leaves still chain to them.
    pub(crate) force_remove: bool,
}

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Of the leaves that this replica signs.
    pub(crate) lifetime: Duration,
    /// How far clocks may be apart: a leaf that has ended here still lives at a peer whose clock is late.
    pub(crate) skew: Duration,
}

impl Rules {
    /// How long an anchor is published before certificates are signed under it. Times that nobody has looked count for nothing, and
    /// a record that nobody has written for so long has a gap.
    pub(crate) fn publish(&self) -> Duration {
        (self.lifetime / PUBLISH_PART).min(PUBLISH_MAX)
    }

    /// How often is looked, and at least written.
    pub(crate) fn look_every(&self) -> Duration {
        (self.publish() / LOOKS).min(POLL)
    }
}

impl Record {
    pub(crate) fn anchor(&self, der: &[u8]) -> Option<&Known> {
        self.anchors.iter().find(|known| known.der == der)
    }

    /// Whether the same issuer signs, and the same anchors are published.
    pub(crate) fn says_as(&self, other: &Self) -> bool {
        let within = |one: &Self, all: &Self| one.anchors.iter().all(|known| all.anchor(&known.der).is_some());
        self.issuer.files == other.issuer.files && within(self, other) && within(other, self)
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("revision", &self.revision)
            .field("updated", &self.updated)
            .field("steady_since", &self.steady_since)
            .field("issuer", &self.issuer)
            .field("anchors", &self.anchors)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("first_published", &self.first_published)
            .field("leaves_until", &self.leaves_until)
            .finish_non_exhaustive()
    }
}

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// Not JSON of this shape.
    #[error("it is not what this service writes: {0}")]
    Content(String),
    /// Written by a later version.
    #[error("a later version wrote it (format {0}; this one reads {FORMAT})")]
    Format(u32),
}

impl Record {
    /// As bytes to be kept. They hold a private key.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Maps with text keys, numbers and base64: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What [`Self::encode`] made.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let content = |error: serde_json::Error| RecordError::Content(error.to_string());
        // Alone, and first: the other fields of a later format are unknown.
        let Head { format } = serde_json::from_slice(bytes).map_err(content)?;
        if format > FORMAT {
            return Err(RecordError::Format(format));
        }
        let record: Self = serde_json::from_slice(bytes).map_err(content)?;
        if format != FORMAT {
            return Err(RecordError::Content(format!("there is no format {format}")));
        }
        if record.anchor(&record.issuer.anchor).is_none() {
            return Err(RecordError::Content("the issuer's anchor is not among the anchors".to_owned()));
        }
        Ok(record)
    }
}

/// Times as milliseconds since 1970.
mod millis {
    use super::{Deserialize, Deserializer, Duration, Serializer, SystemTime, UNIX_EPOCH};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        serializer.serialize_u64(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let time = UNIX_EPOCH.checked_add(Duration::from_millis(u64::deserialize(deserializer)?));
        time.ok_or_else(|| serde::de::Error::custom("a time that is too late"))
    }
}

/// A time, or none.
mod maybe_millis {
    use super::{Deserialize, Deserializer, Serialize, Serializer, SystemTime, millis};

    #[derive(Serialize, Deserialize)]
    struct Time(#[serde(with = "millis")] SystemTime);

    pub(super) fn serialize<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(Time).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<Time>::deserialize(deserializer)?.map(|Time(time)| time))
    }
}

/// Bytes as base64.
pub(crate) mod base64 {
    use super::{ByteString, Deserialize, Deserializer, Serialize as _, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        ByteString(bytes.to_vec()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        ByteString::deserialize(deserializer).map(|bytes| bytes.0)
    }
}
