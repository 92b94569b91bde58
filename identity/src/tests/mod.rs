//! The service over real sockets, with the real client.

mod tokens;
mod serving;
