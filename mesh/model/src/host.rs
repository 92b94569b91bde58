//! Hosts as authorization rules name them, and as requests say them.
//!
//! In: the authority of a request (`api:8080`, `[fd00::1]`). Out: whether a rule means it. Names are compared without regard to
//! case, without the dot that may stand at their end, and addresses as addresses. What servers read in different ways (an address that
//! is written in hexadecimal or in fewer than four parts, a zone, an escape, letters beyond ASCII) is no host here: it is a matter of
//! doubt.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// The longest DNS name (RFC 1035 §2.3.4), in text.
const NAME_BYTES_MAX: usize = 253;
/// What an `http` authority without a port says (RFC 9110 §4.2.1).
const DEFAULT_PORT: u16 = 80;

/// A host as a rule names it: `api`, `*.shop` (one or more labels before `.shop`), `10.0.0.1`, `[fd00::1]`, each with or without a
/// port. Without one, any port is meant, said or not.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HostRule {
    host: Wanted,
    port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Wanted {
    /// In lower case, without a dot at the end.
    Name(Arc<str>),
    /// Of `*.shop`: `.shop`.
    Below(Arc<str>),
    Address(IpAddr),
}

/// Why a text is no [`HostRule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostRule {
    #[error(
        "is no host: write a name (api.shop), a name with *. before it, an IPv4 address or an IPv6 address in brackets, and a port behind it if one is meant"
    )]
    Host,
    #[error("has letters beyond ASCII: write the name as requests do, as A-labels (xn--…)")]
    Idna,
    #[error("has a port that is none from 1 to 65535")]
    Port,
}

/// A host as a request says it, if it can be read in one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked<'a> {
    host: AskedHost<'a>,
    port: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AskedHost<'a> {
    /// In any case.
    Name(&'a str),
    Address(IpAddr),
}

impl<'a> Asked<'a> {
    /// Reads an authority. `None`: servers may read it in different ways.
    pub fn read(authority: &'a str) -> Option<Self> {
        let (host, port) = parts(authority)?;
        let port = match port {
            None | Some("") => None,
            Some(port) => Some(number(port)?),
        };
        Some(Self { host: host_of(host)?, port })
    }
}

/// The host, brackets included, and what follows its colon.
fn parts(authority: &str) -> Option<(&str, Option<&str>)> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at_checked(end)?;
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((host, None)),
        None => None,
        port => Some((host, port)),
    }
}

fn number(port: &str) -> Option<u16> {
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    port.parse().ok().filter(|port| digits && *port != 0)
}

fn host_of(host: &str) -> Option<AskedHost<'_>> {
    if let Some(address) = host.strip_prefix('[') {
        let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
        return Some(AskedHost::Address(IpAddr::V6(address).to_canonical()));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if let Ok(address) = name.parse::<Ipv4Addr>() {
        return Some(AskedHost::Address(address.into()));
    }
    is_name(name).then_some(AskedHost::Name(name))
}

/// Underscores are no part of host names, and of many that are in use. A last label that is a number makes an address of it, as some
/// servers read it (WHATWG URL, "ends in a number").
fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let number = last.bytes().all(|b| b.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    name.len() <= NAME_BYTES_MAX
        && !number
        && name.split('.').all(|label| !label.is_empty() && label.bytes().all(allowed))
}

impl HostRule {
    /// Reads the form that users write, in any case.
    pub fn parse(text: &str) -> Result<Self, InvalidHostRule> {
        if !text.is_ascii() {
            return Err(InvalidHostRule::Idna);
        }
        let (host, port) = parts(text).ok_or(InvalidHostRule::Host)?;
        let port = port.map(|port| number(port).ok_or(InvalidHostRule::Port)).transpose()?;
        let below = host.strip_prefix("*.");
        let host = match (host_of(below.unwrap_or(host)), below) {
            (Some(AskedHost::Name(name)), Some(_)) => Wanted::Below(format!(".{}", name.to_ascii_lowercase()).into()),
            (Some(AskedHost::Name(name)), None) => Wanted::Name(name.to_ascii_lowercase().into()),
            (Some(AskedHost::Address(address)), None) => Wanted::Address(address),
            (Some(AskedHost::Address(_)), Some(_)) | (None, _) => return Err(InvalidHostRule::Host),
        };
        Ok(Self { host, port })
    }

    /// Whether it means what a request asks for; `doubt` where that cannot be said for certain. `None`: the request says no host, or one
    /// that can be read in more than one way.
    pub fn matches(&self, asked: Option<Asked<'_>>, doubt: bool) -> bool {
        let Some(asked) = asked else { return doubt };
        let named = match (&self.host, asked.host) {
            (Wanted::Name(wanted), AskedHost::Name(name)) => wanted.eq_ignore_ascii_case(name),
            (Wanted::Below(suffix), AskedHost::Name(name)) => {
                let end = name.len().checked_sub(suffix.len()).filter(|at| *at > 0);
                end.and_then(|at| name.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
            (Wanted::Address(wanted), AskedHost::Address(address)) => *wanted == address,
            _ => false,
        };
        named
            && match (self.port, asked.port) {
                (None, _) => true,
                (Some(wanted), Some(port)) => wanted == port,
                (Some(wanted), None) => doubt || wanted == DEFAULT_PORT,
            }
    }
}

impl fmt::Display for HostRule {
    /// [`HostRule::parse`] gives the same again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Wanted::Name(name) => f.write_str(name)?,
            Wanted::Below(suffix) => write!(f, "*{suffix}")?,
            Wanted::Address(IpAddr::V4(address)) => write!(f, "{address}")?,
            Wanted::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `yes`, `no`, or `doubt`: an allow rule does not match, a deny rule does.
    fn meets(rule: &str, authority: &str) -> &'static str {
        let rule = HostRule::parse(rule).unwrap_or_else(|error| panic!("{rule}: {error}"));
        match (rule.matches(Asked::read(authority), false), rule.matches(Asked::read(authority), true)) {
            (true, true) => "yes",
            (false, false) => "no",
            (false, true) => "doubt",
            (true, false) => panic!("{rule} {authority}: certain of what is in doubt"),
        }
    }

    #[test]
    fn a_host_is_met_however_a_request_spells_it() {
        for (rule, authority, met) in [
            ("api", "api", "yes"),
            ("api", "API", "yes"),
            ("Api", "api:8080", "yes"),
            ("api", "api.", "yes"),
            ("api.", "api:1", "yes"),
            ("api", "api:", "yes"),
            ("api", "api.shop", "no"),
            ("api", "xapi", "no"),
            ("api:8080", "api:8080", "yes"),
            ("api:8080", "api:08080", "yes"),
            ("api:8080", "api:80", "no"),
            ("api:8080", "api", "doubt"),
            ("api:80", "api", "yes"),
            ("*.shop", "api.shop", "yes"),
            ("*.shop", "A.B.Shop.:1", "yes"),
            ("*.shop", "shop", "no"),
            ("*.shop", ".shop", "doubt"),
            ("*.shop", "apishop", "no"),
            ("*.shop:80", "api.shop:81", "no"),
            ("10.0.0.1", "10.0.0.1:80", "yes"),
            ("10.0.0.1", "[::ffff:10.0.0.1]", "yes"),
            ("10.0.0.1", "10.0.0.2", "no"),
            ("[fd00::1]:80", "[FD00:0::1]", "yes"),
            ("[fd00::1]", "[fd00::2]", "no"),
            ("xn--caf-dma", "XN--caf-DMA", "yes"),
        ] {
            assert_eq!(meets(rule, authority), met, "{rule} {authority}");
        }
    }

    #[test]
    fn what_servers_read_in_different_ways_is_in_doubt() {
        for authority in [
            "",
            ":80",
            "a..b",
            "a:80:80",
            "a:x",
            "a:0",
            "a:65536",
            "a:+80",
            "%61pi",
            "user@api",
            "10.1",
            "0x0a.0.0.0x1",
            "2130706433",
            "010.0.0.1",
            "[fe80::1%25eth0]",
            "[::1",
            "[::1]x",
            "caf\u{e9}",
            "a b",
        ] {
            assert_eq!(meets("api", authority), "doubt", "{authority}");
            assert_eq!(meets("10.0.0.1", authority), "doubt", "{authority}");
        }
    }

    #[test]
    fn a_rule_is_written_as_it_is_read_and_names_what_a_request_can_say() {
        for text in ["api", "api:8080", "*.shop.svc", "*.shop:1", "10.0.0.1:80", "[fd00::1]", "[fd00::1]:443", "a_b"] {
            assert_eq!(HostRule::parse(text).unwrap().to_string(), text);
        }
        for (text, wrong) in [
            ("", InvalidHostRule::Host),
            ("*", InvalidHostRule::Host),
            ("*.", InvalidHostRule::Host),
            ("a.*", InvalidHostRule::Host),
            ("*.10.0.0.1", InvalidHostRule::Host),
            ("fd00::1", InvalidHostRule::Port),
            ("http://api", InvalidHostRule::Port),
            ("10.1", InvalidHostRule::Host),
            ("api:", InvalidHostRule::Port),
            ("api:0", InvalidHostRule::Port),
            ("caf\u{e9}", InvalidHostRule::Idna),
        ] {
            assert_eq!(HostRule::parse(text), Err(wrong), "{text}");
        }
    }
}
