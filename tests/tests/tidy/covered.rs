//! Each file on the way of a connection or request through the proxy has tests beside it, or is listed with the test that fails
//! when it does wrong.

use super::{is_fuzzing, is_tests, production, sources, top, verdict};
use anyhow::ensure;
use std::fs;

/// The folders and files that bytes of peers pass.
const PATH: [&str; 15] = [
    "accept/",
    "backend/",
    "connect/",
    "detect/",
    "first/",
    "forward/",
    "http/",
    "inbound.rs",
    "io/",
    "jwt/",
    "named.rs",
    "outbound.rs",
    "policy/",
    "route/",
    "traffic/",
];
/// Without tests beside them: the file, the file of its test, the test.
const ELSEWHERE: [(&str, &str, &str); 14] = [
    (
        "backend/endpoint/bytes.rs",
        "tests/tests/local_ends.rs",
        "bytes_of_a_peer_end_with_its_certificate_and_the_application_sees_a_reset",
    ),
    ("http/destination.rs", "tests/tests/local_routes.rs", "a_service_is_called_by_every_name_that_it_has"),
    ("http/inbound.rs", "tests/tests/hostile_authz.rs", "no_spelling_of_a_reserved_header_reaches_an_application"),
    ("http/outbound.rs", "tests/tests/local_routes.rs", "a_backends_filters_are_for_its_requests_alone"),
    ("http/request.rs", "proxy/src/http/layer/sanitize.rs", "a_request_names_one_authority_or_goes_nowhere"),
    ("http/respond.rs", "proxy/src/http/layer/signals.rs", "a_request_has_one_record_whatever_becomes_of_it"),
    ("http/server.rs", "tests/tests/hostile_http1/conduct.rs", "slow_clients_are_left_and_nobody_else"),
    ("http/timer.rs", "tests/tests/hostile_http2/floods.rs", "floods_end_or_cost_nothing_at_our_inbound"),
    ("http/layer/mod.rs", "proxy/src/http/layer/signals.rs", "a_request_has_one_record_whatever_becomes_of_it"),
    (
        "http/visit.rs",
        "proxy/src/http/layer/judge.rs",
        "a_request_comes_in_as_policy_says_and_its_caller_is_told_no_more_than_that",
    ),
    (
        "inbound.rs",
        "tests/tests/local_policy.rs",
        "what_is_open_ends_when_policy_says_no_and_what_policy_still_lets_goes_on",
    ),
    ("outbound.rs", "tests/tests/local_known.rs", "silence_is_waited_for_then_refused_and_what_is_known_goes_on"),
    ("io/tcp.rs", "proxy/src/io/breaker.rs", "a_connection_is_reset_if_its_breaker_was_tripped_and_closed_otherwise"),
    ("io/mod.rs", "proxy/src/io/ahead.rs", "a_reader_gets_the_same_bytes_however_little_it_asks_for"),
];

#[test]
fn every_file_that_requests_pass_has_a_test() -> anyhow::Result<()> {
    let sources = sources()?;
    let folder = |name: &str| name.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    // What the tests of layers share is no test.
    let tests = |name: &str| is_tests(name) && !name.ends_with("/test.rs");
    // A folder of tests stands beside what its own folder has.
    let place = |name: &str| folder(name).trim_end_matches("/tests").to_owned();
    let beside: Vec<String> = sources.iter().filter(|(name, _)| tests(name)).map(|(name, _)| place(name)).collect();
    let (mut wrong, mut met) = (Vec::new(), Vec::new());
    for (name, text) in &sources {
        let Some(within) = name.strip_prefix("proxy/src/") else { continue };
        let passed = PATH.iter().any(|path| within.starts_with(path)) && !is_tests(name) && !is_fuzzing(name);
        let does = text.contains("fn ");
        let tested = text.contains("#[test]") || text.contains("#[tokio::test") || beside.contains(&folder(name));
        if !passed || !does || tested {
            continue;
        }
        match ELSEWHERE.iter().find(|(file, ..)| within.starts_with(file)) {
            Some((file, ..)) => met.push(*file),
            None => wrong.push(format!("{name}: write a test beside it, or list the test that covers it")),
        }
    }
    for (file, place, test) in ELSEWHERE {
        let text = fs::read_to_string(top().join(place)).unwrap_or_default();
        ensure!(text.contains(&format!("fn {test}(")), "{file}: there is no test {test} in {place} any more");
    }
    let stale = ELSEWHERE.iter().map(|(file, ..)| *file).filter(|file| !met.contains(file)).map(str::to_owned);
    verdict("files that requests pass without a test", &wrong, &stale.collect::<Vec<_>>())
}

/// So many of a hundred lines of the proxy are tests, at least.
const TESTS_PERCENT_MIN: usize = 40;

/// The files that `text`, which is of `name`, declares for tests or fuzz targets alone, without their ending.
fn declared(name: &str, text: &str) -> Vec<String> {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    let folder = match file {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        file => format!("{folder}/{}", file.trim_end_matches(".rs")),
    };
    let lines = text.lines().zip(text.lines().skip(1));
    let module = |(cfg, line): (&str, &str)| {
        let of_tests = cfg.starts_with("#[cfg(") && (cfg.contains("test") || cfg.contains("fuzzing"));
        let (_, name) = line.split_once("mod ").filter(|_| of_tests)?;
        name.strip_suffix(';').map(|name| format!("{folder}/{name}"))
    };
    lines.filter_map(module).collect()
}

/// Modules of tests, the simulation and fuzz targets, of all lines. `-- --nocapture` prints the figures.
#[test]
fn two_fifths_of_the_proxys_lines_are_tests() -> anyhow::Result<()> {
    let mut sources = sources()?;
    sources.retain(|(name, _)| name.starts_with("proxy/src/"));
    let declared: Vec<String> = sources.iter().flat_map(|(name, text)| declared(name, text)).collect();
    let whole = |name: &str| {
        let within =
            |module: &String| name.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with(['/', '.']));
        is_tests(name) || is_fuzzing(name) || declared.iter().any(within)
    };
    let (mut tests, mut all) = (0, 0);
    for (name, text) in &sources {
        let lines = text.lines().count();
        all += lines;
        let shared = text
            .find("#[cfg(test)]\npub(crate) mod ")
            .filter(|at| text[*at..].lines().nth(1).is_some_and(|it| it.ends_with('{')));
        let ships = production(&text[..shared.unwrap_or(text.len())]).lines().count();
        tests += if whole(name) { lines } else { lines - ships };
    }
    println!("{tests} of {all} lines of proxy/src are tests: {:.1} %", 100.0 * tests as f64 / all as f64);
    ensure!(
        100 * tests >= TESTS_PERCENT_MIN * all,
        "{tests} of {all} lines of proxy/src are tests, less than {TESTS_PERCENT_MIN} of a hundred"
    );
    Ok(())
}
