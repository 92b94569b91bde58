//! The one form of a path that policies are compared with.
//!
//! Applications read a path in different ways; a policy must not be talked round by another spelling of the path that
//! it guards. So policies see a canonical form, the application gets the bytes as they came, and a path whose
//! canonical form cannot be known for sure is refused where there is a policy on paths at all.

use std::borrow::Cow;

/// Why a path has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    #[error("the path has an escape that is not two hexadecimal digits")]
    BrokenEscape,
    #[error("the path still has an escaped separator, dot, percent or control character after decoding once")]
    EscapedMeaning,
    #[error("the path climbs above its root")]
    AboveRoot,
    #[error("the path has a backslash, a control character or bytes that are no UTF-8")]
    StrangeByte,
    #[error("the path is not absolute")]
    NotAbsolute,
}

/// Decodes once, drops `;parameters`, merges slashes, resolves dots. `/` stays `/`; a trailing slash is dropped.
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
            ".." => {
                segments.pop().ok_or(Ambiguous::AboveRoot)?;
            }
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
        check("/a/x/../b", Ok("/a/b"));
        check("/a;v=1/b;w", Ok("/a/b"));
        check("/%61dmin", Ok("/admin"));
        check("/caf%C3%A9", Ok("/café"));
        check("/file.txt", Ok("/file.txt"));
        check("/..", Err(Ambiguous::AboveRoot));
        check("/a/../..", Err(Ambiguous::AboveRoot));
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
