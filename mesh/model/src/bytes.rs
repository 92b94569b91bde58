//! Where connections go that are no requests: by the server name of a ClientHello (TLSRoute), or by weight alone (TCPRoute).
//! Nothing ends their TLS.

use crate::BackendRef;
use std::sync::Arc;

/// A name that clients ask for, as a TLSRoute writes it: a whole one (`api.example.com`), or one with a first label that stands
/// for any number of labels (`*.example.com`, which does not match `example.com`). Lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HostPattern(Arc<str>);

/// The longest DNS name (RFC 1035 §2.3.4), in text.
const NAME_BYTES_MAX: usize = 253;
/// The longest label.
const LABEL_BYTES_MAX: usize = 63;

/// The text is no host name, with or without `*.` before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no host name of lower-case letters, digits, - and dots, nor one with *. before it")]
pub struct InvalidHost;

impl HostPattern {
    /// Reads one. RFC 6066 §3 lets no address be a server name.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let edge = |b: Option<u8>| b.is_some_and(|b| b != b'-');
        let label = |label: &str| {
            let (first, last) = (label.bytes().next(), label.bytes().next_back());
            label.len() <= LABEL_BYTES_MAX && label.bytes().all(allowed) && edge(first) && edge(last)
        };
        let address = name.parse::<std::net::IpAddr>().is_ok();
        let whole = name.len() <= NAME_BYTES_MAX && name.split('.').all(label) && !address;
        if whole { Ok(Self(text.into())) } else { Err(InvalidHost) }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How closely it matches a name in lower case: the most for a whole name, else by its length. `None`: it does not.
    fn matches(&self, name: &str) -> Option<usize> {
        match self.0.strip_prefix('*') {
            None => (*self.0 == *name).then_some(usize::MAX),
            Some(suffix) => {
                let before = name.strip_suffix(suffix)?;
                (!before.is_empty()).then_some(suffix.len())
            }
        }
    }
}

/// A rule of a TLSRoute.
#[derive(Clone, PartialEq, Debug)]
pub struct TlsRule {
    /// As of [`Rule::label`](crate::Rule::label).
    pub label: Arc<str>,
    /// Without any it matches nothing.
    pub hostnames: Vec<HostPattern>,
    /// Without any, and for the share of an invalid one, connections are refused. They have no filters.
    pub backends: Vec<BackendRef>,
}

/// A rule of a TCPRoute.
#[derive(Clone, PartialEq, Debug)]
pub struct TcpRule {
    /// As of [`Rule::label`](crate::Rule::label).
    pub label: Arc<str>,
    /// As of [`TlsRule::backends`].
    pub backends: Vec<BackendRef>,
}

/// The rule, by its index, that a client asking for `name` has: of those that match the one with the most specific host name;
/// of equals the first.
pub fn select(rules: &[TlsRule], name: &str) -> Option<usize> {
    let mut best: Option<(usize, usize)> = None;
    for (index, rule) in rules.iter().enumerate() {
        let matched = rule.hostnames.iter().filter_map(|host| host.matches(name)).max();
        if let Some(rank) = matched
            && best.is_none_or(|(before, _)| rank > before)
        {
            best = Some((rank, index));
        }
    }
    best.map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_pattern_is_what_the_gateway_api_takes() {
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        for right in ["api.example.com", "*.example.com", "api", "a-b.c1", "1a.com", &long] {
            assert_eq!(HostPattern::parse(right).map(|host| host.as_str().to_owned()), Ok(right.to_owned()));
        }
        let label = "a".repeat(64);
        for wrong in
            ["", "*", "*.", "API.com", "a..b", ".a", "a.", "-a.b", "a-.b", "a.*.b", "**.a", "10.0.0.1", "a_b", &label]
        {
            assert_eq!(HostPattern::parse(wrong), Err(InvalidHost), "{wrong}");
        }
        assert_eq!(HostPattern::parse(&format!("{long}e")), Err(InvalidHost));
    }

    #[test]
    fn the_most_specific_host_name_wins_and_of_equals_the_first() {
        let rule = |hosts: &[&str]| TlsRule {
            label: "".into(),
            hostnames: hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect(),
            backends: Vec::new(),
        };
        let rules = [
            rule(&["*.example.com"]),
            rule(&["*.api.example.com", "api.example.com"]),
            rule(&["v1.api.example.com"]),
            rule(&["*.api.example.com"]),
            rule(&[]),
        ];
        for (name, expected) in [
            ("web.example.com", Some(0)),
            ("api.example.com", Some(1)),
            ("v1.api.example.com", Some(2)),
            ("v2.api.example.com", Some(1)),
            ("a.b.api.example.com", Some(1)),
            ("example.com", None),
            ("notexample.com", None),
            ("example.org", None),
            ("", None),
        ] {
            assert_eq!(select(&rules, name), expected, "{name}");
        }
    }
}
