//! The fuzz target of trace contexts. In: any bytes, as fields of a head. Out: nothing, or a panic.

use super::Context;
use http::{HeaderMap, HeaderName, HeaderValue};

const NAMES: [&str; 7] =
    ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"];

/// Each line is the value of the field that its first byte names. What is read has no id that is zero; what is written for the next hop is
/// read as what was meant, in every form that came; and other fields stay as they were.
pub fn trace_contexts(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(16) {
        let Some((name, value)) = line.split_first() else { continue };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(NAMES[usize::from(*name) % NAMES.len()]), value);
        }
    }
    headers.insert("accept", HeaderValue::from_static("*/*"));
    let context = Context::read(&headers);
    if let Some((trace, span)) = context.caller {
        assert!(trace != 0 && span != 0, "{context:?}");
    }
    let trace = context.caller.map_or(7, |(trace, _)| trace);
    context.write(&mut headers, trace, 9);
    let written = Context::read(&headers);
    assert_eq!((written.caller, written.sampled), (Some((trace, 9)), Some(true)), "{headers:?}");
    assert!(!written.forms.short || trace <= u128::from(u64::MAX), "{headers:?}");
    assert_eq!(headers["accept"], "*/*");
}
