//! JSON to YAML that every reader reads back to the same JSON, by the rules of YAML 1.1 as by those of 1.2: in block style,
//! text without quotes only where no reader could take it for something else.

use super::scalar::{self, Read};
use serde_json::{Map, Value as Json};
use std::fmt::Write as _;

/// A longer key is written with `?`: readers look for the colon no further than 1024 characters.
const KEY_BYTES_MAX: usize = 128;

/// `value` as one document, without `---`.
#[must_use]
pub fn write(value: &Json) -> String {
    let mut text = String::new();
    match value {
        Json::Object(entries) if !entries.is_empty() => map(&mut text, entries, 0, false),
        Json::Array(items) if !items.is_empty() => list(&mut text, items, 0, false),
        Json::String(word) => {
            quoted(&mut text, word);
            text.push('\n');
        }
        other => {
            scalar_or_empty(&mut text, other, 0);
            text.push('\n');
        }
    }
    text
}

fn begin(text: &mut String, indent: usize, inline: bool) {
    if !inline {
        text.extend(std::iter::repeat_n(' ', indent));
    }
}

/// Entries, one below the other; the first behind what stands there if `inline`.
fn map(text: &mut String, entries: &Map<String, Json>, indent: usize, inline: bool) {
    for (index, (key, value)) in entries.iter().enumerate() {
        begin(text, indent, inline && index == 0);
        if key.len() > KEY_BYTES_MAX {
            text.push_str("? ");
            quoted(text, key);
            text.push('\n');
            begin(text, indent, false);
        } else if is_plain(key) {
            text.push_str(key);
        } else {
            quoted(text, key);
        }
        text.push(':');
        match value {
            Json::Object(entries) if !entries.is_empty() => {
                text.push('\n');
                map(text, entries, indent + 2, false);
            }
            Json::Array(items) if !items.is_empty() => {
                text.push('\n');
                list(text, items, indent, false);
            }
            other => {
                text.push(' ');
                scalar_or_empty(text, other, indent);
                text.push('\n');
            }
        }
    }
}

fn list(text: &mut String, items: &[Json], indent: usize, inline: bool) {
    for (index, item) in items.iter().enumerate() {
        begin(text, indent, inline && index == 0);
        text.push_str("- ");
        match item {
            Json::Object(entries) if !entries.is_empty() => map(text, entries, indent + 2, true),
            Json::Array(items) if !items.is_empty() => list(text, items, indent + 2, true),
            other => {
                scalar_or_empty(text, other, indent);
                text.push('\n');
            }
        }
    }
}

fn scalar_or_empty(text: &mut String, value: &Json, indent: usize) {
    match value {
        Json::Object(_) => text.push_str("{}"),
        Json::Array(_) => text.push_str("[]"),
        Json::String(word) if is_plain(word) => text.push_str(word),
        Json::String(word) if is_literal(word) => literal(text, word, indent + 2),
        Json::String(word) => quoted(text, word),
        // Null, true, false and numbers are written alike in both.
        other => text.push_str(&other.to_string()),
    }
}

/// Whether every YAML reader takes it for this text and nothing else: a letter or slash first, nothing that could end it, no word of a
/// reader's.
fn is_plain(word: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@+= ".contains(&byte);
    let ends = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./+=".contains(&byte);
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && word.bytes().all(good)
        && word.bytes().next_back().is_some_and(ends)
        && !word.contains(": ")
        && !word.contains("  ")
        && word.len() <= KEY_BYTES_MAX
        && scalar::plain(word) == Read::Text
}

/// Whether it is lines of text that can stand as they are.
fn is_literal(word: &str) -> bool {
    let good = |line: &str| line.chars().all(|c| c == '\t' || is_printable(c)) && !line.ends_with([' ', '\t']);
    let lines = || word.strip_suffix('\n').unwrap_or(word).split('\n');
    word.contains('\n') && !word.starts_with([' ', '\t', '\n']) && !word.ends_with("\n\n") && lines().all(good)
}

/// `|`, and `-` where no line ends behind it.
fn literal(text: &mut String, word: &str, indent: usize) {
    text.push('|');
    if !word.ends_with('\n') {
        text.push('-');
    }
    for line in word.strip_suffix('\n').unwrap_or(word).split('\n') {
        text.push('\n');
        if !line.is_empty() {
            begin(text, indent, false);
            text.push_str(line);
        }
    }
}

/// What every reader takes as it stands; line ends of Unicode are none of it.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
        || c > '\u{ffff}'
}

fn quoted(text: &mut String, word: &str) {
    text.push('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            c if is_printable(c) => text.push(c),
            // No character beyond the first plane comes here. Writing to a String cannot fail.
            c => drop(write!(text, "\\u{:04x}", u32::from(c))),
        }
    }
    text.push('"');
}
