//! Where a request stands in a trace, as its head says: read from it, and written into it for the next hop. Pure.
//!
//! In: the fields of W3C Trace Context and of B3, in one field or several. Out: trace, span and decision of the caller, or none; what is malformed
//! is none. Does not: decide what is sampled ([`Trace`](super::layer::Trace) does), or read `tracestate`, which goes on as it came.

mod b3;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
mod w3c;

use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write as _;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");

/// What a head says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Context {
    /// The trace and the caller's span; none of them is zero.
    pub caller: Option<(u128, u64)>,
    /// Whether the caller has it sampled, if it has decided that.
    pub sampled: Option<bool>,
    forms: Forms,
}

/// In which forms it says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Forms {
    w3c: bool,
    b3: bool,
    b3_fields: bool,
    /// The caller asks for more than to be sampled (B3: debug), in the one field …
    debug: bool,
    /// … or in those of several.
    debug_fields: bool,
    /// The trace has 64 bits for whoever reads B3 here.
    short: bool,
}

/// The fields of B3 in several, as they came.
#[derive(Debug, Default)]
struct Fields<'a> {
    trace: Option<&'a [u8]>,
    span: Option<&'a [u8]>,
    sampled: Option<&'a [u8]>,
    flags: Option<&'a [u8]>,
}

impl Context {
    /// What `headers` say. Of several forms W3C's counts, then B3 in one field.
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let (mut parent, mut parents, mut single) = (None, 0, None);
        let (mut fields, mut several) = (Fields::default(), false);
        for (name, value) in headers {
            let value = value.as_bytes();
            match name.as_str() {
                "traceparent" => (parent, parents) = (Some(value), parents + 1),
                "b3" => single = Some(value),
                "x-b3-traceid" => (fields.trace, several) = (Some(value), true),
                "x-b3-spanid" => (fields.span, several) = (Some(value), true),
                "x-b3-sampled" => (fields.sampled, several) = (Some(value), true),
                "x-b3-flags" => (fields.flags, several) = (Some(value), true),
                _ => {}
            }
        }
        // W3C Trace Context §3.2: of several none counts.
        let w3c = parent.filter(|_| parents == 1).and_then(w3c::read);
        let one = single.and_then(b3::read);
        let many = if several { b3::read_fields(&fields) } else { None };
        let b3 = one.as_ref().or(many.as_ref());
        let forms = Forms {
            w3c: w3c.is_some(),
            b3: one.is_some(),
            b3_fields: many.is_some(),
            debug: one.as_ref().is_some_and(|b3| b3.debug),
            debug_fields: many.as_ref().is_some_and(|b3| b3.debug),
            short: b3.is_some_and(|b3| b3.short),
        };
        match (w3c, b3) {
            (Some((trace, span, sampled)), _) => Self { caller: Some((trace, span)), sampled: Some(sampled), forms },
            (None, Some(b3)) => Self { caller: b3.caller, sampled: b3.sampled, forms },
            (None, None) => Self::default(),
        }
    }

    /// Has the next hop be a child of `span`, which is sampled: in the forms that came, or in W3C's if none did.
    pub(crate) fn write(&self, headers: &mut HeaderMap, trace: u128, span: u64) {
        let (forms, mut text) = (self.forms, String::with_capacity(w3c::BYTES + 32));
        let none = !(forms.w3c || forms.b3 || forms.b3_fields);
        if forms.w3c || none {
            put(headers, TRACEPARENT, &mut text, format_args!("00-{trace:032x}-{span:016x}-01"));
        }
        if none {
            // W3C Trace Context §3.3.1.3: the states of a trace that could not be read are not those of a new one.
            headers.remove(TRACESTATE);
        }
        // A reader of 64 bits finds the trace that its own caller meant.
        let digits = if forms.short && trace <= u128::from(u64::MAX) { 16 } else { 32 };
        let parent = self.caller.map(|(_, span)| span);
        if forms.b3 {
            let sampled = if forms.debug { 'd' } else { '1' };
            match parent {
                Some(parent) => {
                    let value = format_args!("{trace:0digits$x}-{span:016x}-{sampled}-{parent:016x}");
                    put(headers, B3, &mut text, value);
                }
                None => put(headers, B3, &mut text, format_args!("{trace:0digits$x}-{span:016x}-{sampled}")),
            }
        }
        if forms.b3_fields {
            put(headers, TRACE_ID, &mut text, format_args!("{trace:0digits$x}"));
            put(headers, SPAN_ID, &mut text, format_args!("{span:016x}"));
            match parent {
                Some(parent) => put(headers, PARENT_ID, &mut text, format_args!("{parent:016x}")),
                None => drop(headers.remove(PARENT_ID)),
            }
            // Debug says that too, and both are not sent.
            if !forms.debug_fields {
                headers.insert(SAMPLED, HeaderValue::from_static("1"));
            }
        }
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, text: &mut String, value: std::fmt::Arguments<'_>) {
    text.clear();
    // Writing to a string cannot fail.
    let _ = text.write_fmt(value);
    // Digits and dashes are a value always.
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// A number of so many digits in lower case, which is not zero.
fn hex<const DIGITS: usize>(text: &[u8]) -> Option<u128> {
    let text: &[u8; DIGITS] = text.try_into().ok()?;
    let number = text.iter().try_fold(0_u128, |number, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })?;
    (number != 0).then_some(number)
}

/// The id of a span.
fn span(text: &[u8]) -> Option<u64> {
    hex::<16>(text).map(|id| id as u64)
}
