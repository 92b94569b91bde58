//! `remora-injector`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    remora_injector::main()
}
