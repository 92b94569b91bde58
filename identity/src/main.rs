//! `remora-identity`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    remora_identity::main()
}
