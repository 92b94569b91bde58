//! The proxy, identity and discovery under their names, for tests that start them as processes: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    remora_tests::components::play().unwrap_or_else(|| {
        eprintln!("remora-components: argv[0] must be remora-proxy, remora-identity or remora-discovery");
        ExitCode::from(64)
    })
}
