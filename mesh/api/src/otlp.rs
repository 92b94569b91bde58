//! Spans as OTLP has them (opentelemetry-proto), for a collector that takes them over gRPC.
//!
//! In: [`Span`]s of one resource. Out: the bytes of one gRPC message, and what its answer says. The messages are those of
//! `proto/otlp/trace.proto`, a part of OTLP's own. The SDK of OpenTelemetry is not used: it keeps spans, batches and clocks of its own, where the proxy's
//! records have all of that already.

/// Generated from `proto/otlp`.
#[allow(
    clippy::all,
    clippy::too_many_lines,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    missing_debug_implementations,
    unused_qualifications,
    unreachable_pub,
    elided_lifetimes_in_paths,
    rustdoc::all,
    reason = "generated code answers to its generator, not to our house style"
)]
pub mod proto {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}

use prost::Message as _;
use tonic::codegen::Bytes;

/// The path of the one method.
pub const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// What gRPC puts before a message: that it is not compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// Another one.
    Double(f64),
}

/// What one end of a call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It answered.
    Server,
    /// It asked.
    Client,
}

/// An attribute.
pub type Attribute = (&'static str, Value);

/// A span that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The trace.
    pub trace: u128,
    /// The span.
    pub id: u64,
    /// The caller's span, if there is one.
    pub parent: Option<u64>,
    /// Of few distinct values.
    pub name: String,
    /// Which end of the call it is of.
    pub kind: Kind,
    /// When it began, in nanoseconds since 1970.
    pub began_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// What is known of it.
    pub attributes: Vec<Attribute>,
    /// What went wrong, if it failed; may be empty.
    pub error: Option<String>,
}

impl Span {
    /// Bytes that it takes in a message, to a few.
    pub fn bytes(&self) -> usize {
        let value = |value: &Value| if let Value::Text(text) = value { text.len() } else { 8 };
        let attributes: usize = self.attributes.iter().map(|(name, of)| name.len() + value(of) + 8).sum();
        64 + self.name.len() + attributes + self.error.as_ref().map_or(0, String::len)
    }
}

/// The gRPC message that exports `spans` of a resource.
pub fn frame(resource: &[Attribute], scope: (&str, &str), spans: Vec<Span>) -> Bytes {
    let scope = proto::InstrumentationScope { name: scope.0.to_owned(), version: scope.1.to_owned() };
    let scope_spans =
        vec![proto::ScopeSpans { scope: Some(scope), spans: spans.into_iter().map(proto::Span::from).collect() }];
    let resource = proto::Resource { attributes: resource.iter().cloned().map(attribute).collect() };
    let resource_spans = vec![proto::ResourceSpans { resource: Some(resource), scope_spans }];
    let request = proto::ExportTraceServiceRequest { resource_spans };
    let length = request.encoded_len();
    let mut frame = Vec::with_capacity(PREFIX_BYTES + length);
    frame.push(0);
    // A message has bounds far below that of a length.
    frame.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // A `Vec` has room for all.
    let _ = request.encode(&mut frame);
    frame.into()
}

/// What a collector answered: how many spans it rejected, and why. What cannot be read rejects none: the collector has said that it succeeded.
pub fn rejected(frame: &[u8]) -> (u64, String) {
    let message = frame.get(PREFIX_BYTES..).unwrap_or_default();
    let answer = proto::ExportTraceServiceResponse::decode(message).unwrap_or_default();
    let partial = answer.partial_success.unwrap_or_default();
    (u64::try_from(partial.rejected_spans).unwrap_or(0), partial.error_message)
}

impl From<Span> for proto::Span {
    fn from(span: Span) -> Self {
        let kind = match span.kind {
            Kind::Server => proto::SpanKind::Server,
            Kind::Client => proto::SpanKind::Client,
        };
        let failed = |message| proto::Status { message, code: proto::StatusCode::Error.into() };
        Self {
            trace_id: span.trace.to_be_bytes().into(),
            span_id: span.id.to_be_bytes().into(),
            parent_span_id: span.parent.map(|parent| parent.to_be_bytes().into()).unwrap_or_default(),
            name: span.name,
            kind: kind.into(),
            start_time_unix_nano: span.began_ns,
            end_time_unix_nano: span.ended_ns,
            attributes: span.attributes.into_iter().map(attribute).collect(),
            status: span.error.map(failed),
            flags: 1,
        }
    }
}

fn attribute((key, value): Attribute) -> proto::KeyValue {
    use proto::any_value::Value as Any;
    let value = match value {
        Value::Text(text) => Any::StringValue(text),
        Value::Int(number) => Any::IntValue(number),
        Value::Double(number) => Any::DoubleValue(number),
    };
    proto::KeyValue { key: key.to_owned(), value: Some(proto::AnyValue { value: Some(value) }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span() -> Span {
        Span {
            trace: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
            id: 0x1112_1314_1516_1718,
            parent: Some(0x2122_2324_2526_2728),
            name: "GET /orders/:id".to_owned(),
            kind: Kind::Client,
            began_ns: 1,
            ended_ns: 2,
            attributes: vec![
                ("http.request.method", Value::Text("GET".to_owned())),
                ("http.response.status_code", Value::Int(503)),
                ("remora.before_ms", Value::Double(0.5)),
            ],
            error: Some("timeout".to_owned()),
        }
    }

    /// Written by hand from opentelemetry-proto's `trace.proto`, `common.proto` and `trace_service.proto`.
    #[test]
    fn a_span_is_on_the_wire_as_otlp_has_it() {
        let span = Span { attributes: vec![("a", Value::Int(3))], name: "n".to_owned(), ..span() };
        let mut wire = vec![0x0a, 16];
        wire.extend(1..=16);
        wire.extend([0x12, 8]);
        wire.extend(0x11..=0x18);
        wire.extend([0x22, 8]);
        wire.extend(0x21..=0x28);
        wire.extend([0x2a, 1, b'n', 0x30, 3, 0x39, 1, 0, 0, 0, 0, 0, 0, 0, 0x41, 2, 0, 0, 0, 0, 0, 0, 0]);
        wire.extend([0x4a, 7, 0x0a, 1, b'a', 0x12, 2, 0x18, 3]);
        wire.extend([0x7a, 11, 0x12, 7]);
        wire.extend(b"timeout");
        wire.extend([0x18, 2, 0x85, 0x01, 1, 0, 0, 0]);
        assert_eq!(proto::Span::from(span).encode_to_vec(), wire);
    }

    #[test]
    fn a_message_has_its_length_before_it_and_holds_all_spans_of_the_resource() {
        let resource = [("service.name", Value::Text("web".to_owned()))];
        let frame = frame(&resource, ("remora-proxy", "1.2.3"), vec![span(), span()]);
        assert_eq!((frame[0], frame.len() - 5), (0, u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize));
        let read = proto::ExportTraceServiceRequest::decode(&frame[5..]).unwrap();
        let [of] = &read.resource_spans[..] else { panic!("{read:?}") };
        assert_eq!(of.resource.as_ref().unwrap().attributes[0].key, "service.name");
        assert_eq!((of.scope_spans.len(), of.scope_spans[0].spans.len()), (1, 2));
        let about = 2 * span().bytes();
        assert!(frame.len() <= about + 128 && 2 * frame.len() >= about, "{} are {} bytes", frame.len(), about);
    }

    #[test]
    fn an_answer_says_how_many_spans_were_rejected() {
        let partial = proto::ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".to_owned() };
        let answer = proto::ExportTraceServiceResponse { partial_success: Some(partial) };
        let frame = [&[0, 0, 0, 0, 9][..], &answer.encode_to_vec()].concat();
        assert_eq!(rejected(&frame), (3, "too old".to_owned()));
        for nothing in [&[][..], &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1, 0xff]] {
            assert_eq!(rejected(nothing), (0, String::new()), "{nothing:?}");
        }
    }
}
