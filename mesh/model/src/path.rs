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

/// A path as policies name it: `/a/b` (exactly this path), `/a/*` (whole segments below `/a`, and `/a` itself), or a template:
/// `/users/{id}` (`{id}` stands for one segment, as `{*}` does) and `/a/{**}/b` (`{**}` stands for any number of segments, none included).
///
/// Canonical by construction, so that it can match whatever spelling of the path a request has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PathPattern {
    /// Canonical, up to the first segment that stands for others; without a trailing slash, so that of `/*` it is empty.
    path: Arc<str>,
    rest: Rest,
}

/// What may follow the literal part of a pattern.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Rest {
    Nothing,
    /// Everything below.
    Below,
    /// At most one of them is [`Piece::Any`], and the first is no name.
    Template(Arc<[Piece]>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Piece {
    Name(Arc<str>),
    /// One segment, with the name that users gave it.
    One(Arc<str>),
    /// Any number of them.
    Any,
}

/// Why a text is no [`PathPattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPathPattern {
    #[error("a star may only be the whole last segment, or stand in braces")]
    Star,
    #[error("braces stand around a whole segment: {{name}} for one segment, {{**}} for any number of them")]
    Braces,
    #[error("{{**}} and a star at the end stand for any number of segments, of which there may be one")]
    Twice,
    #[error("no request can match it: {0}")]
    Ambiguous(#[from] Ambiguous),
}

impl PathPattern {
    /// Reads the form that users write.
    pub fn parse(text: &str) -> Result<Self, InvalidPathPattern> {
        match text.strip_suffix("/*") {
            Some("") => Ok(Self { path: "".into(), rest: Rest::Below }),
            Some(prefix) => Self::new(prefix, true),
            None => Self::new(text, false),
        }
    }

    fn new(text: &str, below: bool) -> Result<Self, InvalidPathPattern> {
        // What was escaped would be read as more than itself once it is written as it is kept.
        let lower = text.to_ascii_lowercase();
        if lower.contains("%2a") {
            return Err(InvalidPathPattern::Star);
        }
        if lower.contains("%7b") || lower.contains("%7d") {
            return Err(InvalidPathPattern::Braces);
        }
        let path = canonical(text)?;
        if !path.contains(['*', '{', '}']) {
            let path = if below { path.trim_end_matches('/') } else { &path };
            return Ok(Self { path: path.into(), rest: if below { Rest::Below } else { Rest::Nothing } });
        }
        let segments = path.split('/').skip(1).map(Piece::read);
        let mut pieces: Vec<Piece> = segments.collect::<Result<_, _>>()?;
        pieces.extend(below.then_some(Piece::Any));
        if pieces.iter().filter(|piece| **piece == Piece::Any).count() > 1 {
            return Err(InvalidPathPattern::Twice);
        }
        let literal = pieces.iter().take_while(|piece| matches!(piece, Piece::Name(_))).count();
        let rest = pieces.split_off(literal);
        let path: String = pieces.iter().map(|piece| format!("/{piece}")).collect();
        let rest = if rest == [Piece::Any] { Rest::Below } else { Rest::Template(rest.into()) };
        Ok(Self { path: path.into(), rest })
    }

    /// Exactly these segments, each of which is canonical.
    pub(crate) fn exact(segments: &[&str]) -> Self {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        Self { path: path.into(), rest: Rest::Nothing }
    }

    /// This segment, which is canonical, and all below.
    pub(crate) fn below(segment: &str) -> Self {
        Self { rest: Rest::Below, ..Self::exact(&[segment]) }
    }

    /// This segment, which is canonical, and one below.
    pub(crate) fn one_below(segment: &str) -> Self {
        Self { rest: Rest::Template([Piece::One("*".into())].into()), ..Self::exact(&[segment]) }
    }

    /// The part at the beginning that is the same in all paths that it matches, without a slash at its end.
    pub fn literal(&self) -> &str {
        if *self.path == *"/" { "" } else { &self.path }
    }

    /// Whether it has segments in braces.
    pub fn is_template(&self) -> bool {
        matches!(self.rest, Rest::Template(_))
    }

    /// Whether `path`, which [`canonical`] made, is meant.
    pub fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(&*self.path) else { return false };
        match &self.rest {
            Rest::Nothing => rest.is_empty(),
            Rest::Below => rest.is_empty() || rest.starts_with('/'),
            Rest::Template(pieces) => match rest.strip_prefix('/') {
                None => rest.is_empty() && pieces.iter().all(|piece| *piece == Piece::Any),
                Some("") => pieces.iter().all(|piece| *piece == Piece::Any),
                Some(rest) => follow(rest, pieces),
            },
        }
    }
}

/// Whether the segments of `path` are those of `pieces`, one after the other.
fn follow(path: &str, pieces: &[Piece]) -> bool {
    let mut segments = path.split('/');
    for (at, piece) in pieces.iter().enumerate() {
        if *piece == Piece::Any {
            let mut behind = pieces.iter().skip(at + 1).rev();
            return behind.all(|piece| segments.next_back().is_some_and(|segment| piece.is(segment)));
        }
        if !segments.next().is_some_and(|segment| piece.is(segment)) {
            return false;
        }
    }
    segments.next().is_none()
}

impl Piece {
    fn read(segment: &str) -> Result<Self, InvalidPathPattern> {
        let Some(braced) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            return match segment {
                name if name.contains('*') => Err(InvalidPathPattern::Star),
                name if name.contains(['{', '}']) => Err(InvalidPathPattern::Braces),
                name => Ok(Self::Name(name.into())),
            };
        };
        let named = !braced.is_empty() && braced.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        match braced {
            "**" => Ok(Self::Any),
            one if named || one == "*" => Ok(Self::One(one.into())),
            _ => Err(InvalidPathPattern::Braces),
        }
    }

    fn is(&self, segment: &str) -> bool {
        match self {
            Self::Name(name) => **name == *segment,
            Self::One(_) => true,
            Self::Any => false,
        }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::One(name) => write!(f, "{{{name}}}"),
            Self::Any => f.write_str("{**}"),
        }
    }
}

impl fmt::Display for PathPattern {
    /// The canonical spelling; [`PathPattern::parse`] gives the same pattern again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        match &self.rest {
            Rest::Nothing => Ok(()),
            Rest::Below => f.write_str("/*"),
            Rest::Template(pieces) => pieces.iter().try_for_each(|piece| write!(f, "/{piece}")),
        }
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
    fn braces_stand_for_segments_and_never_for_a_part_of_one() {
        for (pattern, yes, no) in [
            ("/users/{id}", &["/users/1", "/users/%31/", "//users/a.b"][..], &["/users", "/users/1/x", "/user/1"][..]),
            ("/users/{id}/*", &["/users/1", "/users/1/x/y"], &["/users", "/users/", "/"]),
            ("/users/{id}/posts/{post}", &["/users/1/posts/2"], &["/users/1/posts", "/users/1/post/2"]),
            ("/{*}/admin", &["/a/admin"], &["/admin", "/a/b/admin"]),
            ("/a/{**}/b", &["/a/b", "/a/x/b", "/a/x/y/b", "/a/b/b"], &["/a", "/b", "/a/x", "/a/b/x", "/ab/b"]),
            ("/{**}/admin", &["/admin", "/a/b/admin"], &["/", "/xadmin", "/admin/x"]),
            ("/a/{**}/{x}", &["/a/b", "/a/b/c"], &["/a", "/a/"]),
            ("/{**}", &["/", "/a", "/a/b"], &[]),
            ("/{x}", &["/a"], &["/", "/a/b"]),
            ("/{x}/{**}/b/{y}", &["/a/b/c", "/a/z/b/c"], &["/a/b", "/b/c"]),
        ] {
            let parsed = PathPattern::parse(pattern).expect(pattern);
            assert_eq!(PathPattern::parse(&parsed.to_string()).as_ref(), Ok(&parsed), "{parsed}");
            for (paths, meets) in [(yes, true), (no, false)] {
                for path in paths {
                    assert_eq!(parsed.matches(&canonical(path).expect(path)), meets, "{pattern} {path}");
                }
            }
        }
        let written = |text: &str| PathPattern::parse(text).expect(text).to_string();
        assert_eq!([written("/a/{**}"), written("/{x}/*"), written("/a//{b}/")], ["/a/*", "/{x}/{**}", "/a/{b}"]);
        let literal = |text: &str| PathPattern::parse(text).expect(text).literal().to_owned();
        assert_eq!([literal("/a/{b}/c"), literal("/"), literal("/*"), literal("/a/*")], ["/a", "", "", "/a"]);
    }

    #[test]
    fn a_pattern_that_no_request_can_match_is_refused() {
        let error = |text: &str| PathPattern::parse(text).expect_err(text);
        for text in ["/a*", "/*/a", "/a/*/b", "/**", "/a/**", "/a/%2a", "/a%2A", "/%2a/*", "/{a}/b*", "/{%2a}"] {
            assert_eq!(error(text), InvalidPathPattern::Star, "{text}");
        }
        for text in ["/{", "/a{b}", "/{a}b", "/{}", "/{a b}", "/{a;b}", "/%7bid%7D", "/{a/b}", "/{***}", "/{{a}}"] {
            assert_eq!(error(text), InvalidPathPattern::Braces, "{text}");
        }
        for text in ["/{**}/{**}", "/a/{**}/b/*", "/{**}/*"] {
            assert_eq!(error(text), InvalidPathPattern::Twice, "{text}");
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
