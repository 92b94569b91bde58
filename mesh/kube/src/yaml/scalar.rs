//! Scalars by the rules of YAML 1.1 as Go's `yaml.v2` has them, and as JSON then carries them on: an integral float is an
//! integer (`1e3` is 1000). Not among them, though of YAML 1.1: numbers to the base 60 (`12:30`), which that reader takes
//! for text, too, and dates, which it hands on as text.

use super::shown;
use serde_json::{Number, Value as Json};

/// From this on Go writes floats with an exponent, and an integer field takes none.
const INTEGRAL_MAX: f64 = 1e21;

/// What a scalar is read as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Read {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer beyond `i64`.
    Large(u64),
    Float(f64),
    /// As it stands.
    Text,
}

/// A scalar without quotes and without a tag.
pub(super) fn plain(text: &str) -> Read {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Read::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Read::Bool(false),
        "" | "~" | "null" | "Null" | "NULL" => Read::Null,
        _ => number(text).unwrap_or(Read::Text),
    }
}

/// A scalar with a tag of YAML's own (`int`), or with another (empty), which makes it text.
pub(super) fn tagged(tag: &str, text: &str) -> Result<Read, String> {
    let read = match tag {
        "binary" => return Err("the tag !!binary is not read; write the text that is meant".to_owned()),
        "int" | "float" | "bool" | "null" => plain(text),
        _ => return Ok(Read::Text),
    };
    match (tag, read) {
        ("int", Read::Int(_) | Read::Large(_)) | ("bool", Read::Bool(_)) | ("null", Read::Null) => Ok(read),
        ("float", Read::Int(_) | Read::Large(_) | Read::Float(_)) => Ok(read),
        _ => Err(format!("{} is not of the type that its tag !!{tag} says", shown(text))),
    }
}

impl Read {
    /// As a value.
    pub(super) fn json(self, text: &str) -> Result<Json, String> {
        let float = match self {
            Self::Null => return Ok(Json::Null),
            Self::Bool(word) => return Ok(word.into()),
            Self::Int(int) => return Ok(int.into()),
            Self::Large(int) => return Ok(int.into()),
            Self::Text => return Ok(text.into()),
            Self::Float(float) => float,
        };
        of_float(float).ok_or_else(|| format!("{text} is no number that JSON has"))
    }

    /// As a key.
    pub(super) fn key(self, text: &str) -> Result<String, String> {
        match self {
            Self::Text => Ok(text.to_owned()),
            Self::Bool(word) => Ok(word.to_string()),
            Self::Int(int) => Ok(int.to_string()),
            Self::Float(float) => Ok(go_g32(float)),
            Self::Large(int) => Err(format!("the number {int} is too large for a key")),
            Self::Null => Err("null is no key in JSON; quote it if a word is meant".to_owned()),
        }
    }
}

/// As Kubernetes has it: an integer if it is one.
pub(super) fn of_float(float: f64) -> Option<Json> {
    if float.fract() == 0.0 && float.abs() < INTEGRAL_MAX {
        // Every such float is its digits.
        if let Ok(int) = format!("{float:.0}").parse::<i64>() {
            return Some(int.into());
        }
    }
    Number::from_f64(float).map(Json::Number)
}

fn number(text: &str) -> Option<Read> {
    match text.as_bytes().first()? {
        b'.' => match text {
            ".nan" | ".NaN" | ".NAN" => Some(Read::Float(f64::NAN)),
            ".inf" | ".Inf" | ".INF" => Some(Read::Float(f64::INFINITY)),
            _ => float(&without_inner_underscores(text)?),
        },
        b'+' | b'-' | b'0'..=b'9' => match text {
            "+.inf" | "+.Inf" | "+.INF" => Some(Read::Float(f64::INFINITY)),
            "-.inf" | "-.Inf" | "-.INF" => Some(Read::Float(f64::NEG_INFINITY)),
            _ => {
                let digits = text.replace('_', "");
                integer(&digits).or_else(|| float(&digits)).or_else(|| signed_binary(&digits))
            }
        },
        _ => None,
    }
}

/// Go's `strconv.ParseInt` and `ParseUint` with base 0: `0x`, `0o`, `0b`, and a leading 0 for octal.
fn integer(text: &str) -> Option<Read> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (base, digits) = match unsigned.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, &unsigned[2..]),
        [b'0', b'o' | b'O', _, ..] => (8, &unsigned[2..]),
        [b'0', b'b' | b'B', _, ..] => (2, &unsigned[2..]),
        [b'0', _, ..] => (8, &unsigned[1..]),
        _ => (10, unsigned),
    };
    if !digits.bytes().all(|byte| char::from(byte).is_digit(base)) {
        return None;
    }
    let size = u64::from_str_radix(digits, base).ok()?;
    if text.starts_with('-') {
        return 0_i64.checked_sub_unsigned(size).map(Read::Int);
    }
    match i64::try_from(size) {
        Ok(int) => Some(Read::Int(int)),
        Err(_) if text.starts_with('+') => None,
        Err(_) => Some(Read::Large(size)),
    }
}

/// `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`, as far as a float can hold it.
fn float(text: &str) -> Option<Read> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let good = digits(whole)
        && digits(fraction)
        && whole.len() + fraction.len() > 0
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent));
    text.parse().ok().filter(|float: &f64| good && float.is_finite()).map(Read::Float)
}

/// `0b-101`: that reader's slip, which manifests may rest on.
fn signed_binary(digits: &str) -> Option<Read> {
    let rest = digits.strip_prefix("0b")?;
    rest.starts_with(['+', '-']).then(|| i64::from_str_radix(rest, 2).ok().map(Read::Int)).flatten()
}

/// Where a number begins with a dot, an underscore stands between digits only.
fn without_inner_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let wrong = (0..bytes.len()).any(|at| bytes[at] == b'_' && !(digit(at.checked_sub(1)) && digit(Some(at + 1))));
    (!wrong).then(|| text.replace('_', ""))
}

/// A float key as Go writes it: `strconv.FormatFloat(key, 'g', -1, 32)`.
#[expect(clippy::cast_possible_truncation, reason = "as that reader does")]
fn go_g32(float: f64) -> String {
    let float = float as f32;
    if !float.is_finite() {
        return if float.is_nan() {
            ".nan"
        } else if float > 0.0 {
            ".inf"
        } else {
            "-.inf"
        }
        .to_owned();
    }
    let scientific = format!("{float:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(power) if !(-4..6).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", power.abs())
        }
        _ => float.to_string(),
    }
}
