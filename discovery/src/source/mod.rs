//! Where objects come from. Today a directory of manifests; the Kubernetes API joins it later.

pub mod directory;
pub mod parse;
