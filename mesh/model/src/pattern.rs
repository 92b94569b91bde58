//! Regular expressions of routes.

use regex::bytes::{Regex, RegexBuilder};
use std::fmt;

/// The compiled size a pattern may have, in bytes; a larger one is refused when it is read.
pub const PATTERN_BYTES_MAX: usize = 64 * 1024;

/// A regular expression in RE2's syntax that must match the whole value, in time linear in its length.
///
/// A value is bytes, as paths and fields are: `.` and `[^/]` stand for one byte each, and `\d`, `\w`, `\s`, `\b` know ASCII alone, as
/// RE2 has it. What needs Unicode's tables (`\p{Greek}`, `[é]`) is refused.
#[derive(Clone)]
pub struct Pattern(Regex);

/// Why a text is no [`Pattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// With the library's word.
    #[error("{0}")]
    Syntax(String),
    #[error("it takes more than {PATTERN_BYTES_MAX} bytes when it is compiled; write smaller counts in braces")]
    Size,
}

impl Pattern {
    /// Compiles `text`, anchored at both ends.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        // Checked alone first, so that `a)(b` cannot close our group.
        compile(text)?;
        compile(&format!("^(?:{text})$")).map(Self)
    }

    /// Whether the whole of `value` matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.0.is_match(value)
    }

    /// The text it was made from.
    pub fn as_str(&self) -> &str {
        let text = self.0.as_str();
        text.strip_prefix("^(?:").and_then(|t| t.strip_suffix(")$")).unwrap_or(text)
    }
}

fn compile(text: &str) -> Result<Regex, InvalidPattern> {
    RegexBuilder::new(text).unicode(false).size_limit(PATTERN_BYTES_MAX).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => InvalidPattern::Size,
        // The library draws the place over several lines; the last says what is wrong.
        other => {
            let said = other.to_string();
            let why = said.lines().last().unwrap_or_default();
            InvalidPattern::Syntax(why.trim_start_matches("error: ").to_owned())
        }
    })
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, value: &str) -> bool {
        Pattern::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).matches(value.as_bytes())
    }

    #[test]
    fn a_pattern_matches_the_whole_value_or_not_at_all() {
        for (pattern, value, whole) in [
            ("/a|/b", "/b", true),
            ("/a|/b", "/bc", false),
            ("/a|/b", "x/a", false),
            ("", "", true),
            ("", "a", false),
            ("/a\n?", "/a\n", true),
            ("/a", "/a\n", false),
            ("(?m)a$", "a\nb", false),
            ("(?i)abc", "aBC", true),
        ] {
            assert_eq!(matches(pattern, value), whole, "{pattern:?} {value:?}");
        }
        for wrong in ["a)(b", "(", "[a", "*a", "(?x)a # b"] {
            assert!(matches!(Pattern::new(wrong), Err(InvalidPattern::Syntax(why)) if !why.is_empty()), "{wrong}");
        }
        assert_eq!(Pattern::new("/a|/b").unwrap().as_str(), "/a|/b");
    }

    #[test]
    fn classes_are_ascii_as_re2_has_them() {
        // ARABIC-INDIC DIGIT THREE, LATIN SMALL LETTER E WITH ACUTE, NO-BREAK SPACE.
        for (pattern, value) in
            [(r"\d", "\u{663}"), (r"\w{1,2}", "\u{e9}"), (r"\s{1,2}", "\u{a0}"), (r"[[:alpha:]]+", "\u{e9}")]
        {
            assert!(!matches(pattern, value), "{pattern}");
        }
        for (pattern, value) in
            [(r"\d\w\s", "3_ "), (r"\D{2}", "\u{663}"), ("caf\u{e9}", "caf\u{e9}"), (r"caf\xc3\xa9", "caf\u{e9}")]
        {
            assert!(matches(pattern, value), "{pattern}");
        }
        for unicode in [r"\p{Greek}", "[\u{e9}]"] {
            assert!(matches!(Pattern::new(unicode), Err(InvalidPattern::Syntax(_))), "{unicode}");
        }
        assert!(Pattern::new(".").unwrap().matches(&[0xff]), "a field may hold any byte");
    }

    #[test]
    fn counts_that_people_write_fit_and_others_are_told_their_bound() {
        for pattern in [
            r"/api/v1/object/\w{32}/action",
            r"/api/v1/object/[\w]{32}/action",
            "/[^/]{1,63}",
            r"/[\w.-]{8,40}",
            "/.{1,200}",
            "/[a-zA-Z0-9._-]{0,200}/[a-zA-Z0-9._-]{0,200}",
            "/v4/advisory/[0-9a-z-]{36}/clone",
        ] {
            assert!(Pattern::new(pattern).is_ok(), "{pattern}: {:?}", Pattern::new(pattern));
        }
        for pattern in ["a{1000}{1000}", "(.{1,200}){1,200}"] {
            assert_eq!(Pattern::new(pattern).unwrap_err(), InvalidPattern::Size, "{pattern}");
        }
        assert!(InvalidPattern::Size.to_string().contains("65536 bytes"));
    }
}
