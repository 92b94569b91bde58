//! What a kind of objects is to those who read, keep and answer for them: one implementation of [`Kind`] for each, beside the
//! structs of its fields. [`super::registry`] lists them.

use super::{Metadata, attachment::AnyPolicy};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Debug};

/// [`Kind::metadata`] and [`Kind::metadata_mut`] of a struct that has a field of that name, as all have.
macro_rules! its_metadata {
    () => {
        fn metadata(&self) -> &$crate::objects::Metadata {
            &self.metadata
        }

        fn metadata_mut(&mut self) -> &mut $crate::objects::Metadata {
            &mut self.metadata
        }
    };
}
pub(super) use its_metadata;

/// A kind of objects. What is left at its default is right for what the API server has built in.
pub trait Kind: Clone + Debug + PartialEq + DeserializeOwned + Send + Sync + 'static {
    /// As manifests spell it.
    const KIND: &'static str;
    const GROUP: &'static str;
    const VERSION: &'static str;
    const PLURAL: &'static str;
    /// Which API servers have it.
    const DEFINED: Defined = Defined::BuiltIn;
    /// What we say of its objects. `None`: nothing.
    const STATUS: Option<StatusList> = None;
    /// Whether its objects forbid something, so that an error elsewhere must never remove one.
    const RESTRICTS: bool = false;
    /// Whether the API is asked for the metadata alone.
    const METADATA_ALONE: bool = false;

    /// Its metadata.
    fn metadata(&self) -> &Metadata;

    /// Its metadata, to set what is not read.
    fn metadata_mut(&mut self) -> &mut Metadata;

    /// Drops the parts that discovery does not read: of most kinds, the labels.
    fn trim(&mut self) {
        self.metadata_mut().labels = BTreeMap::new();
    }

    /// Whether it means the same as `other`, of which something is different: only what is said of it, not what it says.
    fn means_the_same(&self, _other: &Self) -> bool {
        false
    }

    /// Its status as it was read, as far as we say something there.
    fn said(&self) -> Value {
        Value::Null
    }

    /// The same as a policy, if it is one.
    fn as_policy(&self) -> Option<&dyn AnyPolicy> {
        None
    }

    /// What holds while its newest version cannot be read: this, with the newest metadata and status. `None`: this as it is.
    fn kept(&self, _newest: &Unreadable) -> Option<Self> {
        None
    }

    /// What holds in place of one that never could be read. `None`: nothing.
    fn stand_in(_newest: &Unreadable) -> Option<Self> {
        None
    }

    /// The same as a value.
    fn registered() -> Registered {
        Registered {
            kind: Self::KIND,
            group: Self::GROUP,
            version: Self::VERSION,
            plural: Self::PLURAL,
            defined: Self::DEFINED,
            status: Self::STATUS,
        }
    }

    /// Whether the kind is ours.
    fn is_ours() -> bool {
        Self::GROUP == OUR_GROUP
    }
}

/// The API group of our own kinds.
pub const OUR_GROUP: &str = "remora.dev";

/// Which API servers have a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defined {
    /// All, and they check its objects.
    BuiltIn,
    /// Those of a later Kubernetes than the oldest that we run on, or of an experimental channel. Without it the picture is whole.
    Later,
    /// Those with its CRD, which may be written for another version of us.
    Custom,
}

/// What a status is a list of: entries for a controller and another object each, with conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusList {
    /// `parents` of a route.
    Parents,
    /// `ancestors` of a policy, and beside them `conditions`, which are all ours.
    Ancestors,
    /// `supportedFeatures` of a mesh, and `conditions`. It belongs to no namespace.
    Features,
    /// `conditions` alone, which are all ours.
    Conditions,
}

/// A kind as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    pub kind: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub defined: Defined,
    pub status: Option<StatusList>,
}

/// An object that is there, but says what we do not understand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Unreadable {
    pub metadata: Metadata,
    /// Which field, and what is the matter with it.
    pub problem: String,
    /// What it says.
    pub spec: Value,
    /// What is said of it.
    pub status: Value,
}
