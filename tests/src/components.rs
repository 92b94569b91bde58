//! The mesh's programs inside a program of tests. In: `argv[0]`. Out: the component of that name, run to its end.
//!
//! A program whose `main` begins with [`play`] can be the proxy, identity and discovery, as a process of their own each,
//! without a second build: [`crate::local`] starts it under their names. `remora-components` is one that does only that.

use std::{ffi::OsStr, path::Path, process::ExitCode};

/// Runs the component that this process was called as, if it was called as one.
pub fn play() -> Option<ExitCode> {
    let program = std::env::args_os().next()?;
    match Path::new(&program).file_name().and_then(OsStr::to_str)? {
        "remora-proxy" => Some(remora_proxy::main()),
        "remora-identity" => Some(remora_identity::main()),
        "remora-discovery" => Some(remora_discovery::main()),
        _ => None,
    }
}
