//! `Discovery` as gRPC carries it. Requests ([`Requests`]) and responses are framed here and not by tonic, because what is sent was
//! made once for all who are sent it: a message goes out as it lies in memory, and a stream that is silent has no buffer.

use super::{Service, requests::Requests, resource::Encoded};
use http_body::Frame;
use prost::bytes::BytesMut;
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio_stream::Stream;
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, BoxFuture, Service as TowerService, http},
    server::NamedService,
};

/// What of the messages that are there is sent together.
const GATHERED_BYTES: usize = 32 * 1024;

/// The messages of one stream, framed.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<Encoded, Status>> + Send>>;

/// The service as a server takes it.
#[derive(Debug, Clone)]
pub struct Server(pub(super) Service);

impl NamedService for Server {
    const NAME: &'static str = "remora.v1.Discovery";
}

impl TowerService<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != "/remora.v1.Discovery/Sync" {
                return Ok(Status::unimplemented("discovery has no such method").into_http());
            }
            let peer = request.extensions().get().cloned();
            Ok(match service.sync(peer, Requests::new(request.into_body())).await {
                Ok(messages) => answer(messages),
                Err(status) => status.into_http(),
            })
        })
    }
}

fn answer(messages: Messages) -> http::Response<Body> {
    let mut answer = http::Response::new(Body::new(Responses::Open(messages)));
    let grpc = http::HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    answer
}

/// The body of an answer: the messages, then how it ended.
enum Responses {
    Open(Messages),
    Ending(Status),
    Ended,
}

impl HttpBody for Responses {
    type Data = Encoded;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Encoded>, Infallible>>> {
        let end = match &mut *self {
            Self::Open(messages) => match ready!(messages.as_mut().poll_next(cx)) {
                Some(Ok(first)) => {
                    let (gathered, end) = gather(first, messages, cx);
                    if let Some(status) = end {
                        *self = Self::Ending(status);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(gathered))));
                }
                Some(Err(status)) => Some(status),
                None => Some(Status::ok("")),
            },
            Self::Ending(status) => Some(status.clone()),
            Self::Ended => None,
        };
        *self = Self::Ended;
        Poll::Ready(end.map(|status| Ok(Frame::trailers(trailers(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Ended)
    }
}

/// The message, with those that are there already; and how the stream ended, if it did.
fn gather(first: Encoded, messages: &mut Messages, cx: &mut Context<'_>) -> (Encoded, Option<Status>) {
    let mut gathered = BytesMut::new();
    let whole = |gathered: BytesMut| if gathered.is_empty() { first.clone() } else { gathered.freeze() };
    while first.len().max(gathered.len()) < GATHERED_BYTES {
        match messages.as_mut().poll_next(cx) {
            Poll::Ready(Some(Ok(next))) => {
                if gathered.is_empty() {
                    gathered.extend_from_slice(&first);
                }
                gathered.extend_from_slice(&next);
            }
            Poll::Ready(Some(Err(status))) => return (whole(gathered), Some(status)),
            Poll::Ready(None) => return (whole(gathered), Some(Status::ok(""))),
            Poll::Pending => break,
        }
    }
    (whole(gathered), None)
}

fn trailers(status: &Status) -> http::HeaderMap {
    let mut trailers = http::HeaderMap::new();
    // It fails for texts that are no header values; then the code still says what matters.
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from(status.code() as i32));
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use http_body_util::BodyExt as _;
    use std::future::pending;

    const fn text(text: &'static str) -> Result<Encoded, Status> {
        Ok(Encoded::from_static(text.as_bytes()))
    }

    async fn next(body: &mut Responses) -> Result<Encoded, http::HeaderMap> {
        let frame = body.frame().await.unwrap().unwrap();
        frame.into_data().map_err(|frame| frame.into_trailers().unwrap())
    }

    #[tokio::test]
    async fn what_is_there_goes_out_together_and_then_how_it_ended() {
        let overloaded = || Err(crate::serve::come_again(std::time::Duration::from_millis(7)));
        for (end, code, after) in [(None, "0", None), (Some(overloaded()), "14", Some("7"))] {
            let ready = stream::iter([text("a"), text("b"), text("c")].into_iter().chain(end));
            let mut body = Responses::Open(Box::pin(ready));
            assert_eq!(next(&mut body).await, Ok(Encoded::from_static(b"abc")));
            let trailers = next(&mut body).await.unwrap_err();
            assert_eq!(trailers["grpc-status"], code);
            assert_eq!(trailers.get("remora-return-after-ms").map(|ms| ms.to_str().unwrap()), after);
            assert!(body.frame().await.is_none() && body.is_end_stream());
        }
    }

    #[tokio::test]
    async fn a_message_that_is_alone_is_sent_as_it_lies() {
        let alone = Encoded::from(vec![1; GATHERED_BYTES / 2]);
        let (first, more) = (alone.clone(), stream::once(pending()));
        let mut body = Responses::Open(Box::pin(stream::iter([Ok(first)]).chain(more)));
        assert_eq!(next(&mut body).await.unwrap().as_ptr(), alone.as_ptr());
        assert!(body.frame().now_or_never().is_none(), "and nothing is made up after it");
    }

    #[tokio::test]
    async fn no_more_is_gathered_than_a_bound() {
        let half = Encoded::from(vec![1; GATHERED_BYTES / 2]);
        let mut body = Responses::Open(Box::pin(stream::iter([(); 5].map(|()| Ok(half.clone())))));
        for length in [2, 2, 1] {
            assert_eq!(next(&mut body).await.unwrap().len(), length * half.len());
        }
        assert_eq!(next(&mut body).await.unwrap_err()["grpc-status"], "0");
    }
}
