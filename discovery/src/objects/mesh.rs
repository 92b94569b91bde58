//! XMesh of the Gateway API's experimental channel: says that a mesh is there, and is told what it can do.

use super::{
    Metadata,
    kind::{Defined, Kind, StatusList, its_metadata},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// An XMesh (GEP-3949).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct XMesh {
    pub metadata: Metadata,
    pub spec: XMeshSpec,
    #[serde(default)]
    pub status: XMeshStatus,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XMeshSpec {
    pub controller_name: String,
    #[serde(default)]
    pub parameters_ref: Option<Value>,
}

/// As it stands there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct XMeshStatus {
    pub conditions: Vec<Value>,
    pub supported_features: Vec<Value>,
}

impl Kind for XMesh {
    const KIND: &'static str = "XMesh";
    const GROUP: &'static str = "gateway.networking.x-k8s.io";
    const VERSION: &'static str = "v1alpha1";
    const PLURAL: &'static str = "xmeshes";
    const DEFINED: Defined = Defined::Later;
    const STATUS: Option<StatusList> = Some(StatusList::Features);

    its_metadata!();

    fn means_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.metadata.means_the_same(&other.metadata)
    }

    fn said(&self) -> Value {
        json!({ "conditions": self.status.conditions, "supportedFeatures": self.status.supported_features })
    }
}
