//! Sizes, imports, bounds, and who may name the wire.

use super::{circles::expand, is_fuzzing, is_tests, production, sources, verdict};
use std::collections::BTreeMap;

/// A reader holds no more in mind.
const LINES_MAX: usize = 550;
/// Longer files, each with its reason. There is none.
const LONG: [(&str, &str); 0] = [];

#[test]
fn no_file_is_too_long_to_read() -> anyhow::Result<()> {
    let lengths: BTreeMap<_, _> = sources()?
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, n)| *n > LINES_MAX)
        .collect();
    let wrong = lengths.iter().filter(|(name, _)| !LONG.iter().any(|(long, _)| long == name));
    let wrong: Vec<_> = wrong.map(|(name, lines)| format!("{name}: {lines} lines, split it by its roles")).collect();
    let stale = LONG.iter().filter(|(name, _)| !lengths.contains_key(*name)).map(|(name, _)| (*name).to_owned());
    verdict(&format!("files of more than {LINES_MAX} lines"), &wrong, &stale.collect::<Vec<_>>())
}

#[test]
fn a_crate_is_imported_by_one_use() -> anyhow::Result<()> {
    let wrong: Vec<_> =
        sources()?.into_iter().filter_map(|(name, text)| Some(format!("{name}: {}", odd(&text)?))).collect();
    let remedy = "imports in another style than the house's: take out the blank lines between them, and let \
                  `cargo +nightly fmt -- --config imports_granularity=Crate` write the rest";
    verdict(remedy, &wrong, &[])
}

/// What is odd about the imports at the top of a file: one `use` for each crate, none of them set apart.
fn odd(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut seen: Vec<&str> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(path) = line.strip_prefix("use ") else { continue };
        let above = |by: usize| at.checked_sub(by).map_or("", |at| lines[at]);
        if above(1).starts_with("#[") {
            continue;
        }
        // An import of several lines ends with `};`.
        if seen.last().is_some() && above(1).is_empty() && (above(2).starts_with("use ") || above(2) == "};") {
            return Some(format!("line {}: nothing stands between imports", at + 1));
        }
        let root = path.split([':', ';', ' ']).next().unwrap_or_default();
        if seen.contains(&root) {
            return Some(format!("line {}: {root} is imported before", at + 1));
        }
        seen.push(root);
    }
    None
}

/// What the name of a bound ends with.
const BOUNDS: [&str; 8] = ["_MAX", "_MIN", "_TIMEOUT", "_BYTES", "_INTERVAL", "_PATIENCE", "_GRACE", "_LIMIT"];
/// Bounds beside what they bound, because they are part of what it says and nobody weighs them against others.
const BESIDE: [(&str, &str); 9] = [
    ("proxy/src/backend/balance/health.rs", "the schedule of one algorithm"),
    ("proxy/src/backend/endpoint/http1.rs", "how far a search goes"),
    ("proxy/src/detect/mod.rs", "what is judged, not what is held: the window is part of the answer"),
    ("proxy/src/detect/client_hello.rs", "what is judged, not what is held"),
    ("proxy/src/init/", "`init` is a program of its own, and ends"),
    ("proxy/src/probe/", "what the kubelet does, as it does it"),
    ("proxy/src/telemetry/histogram.rs", "the histogram's own form"),
    ("proxy/src/telemetry/template.rs", "what a name is, not how many there are"),
    ("proxy/src/tls/turns.rs", "when it is worth to look"),
];
/// Bounds that `limits.rs` should have, and has not yet.
const NOT_YET: [(&str, &str); 3] = [
    ("proxy/src/http/guard/io.rs", "with the next change of the gate"),
    ("proxy/src/http/guard/mod.rs", "with the next change of the gate: they say again what `limits.rs` says of HTTP/2"),
    ("proxy/src/tls/mod.rs", "with the next change of it"),
];

#[test]
fn every_bound_of_the_proxy_stands_in_limits() -> anyhow::Result<()> {
    let excepted = || BESIDE.iter().chain(&NOT_YET).map(|(name, _)| *name);
    let mut met = Vec::new();
    let mut wrong = Vec::new();
    for (name, text) in sources()? {
        // What is bounded for one folder alone may stand in a file of that name there: one file for all is full.
        if !name.starts_with("proxy/src/") || name.ends_with("/limits.rs") || is_tests(&name) || is_fuzzing(&name) {
            continue;
        }
        for bound in production(&text).lines().filter_map(bound) {
            match excepted().find(|excepted| name.starts_with(excepted)) {
                Some(excepted) => met.push(excepted),
                None => wrong.push(format!("{name}: {bound}: move it to proxy/src/limits.rs, with its reason")),
            }
        }
    }
    let stale = excepted().filter(|name| !met.contains(name)).map(str::to_owned);
    verdict("bounds outside of limits.rs", &wrong, &stale.collect::<Vec<_>>())
}

/// The name of the bound that a line declares.
fn bound(line: &str) -> Option<&str> {
    let (visible, rest) = line.trim_start().split_once("const ")?;
    let (name, rest) = rest.split_once(": ")?;
    let numeric = ["Duration", "usize", "u16", "u32", "u64"].iter().any(|kind| rest.starts_with(kind));
    let declares = visible.is_empty() || visible.starts_with("pub");
    (declares && numeric && BOUNDS.iter().any(|end| name.ends_with(end))).then_some(name)
}

/// Who speaks the control protocol: its conversions, and the ends of its streams.
const WIRE: [(&str, &str); 14] = [
    ("mesh/api/", "the conversions"),
    ("mesh/runtime/src/certify/mod.rs", "asks for the certificate"),
    ("proxy/src/discover/answers.rs", "answers what discovery asks"),
    ("proxy/src/discover/client.rs", "the proxy's end of the stream"),
    ("proxy/src/discover/store/mod.rs", "keeps by name and version what came"),
    ("proxy/src/run.rs", "says hello"),
    ("discovery/src/index/routes.rs", "measures how much of a message a rule takes"),
    ("discovery/src/serve/asks.rs", "holds the parts of an answer against what was asked"),
    ("discovery/src/serve/mod.rs", "discovery's end of the stream"),
    ("discovery/src/serve/requests.rs", "reads what proxies say"),
    ("discovery/src/serve/resource.rs", "encodes a resource once for all"),
    ("discovery/src/serve/subscriber.rs", "what one proxy is sent"),
    ("identity/src/server.rs", "serves"),
    ("identity/src/service.rs", "answers"),
];

#[test]
fn who_names_messages_is_an_end_of_their_stream() -> anyhow::Result<()> {
    let mut met = Vec::new();
    let mut wrong = Vec::new();
    for (name, text) in sources()? {
        let program =
            ["proxy/", "identity/", "discovery/", "injector/", "mesh/", "cli/"].iter().any(|one| name.starts_with(one));
        if !program || !name.contains("src/") || is_tests(&name) || is_fuzzing(&name) || !names_messages(&name, &text) {
            continue;
        }
        match WIRE.iter().find(|(file, _)| name.starts_with(file)) {
            Some((file, _)) => met.push(*file),
            None => wrong.push(format!("{name}: let mesh/api convert it (ARCHITECTURE.md, invariant 3)")),
        }
    }
    let stale = WIRE.iter().map(|(file, _)| *file).filter(|file| !met.contains(file)).map(str::to_owned);
    verdict("generated messages are named elsewhere", &wrong, &stale.collect::<Vec<_>>())
}

fn names_messages(name: &str, text: &str) -> bool {
    let code = production(text);
    let root = if name.starts_with("mesh/api/") { "crate::" } else { "remora_api::" };
    code.match_indices(root).any(|(at, _)| {
        let mut found = Vec::new();
        expand(&mut Vec::new(), &code[at..], &mut found);
        found.iter().any(|path| path.get(1) == Some(&"v1"))
    })
}

#[test]
fn imports_and_bounds_are_told_apart_from_what_only_looks_like_them() {
    assert_eq!(odd("//! x\n\nuse a::{b, c};\nuse std::{\n    d,\n};\nuse super::*;\n"), None);
    assert!(odd("use a::b;\nuse a::c;\n").is_some_and(|odd| odd.starts_with("line 2: a")));
    assert!(odd("use a::b;\n\nuse c::d;\n").is_some_and(|odd| odd.starts_with("line 3")));
    assert_eq!(odd("use a::b;\n\n#[cfg(test)]\nuse a::c;\n\nfn x() {}\n"), None);
    assert_eq!(bound("    pub(crate) const A_MAX: usize = 1;"), Some("A_MAX"));
    assert_eq!(bound("const A_TIMEOUT: Duration = B;"), Some("A_TIMEOUT"));
    for other in
        ["const NAMES_MAX: &str = \"\";", "let const_MAX = 1;", "/// const A_MAX: usize", "fn a<const N_MAX: usize>()"]
    {
        assert_eq!(bound(other), None, "{other}");
    }
}

/// hyper's own keep-alive timer is asked in the standard library's instants.
const CLOCK: &str = "proxy/src/http/timer.rs";

#[test]
fn the_proxy_has_one_clock() -> anyhow::Result<()> {
    let other = |text: &str| {
        text.split("use std::").skip(1).any(|import| import.split(';').next().unwrap_or_default().contains("Instant"))
            || text.contains("std::time::Instant")
    };
    let sources = sources()?.into_iter().filter(|(name, text)| name.starts_with("proxy/src/") && other(text));
    let wrong: Vec<_> = sources.map(|(name, _)| name).filter(|name| name != CLOCK).collect();
    verdict("take tokio::time::Instant, which tests can move, in place of the standard library's", &wrong, &[])
}
