//! Where objects come from.

pub mod directory;
pub(crate) mod kubernetes;
pub mod parse;
mod tree;
