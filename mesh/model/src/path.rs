//! The one form of a path that policies are compared with, and the patterns that are compared with it.
//!
//! Applications read a path in different ways; a policy must not be evaded by another spelling of the path that it
//! guards. So requests and patterns are canonicalised by the same function ([`canonical`]), the application gets the bytes
//! as they came, and a path without a canonical form is refused where there is a policy on paths at all.
//!
//! **Nothing that we do to a path takes a name out of it.** Slashes merge, `.` and parameters go; a server that does less than
//! that sees the same names. Only `..` removes one, and servers differ in which: `/a//../b` is `/b` for one that merges
//! slashes first, `/a/b` by RFC 3986 §5.2.4; `/a/..;/b` is `/b` only where `;` begins parameters; and one that does not
//! resolve it at all routes by `/a`. So a path with `..` has no form.

use std::{borrow::Cow, fmt, sync::Arc};

/// Why a path has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    #[error("the path has an escape that is not two hexadecimal digits")]
    BrokenEscape,
    #[error("the path still has an escaped separator, dot, percent or control character after decoding once")]
    EscapedMeaning,
    #[error("the path has a segment `..`, which servers resolve in different ways")]
    Climbs,
    #[error("the path has a backslash, a control character or bytes that are no UTF-8")]
    StrangeByte,
    #[error("the path is not absolute")]
    NotAbsolute,
}

/// A path as policies name it: `/a/b` (exactly this path) or `/a/*` (whole segments below `/a`, and `/a` itself).
///
/// Canonical by construction, so that it can match whatever spelling of the path a request has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PathPattern {
    /// Canonical; without a trailing slash, so that `/*` is empty.
    path: Arc<str>,
    /// Whether everything below is meant as well.
    below: bool,
}

/// Why a text is no [`PathPattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPathPattern {
    #[error("a star may only be the whole last segment")]
    Star,
    #[error("no request can match it: {0}")]
    Ambiguous(#[from] Ambiguous),
}

impl PathPattern {
    /// Reads the form that users write.
    pub fn parse(text: &str) -> Result<Self, InvalidPathPattern> {
        match text.strip_suffix("/*") {
            Some("") => Ok(Self { path: "".into(), below: true }),
            Some(prefix) => Self::new(prefix, true),
            None => Self::new(text, false),
        }
    }

    fn new(path: &str, below: bool) -> Result<Self, InvalidPathPattern> {
        let path = canonical(path)?;
        // Also one that was escaped: written as it is kept, it would be read as a star that means everything below.
        if path.contains('*') {
            return Err(InvalidPathPattern::Star);
        }
        let path = if below { path.trim_end_matches('/') } else { &path };
        Ok(Self { path: path.into(), below })
    }

    /// Whether `path`, which [`canonical`] made, is meant.
    pub fn matches(&self, path: &str) -> bool {
        match path.strip_prefix(&*self.path) {
            Some("") => true,
            Some(rest) => self.below && rest.starts_with('/'),
            None => false,
        }
    }
}

impl fmt::Display for PathPattern {
    /// The canonical spelling; [`PathPattern::parse`] gives the same pattern again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if self.below { f.write_str("/*") } else { Ok(()) }
    }
}

/// Decodes once, drops `;parameters` and `.`, merges slashes. `/` stays `/`; a trailing slash is dropped; `..` is refused.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    if !path.starts_with('/') {
        return Err(Ambiguous::NotAbsolute);
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'~' | b'/');
    if path.bytes().all(plain) && !path.contains("//") && (path.len() == 1 || !path.ends_with('/')) {
        return Ok(path.into());
    }
    let decoded = decode(path)?;
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => return Err(Ambiguous::Climbs),
            name => segments.push(name),
        }
    }
    Ok(format!("/{}", segments.join("/")).into())
}

fn decode(path: &str) -> Result<String, Ambiguous> {
    let mut bytes = path.bytes();
    let mut out = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or(Ambiguous::BrokenEscape);
                let value = (digit()? * 16 + digit()?) as u8;
                if matches!(value, b'/' | b'\\' | b'%' | b'.' | b';' | b'?' | b'#') || value.is_ascii_control() {
                    return Err(Ambiguous::EscapedMeaning);
                }
                out.push(value);
            }
            b'\\' | b'#' => return Err(Ambiguous::StrangeByte),
            byte if byte.is_ascii_control() => return Err(Ambiguous::StrangeByte),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).map_err(|_| Ambiguous::StrangeByte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<&str, Ambiguous>) {
        assert_eq!(canonical(path).as_deref(), expected.as_ref().copied(), "{path}");
    }

    #[test]
    fn every_spelling_of_a_path_has_one_form_or_none() {
        check("/", Ok("/"));
        check("/a/b", Ok("/a/b"));
        check("/a//b/", Ok("/a/b"));
        check("/a/./b", Ok("/a/b"));
        check("/a;v=1/b;w", Ok("/a/b"));
        check("/%61dmin", Ok("/admin"));
        check("/caf%C3%A9", Ok("/café"));
        check("/file.txt", Ok("/file.txt"));
        check("/a/..b/c..", Ok("/a/..b/c.."));
        check("/a/...", Ok("/a/..."));
        check("/a%2Fb", Err(Ambiguous::EscapedMeaning));
        check("/a%5cb", Err(Ambiguous::EscapedMeaning));
        check("/%2e%2e/a", Err(Ambiguous::EscapedMeaning));
        check("/%252e", Err(Ambiguous::EscapedMeaning));
        check("/a%00", Err(Ambiguous::EscapedMeaning));
        check("/a\\b", Err(Ambiguous::StrangeByte));
        check("/%c0%ae", Err(Ambiguous::StrangeByte));
        check("/%4", Err(Ambiguous::BrokenEscape));
        check("/%zz", Err(Ambiguous::BrokenEscape));
        check("*", Err(Ambiguous::NotAbsolute));
        check("", Err(Ambiguous::NotAbsolute));
    }

    #[test]
    fn a_path_that_takes_a_name_back_has_no_form() {
        for path in [
            "/..",
            "/../x",
            "/admin/..",
            "/admin/../",
            "/admin/../public",
            "/admin//../public",
            "/admin/x/../../public",
            "/admin/./../public",
            "/admin/..;/public",
            "/admin/..;v=1/public",
            "/public/../%61dmin",
            "/public/..//admin",
        ] {
            check(path, Err(Ambiguous::Climbs));
            assert!(PathPattern::parse(path).is_err() && PathPattern::parse(&format!("{path}/*")).is_err(), "{path}");
        }
    }

    #[test]
    fn a_pattern_meets_every_spelling_of_its_path() {
        let meets = |pattern: &str, path: &str| {
            PathPattern::parse(pattern).expect(pattern).matches(&canonical(path).expect(path))
        };
        for pattern in ["/admin", "/admin/", "/./admin", "//admin", "/%61dmin", "/admin;v=1"] {
            for path in ["/admin", "/admin/", "/./admin", "/adm%69n"] {
                assert!(meets(pattern, path), "{pattern} {path}");
            }
            assert!(!meets(pattern, "/admin/x") && !meets(pattern, "/administrator"), "{pattern}");
        }
        for pattern in ["/admin/*", "/admin//*", "/./admin/*"] {
            assert!(meets(pattern, "/admin") && meets(pattern, "/admin/x/y"), "{pattern}");
            assert!(!meets(pattern, "/administrator") && !meets(pattern, "/"), "{pattern}");
        }
        assert!(meets("/*", "/") && meets("/*", "/x") && meets("/", "/") && !meets("/", "/x"));
        let again = |text: &str| PathPattern::parse(text).expect(text).to_string();
        assert_eq!([again("/*"), again("/"), again("/a//b/*")], ["/*", "/", "/a/b/*"]);
    }

    #[test]
    fn a_pattern_that_no_request_can_match_is_refused() {
        let error = |text: &str| PathPattern::parse(text).expect_err(text);
        for text in ["/a*", "/*/a", "/a/*/b", "/**", "/a/**", "/a/%2a", "/a%2A", "/%2a/*"] {
            assert_eq!(error(text), InvalidPathPattern::Star, "{text}");
        }
        for text in ["", "a", "*", "/..", "/a%2Fb", "/a\\b", "/%zz", "/../*"] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_escapes_of_a_guarded_path_meet_the_policy_or_are_refused() {
        for byte in 0..=255_u8 {
            for spelled in [format!("/%{byte:02x}dmin"), format!("/%{byte:02X}dmin")] {
                match canonical(&spelled) {
                    Ok(path) => assert!(path == "/admin" || byte != b'a', "{spelled} is {path}"),
                    Err(_) => assert_ne!(byte, b'a'),
                }
            }
        }
    }
}
