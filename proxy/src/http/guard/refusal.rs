//! Why the guard refuses a connection's bytes.

use crate::telemetry::Reason;
use http::StatusCode;

/// What is wrong with the bytes. Whoever sent them loses the connection: behind one ambiguous message nothing can be
/// trusted to be a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a line of the head or of chunk framing ends in a bare LF; lines end in CR LF (RFC 9112 §2.2)")]
    BareLf,
    #[error("a line holds a CR that no LF follows (RFC 9112 §2.2)")]
    BareCr,
    #[error("a NUL or another control character stands in the head")]
    ControlCharacter,
    #[error("the request line is not `method SP target SP HTTP/1.x` (RFC 9112 §3)")]
    RequestLine,
    #[error("the request target is in none of the forms its method may take, or holds a fragment or user name")]
    Target,
    #[error("the version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    #[error("the request line is longer than {} bytes", super::LINE_BYTES_MAX)]
    LineTooLong,
    #[error("the head is longer than {} bytes", super::HEAD_BYTES_MAX)]
    HeadTooLarge,
    #[error("the head has more than {} fields", super::HEAD_FIELDS_MAX)]
    TooManyFields,
    #[error("a field line begins with white space: obs-fold is obsolete (RFC 9112 §5.2)")]
    Fold,
    #[error("a field name is empty, is no token, or has white space before its colon (RFC 9112 §5.1)")]
    FieldName,
    #[error("`transfer-encoding` is not exactly one `chunked`")]
    TransferEncoding,
    #[error("`transfer-encoding` with HTTP/1.0 (RFC 9112 §6.1)")]
    TransferEncodingInOldVersion,
    #[error("both `content-length` and `transfer-encoding` (RFC 9112 §6.3)")]
    TwoLengths,
    #[error("`content-length` is not one decimal number, or is given twice and differs (RFC 9110 §8.6)")]
    ContentLength,
    #[error("`host` is missing, given twice, or no host (RFC 9112 §3.2)")]
    Host,
    #[error("`host` and the authority of the request target differ")]
    HostMismatch,
    #[error("a chunk size is not plain hexadecimal of at most 15 digits (RFC 9112 §7.1)")]
    ChunkSize,
    #[error("a chunk's data does not end in CR LF where its size says")]
    ChunkEnd,
    #[error("the chunk extensions of one body are longer than {} bytes", super::EXTENSION_BYTES_MAX)]
    ChunkExtensions,
    #[error("the trailers are longer than {} bytes", super::TRAILER_BYTES_MAX)]
    TrailersTooLarge,
    #[error("a trailer that frames, routes or authorises (RFC 9110 §6.5.1)")]
    ForbiddenTrailer,
    #[error("a CONNECT or upgrade while an earlier request has no response yet: the bytes after it would be ambiguous")]
    PipelinedUpgrade,
    #[error("bytes behind a CONNECT or upgrade that has no answer yet: they may be HTTP or not (RFC 9110 §7.8)")]
    EarlyBytes,
}

impl Refusal {
    /// The word for it in the metric label.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BareLf => "bare_lf",
            Self::BareCr => "bare_cr",
            Self::ControlCharacter => "control_character",
            Self::RequestLine => "request_line",
            Self::Target => "target",
            Self::Version => "version",
            Self::LineTooLong => "line_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
            Self::Fold => "fold",
            Self::FieldName => "field_name",
            Self::TransferEncoding => "transfer_encoding",
            Self::TransferEncodingInOldVersion => "transfer_encoding_in_old_version",
            Self::TwoLengths => "two_lengths",
            Self::ContentLength => "content_length",
            Self::Host => "host",
            Self::HostMismatch => "host_mismatch",
            Self::ChunkSize => "chunk_size",
            Self::ChunkEnd => "chunk_end",
            Self::ChunkExtensions => "chunk_extensions",
            Self::TrailersTooLarge => "trailers_too_large",
            Self::ForbiddenTrailer => "forbidden_trailer",
            Self::PipelinedUpgrade => "pipelined_upgrade",
            Self::EarlyBytes => "early_bytes",
        }
    }

    /// The reason, of the closed set, that the client gets.
    #[must_use]
    pub(crate) fn reason(self) -> Reason {
        match self.status() {
            StatusCode::BAD_REQUEST | StatusCode::HTTP_VERSION_NOT_SUPPORTED => Reason::ProtocolError,
            _ => Reason::HeaderTooLarge,
        }
    }

    /// The status that tells a client.
    #[must_use]
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::LineTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge | Self::TooManyFields | Self::TrailersTooLarge => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::BareLf
            | Self::BareCr
            | Self::ControlCharacter
            | Self::RequestLine
            | Self::Target
            | Self::Fold
            | Self::FieldName
            | Self::TransferEncoding
            | Self::TransferEncodingInOldVersion
            | Self::TwoLengths
            | Self::ContentLength
            | Self::Host
            | Self::HostMismatch
            | Self::ChunkSize
            | Self::ChunkEnd
            | Self::ChunkExtensions
            | Self::ForbiddenTrailer
            | Self::PipelinedUpgrade
            | Self::EarlyBytes => StatusCode::BAD_REQUEST,
        }
    }
}
