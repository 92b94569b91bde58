//! `remora-discovery`: turns Services, EndpointSlices, Gateway API routes and policies into what each proxy needs, and
//! pushes it.
//!
//! | module | what it does |
//! |--|--|
//! | [`objects`] | the Kubernetes objects, cut down to what is used |
//! | [`source`] | where they come from: the Kubernetes API, or a watched directory |
//! | [`index`] | what they mean: objects to resources, pure |
//! | `feed` | from source to index, when something changed |
//! | [`serve`] | pushes resources: one stream per proxy |
//! | `keys` | keys of the issuers that policies name by URL: fetched, and kept |
//! | `map` | who calls whom in the mesh, for people: asks proxies while somebody reads |
//! | `revoked` | who is trusted no more, and which proxies know, for people
//! | [`config`], [`main`] | the process |

pub mod objects;
pub mod source;
pub mod index;
mod feed;
pub mod serve;
mod keys;
mod map;
mod revoked;
pub mod config;
mod run;
// for tests and cargo-fuzz alone
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use run::main;
