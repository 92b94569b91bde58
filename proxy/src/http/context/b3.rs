//! B3, in one field and in several (github.com/openzipkin/b3-propagation). Pure.

use super::{Fields, hex, span};

/// What a caller says in B3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct B3 {
    /// The trace and the caller's span. Without them it has only decided whether there is one.
    pub(super) caller: Option<(u128, u64)>,
    pub(super) sampled: Option<bool>,
    pub(super) debug: bool,
    /// The trace has 64 bits.
    pub(super) short: bool,
}

/// `{trace}-{span}-{decision}-{parent}`, of which the last two may be missing; or a decision alone.
pub(super) fn read(value: &[u8]) -> Option<B3> {
    let mut parts = value.split(|byte| *byte == b'-');
    let (first, second) = (parts.next()?, parts.next());
    let Some(second) = second else {
        let (sampled, debug) = decision(first)?;
        return Some(B3 { caller: None, sampled: Some(sampled), debug, short: false });
    };
    let (trace, short) = trace(first)?;
    let caller = Some((trace, span(second)?));
    let (third, fourth, beyond) = (parts.next(), parts.next(), parts.next());
    let decided = match (third, fourth) {
        (None, _) => None,
        // The caller's parent is nobody's business but its own, if it is one.
        (Some(parent), None) if parent.len() > 1 => span(parent).map(|_| None)?,
        (Some(text), parent) => {
            if let Some(parent) = parent {
                span(parent)?;
            }
            Some(decision(text)?)
        }
    };
    if beyond.is_some() {
        return None;
    }
    let (sampled, debug) = decided.unzip();
    Some(B3 { caller, sampled, debug: debug.unwrap_or(false), short })
}

/// The fields together. A trace without a span, or a span without a trace, is none.
pub(super) fn read_fields(fields: &Fields<'_>) -> Option<B3> {
    let (caller, short) = match (fields.trace, fields.span) {
        (None, None) => (None, false),
        (Some(id), Some(caller)) => {
            let (id, short) = trace(id)?;
            (Some((id, span(caller)?)), short)
        }
        (Some(_), None) | (None, Some(_)) => return None,
    };
    let debug = fields.flags == Some(b"1");
    let sampled = match fields.sampled {
        _ if debug => Some(true),
        None => None,
        // As tracers wrote it before there was a specification.
        Some(b"true") => Some(true),
        Some(b"false") => Some(false),
        Some(text) => Some(decision(text).filter(|(_, debug)| !debug)?.0),
    };
    (caller.is_some() || sampled.is_some()).then_some(B3 { caller, sampled, debug, short })
}

/// Whether it is sampled, and for debugging.
fn decision(text: &[u8]) -> Option<(bool, bool)> {
    match text {
        b"0" => Some((false, false)),
        b"1" => Some((true, false)),
        b"d" => Some((true, true)),
        _ => None,
    }
}

/// A trace of 128 bits, or one of 64, for whose other half zeros stand.
fn trace(text: &[u8]) -> Option<(u128, bool)> {
    match text.len() {
        16 => Some((hex::<16>(text)?, true)),
        _ => Some((hex::<32>(text)?, false)),
    }
}
