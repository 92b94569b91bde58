//! What only the operating system knows. In: sockets. Out: plain values. Does not: decide anything.
//!
//! The one module of the proxy in which `unsafe` is allowed.

mod descriptors;
mod memory;
mod orig_dst;

pub use descriptors::raise_limit;
pub use memory::{cpu_time, give_back};
pub use orig_dst::original_destination;
