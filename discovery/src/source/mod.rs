//! Where objects come from.

pub mod directory;
pub mod parse;
mod tree;
