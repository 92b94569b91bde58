//! Fuzz targets of the texts that name things: one function per parser, which runs it and asserts what its module promises. In:
//! any bytes. Out: nothing, or a panic. Built for tests, which replay `fuzz/corpus` and changes of it, and for `cargo fuzz`
//! (which sets `cfg(fuzzing)`) alone.

use crate::{PathPattern, SpiffeId, Target, TrustDomain, network, path::canonical, policy, ports};
use std::borrow::Cow;

#[cfg(test)]
remora_replay::replays! {
    an_identity_has_one_spelling: spiffe_ids, 20_000;
    a_target_is_written_as_it_is_read: targets, 20_000;
    no_spelling_of_a_path_evades_its_pattern: paths, 20_000;
    what_rules_name_is_written_as_it_is_read: rule_words, 20_000;
}

/// What is read is the text itself, in its two parts, and a workload's identity is taken apart as it was put together.
pub fn spiffe_ids(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(id) = SpiffeId::parse(&text) {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        assert!(id.member_of(&id.trust_domain()) && id.path().split('/').skip(1).all(|segment| !segment.is_empty()));
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"%?#@\"\\".contains(&byte)), "{text:?}");
        if let (Some(namespace), Some(account)) = (id.namespace(), id.service_account()) {
            assert_eq!(SpiffeId::workload(&id.trust_domain(), namespace, account).as_ref(), Ok(&id));
        }
    }
    let mut words = text.splitn(3, '\n');
    let (Some(Ok(domain)), Some(namespace), Some(account)) =
        (words.next().map(TrustDomain::new), words.next(), words.next())
    else {
        return;
    };
    assert_eq!(SpiffeId::parse(domain.id().as_str()), Ok(domain.id()));
    if let Ok(id) = SpiffeId::workload(&domain, namespace, account) {
        assert_eq!((id.namespace(), id.service_account()), (Some(namespace), Some(account)));
        assert_eq!(id.trust_domain(), domain);
    }
}

/// What is read is written so that it is read as the same, whatever port holds where none is named.
pub fn targets(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(target) = Target::parse(&text, 80) else { return };
    assert_ne!(target.port(), 0);
    let written = target.to_string();
    assert_eq!(Target::parse(&written, 1).as_ref(), Ok(&target), "{text:?} is written {written:?}");
    assert!(written.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()), "{written:?}");
}

/// The canonical form is its own canonical form, every other spelling of the path has the same, and what a pattern names is
/// matched by it.
pub fn paths(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(2, '\n');
    let (path, pattern) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let pattern = PathPattern::parse(pattern);
    if let Ok(pattern) = &pattern {
        assert_eq!(PathPattern::parse(&pattern.to_string()).as_ref(), Ok(pattern), "{pattern}");
    }
    let Ok(form) = canonical(path) else { return };
    assert!(form.starts_with('/') && !form.contains("//") && !form.split('/').any(|name| name == ".." || name == "."));
    assert!(form.len() <= path.len() && (form == "/" || !form.ends_with('/')), "{form:?}");
    // What a form holds may again look like an escape or parameters only if it was escaped; then it has no form.
    assert_eq!(canonical(&form), Ok(Cow::Borrowed(&*form)), "{path:?}");
    for spelt in [escaped(path), path.replace('/', "//"), format!("{path}/."), path.replace('/', "/./")] {
        assert_eq!(canonical(&spelt).as_deref(), Ok(&*form), "{spelt:?} is another spelling of {path:?}");
        if let Ok(pattern) = &pattern {
            let spelt = canonical(&spelt).unwrap_or_default();
            assert_eq!(pattern.matches(&spelt), pattern.matches(&form), "{pattern}");
        }
    }
    if !form.contains(['*', '{', '}']) {
        let exact = PathPattern::parse(&form).expect("a form is a pattern");
        assert!(exact.matches(&form));
        let below = PathPattern::parse(&format!("{}/*", form.trim_end_matches('/'))).expect("a form is a pattern");
        assert!(below.matches(&form) && below.matches(&format!("{}/x", form.trim_end_matches('/'))));
    }
}

/// Every letter is escaped, unless there are escapes already.
fn escaped(path: &str) -> String {
    if path.contains('%') {
        return path.to_owned();
    }
    path.chars().map(|c| if c.is_ascii_alphabetic() { format!("%{:02x}", u32::from(c)) } else { c.into() }).collect()
}

/// Ranges, ports and methods are read as what they are written as.
pub fn rule_words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(net) = network::parse(&text) {
        assert_eq!(network::parse(&net.to_string()), Ok(net), "{text:?}");
        assert!(net.addr() == net.addr().to_canonical(), "{net} names IPv4 addresses in IPv6 and would match nobody");
    }
    if let Ok(method) = policy::method(&text) {
        assert_eq!(method.as_str(), text);
    }
    let Ok(ranges) = ports::read(&text) else { return };
    let spelt: Vec<String> = ranges.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
    assert_eq!(ports::read(&spelt.join(" , ")), Ok(ranges.clone()), "{text:?}");
    for range in ranges {
        assert!(*range.start() > 0 && !range.is_empty() && ports::name(&text, *range.end()), "{range:?}");
    }
}
