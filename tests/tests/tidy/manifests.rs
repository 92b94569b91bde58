//! What manifests promise: dependencies that are used, and one toolchain.

use super::{files, packages, top};
use anyhow::{Context as _, ensure};
use std::{fs, path::Path};

/// Dependencies that no source names, and why they are there: package, dependency, reason.
const UNNAMED: [(&str, &str, &str); 4] = [
    ("cli", "prost", "what tonic-prost-build generates names it"),
    ("cli", "tonic-prost", "what tonic-prost-build generates names it"),
    ("examples/02-shop/app", "prost", "what tonic-prost-build generates names it"),
    ("examples/02-shop/app", "tonic-prost", "what tonic-prost-build generates names it"),
];

#[test]
fn every_dependency_is_used() -> anyhow::Result<()> {
    let (mut unused, mut excepted, mut named) = (Vec::new(), Vec::new(), Vec::new());
    for package in packages()? {
        let name = package.strip_prefix(top())?.display().to_string();
        let manifest = fs::read_to_string(package.join("Cargo.toml"))?;
        let mut code = String::new();
        for folder in
            ["src", "tests", "benches"].map(|folder| package.join(folder)).iter().filter(|folder| folder.is_dir())
        {
            code += &all_code(folder)?;
        }
        let build = fs::read_to_string(package.join("build.rs")).unwrap_or_default();
        for (section, dependency) in dependencies(&manifest) {
            named.push(dependency.clone());
            let used = uses(if section == "build-dependencies" { &build } else { &code }, &dependency);
            let exception = UNNAMED.iter().position(|(of, what, _)| *of == name && *what == dependency);
            excepted.extend(exception.filter(|_| !used));
            if !used && exception.is_none() {
                unused.push(format!("{name}: {dependency}: take it out of [{section}], or say why it is there"));
            }
        }
    }
    let shared = fs::read_to_string(top().join("Cargo.toml"))?;
    let shared = dependencies(&shared.replace("[workspace.dependencies]", "[dependencies]"));
    let orphans = shared.into_iter().map(|(_, dependency)| dependency).filter(|dependency| !named.contains(dependency));
    unused.extend(orphans.map(|dependency| format!("Cargo.toml: {dependency}: no package names it")));
    ensure!(named.len() > 200, "only {} dependencies were seen", named.len());
    ensure!(unused.is_empty(), "dependencies that nobody uses:\n{}", unused.join("\n"));
    let stale: Vec<_> = (0..UNNAMED.len()).filter(|at| !excepted.contains(at)).map(|at| UNNAMED[at]).collect();
    ensure!(stale.is_empty(), "these need no exception any more: {stale:?}");
    Ok(())
}

/// The dependencies of a manifest with the section that each stands in.
fn dependencies(manifest: &str) -> Vec<(String, String)> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines() {
        if let Some(title) = line.strip_prefix('[') {
            section = title.trim_end_matches(']').rsplit('.').next().unwrap_or_default();
        } else if section.ends_with("dependencies")
            && let Some(name) =
                line.split([' ', '.', '=']).next().filter(|name| !name.is_empty() && !name.starts_with('#'))
        {
            found.push((section.to_owned(), name.to_owned()));
        }
    }
    found
}

/// Whether a crate is named at the beginning of a path.
fn uses(code: &str, dependency: &str) -> bool {
    // The one whose library has a name of its own.
    let name = if dependency == "rustls-webpki" { "webpki".to_owned() } else { dependency.replace('-', "_") };
    code.match_indices(&name).any(|(at, _)| {
        let before = code[..at].trim_end_matches("::");
        let whole =
            before.len() == at || before.is_empty() || !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let first = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let after = &code[at + name.len()..];
        whole && first && (after.starts_with("::") || (code[..at].ends_with("use ") && after.starts_with([';', ' '])))
    })
}

/// All files of a folder without their comments.
fn all_code(folder: &Path) -> anyhow::Result<String> {
    let mut paths = Vec::new();
    files(folder, &mut paths)?;
    let mut code = String::new();
    for path in paths {
        for line in fs::read_to_string(path)?.lines() {
            code += line.split("//").next().unwrap_or_default();
            code.push('\n');
        }
    }
    Ok(code)
}

#[test]
fn the_oldest_rust_that_is_promised_is_the_one_that_builds_everything() -> anyhow::Result<()> {
    let value = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")).map(str::to_owned));
        line.and_then(|line| line.split('"').next().map(str::to_owned)).with_context(|| format!("there is no {key}"))
    };
    let manifest = fs::read_to_string(top().join("Cargo.toml"))?;
    let promised = value(&manifest, "rust-version")?;
    let used = value(&fs::read_to_string(top().join("rust-toolchain.toml"))?, "channel")?;
    ensure!(promised == used, "Cargo.toml promises Rust {promised}, and rust-toolchain.toml builds with {used}");
    for package in packages()? {
        let manifest = fs::read_to_string(package.join("Cargo.toml"))?;
        ensure!(manifest.contains("rust-version.workspace = true"), "{}: no rust-version.workspace", package.display());
    }
    Ok(())
}

/// A package that no workspace has is neither built nor tested, and nobody notices.
#[test]
fn every_package_is_of_the_workspace() -> anyhow::Result<()> {
    let mut found = Vec::new();
    manifests(&top(), &mut found)?;
    ensure!(found.len() > 10, "only {} packages were seen", found.len());
    let manifest = fs::read_to_string(top().join("Cargo.toml"))?;
    let lines = manifest.lines().filter(|line| line.starts_with("members") || line.starts_with("exclude"));
    let named: Vec<_> = lines.flat_map(|line| line.split('"').skip(1).step_by(2)).collect();
    let strays: Vec<_> = found.iter().filter(|package| !named.contains(&package.as_str())).collect();
    ensure!(strays.is_empty(), "packages that no workspace has, add them to members of Cargo.toml: {strays:?}");
    Ok(())
}

/// The folders of a folder that have a manifest, by their paths from the top.
fn manifests(folder: &Path, into: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let built = path.file_name().is_some_and(|name| name == "target" || name == ".git" || name == "node_modules");
        if !path.is_dir() || built {
            continue;
        }
        if path.join("Cargo.toml").is_file() {
            into.push(path.strip_prefix(top())?.display().to_string());
        }
        manifests(&path, into)?;
    }
    Ok(())
}

#[test]
fn a_use_is_a_path_that_begins_with_the_crate() {
    for code in ["use http;", "use http::Uri;", "let x = http::Uri::default();", "use http as h;", "::http::Uri"] {
        assert!(uses(code, "http"), "{code}");
    }
    for code in ["use axum::http::Uri;", "mod http;", "http_body::Body", "my_http::x", "let http = 1;"] {
        assert!(!uses(code, "http"), "{code}");
    }
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# a\nb.workspace = true\nc-d = { version = \"1\" }\n[target.'cfg(x)'.dev-dependencies]\ne = \"1\"\n[lints]\nworkspace = true\n";
    let found: Vec<_> = dependencies(manifest).into_iter().map(|(_, name)| name).collect();
    assert_eq!(found, ["b", "c-d", "e"]);
}
