//! `remora.dev/v1alpha1` RevokedIdentity: who is trusted no more. What it says, and how that is read, the identity service shares
//! ([`remora_kube::revoked`]).

use super::{
    Metadata,
    kind::{Defined, Kind, StatusList, Unreadable, its_metadata},
};
use remora_kube::revoked::{self, Spec};
use serde::Deserialize;
use serde_json::{Value, json};

/// See the module.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RevokedIdentity {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Spec,
    #[serde(default)]
    pub status: RevokedStatus,
    /// What is the matter with its newest version, which cannot be read at all; this is what holds instead.
    #[serde(skip)]
    pub unreadable: Option<String>,
}

/// As it stands there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RevokedStatus {
    pub conditions: Vec<Value>,
}

impl RevokedStatus {
    fn of(status: &Value) -> Self {
        Self { conditions: status["conditions"].as_array().cloned().unwrap_or_default() }
    }
}

impl Kind for RevokedIdentity {
    const KIND: &'static str = revoked::KIND;
    const GROUP: &'static str = revoked::GROUP;
    const VERSION: &'static str = revoked::VERSION;
    const PLURAL: &'static str = revoked::PLURAL;
    const DEFINED: Defined = Defined::Custom;
    const STATUS: Option<StatusList> = Some(StatusList::Conditions);
    const RESTRICTS: bool = true;

    its_metadata!();

    fn means_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.unreadable == other.unreadable && self.metadata.means_the_same(&other.metadata)
    }

    fn said(&self) -> Value {
        json!({ "conditions": self.status.conditions })
    }

    fn kept(&self, newest: &Unreadable) -> Option<Self> {
        Some(Self {
            metadata: newest.metadata.clone(),
            status: RevokedStatus::of(&newest.status),
            unreadable: Some(format!("{}; its last valid content stays in force", newest.problem)),
            ..self.clone()
        })
    }

    fn stand_in(newest: &Unreadable) -> Option<Self> {
        Some(Self {
            metadata: newest.metadata.clone(),
            spec: Spec::default(),
            status: RevokedStatus::of(&newest.status),
            unreadable: Some(format!("{}; nothing is revoked", newest.problem)),
        })
    }
}
