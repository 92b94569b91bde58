//! What only the operating system knows. In: sockets. Out: plain values. Does not: decide anything.
//!
//! The one module of the proxy in which `unsafe` is allowed.

mod descriptors;
mod ended;
mod orig_dst;

pub use descriptors::raise_limit;
pub(crate) use ended::{Asked, Socket, Watch, Watched};
pub use orig_dst::original_destination;
