//! Test programs written in Go. In: a name. Out: the program that `tests/go-tools` built. Does not: build anything,
//! since pods have no network.

use super::unshare::stage;
use anyhow::{Context as _, ensure};
use std::path::PathBuf;

/// A program of `tests/go-tools`, below `REMORA_GO_TOOLS` or `~/.cache/remora-tests/bin`.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("REMORA_GO_TOOLS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache/remora-tests/bin"),
    };
    let program = folder.join(name);
    ensure!(program.exists(), "there is no {}: run tests/go-tools, which builds it with Go", program.display());
    stage(&program, &name.replace('/', "-"))
}
