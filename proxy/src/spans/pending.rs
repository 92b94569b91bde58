//! Spans that wait to be exported, within bounds, and batches of them.

use crate::limits;
use bytes::Bytes;
use remora_api::otlp::{self, Attribute, Span};
use std::collections::VecDeque;
use tokio::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pending {
    spans: VecDeque<Span>,
    bytes: usize,
    /// When the oldest came.
    since: Option<Instant>,
}

/// A message that is sent, until it has arrived or is given up.
#[derive(Debug)]
pub(super) struct Batch {
    pub frame: Bytes,
    pub spans: u64,
    pub tries: u32,
}

impl Pending {
    /// Whether there was room for it. What waits already stays.
    pub(super) fn push(&mut self, span: Span, now: Instant) -> bool {
        let bytes = span.bytes();
        if self.bytes + bytes > limits::TRACE_PENDING_BYTES {
            return false;
        }
        self.bytes += bytes;
        self.spans.push_back(span);
        self.since.get_or_insert(now);
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is a batch of them, or the oldest has waited long enough for others.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.bytes >= limits::TRACE_BATCH_BYTES
            || self.len() >= limits::TRACE_BATCH_MAX
            || self.since.is_some_and(|since| now.saturating_duration_since(since) >= limits::TRACE_DELAY)
    }

    /// The next batch, if there are any: the oldest.
    pub(super) fn take(&mut self, resource: &[Attribute]) -> Option<Batch> {
        let (mut spans, mut bytes) = (Vec::new(), 0);
        while let Some(span) = self.spans.front()
            && spans.len() < limits::TRACE_BATCH_MAX
            && (spans.is_empty() || bytes + span.bytes() <= limits::TRACE_BATCH_BYTES)
        {
            bytes += span.bytes();
            spans.extend(self.spans.pop_front());
        }
        self.bytes -= bytes.min(self.bytes);
        if self.spans.is_empty() {
            (self.spans, self.since) = (VecDeque::new(), None);
        }
        let count = spans.len() as u64;
        let scope = ("remora-proxy", env!("CARGO_PKG_VERSION"));
        (count > 0).then(|| Batch { frame: otlp::frame(resource, scope, spans), spans: count, tries: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_api::otlp::{Kind, Value};

    fn span(bytes: usize) -> Span {
        Span {
            trace: 1,
            id: 2,
            parent: None,
            name: String::new(),
            kind: Kind::Server,
            began_ns: 0,
            ended_ns: 0,
            attributes: vec![("a", Value::Text("x".repeat(bytes)))],
            error: None,
        }
    }

    #[test]
    fn a_batch_is_due_when_it_is_full_or_its_first_span_has_waited() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        assert!(!pending.is_due(now + limits::TRACE_DELAY) && pending.take(&[]).is_none());
        pending.push(span(1), now);
        assert!(!pending.is_due(now) && pending.is_due(now + limits::TRACE_DELAY));
        for _ in 0..limits::TRACE_BATCH_MAX {
            pending.push(span(1), now);
        }
        assert!(pending.is_due(now));
        let spans: Vec<_> = std::iter::from_fn(|| pending.take(&[])).map(|batch| batch.spans).collect();
        assert_eq!((spans, pending.bytes), (vec![limits::TRACE_BATCH_MAX as u64, 1], 0));
        assert!(!pending.is_due(now + limits::TRACE_DELAY), "nothing waits");
    }

    #[test]
    fn what_waits_and_what_is_sent_at_once_is_bounded_in_bytes() {
        let (mut pending, now, large) = (Pending::default(), Instant::now(), limits::TRACE_BATCH_BYTES / 3);
        let taken = (0..1000).filter(|_| pending.push(span(large), now)).count();
        assert!(taken * large <= limits::TRACE_PENDING_BYTES && taken >= 3, "{taken}");
        assert!(pending.is_due(now));
        let first = pending.take(&[]).unwrap();
        assert!(first.frame.len() <= limits::TRACE_BATCH_BYTES && first.spans == 2, "{first:?}");
        assert!(pending.push(span(large), now), "there is room again");
    }
}
