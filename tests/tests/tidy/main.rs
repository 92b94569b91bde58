//! What of the house's style a program can see. Each failure names the file, and says what to do. Exceptions stand beside the
//! rule with their reasons, and one that is none any more is a failure as well.

mod circles;
mod covered;
mod fuzzed;
mod house;
mod manifests;
mod quoted;

use anyhow::{Context as _, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The top of the repository.
fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of every package of the workspace.
fn packages() -> anyhow::Result<Vec<PathBuf>> {
    let manifest = fs::read_to_string(top().join("Cargo.toml"))?;
    let members =
        manifest.split_once("members = [").and_then(|(_, rest)| rest.split(']').next()).context("no members")?;
    let packages: Vec<_> = members.split('"').skip(1).step_by(2).map(|member| top().join(member)).collect();
    ensure!(packages.len() > 10 && packages.iter().all(|package| package.join("src").is_dir()), "{packages:?}");
    Ok(packages)
}

/// The Rust files in a folder and below, but for packages of their own within.
fn files(folder: &Path, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.join("Cargo.toml").is_file() {
            files(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// Every Rust file of the workspace: its path from the top, and its text.
fn sources() -> anyhow::Result<Vec<(String, String)>> {
    let mut paths = Vec::new();
    for package in packages()? {
        files(&package, &mut paths)?;
    }
    let read = |path: PathBuf| {
        let name = path.strip_prefix(top())?.display().to_string();
        Ok((name, fs::read_to_string(&path)?))
    };
    let sources: Vec<_> = paths.into_iter().map(read).collect::<anyhow::Result<_>>()?;
    ensure!(sources.len() > 400, "only {} files were seen", sources.len());
    Ok(sources)
}

/// What a file says outside of the tests at its end.
fn production(text: &str) -> &str {
    let begins =
        |(at, found): (usize, &str)| text[at + found.len()..].lines().next().is_some_and(|line| line.ends_with('{'));
    let tests = text.match_indices("#[cfg(test)]\nmod ").find(|found| begins(*found));
    &text[..tests.map_or(text.len(), |(at, _)| at)]
}

/// Whether the file is of a fuzz target.
fn is_fuzzing(name: &str) -> bool {
    name.ends_with("/fuzzing.rs") || name.contains("/fuzzing/")
}

/// Whether the file holds nothing but tests.
fn is_tests(name: &str) -> bool {
    let part = |part: &str| ["tests", "tests.rs", "sim"].contains(&part) || part.ends_with("_tests.rs");
    name.split('/').any(part) || name.ends_with("layer/test.rs")
}

/// Fails with what is wrong, and with what is excepted and need not be.
fn verdict(what: &str, wrong: &[String], stale: &[String]) -> anyhow::Result<()> {
    ensure!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
    ensure!(stale.is_empty(), "these need no exception any more, take it out:\n{}", stale.join("\n"));
    Ok(())
}
