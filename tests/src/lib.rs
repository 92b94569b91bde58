//! The harnesses of the tests and benchmarks: one module per kind of surroundings, and what they share.

pub mod cluster;
pub mod components;
pub mod discovery;
pub mod forge;
pub mod local;
pub mod netns;
pub mod patience;
mod sys;
mod tokens;
pub mod wire;
