//! The sidecar: a micro-proxy in every pod.
//!
//! The modules are in the order in which a connection meets them.

mod config;
mod limits;
mod tasks;
mod resources;
mod world;
mod worker;
// the spines
mod outbound;
mod inbound;
// the stages
mod accept;
mod sys;
mod account;
mod io;
mod discover;
mod detect;
mod first;
mod leads;
mod named;
mod tls;
mod policy;
mod jwt;
mod traffic;
mod route;
mod http;
mod backend;
mod connect;
mod forward;
mod revoke;
// beside the path
mod telemetry;
mod admin;
mod access_log;
mod spans;
mod pulse;
mod inspect;
mod supervise;
mod probe;
mod init;
mod run;
// for tests and cargo-fuzz alone
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod sim;

pub use init::main as init;
pub use run::main;
pub use sys::{original_destination, raise_limit};
