//! Server-side apply: the part owns the fields that it names, and no others.

use crate::client::{CallError, call};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// The parameters of an apply by `part` (such as `remora-identity`), which is the field manager's name. Fields that another manager
/// set are taken over: a part owns the fields that it applies, and reverts edits of others.
#[must_use]
pub fn params(part: &str) -> PatchParams {
    PatchParams::apply(part).force()
}

/// Makes `object` so, whether it exists or not, and returns what is now stored.
///
/// `object` must have a name, and holds only what the part wants to own.
pub async fn apply<K>(api: &Api<K>, part: &str, object: &K) -> Result<K, CallError>
where
    K: Resource + Clone + DeserializeOwned + Debug + Serialize,
{
    let name = object.meta().name.as_deref().unwrap_or_default();
    call(api.patch(name, &params(part), &Patch::Apply(object))).await
}
