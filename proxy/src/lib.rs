//! The sidecar: a micro-proxy in every pod.

pub mod init;
pub mod sys;
pub mod detect;
pub mod balance;
pub mod retry;
pub mod telemetry;
pub mod admin;
