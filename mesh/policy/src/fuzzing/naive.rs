//! The same decisions by another way: an interpreter of what users write, made from `docs/authorization.md`, slow and simple. It shares
//! nothing with the matcher or the model: texts are read here anew, rules are tried one after the other.

use super::{
    Answer,
    random::{OWN, RawAct, RawOperation, RawRequest, RawRule, RawSource, Scene},
};
use std::collections::BTreeSet;

const AUDIT: usize = 2;

/// What is decided, and the names of the audit rules that matched.
pub(super) fn answer(scene: &Scene, act: &RawAct) -> (Answer, BTreeSet<String>) {
    if scene.strict && act.identity.is_none() {
        return (Answer::Plaintext, BTreeSet::new());
    }
    let of = |action: usize| -> Vec<&RawRule> {
        scene
            .rules
            .iter()
            .filter(|rule| rule.action == action && !rule.dry_run)
            .filter(|rule| is_here(rule, scene))
            .collect()
    };
    let matching =
        |action: usize| of(action).into_iter().filter(|rule| rule_matches(rule, act)).map(|rule| rule.name.clone());
    let asks =
        |action: usize| of(action).iter().any(|rule| rule.to.iter().filter(|to| op_is_here(to, scene)).any(asks_paths));
    let audited = matching(AUDIT).collect();
    let unreadable = match &act.request {
        Some(request) => !(request.method == "OPTIONS" && request.path == "*") && path_of(request.path).is_none(),
        None => false,
    };
    let answer = if let Some(rule) = matching(super::random::DENY).next() {
        Answer::Denied(rule)
    } else if unreadable && asks(super::random::DENY) {
        Answer::Ambiguous
    } else if !scene.default_deny {
        Answer::Allowed(None)
    } else if let Some(rule) = matching(super::random::ALLOW).next() {
        Answer::Allowed(Some(rule))
    } else if unreadable && asks(super::random::ALLOW) {
        Answer::Ambiguous
    } else {
        Answer::NotAllowed
    };
    (answer, audited)
}

fn op_is_here(to: &RawOperation, scene: &Scene) -> bool {
    scene.number == 0 || to.ports.is_empty() || to.ports.contains(&scene.number)
}

fn is_here(rule: &RawRule, scene: &Scene) -> bool {
    rule.to.is_empty() || rule.to.iter().any(|to| op_is_here(to, scene))
}

fn asks_paths(to: &RawOperation) -> bool {
    !to.paths.is_empty() || !to.not_paths.is_empty() || !to.grpc.is_empty()
}

fn rule_matches(rule: &RawRule, act: &RawAct) -> bool {
    let denies = rule.action == super::random::DENY;
    let anybody = denies && !rule.ignores_unidentified;
    (rule.from.is_empty() || rule.from.iter().any(|from| source_matches(from, (denies, anybody), act)))
        && (rule.to.is_empty() || rule.to.iter().any(|to| operation_matches(to, denies, act)))
}

/// Trust domain, namespace, service account; of an identity of another form the last two are missing.
fn parts(identity: &str) -> (String, Option<(String, String)>) {
    let rest = identity.trim_start_matches("spiffe://");
    let words: Vec<&str> = rest.split('/').collect();
    let workload = match words[..] {
        [_, "ns", namespace, "sa", account] => Some((namespace.to_owned(), account.to_owned())),
        _ => None,
    };
    (words[0].to_owned(), workload)
}

/// Whether what is asked has a token that the source asks for.
fn token_matches(from: &RawSource, denies: bool, act: &RawAct) -> bool {
    let Some((issuers, role)) = &from.jwt else { return true };
    let Some(request) = &act.request else { return denies };
    let Some((issuer, roles)) = &request.token else { return false };
    issuers.contains(issuer) && role.is_none_or(|role| roles.contains(&role))
}

fn source_matches(from: &RawSource, (denies, anybody): (bool, bool), act: &RawAct) -> bool {
    if !token_matches(from, denies, act) {
        return false;
    }
    let in_ranges = |ranges: &[&str]| ranges.iter().any(|range| is_in_range(act.address, range));
    if !from.cidrs.is_empty() && !in_ranges(&from.cidrs) || in_ranges(&from.not_cidrs) {
        return false;
    }
    let Some(identity) = act.identity else {
        let asks = !from.identities.is_empty()
            || !from.namespaces.is_empty()
            || !from.accounts.is_empty()
            || !from.domains.is_empty()
            || from.authenticated == Some(true);
        let excepts = !from.not_identities.is_empty() || !from.not_namespaces.is_empty();
        return anybody || (!asks && !excepts);
    };
    let (domain, workload) = parts(identity);
    let domain_is_meant = if from.domains.is_empty() { domain == OWN } else { from.domains.contains(&&*domain) };
    let in_namespaces = |names: &[&str]| {
        domain_is_meant && workload.as_ref().is_some_and(|(namespace, _)| names.contains(&&**namespace))
    };
    let of_accounts = |accounts: &[&str]| {
        domain_is_meant && workload.as_ref().is_some_and(|(ns, name)| accounts.contains(&&*format!("{ns}/{name}")))
    };
    from.authenticated != Some(false)
        && (from.identities.is_empty() || from.identities.contains(&identity))
        && (from.domains.is_empty() || domain_is_meant)
        && (from.namespaces.is_empty() || in_namespaces(&from.namespaces))
        && (from.accounts.is_empty() || of_accounts(&from.accounts))
        && !from.not_identities.contains(&identity)
        && !in_namespaces(&from.not_namespaces)
}

fn is_in_range(address: &str, range: &str) -> bool {
    let (network, length) = range.split_once('/').expect("the texts are sound");
    let bits = |text: &str| -> String {
        match text.parse().expect("the texts are sound") {
            std::net::IpAddr::V4(ip) => format!("4{:032b}", u32::from(ip)),
            std::net::IpAddr::V6(ip) => format!("6{:0128b}", u128::from(ip)),
        }
    };
    let length: usize = length.parse().expect("the texts are sound");
    bits(address)[..=length.min(32.max(bits(address).len() - 1))] == bits(network)[..=length]
}

/// Whether a list that may be left out is met.
fn met<T>(list: &[T], by: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(by)
}

fn operation_matches(to: &RawOperation, denies: bool, act: &RawAct) -> bool {
    if !met(&to.ports, |port| *port == act.port) {
        return false;
    }
    let Some(request) = &act.request else {
        let ports_alone = to.methods.is_empty()
            && to.paths.is_empty()
            && to.hosts.is_empty()
            && to.headers.is_empty()
            && to.grpc.is_empty()
            && to.not_methods.is_empty()
            && to.not_paths.is_empty();
        return denies || ports_alone;
    };
    let path = if request.method == "OPTIONS" && request.path == "*" { None } else { path_of(request.path) };
    let on_path = |pattern: &&str| path.as_ref().is_some_and(|path| pattern_matches(pattern, path));
    met(&to.methods, |method| method_matches(method, request.method, denies))
        && met(&to.paths, on_path)
        && met(&to.hosts, |host| host_matches(host, request.host, denies))
        && to.headers.iter().all(|header| header_matches(header, request, denies))
        && met(&to.grpc, |(service, method)| {
            let Some(path) = &path else { return false };
            match method {
                Some(method) => *path == [*service, *method] && (denies || request.method == "POST"),
                None if denies => path.first().is_some_and(|first| first == service),
                None => path.len() == 2 && path[0] == *service && request.method == "POST",
            }
        })
        && !to.not_methods.iter().any(|method| method_matches(method, request.method, !denies))
        && !to.not_paths.iter().any(on_path)
}

fn method_matches(listed: &str, asked: &str, doubt: bool) -> bool {
    let upper = asked.to_uppercase();
    listed == asked || (doubt && (upper == listed || (listed == "GET" && upper == "HEAD")))
}

/// The names of a path, or nothing where servers may read it in different ways.
fn path_of(path: &str) -> Option<Vec<String>> {
    let mut rest = path.strip_prefix('/')?.chars();
    let mut plain = String::new();
    while let Some(c) = rest.next() {
        if c == '\\' || c == '#' || c.is_ascii_control() {
            return None;
        }
        if c != '%' {
            plain.push(c);
            continue;
        }
        let digits: String = rest.by_ref().take(2).collect();
        let c = char::from(u8::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 2)?);
        if !c.is_ascii() || c.is_ascii_control() || "/\\%.;?#".contains(c) {
            return None;
        }
        plain.push(c);
    }
    let names = plain.split('/').map(|name| name.split(';').next().expect("the texts are sound").to_owned());
    let names: Vec<String> = names.filter(|name| !name.is_empty() && name != ".").collect();
    (!names.iter().any(|name| name == "..")).then_some(names)
}

fn pattern_matches(pattern: &str, path: &[String]) -> bool {
    let mut wanted = path_of(&pattern.replace("*}", "+}").replace("{*+}", "{++}")).expect("the texts are sound");
    if wanted.last().is_some_and(|last| last == "*") {
        wanted.pop();
        wanted.push("{++}".to_owned());
    }
    names_match(&wanted, path)
}

/// `{++}` stands for any number of names, other braces for one.
fn names_match(wanted: &[String], path: &[String]) -> bool {
    match wanted.split_first() {
        None => path.is_empty(),
        Some((first, rest)) if first == "{++}" => (0..=path.len()).any(|skipped| names_match(rest, &path[skipped..])),
        Some((first, rest)) => match path.split_first() {
            Some((name, others)) => (first == name || first.starts_with('{')) && names_match(rest, others),
            None => false,
        },
    }
}

/// A host, and its port if one is said; nothing where servers may read it in different ways.
fn host_of(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let port = match port {
        "" => None,
        port if port.chars().all(|c| c.is_ascii_digit()) => Some(port.parse().ok().filter(|port| *port > 0)?),
        _ => return None,
    };
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: std::net::Ipv6Addr = inner.parse().ok()?;
        let address = address.to_ipv4_mapped().map_or_else(|| format!("[{address}]"), |four| four.to_string());
        return Some((address, port));
    }
    let host = host.to_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    if host.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some((host.to_owned(), port));
    }
    let labels: Vec<&str> = host.split('.').collect();
    let plain =
        |label: &&str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    let last = labels.last().expect("the texts are sound");
    let digits = last
        .strip_prefix("0x")
        .map_or(last.chars().all(|c| c.is_ascii_digit()), |hex| hex.chars().all(|c| c.is_ascii_hexdigit()));
    (labels.iter().all(plain) && !digits).then(|| (host.to_owned(), port))
}

fn host_matches(rule: &str, asked: Option<&str>, denies: bool) -> bool {
    let Some((host, port)) = asked.and_then(host_of) else { return denies };
    let below = rule.strip_prefix("*.");
    let (wanted, wanted_port) = host_of(below.unwrap_or(rule)).expect("the texts are sound");
    let same = match below {
        Some(_) => host.ends_with(&format!(".{wanted}")) && host.len() > wanted.len() + 1,
        None => host == wanted,
    };
    same && match (wanted_port, port) {
        (None, _) => true,
        (Some(80), None) => true,
        (Some(_), None) => denies,
        (Some(wanted), Some(port)) => wanted == port,
    }
}

fn header_matches(rule: &(&str, bool, Vec<&str>), request: &RawRequest, denies: bool) -> bool {
    let (name, prefix, values) = rule;
    let plain = |name: &str| name.to_lowercase().replace('_', "-");
    let lines: Vec<&[u8]> =
        request.headers.iter().filter(|(asked, _)| plain(asked) == plain(name)).map(|(_, value)| *value).collect();
    let is = |value: &str, wanted: &str| if *prefix { value.starts_with(wanted) } else { value == wanted };
    let members = |line: &[u8]| -> Option<Vec<String>> {
        let text = String::from_utf8(line.to_vec()).ok()?;
        Some(text.split(',').map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()).collect())
    };
    if denies {
        let low = |text: &str| text.to_ascii_lowercase();
        return lines.iter().any(|line| match members(line) {
            None => true,
            Some(members) => members.iter().any(|value| values.iter().any(|wanted| is(&low(value), &low(wanted)))),
        });
    }
    !lines.is_empty()
        && lines.iter().all(|line| {
            let members = members(line).unwrap_or_default();
            !members.is_empty() && members.iter().all(|value| values.iter().any(|wanted| is(value, wanted)))
        })
}
