//! The sidecar: a micro-proxy in every pod.
//!
//! The modules are in the order in which a connection meets them.

pub mod config;
pub mod limits;
pub mod worker;
// the spines
pub mod outbound;
pub mod inbound;
// the stages
pub mod accept;
pub mod sys;
pub mod account;
pub mod io;
pub mod discover;
pub mod detect;
pub mod first;
pub mod named;
pub mod tls;
pub mod policy;
pub mod route;
pub mod http;
pub mod balance;
pub mod retry;
pub mod connect;
pub mod forward;
pub mod revoke;
// beside the path
pub mod telemetry;
pub mod admin;
pub mod pulse;
pub mod supervise;
pub mod probe;
pub mod init;
mod run;

pub use run::main;
