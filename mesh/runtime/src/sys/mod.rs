//! What only the operating system knows of a process, and the process's allocator. In: nothing. Out: plain values. Does not: decide anything.
//!
//! The one module of this crate in which `unsafe` is allowed.

mod aligned;
mod memory;
mod turns;

pub(crate) use aligned::Aligned;
pub(crate) use memory::{cpu_time, give_back, release_freed, return_large_blocks};
pub(crate) use turns::set_turns;
