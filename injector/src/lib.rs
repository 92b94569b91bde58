//! `remora-injector`: the mutating admission webhook that puts the sidecar into pods.
//!
//! | module | what it does |
//! |--|--|
//! | [`pod`] | what becomes of a pod: a pure function, which `remora inject` calls too |

pub mod pod;

use std::process::ExitCode;

/// Parses the arguments and runs until SIGTERM.
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
