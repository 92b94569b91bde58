//! `remora-proxy`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    remora_proxy::main()
}
