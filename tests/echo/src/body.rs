//! Bodies that are whole from the start, or that come in pieces.

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use std::{convert::Infallible, time::Duration};

/// What this program sends.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(crate) fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

/// `pieces` times `piece`, with a pause before each but the first.
pub(crate) fn dripping(piece: Bytes, pieces: usize, pause: Duration) -> Body {
    let frames = stream::unfold(0, move |sent| {
        let piece = piece.clone();
        async move {
            if sent == pieces {
                return None;
            }
            if sent > 0 {
                tokio::time::sleep(pause).await;
            }
            Some((Ok(Frame::data(piece)), sent + 1))
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// A gRPC answer: one message, then the status in trailers.
pub(crate) fn with_trailers(message: Bytes, trailers: http::HeaderMap) -> Body {
    StreamBody::new(stream::iter([Ok(Frame::data(message)), Ok(Frame::trailers(trailers))])).boxed_unsync()
}
