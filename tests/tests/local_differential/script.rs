//! What both ends of an exchange say, and how it is written. Text is Latin 1 everywhere: a character is a byte.

use remora_tests::wire::http2::{self, END_STREAM, frame, kind};
use std::fmt::Write as _;

/// A field's name and value.
pub type Field = (String, String);

/// Exchange and call.
pub type Key = (usize, usize);

/// The field by which the origin knows which call it is asked.
pub const NUMBER: &str = "x-number";

/// How client and origin speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1, each request of which names where it goes.
    Http1,
    /// HTTP/1 inside a CONNECT to the origin, so that its `Host` can be anything. Directly: without the CONNECT.
    Tunnel,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// Bytes, inside a CONNECT as well.
    Bytes,
}

/// A client's connection to an origin, and all that happens on it.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub number: usize,
    pub protocol: Protocol,
    /// Whether all requests are sent before the first answer is read.
    pub pipelined: bool,
    pub calls: Vec<Call>,
}

/// A request and its answer.
#[derive(Debug, Clone)]
pub struct Call {
    pub request: Request,
    pub answer: Answer,
    /// What follows a 101, or is all there is.
    pub talk: Option<Talk>,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// In HTTP/2 the whole URI.
    pub target: String,
    /// `HTTP/1.1`, `HTTP/1.0` or `HTTP/2`.
    pub version: &'static str,
    /// With `Host`, without what frames the body.
    pub fields: Vec<Field>,
    pub body: Body,
    /// Whether the body is sent only when the origin has asked for it.
    pub waits: bool,
    pub ending: Ending,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub interim: Vec<(u16, Vec<Field>)>,
    pub version: &'static str,
    pub status: u16,
    /// With the space before it; empty for none at all.
    pub reason: String,
    pub fields: Vec<Field>,
    pub body: Body,
    /// Whether it is sent as soon as the request's head is there.
    pub early: bool,
    pub ending: Ending,
}

/// What follows a head.
#[derive(Debug, Clone, Default)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub framing: Framing,
    pub trailers: Vec<Field>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Framing {
    /// No body, and no word of one.
    #[default]
    None,
    /// `Content-Length`.
    Length,
    /// `Content-Length`, and no body: an answer to HEAD, or a 304.
    LengthOnly(usize),
    /// Chunks of these sizes, in turn, and what stands behind each size.
    Chunked(Vec<usize>, String),
    /// Up to the end of the connection.
    Close,
}

/// How a message ends. Numbers are bytes of the body before that; both ends wait for each other there, so that no end overtakes
/// what was sent before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Whole,
    /// The connection ends in order, before the head of an answer.
    FinBefore,
    /// It is reset there.
    ResetBefore,
    FinAt(usize),
    ResetAt(usize),
    /// All of the body, and then FIN where the last chunk belongs.
    NoLastChunk,
    /// RST_STREAM with this code before the answer's head.
    StreamBefore(u32),
    StreamAt(usize, u32),
    /// GOAWAY that takes the stream for served, then FIN.
    AwayAt(usize, u32),
    /// GOAWAY that leaves the stream out, then FIN.
    AwayBefore,
}

/// Bytes both ways.
#[derive(Debug, Clone)]
pub struct Talk {
    pub client: Vec<u8>,
    pub server: Vec<u8>,
    /// What the end that was not ended still sends.
    pub late: Vec<u8>,
    pub end: TalkEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TalkEnd {
    ClientFin,
    ServerFin,
    ClientReset,
    ServerReset,
}

/// The bytes of a Latin 1 text.
pub fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| c as u8).collect()
}

/// The Latin 1 text of bytes.
pub fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

impl Exchange {
    /// What names a call.
    pub fn key(&self, call: usize) -> Key {
        (self.number, call)
    }
}

impl Ending {
    /// How many bytes of the body come before the end, if not all of them do.
    pub fn at(self) -> Option<usize> {
        match self {
            Self::Whole | Self::NoLastChunk => None,
            Self::FinBefore | Self::ResetBefore | Self::StreamBefore(_) | Self::AwayBefore => Some(0),
            Self::FinAt(at) | Self::ResetAt(at) | Self::StreamAt(at, _) | Self::AwayAt(at, _) => Some(at),
        }
    }

    /// Whether nothing at all comes before it.
    pub fn is_before(self) -> bool {
        matches!(self, Self::FinBefore | Self::ResetBefore | Self::StreamBefore(_) | Self::AwayBefore)
    }
}

impl Request {
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} {}\r\n", self.method, self.target, self.version);
        self.body.write_fields(&self.fields, &mut head);
        bytes(&head)
    }

    /// The body's bytes as far as they are sent.
    pub fn rest(&self) -> Vec<u8> {
        self.body.written(self.ending)
    }
}

impl Answer {
    /// Interim answers.
    pub fn interim_http1(&self) -> Vec<u8> {
        let mut text = String::new();
        for (status, fields) in &self.interim {
            let _ = write!(text, "HTTP/1.1 {status} Interim\r\n");
            Body::default().write_fields(fields, &mut text);
        }
        bytes(&text)
    }

    pub fn http1(&self) -> Vec<u8> {
        let mut head = format!("{} {}{}\r\n", self.version, self.status, self.reason);
        self.body.write_fields(&self.fields, &mut head);
        [bytes(&head), self.body.written(self.ending)].concat()
    }

    /// The frames of the answer, up to its end if that is whole.
    pub fn http2(&self, stream: u32) -> Vec<u8> {
        let mut frames = Vec::new();
        let block = |status: u16, fields: &[Field]| {
            let status = status.to_string();
            let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            http2::block(&std::iter::once((":status", status.as_str())).chain(fields).collect::<Vec<_>>())
        };
        for (status, fields) in &self.interim {
            frames.extend(http2::headers(stream, 0, &block(*status, fields)));
        }
        let whole = self.ending == Ending::Whole;
        let Body { bytes, framing, trailers } = &self.body;
        let end = |last: bool| if whole && last { END_STREAM } else { 0 };
        let mut fields = self.fields.clone();
        match framing {
            Framing::Length => fields.push(("content-length".into(), bytes.len().to_string())),
            Framing::LengthOnly(length) => fields.push(("content-length".into(), length.to_string())),
            _ => {}
        }
        let empty = bytes.is_empty() && trailers.is_empty();
        frames.extend(http2::headers(stream, end(empty), &block(self.status, &fields)));
        let sent = &bytes[..self.ending.at().unwrap_or(bytes.len())];
        let mut pieces = sent.chunks(1000).peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none() && trailers.is_empty();
            frames.extend(frame(kind::DATA, end(last), stream, piece));
        }
        if whole && !trailers.is_empty() {
            let fields: Vec<_> = trailers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            frames.extend(http2::headers(stream, END_STREAM, &http2::block(&fields)));
        }
        frames
    }
}

impl Body {
    fn write_fields(&self, fields: &[Field], into: &mut String) {
        for (name, value) in fields {
            let _ = write!(into, "{name}:{value}\r\n");
        }
        let _ = match &self.framing {
            Framing::None | Framing::Close => Ok(()),
            Framing::Length => write!(into, "Content-Length: {}\r\n", self.bytes.len()),
            Framing::LengthOnly(length) => write!(into, "Content-Length: {length}\r\n"),
            Framing::Chunked(..) => write!(into, "Transfer-Encoding: chunked\r\n"),
        };
        into.push_str("\r\n");
    }

    /// The bytes behind the head, up to where the ending cuts them.
    fn written(&self, ending: Ending) -> Vec<u8> {
        let sent = &self.bytes[..ending.at().unwrap_or(self.bytes.len())];
        let Framing::Chunked(sizes, extension) = &self.framing else {
            return if matches!(self.framing, Framing::Length | Framing::Close) { sent.to_vec() } else { Vec::new() };
        };
        let (mut written, mut from, mut sizes) = (Vec::new(), 0, sizes.iter().cycle());
        while from < sent.len() {
            let size = sizes.next().copied().unwrap_or(1).min(self.bytes.len() - from);
            written.extend(bytes(&format!("{size:x}{extension}\r\n")));
            written.extend(&sent[from..sent.len().min(from + size)]);
            from += size;
            if from <= sent.len() {
                written.extend(b"\r\n");
            }
        }
        if ending == Ending::Whole {
            let mut last = format!("0{extension}\r\n");
            for (name, value) in &self.trailers {
                let _ = write!(last, "{name}:{value}\r\n");
            }
            written.extend(bytes(&last));
            written.extend(b"\r\n");
        }
        written
    }
}
