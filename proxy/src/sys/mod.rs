//! What only the operating system knows. In: sockets. Out: plain values. Does not: decide anything.
//!
//! The one module of the proxy in which `unsafe` would be allowed; today socket2 wraps all that is needed.

mod orig_dst;

pub use orig_dst::original_destination;
