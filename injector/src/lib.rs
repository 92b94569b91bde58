//! `remora-injector`: the mutating admission webhook that puts the sidecar into pods.

use std::process::ExitCode;

/// Parses the arguments and runs until SIGTERM.
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
