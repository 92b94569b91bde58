//! `Discovery` as tonic serves it, but for one thing: what is sent is encoded before, once for all who are sent it.

use super::{Service, limits::REQUEST_BYTES_MAX, resource::Encoded};
use prost::Message as _;
use remora_api::v1::SyncRequest;
use std::{convert::Infallible, pin::Pin};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{Body as HttpBody, BoxFuture, Context, Poll, Service as TowerService, StdError, http},
    server::{Grpc, NamedService, StreamingService},
};

/// What a stream's buffers begin with: most messages are small, and streams are many.
const BUFFER_BYTES: usize = 512;
/// What is gathered before it is sent.
const GATHERED_BYTES: usize = 32 * 1024;

/// The messages of one stream.
pub(super) type Messages = Pin<Box<dyn tokio_stream::Stream<Item = Result<Encoded, Status>> + Send>>;

/// The service as a server takes it.
#[derive(Debug, Clone)]
pub struct Server(pub(super) Service);

impl NamedService for Server {
    const NAME: &'static str = "remora.v1.Discovery";
}

impl<B> TowerService<http::Request<B>> for Server
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != "/remora.v1.Discovery/Sync" {
                return Ok(Status::unimplemented("discovery has no such method").into_http());
            }
            let grpc = Grpc::new(Encodings);
            let mut grpc = grpc.apply_max_message_size_config(Some(REQUEST_BYTES_MAX), Some(usize::MAX));
            Ok(grpc.streaming(Sync(service), request).await)
        })
    }
}

/// The one method.
struct Sync(Service);

impl StreamingService<SyncRequest> for Sync {
    type Response = Encoded;
    type ResponseStream = Messages;
    type Future = BoxFuture<Response<Messages>, Status>;

    fn call(&mut self, request: Request<Streaming<SyncRequest>>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.sync(request).await })
    }
}

/// Requests are decoded, responses are bytes.
#[derive(Debug, Clone, Copy)]
struct Encodings;

impl Codec for Encodings {
    type Encode = Encoded;
    type Decode = SyncRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Encodings {
    type Item = Encoded;
    type Error = Status;

    fn encode(&mut self, message: Encoded, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost::bytes::BufMut as _;
        buffer.put(message);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, GATHERED_BYTES)
    }
}

impl Decoder for Encodings {
    type Item = SyncRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<SyncRequest>, Status> {
        let read = SyncRequest::decode(buffer);
        read.map(Some).map_err(|error| Status::internal(format!("a request cannot be read: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, GATHERED_BYTES)
    }
}
