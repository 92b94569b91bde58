//! The word that the kubelet's paths begin with, made per pod by the injector. In: the setting, and what a path has in its
//! place. Out: whether they are the same, after the same time whatever they share.

use std::{fmt, hint::black_box, sync::Arc};

/// A shorter one could be guessed; a longer one is an error.
const BYTES: std::ops::RangeInclusive<usize> = 16..=128;

/// Not shown by anything.
#[derive(Clone)]
pub(crate) struct Token(Arc<str>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Reads the setting; empty text is none.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        match text {
            "" => Ok(None),
            _ if BYTES.contains(&text.len()) && text.bytes().all(plain) => Ok(Some(Self(text.into()))),
            _ => Err(format!("is {} to {} of A-Z, a-z, 0-9, '-' and '_'", BYTES.start(), BYTES.end())),
        }
    }

    /// Whether `given` is the token.
    pub(crate) fn is(&self, given: &str) -> bool {
        let (own, given) = (self.0.as_bytes(), given.as_bytes());
        let pairs = given.iter().zip(own.iter().cycle());
        let differ = pairs.fold(own.len() ^ given.len(), |differ, (a, b)| differ | usize::from(a ^ b));
        black_box(differ) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_alone() {
        let token = Token::parse("0123456789abcdef").unwrap().unwrap();
        assert!(token.is("0123456789abcdef"));
        for other in
            ["", "0", "0123456789abcdeF", "0123456789abcde", "0123456789abcdef0", "0123456789abcdef0123456789abcdef"]
        {
            assert!(!token.is(other), "{other}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(Token::parse("").unwrap().is_none());
        for bad in ["short", "0123456789abcde/", "0123456789 abcdef", &"x".repeat(129)] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }
}
