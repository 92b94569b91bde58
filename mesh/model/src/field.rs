//! Header fields and gRPC methods as authorization rules name them.
//!
//! In: the fields of a request. Out: whether a rule means them, for certain or in doubt. A field may come in several lines, and a line
//! may hold several values with commas between them, which is the same (RFC 9110 §5.3): a rule looks at each value.

use crate::{load_balancer::is_sent_on, path::PathPattern};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::{fmt, str, sync::Arc};

/// The longest value that a rule may name, in bytes: the whole of it is compared with each value of a request.
pub const FIELD_VALUE_BYTES_MAX: usize = 1024;
/// The longest name of a gRPC service or method, in bytes: far more than any that is in use.
pub const GRPC_NAME_BYTES_MAX: usize = 256;

/// How the values of a [`FieldRule`] are compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum FieldMatch {
    #[default]
    Exact,
    Prefix,
}

/// What a rule says of a header field: each value that a request has there is one of these, or begins with one. A request without the
/// field does not match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldRule {
    name: HeaderName,
    by: FieldMatch,
    values: Vec<Arc<str>>,
}

/// Why something is no [`FieldRule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidField {
    #[error("is no header name")]
    Name,
    #[error("is a header that no rule can ask for: it is not sent on as it is, or has a field of its own (hosts)")]
    NotSentOn,
    #[error("is a list with semicolons, of which rules do not know the parts")]
    Cookie,
    #[error("has no value, which would match every one")]
    NoValue,
    #[error(
        "is empty, has a comma, which stands between values, has a space around it, or is none that a header can have"
    )]
    Value,
    #[error("is longer than {FIELD_VALUE_BYTES_MAX} bytes")]
    TooLong,
}

impl FieldRule {
    /// Reads a rule; the name in any case.
    pub fn new(name: &str, by: FieldMatch, values: &[impl AsRef<str>]) -> Result<Self, InvalidField> {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| InvalidField::Name)?;
        if name == http::header::COOKIE {
            return Err(InvalidField::Cookie);
        }
        if !is_sent_on(&name) {
            return Err(InvalidField::NotSentOn);
        }
        if values.is_empty() {
            return Err(InvalidField::NoValue);
        }
        let values = values.iter().map(|text| value(text.as_ref(), by)).collect::<Result<_, _>>()?;
        Ok(Self { name, by, values })
    }

    /// In lower case.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// How its values are compared.
    pub fn by(&self) -> FieldMatch {
        self.by
    }

    /// In the order in which they were given.
    pub fn values(&self) -> &[Arc<str>] {
        &self.values
    }

    /// Whether it means the fields of a request: for certain, where every value is one that it names; or (`doubt`) perhaps, where any
    /// is, in whatever case, or cannot be read. Servers of the CGI's kind take `_` in a name for `-`: both are looked at.
    pub fn matches(&self, fields: &HeaderMap, doubt: bool) -> bool {
        let mut lines = fields.iter().filter(|(name, _)| is_same(name, &self.name)).map(|(_, value)| value).peekable();
        if doubt {
            return lines.any(|line| self.might_be(line));
        }
        lines.peek().is_some() && lines.all(|line| self.is(line))
    }

    fn is(&self, line: &HeaderValue) -> bool {
        let Ok(text) = str::from_utf8(line.as_bytes()) else { return false };
        let mut values = members(text).peekable();
        let named = |value: &str| {
            self.values.iter().any(|wanted| match self.by {
                FieldMatch::Exact => **wanted == *value,
                FieldMatch::Prefix => value.starts_with(&**wanted),
            })
        };
        values.peek().is_some() && values.all(named)
    }

    fn might_be(&self, line: &HeaderValue) -> bool {
        let Ok(text) = str::from_utf8(line.as_bytes()) else { return true };
        members(text).any(|value| {
            self.values.iter().any(|wanted| {
                let begins = value.as_bytes().get(..wanted.len());
                let whole = self.by == FieldMatch::Prefix || value.len() == wanted.len();
                whole && begins.is_some_and(|begin| begin.eq_ignore_ascii_case(wanted.as_bytes()))
            })
        })
    }
}

/// A prefix may end with a space (`Bearer `).
fn value(text: &str, by: FieldMatch) -> Result<Arc<str>, InvalidField> {
    if text.len() > FIELD_VALUE_BYTES_MAX {
        return Err(InvalidField::TooLong);
    }
    let possible = HeaderValue::from_bytes(text.as_bytes()).is_ok();
    let trimmed = match by {
        FieldMatch::Exact => text.trim_matches([' ', '\t']),
        FieldMatch::Prefix => text.trim_start_matches([' ', '\t']),
    };
    if !trimmed.is_empty() && trimmed == text && !text.contains(',') && possible {
        Ok(text.into())
    } else {
        Err(InvalidField::Value)
    }
}

/// Empty ones count for nothing (RFC 9110 §5.6.1.2).
fn members(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|value| value.trim_matches([' ', '\t'])).filter(|value| !value.is_empty())
}

fn is_same(a: &HeaderName, b: &HeaderName) -> bool {
    let plain = |b: u8| if b == b'_' { b'-' } else { b };
    let (a, b) = (a.as_str().as_bytes(), b.as_str().as_bytes());
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| plain(*a) == plain(*b))
}

/// A gRPC service (`shop.Cart`), or one method of it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GrpcRule {
    service: Arc<str>,
    method: Option<Arc<str>>,
}

/// The text is no name of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrpc {
    #[error("is no gRPC service: write it with its package, as shop.v1.Cart")]
    Service,
    #[error("is no gRPC method: write its name alone, as Get")]
    Method,
}

impl GrpcRule {
    /// Reads one. Case counts, as servers have it.
    pub fn new(service: &str, method: Option<&str>) -> Result<Self, InvalidGrpc> {
        let word = |word: &str| {
            let begins = word.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            begins && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if service.len() > GRPC_NAME_BYTES_MAX || !service.split('.').all(word) {
            return Err(InvalidGrpc::Service);
        }
        if method.is_some_and(|method| method.len() > GRPC_NAME_BYTES_MAX || !word(method)) {
            return Err(InvalidGrpc::Method);
        }
        Ok(Self { service: service.into(), method: method.map(Into::into) })
    }

    /// With its package.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Without one, all of the service's.
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// The paths that it means for certain: of a service, those with one name behind it; or (`doubt`) all below it.
    pub fn paths(&self, doubt: bool) -> PathPattern {
        match &self.method {
            Some(method) => PathPattern::exact(&[&self.service, method]),
            None if doubt => PathPattern::below(&self.service),
            None => PathPattern::one_below(&self.service),
        }
    }
}

impl fmt::Display for GrpcRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.method().unwrap_or("*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As of the tests of `host`.
    fn meets(rule: &FieldRule, lines: &[(&str, &[u8])]) -> &'static str {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        match (rule.matches(&fields, false), rule.matches(&fields, true)) {
            (true, true) => "yes",
            (false, false) => "no",
            (false, true) => "doubt",
            (true, false) => panic!("{rule:?} {lines:?}: certain of what is in doubt"),
        }
    }

    #[test]
    fn every_value_of_a_field_must_match_and_any_may() {
        let exact = FieldRule::new("X-Role", FieldMatch::Exact, &["admin", "root"]).unwrap();
        for (lines, met) in [
            (&[][..], "no"),
            (&[("x-role", &b"admin"[..])], "yes"),
            (&[("x-role", b"root"), ("x-role", b"admin")], "yes"),
            (&[("x-role", b"admin"), ("x-role", b"user")], "doubt"),
            (&[("x-role", b"user"), ("x-role", b"admin")], "doubt"),
            (&[("x-role", b"user,admin")], "doubt"),
            (&[("x-role", b"admin, root")], "yes"),
            (&[("x-role", b"admin,,")], "yes"),
            (&[("x-role", b"Admin")], "doubt"),
            (&[("x-role", b"administrator")], "no"),
            (&[("x-role", b"")], "no"),
            (&[("x-role", b"admin"), ("x-role", b"")], "doubt"),
            (&[("x-role", b"\xff")], "doubt"),
            (&[("x_role", b"admin")], "yes"),
            (&[("x-role", b"user"), ("x_role", b"admin")], "doubt"),
            (&[("x-roles", b"admin")], "no"),
        ] {
            assert_eq!(meets(&exact, lines), met, "{lines:?}");
        }
        let prefix = FieldRule::new("authorization", FieldMatch::Prefix, &["Basic "]).unwrap();
        for (value, met) in [("Basic eHg=", "yes"), ("basic eHg=", "doubt"), ("Bearer x", "no"), ("Basic", "no")] {
            assert_eq!(meets(&prefix, &[("authorization", value.as_bytes())]), met, "{value}");
        }
    }

    #[test]
    fn a_rule_names_what_reaches_the_application_as_one_value() {
        let read = |name: &str, values: &[&str]| FieldRule::new(name, FieldMatch::Exact, values).map(drop);
        assert_eq!(read("x-a", &["b"]), Ok(()));
        for name in ["host", "connection", "x-remora-client-id", "te", "upgrade"] {
            assert_eq!(read(name, &["b"]), Err(InvalidField::NotSentOn), "{name}");
        }
        assert_eq!(read("cookie", &["b"]), Err(InvalidField::Cookie));
        assert_eq!(read("a b", &["b"]), Err(InvalidField::Name));
        assert_eq!(read("x-a", &[]), Err(InvalidField::NoValue));
        for value in ["", "a,b", " a", "a ", "a\n"] {
            assert_eq!(read("x-a", &[value]), Err(InvalidField::Value), "{value:?}");
        }
        assert_eq!(read("x-a", &[&"a".repeat(FIELD_VALUE_BYTES_MAX + 1)]), Err(InvalidField::TooLong));
    }

    #[test]
    fn a_grpc_rule_is_the_path_of_its_calls() {
        let paths = |method, doubt| GrpcRule::new("shop.v1.Cart", method).unwrap().paths(doubt);
        assert!(
            paths(Some("Get"), false).matches("/shop.v1.Cart/Get") && paths(None, false).matches("/shop.v1.Cart/Get")
        );
        for (path, perhaps) in [("/shop.v1.Cart", true), ("/shop.v1.Cart/Get/x", true), ("/shop.v1.cart/Get", false)] {
            assert!(!paths(None, false).matches(path) && paths(None, true).matches(path) == perhaps, "{path}");
            assert!(!paths(Some("Get"), true).matches(path), "{path}");
        }
        for (service, method, wrong) in [
            ("", None, InvalidGrpc::Service),
            ("a/b", None, InvalidGrpc::Service),
            ("a..b", None, InvalidGrpc::Service),
            ("1a", None, InvalidGrpc::Service),
            ("a", Some(""), InvalidGrpc::Method),
            ("a", Some("*"), InvalidGrpc::Method),
            ("a", Some("b/c"), InvalidGrpc::Method),
        ] {
            assert_eq!(GrpcRule::new(service, method), Err(wrong), "{service} {method:?}");
        }
    }
}
