//! What of the house's style a program can see. Each failure names the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// A file as its place in the crate: `["http", "client"]` for `http/client/mod.rs` and for `http/client.rs`.
type Module = Vec<String>;

/// The sources of every crate of the workspace.
fn crates() -> anyhow::Result<Vec<PathBuf>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = fs::read_to_string(top.join("Cargo.toml"))?;
    let members =
        manifest.split_once("members = [").and_then(|(_, rest)| rest.split(']').next()).context("no members")?;
    let sources: Vec<_> = members.split('"').skip(1).step_by(2).map(|member| top.join(member).join("src")).collect();
    ensure!(sources.len() > 10 && sources.iter().all(|source| source.is_dir()), "{sources:?}");
    Ok(sources)
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// The modules of a crate with what each says outside of its tests.
fn modules(sources: &Path) -> anyhow::Result<BTreeMap<Module, String>> {
    let mut paths = Vec::new();
    files(sources, &mut paths)?;
    let mut modules = BTreeMap::new();
    for path in paths {
        let within = path.strip_prefix(sources)?.with_extension("");
        let mut module: Module = within.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.iter().any(|part| part == "tests" || part.ends_with("_tests")) {
            continue;
        }
        module.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
        let text = fs::read_to_string(&path)?;
        let production = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let code: Vec<_> = production.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
        modules.insert(module, code.join("\n"));
    }
    Ok(modules)
}

/// The paths that begin with `crate`, `super` or `self`, braces expanded.
fn paths(code: &str) -> Vec<Vec<&str>> {
    let mut found = Vec::new();
    let starts = ["crate::", "super::", "self::"].iter().flat_map(|word| code.match_indices(word));
    for (at, _) in starts {
        let before = code[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            expand(&mut Vec::new(), &code[at..], &mut found);
        }
    }
    found
}

/// Reads one path, or a group of them behind `prefix`; returns what follows.
fn expand<'a>(prefix: &mut Vec<&'a str>, text: &'a str, found: &mut Vec<Vec<&'a str>>) -> &'a str {
    let (depth, mut rest) = (prefix.len(), text.trim_start());
    loop {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if !word.is_empty() {
            prefix.push(word);
        }
        rest = after;
        let Some(next) = rest.strip_prefix("::") else { break };
        rest = next.trim_start();
        if let Some(mut group) = rest.strip_prefix('{') {
            loop {
                group = expand(prefix, group, found);
                let end = group.find([',', '}']).unwrap_or(group.len());
                let closed = group[end..].starts_with('}');
                group = group.get(end + 1..).unwrap_or_default();
                if closed || group.is_empty() {
                    prefix.truncate(depth);
                    return group;
                }
                if group.trim_start().starts_with('}') {
                    group = group.trim_start();
                }
            }
        }
    }
    if prefix.len() > depth {
        found.push(prefix.clone());
    }
    prefix.truncate(depth);
    rest
}

/// The module that a path leads into, seen from `module`.
fn target(module: &Module, path: &[&str], modules: &BTreeMap<Module, String>) -> Option<Module> {
    let mut base = if path[0] == "crate" { Module::new() } else { module.clone() };
    let mut rest = path.iter().skip_while(|part| ["crate", "self"].contains(part)).peekable();
    while rest.next_if(|part| **part == "super").is_some() {
        base.pop();
    }
    base.extend(rest.map(|part| (*part).to_owned()));
    while !modules.contains_key(&base) {
        base.pop()?;
    }
    Some(base)
}

/// What each module uses. A folder's own file may use what is in the folder, and the other way around: they are one thing.
fn uses(modules: &BTreeMap<Module, String>) -> BTreeMap<Module, BTreeSet<Module>> {
    let of = |module: &Module, code: &str| {
        let targets = paths(code).into_iter().filter_map(|path| target(module, &path, modules));
        targets.filter(|target| target != module && !target.starts_with(module)).collect()
    };
    modules.iter().map(|(module, code)| (module.clone(), of(module, code))).collect()
}

/// A way from `from` back to itself.
fn circle(from: &Module, uses: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<String>> {
    let mut seen: BTreeMap<&Module, &Module> = BTreeMap::new();
    let mut next = vec![from];
    while let Some(at) = next.pop() {
        for to in &uses[at] {
            if to == from {
                let mut way = vec![from.join("::"), at.join("::")];
                let mut back = &at;
                while let Some(before) = seen.get(back) {
                    way.push(before.join("::"));
                    back = before;
                }
                way.reverse();
                return Some(way);
            }
            if !seen.contains_key(to) {
                seen.insert(to, at);
                next.push(to);
            }
        }
    }
    None
}

#[test]
fn no_file_imports_what_imports_it() -> anyhow::Result<()> {
    let (mut circles, mut seen) = (Vec::new(), 0);
    for sources in crates()? {
        let modules = modules(&sources)?;
        let uses = uses(&modules);
        seen += uses.values().map(BTreeSet::len).sum::<usize>();
        let of = modules.keys().filter_map(|module| circle(module, &uses));
        circles.extend(of.map(|way| format!("{}: {}", sources.display(), way.join(" → "))));
    }
    ensure!(seen > 500, "only {seen} imports were seen");
    ensure!(circles.is_empty(), "circles of imports:\n{}", circles.join("\n"));
    Ok(())
}

#[test]
fn paths_are_read_as_rust_reads_them() {
    let code = "use super::{a, b::{self, C}, d::e as f,};\nuse crate::g;\nlet x = self::h::i(crate::j);";
    let mut found: Vec<_> = paths(code).iter().map(|path| path.join("::")).collect();
    found.sort();
    let expected = ["crate::g", "crate::j", "self::h::i", "super::a", "super::b::C", "super::b::self", "super::d::e"];
    assert_eq!(found, expected);
}

/// The parts of a source file that a page quotes: what stands between `page: begin` and `page: end`, without its indentation.
fn quoted(source: &str, page: &str) -> Vec<String> {
    let (begin, end) = (format!("// {page}: begin\n"), format!("// {page}: end"));
    let parts = source.split(&begin).skip(1).filter_map(|rest| rest.split(&end).next());
    parts.map(|part| part.strip_suffix("    ").map_or_else(|| part.to_owned(), |part| outdented(part, 4))).collect()
}

/// The text with `columns` spaces less at the beginning of each line.
fn outdented(text: &str, columns: usize) -> String {
    let indent = " ".repeat(columns);
    text.split_inclusive('\n').map(|line| line.strip_prefix(&indent).unwrap_or(line)).collect()
}

/// The Rust code blocks of a page.
fn blocks(page: &str) -> Vec<String> {
    page.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

#[test]
fn the_page_on_layers_quotes_the_layer_that_is_compiled() -> anyhow::Result<()> {
    let (page, example) = ("docs/add-a-layer.md", "proxy/src/http/layer/example.rs");
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let quoted = quoted(&fs::read_to_string(top.join(example))?, page);
    ensure!(quoted.len() == 2, "{example} has {} parts that {page} quotes, not a layer and its test", quoted.len());
    let shown = blocks(&fs::read_to_string(top.join(page))?);
    for (number, part) in quoted.iter().enumerate() {
        let same = shown.get(number) == Some(part);
        ensure!(same, "code block {} of {page} is not what {example} says; copy this:\n{part}", number + 1);
    }
    ensure!(shown.len() == quoted.len(), "{page} has a code block that nothing compiles");
    Ok(())
}
