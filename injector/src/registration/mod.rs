//! The MutatingWebhookConfiguration `remora-injector`, which the injector makes and keeps itself: which namespaces it is
//! called for is a list that changes, because selectors cannot see annotations; and which authority it is trusted by
//! changes with each rotation. So without an opt-in the API server calls nothing, and delays nothing.
//!
//! [`namespaces`] follows what namespaces say, [`wanted`] is the object (pure), [`keep`] applies it and puts right what
//! others change.

mod keep;
mod namespaces;
mod wanted;

pub(crate) use keep::Keeper;
pub(crate) use namespaces::Namespaces;
pub(crate) use wanted::{BY_NAMESPACE, BY_POD};
