//! What a component does whose log cannot be written.

use std::{fs::File, os::unix::process::CommandExt as _, process::Command};

/// Exit code 101 would be a panic.
#[test]
fn a_log_that_cannot_be_written_makes_no_component_panic() {
    let dir = tempfile::tempdir().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut identity = Command::new(env!("CARGO_BIN_EXE_remora"));
    identity.arg0("remora-identity").env_clear().stdout(full.try_clone().unwrap()).stderr(full);
    identity.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    // It has this to complain of, and ends because of it.
    identity.arg("--jwks").arg(dir.path().join("missing")).arg("--issuer-dir").arg(dir.path());
    assert_eq!(identity.status().unwrap().code(), Some(1));
}
