//! What the parts of Remora that speak to the Kubernetes API share. The proxy does not: it never speaks to it.
//!
//! | module | what it gives |
//! |--|--|
//! | [`names`] | names that several parts must agree on |
//! | [`client`] | a client of the API server, and calls that end |
//! | [`outage`] | what is said while the API server cannot be reached |
//! | [`lease`] | which replica writes |
//! | [`events`] | what `kubectl describe` shows |
//! | [`mod@apply`] | server-side apply |
//! | [`yaml`] | manifests as `kubectl` reads them |
//! | [`revoked`] | who is trusted no more, as operators write it |

pub mod names;
pub mod client;
pub mod outage;
pub mod lease;
pub mod events;
pub mod apply;
pub mod yaml;
pub mod revoked;
// for tests and cargo-fuzz alone
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
