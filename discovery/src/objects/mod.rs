//! The Kubernetes objects that discovery reads, cut down to the fields that it uses.
//!
//! In: YAML or JSON by serde. Out: [`Object`]. The same structs serve whatever source they come from. They hold what was
//! written, unjudged: what it means, and whether it makes sense, is `index`'s business. Where a field that is left out would
//! change what a route or policy does, unknown fields are kept by name ([`Unknown`]), so that `index` can refuse them.

pub mod attachment;
pub mod conditions;
pub mod core;
pub mod kind;
pub mod mesh;
pub mod names;
pub mod policy;
pub mod registry;
pub mod routes;

pub use kind::{Kind, Unreadable};
pub use registry::Object;

use serde::{Deserialize, Deserializer, de::IgnoredAny};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Where an object was read, for error messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// As the source names it.
    pub file: Arc<str>,
    /// The first of the object.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: line {}", self.file, self.line)
    }
}

/// What the names of our annotations begin with.
const OURS: &str = "remora.dev/";

/// `metadata`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Tells an object from one that had its name before.
    #[serde(default)]
    pub uid: Option<String>,
    /// Counts the changes of its `spec`.
    #[serde(default)]
    pub generation: Option<i64>,
    /// Only routes and policies keep it, to change their status; it is no part of what they mean.
    #[serde(default)]
    pub resource_version: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Of ours only.
    #[serde(default, deserialize_with = "ours")]
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339 in UTC as Kubernetes writes it, so that text order is time order.
    #[serde(default)]
    pub creation_timestamp: Option<String>,
    /// Set while it is being deleted: a pod with one is terminating.
    #[serde(default)]
    pub deletion_timestamp: Option<String>,
    #[serde(skip)]
    pub origin: Origin,
}

impl Metadata {
    /// Whether all but the version is the same.
    fn means_the_same(&self, other: &Self) -> bool {
        let bare = |metadata: &Self| Self { resource_version: None, ..metadata.clone() };
        bare(self) == bare(other)
    }

    /// Whether it stands in a file, not in the Kubernetes API.
    pub fn by_hand(&self) -> bool {
        !self.origin.file.is_empty()
    }
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// What the name of a field of our own kinds ends with while it is read, if the field is null. There null is an error: a list
/// that a template left empty would mean every caller. So it is read as an unknown field, which closes its rule.
pub(crate) const IS_NULL: &str = " is null";

/// The names of unknown fields: misspelt, or of a newer version; of our own kinds those
/// that are null as well, of others null ones do not count.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Unknown(BTreeMap<String, IgnoredAny>);

impl Unknown {
    /// In the order of the alphabet.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An error for the first that is not `tolerated`.
    pub fn none_but(&self, tolerated: &[&str]) -> Result<(), String> {
        let first = self.names().find(|name| !tolerated.contains(name));
        first.map_or(Ok(()), |name| match name.strip_suffix(IS_NULL) {
            Some(field) => Err(format!("{field}: is null; leave it out, or say what is meant")),
            None => Err(format!("{name}: there is no such field")),
        })
    }

    /// An error for the first.
    pub fn none(&self) -> Result<(), String> {
        self.none_but(&[])
    }
}

/// An object with a `spec`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Resource<S> {
    pub metadata: Metadata,
    pub spec: S,
}

/// A list or map that Kubernetes writes as `null` when it is empty.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Annotations of ours: the others are many, and of no concern here.
fn ours<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut all: BTreeMap<String, String> = nullable(deserializer)?;
    all.retain(|name, _| name.starts_with(OURS));
    Ok(all)
}
