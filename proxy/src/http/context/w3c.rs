//! `traceparent` (W3C Trace Context §3.2). Pure.

use super::{hex, span};

/// A field of version 00: two digits, a trace of 32, a span of 16, and two of flags, with dashes between.
pub(super) const BYTES: usize = 55;

/// The trace, the caller's span, and whether that is sampled. A version that is newer than this code may say more behind, which is not looked at
/// (§3.2.4).
pub(super) fn read(value: &[u8]) -> Option<(u128, u64, bool)> {
    let (known, more) = value.split_at_checked(BYTES)?;
    let mut parts = known.split(|byte| *byte == b'-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (version, flags) = (byte(version)?, byte(flags)?);
    let ends = match version {
        0 => more.is_empty(),
        0xff => false,
        _ => more.is_empty() || more.starts_with(b"-"),
    };
    if !ends || parts.next().is_some() {
        return None;
    }
    Some((hex::<32>(trace)?, span(parent)?, flags & 1 == 1))
}

/// Two digits in lower case.
fn byte(text: &[u8]) -> Option<u8> {
    match text {
        b"00" => Some(0),
        digits => hex::<2>(digits).map(|byte| byte as u8),
    }
}
