//! The body of an answer, from a server that speaks HTTP/1 or HTTP/2.

use super::http2;
use crate::{limits, telemetry::Reason, tls};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

/// What a server sends behind the head of its answer.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// Nothing: the answer ended with its head.
    Empty,
    Http1(Incoming),
    #[expect(private_interfaces, reason = "it is made here only, and read as a body")]
    Http2(Rc<http2::Received>),
}

/// Why an answer ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("the HTTP/1 server broke off")]
    Http1(#[source] hyper::Error),
    #[error("the HTTP/2 server broke off")]
    Http2(#[source] h2::Error),
}

impl AnswerError {
    /// The reason for the metrics.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            // This proxy's word, or its library's: a server's own comes from afar.
            Self::Http2(error) if !error.is_remote() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) => {
                Reason::ResponseHeaderTooLarge
            }
            Self::Http2(error) if error.get_io().is_some_and(tls::is_untrusted) => Reason::PolicyChanged,
            Self::Http1(_) | Self::Http2(_) => Reason::UpstreamReset,
        }
    }
}

impl From<Incoming> for AnswerBody {
    fn from(body: Incoming) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::Http1(body) }
    }
}

impl AnswerBody {
    /// The bytes of it that may be held while they are not read.
    pub(crate) fn held_max(&self) -> usize {
        let (window, hint) = match self {
            Self::Empty => return 0,
            Self::Http1(body) => (limits::TIGHT_READ_BYTES, body.size_hint()),
            Self::Http2(body) => (body.window(), body.size_hint()),
        };
        hint.upper().and_then(|bytes| usize::try_from(bytes).ok()).map_or(window, |bytes| bytes.min(window))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        Poll::Ready(match &mut *self {
            Self::Empty => None,
            Self::Http1(body) => ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(AnswerError::Http1)),
            Self::Http2(body) => ready!(body.poll_frame(cx)).map(|frame| frame.map_err(AnswerError::Http2)),
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_over_the_bound_are_told_from_an_answer_that_its_server_breaks_off() {
        for (code, reason) in [
            (h2::Reason::ENHANCE_YOUR_CALM, Reason::ResponseHeaderTooLarge),
            (h2::Reason::CANCEL, Reason::UpstreamReset),
            (h2::Reason::INTERNAL_ERROR, Reason::UpstreamReset),
        ] {
            assert_eq!(AnswerError::Http2(code.into()).reason(), reason);
        }
    }
}
