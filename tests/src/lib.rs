//! The harnesses of the tests and benchmarks: one module per kind of surroundings.

pub mod netns;
