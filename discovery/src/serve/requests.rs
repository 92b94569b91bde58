//! The requests of one stream, as they come in the body of its call.
//!
//! In: a body. Out: messages, one at a time. What came is read where it lies, and nothing is held of it once it was read: a stream
//! that is silent has no buffer. Of a message that has not come whole, what is there is kept, [`REQUEST_BYTES_MAX`] at most.

use super::{limits::REQUEST_BYTES_MAX, resource::PREFIX_BYTES};
use prost::{
    Message as _,
    bytes::{Buf as _, Bytes},
};
use remora_api::v1::SyncRequest;
use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tonic::{Status, body::Body, codegen::Body as _};

/// See the module.
pub(super) struct Requests {
    body: Body,
    /// What came last and is not read yet.
    came: Bytes,
    /// The beginning of a message; empty, and without memory, between two.
    begun: Vec<u8>,
}

impl Requests {
    pub(super) fn new(body: Body) -> Self {
        Self { body, came: Bytes::new(), begun: Vec::new() }
    }

    /// The next one; `None` after the last. Cancel-safe.
    ///
    /// # Errors
    /// The body broke off, or what came is no request.
    pub(super) async fn next(&mut self) -> Result<Option<SyncRequest>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<SyncRequest>, Status>> {
        loop {
            if let Some(request) = self.read()? {
                return Poll::Ready(Ok(Some(request)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                // A client of gRPC sends no trailers; what others say there means nothing.
                Some(Ok(frame)) => self.came = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None if self.begun.is_empty() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Status::invalid_argument("the last request is not whole"))),
            }
        }
    }

    /// The first message of what came; if that has none, all of it is kept.
    fn read(&mut self) -> Result<Option<SyncRequest>, Status> {
        if self.begun.is_empty()
            && let Some(whole) = length(&self.came)?.filter(|whole| *whole <= self.came.len())
        {
            let request = decode(&self.came[..whole])?;
            self.came.advance(whole);
            return Ok(Some(request));
        }
        // First as much as tells how long it is, then that.
        loop {
            let whole = length(&self.begun)?;
            if let Some(whole) = whole
                && self.begun.len() == whole
            {
                return decode(&std::mem::take(&mut self.begun)).map(Some);
            }
            let wanted = whole.unwrap_or(PREFIX_BYTES) - self.begun.len();
            let taken = self.came.split_to(wanted.min(self.came.len()));
            if taken.is_empty() {
                // What it lay in may be larger.
                self.came = Bytes::new();
                return Ok(None);
            }
            self.begun.extend_from_slice(&taken);
        }
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (came, begun) = (self.came.len(), self.begun.len());
        f.debug_struct("Requests").field("came", &came).field("begun", &begun).finish_non_exhaustive()
    }
}

/// How long the message that begins here is, its prefix included; `None` if the prefix is not whole.
fn length(bytes: &[u8]) -> Result<Option<usize>, Status> {
    let Some((&[compressed, a, b, c, d], _)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    if compressed != 0 {
        return Err(Status::unimplemented("requests cannot be compressed"));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > REQUEST_BYTES_MAX {
        return Err(Status::resource_exhausted(format!(
            "a request of {length} bytes is larger than {REQUEST_BYTES_MAX}"
        )));
    }
    Ok(Some(PREFIX_BYTES + length))
}

/// A message with its prefix.
fn decode(whole: &[u8]) -> Result<SyncRequest, Status> {
    let read = SyncRequest::decode(&whole[PREFIX_BYTES..]);
    read.map_err(|error| Status::invalid_argument(format!("a request cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use remora_api::{sync::request, v1::Hello, v1::sync_request::Kind};
    use std::{convert::Infallible, future::pending};

    fn framed(request: &SyncRequest) -> Vec<u8> {
        let message = request.encode_to_vec();
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        framed
    }

    fn hello(pod: &str) -> SyncRequest {
        SyncRequest { kind: Some(Kind::Hello(Hello { pod: pod.to_owned(), ..Hello::default() })) }
    }

    fn coming(pieces: impl IntoIterator<Item = Vec<u8>, IntoIter: Send> + 'static) -> Requests {
        let frames = stream::iter(pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece)))));
        Requests::new(Body::new(StreamBody::new(frames)))
    }

    async fn all(mut requests: Requests) -> Result<Vec<SyncRequest>, Status> {
        let mut read = Vec::new();
        while let Some(request) = requests.next().await? {
            read.push(request);
        }
        Ok(read)
    }

    #[tokio::test]
    async fn requests_are_the_same_however_they_are_cut() {
        let sent = [
            hello("a"),
            SyncRequest::default(),
            hello(&"long".repeat(9_000)),
            request::subscribe(&remora_api::sync::Name::InboundDefault),
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(framed).collect();
        for size in [1, 2, 3, 4, 5, 6, 7, 16, 4_096, 36_000, bytes.len()] {
            let pieces: Vec<Vec<u8>> = bytes.chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(all(coming(pieces)).await.unwrap(), sent, "cut after {size} bytes each");
        }
    }

    #[tokio::test]
    async fn nothing_is_held_between_two_requests_and_of_half_a_request_that_half() {
        let (first, second) = (framed(&hello("a")), framed(&hello("b")));
        let pieces = [first.clone(), first, second[..7].to_vec()];
        let frames = stream::iter(pieces.map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece)))));
        let mut requests = Requests::new(Body::new(StreamBody::new(frames.chain(stream::once(pending())))));
        for _ in 0..2 {
            assert_eq!(requests.next().await.unwrap(), Some(hello("a")));
            assert_eq!((requests.came.len(), requests.begun.capacity()), (0, 0));
        }
        assert!(requests.next().now_or_never().is_none());
        assert_eq!((requests.came.len(), requests.begun.as_slice()), (0, &second[..7]));
    }

    #[tokio::test]
    async fn what_is_no_request_ends_the_stream_and_what_is_too_large_is_not_waited_for() {
        let large = u32::try_from(REQUEST_BYTES_MAX + 1).unwrap().to_be_bytes();
        let [a, b, c, d] = large;
        let whole = framed(&hello("a"));
        let cut = whole[..whole.len() - 1].to_vec();
        for (bytes, code) in [
            (vec![0, a, b, c, d], tonic::Code::ResourceExhausted),
            (vec![1, 0, 0, 0, 0], tonic::Code::Unimplemented),
            (vec![0, 0, 0, 0, 1, 7], tonic::Code::InvalidArgument),
            (cut, tonic::Code::InvalidArgument),
            (vec![0, 0], tonic::Code::InvalidArgument),
        ] {
            assert_eq!(all(coming([bytes.clone()])).await.unwrap_err().code(), code, "{bytes:?}");
        }
        assert_eq!(all(coming([])).await.unwrap(), []);
    }
}
