//! The proxy's end of `Discovery.Sync`, but for one thing as tonic has it: of each message it is known whether it says more
//! than this version reads.
//!
//! In: bytes. Out: [`Received`]. Field numbers and values that a reader does not know vanish in decoding, and what is left may
//! hold for more than was meant. So the message is measured: one that would be written shorter than it came had something that
//! vanished. That asks of senders to write as protobuf's own libraries do: no field with its default value, numbers in a list packed.

use crate::v1::{SyncRequest, SyncResponse};
use prost::{DecodeError, Message as _, bytes::Buf};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::{Grpc, GrpcService},
    codec::{Codec, DecodeBuf, Decoder},
    codegen::{Body as HttpBody, Bytes, StdError, http::uri::PathAndQuery, tokio_stream::Stream},
};
use tonic_prost::ProstEncoder;

/// What discovery said.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    pub message: SyncResponse,
    /// Whether all of it is known to this version.
    pub known: bool,
}

impl Received {
    /// Reads one message.
    ///
    /// # Errors
    /// It is no message at all.
    pub fn decode(bytes: impl Buf) -> Result<Self, DecodeError> {
        let length = bytes.remaining();
        let message = SyncResponse::decode(bytes)?;
        let known = message.encoded_len() == length;
        Ok(Self { message, known })
    }
}

/// As this version makes it.
impl From<SyncResponse> for Received {
    fn from(message: SyncResponse) -> Self {
        Self { message, known: true }
    }
}

/// Opens the stream; a message of more than `bytes_max` bytes ends it.
///
/// # Errors
/// What discovery, or the way to it, says instead.
pub async fn sync<T>(
    channel: T,
    bytes_max: usize,
    requests: impl Stream<Item = SyncRequest> + Send + 'static,
) -> Result<Response<Streaming<Received>>, Status>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let mut grpc = Grpc::new(channel).max_decoding_message_size(bytes_max);
    let away = |error: T::Error| {
        let error: StdError = error.into();
        Status::unavailable(format!("no way to discovery: {error}"))
    };
    grpc.ready().await.map_err(away)?;
    grpc.streaming(Request::new(requests), PathAndQuery::from_static("/remora.v1.Discovery/Sync"), Reading).await
}

/// Requests are encoded as ever, responses are measured.
#[derive(Debug, Clone, Copy)]
struct Reading;

impl Codec for Reading {
    type Encode = SyncRequest;
    type Decode = Received;
    type Encoder = ProstEncoder<SyncRequest>;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Decoder for Reading {
    type Item = Received;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Received>, Status> {
        let read = Received::decode(buffer);
        read.map(Some).map_err(|error| Status::internal(format!("an update cannot be read: {error}")))
    }
}
