//! No file imports what imports it.

use super::{files, packages, production};
use anyhow::ensure;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// A file as its place in the crate: `["http", "client"]` for `http/client/mod.rs` and for `http/client.rs`.
type Module = Vec<String>;

/// The modules of a crate with what each says outside of its tests.
fn modules(sources: &Path) -> anyhow::Result<BTreeMap<Module, String>> {
    let mut paths = Vec::new();
    files(sources, &mut paths)?;
    let mut modules = BTreeMap::new();
    for path in paths {
        let within = path.strip_prefix(sources)?.with_extension("");
        let mut module: Module = within.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.iter().any(|part| part == "tests" || part == "sim" || part.ends_with("_tests")) {
            continue;
        }
        module.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
        let text = fs::read_to_string(&path)?;
        let mut for_tests = false;
        // A line that is built for tests only imports nothing of what ships.
        let ships = |line: &&str| !std::mem::replace(&mut for_tests, line.trim() == "#[cfg(test)]");
        let lines = production(&text).lines().filter(ships);
        let code: Vec<_> = lines.map(|line| line.split("//").next().unwrap_or_default()).collect();
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
pub(crate) fn expand<'a>(prefix: &mut Vec<&'a str>, text: &'a str, found: &mut Vec<Vec<&'a str>>) -> &'a str {
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
    for sources in packages()?.into_iter().map(|package| package.join("src")) {
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
