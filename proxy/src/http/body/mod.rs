//! Bodies on their way through: counted, kept for a retry, never collected.

pub(crate) mod client;
pub(crate) mod kept;
pub(crate) mod replay;
pub(crate) mod request;
pub(crate) mod response;

use super::headers;
use bytes::Bytes;
use http_body::Frame;

/// Trailers carry neither reserved names nor framing.
fn strip_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::strip_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

#[cfg(test)]
mod tests;
