//! A message as it was on the wire, whole or cut off: nothing is lost but the order of bytes in packets.

use super::script::{Field, latin};

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Request line or status line; of HTTP/2 its pseudo fields; the bytes of a head that is not whole.
    pub start: String,
    /// Field lines in their order: the name, and all that stands behind its colon.
    pub fields: Vec<Field>,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Vec<Field>,
    pub end: End,
}

/// How a message says where its body ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// The head is not there yet.
    Unknown,
    None,
    Length,
    /// The lines before the chunks.
    Chunked(Vec<String>),
    Close,
    Http2,
    /// Bytes that are no HTTP.
    Bytes,
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It has not.
    Part,
    Whole,
    /// In the middle, by FIN.
    Fin,
    /// In the middle, by RST.
    Reset,
    /// In the middle, by RST_STREAM with this code.
    Stream(u32),
    /// In the middle, by GOAWAY with this code and the end of the connection.
    Away(u32),
    /// It never did, for seconds.
    Silent,
}

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Request,
    /// To a request that was, or was not, a HEAD.
    Answer {
        to_head: bool,
    },
}

impl Message {
    /// With this beginning and nothing else.
    pub fn new(start: impl Into<String>, framing: Framing) -> Self {
        let start = start.into();
        Self { start, fields: Vec::new(), framing, body: Vec::new(), trailers: Vec::new(), end: End::Part }
    }

    /// The status of an answer; 0 if there is none yet.
    pub fn status(&self) -> u16 {
        if self.framing == Framing::Unknown {
            return 0;
        }
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    /// Whether this is not yet the answer, and is none that ends HTTP.
    pub fn is_interim(&self) -> bool {
        matches!(self.status(), 100 | 102..=199)
    }

    /// The values of a field, without white space around them.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.fields.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim_matches([' ', '\t']))
    }

    /// Whether a field lists this word.
    pub fn lists(&self, name: &str, word: &str) -> bool {
        self.values(name).flat_map(|value| value.split(',')).any(|it| it.trim().eq_ignore_ascii_case(word))
    }

    /// Whether the connection goes on behind this message, by its own words.
    pub fn keeps(&self) -> bool {
        let old = self.start.contains("HTTP/1.0");
        let said = !self.lists("connection", "close") && (!old || self.lists("connection", "keep-alive"));
        said && self.framing != Framing::Close
    }
}

/// The message that `bytes` begin with, as far as it is there, and how long that is.
pub fn read(bytes: &[u8], kind: Kind) -> (Message, usize) {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return (Message::new(latin(bytes), Framing::Unknown), bytes.len());
    };
    let text = latin(&bytes[..head]);
    let mut lines = text.split("\r\n");
    let mut message = Message::new(lines.next().unwrap_or_default(), Framing::None);
    message.fields = lines.map(field).collect();
    let length = message.values("content-length").next().and_then(|length| length.parse().ok());
    let chunked = message.values("transfer-encoding").next().is_some();
    let status = message.status();
    let bare = match kind {
        Kind::Request => !chunked && length.is_none(),
        Kind::Answer { to_head } => to_head || matches!(status, 100..=199 | 204 | 304),
    };
    let rest = &bytes[head + 4..];
    let taken = match (bare, chunked, length) {
        (true, ..) => {
            message.end = End::Whole;
            0
        }
        (_, true, _) => chunks(rest, &mut message),
        (_, false, Some(length)) => {
            message.framing = Framing::Length;
            message.body = rest[..rest.len().min(length)].to_vec();
            if rest.len() >= length {
                message.end = End::Whole;
            }
            message.body.len()
        }
        (_, false, None) => {
            message.framing = Framing::Close;
            message.body = rest.to_vec();
            rest.len()
        }
    };
    (message, head + 4 + taken)
}

fn field(line: &str) -> Field {
    let (name, value) = line.split_once(':').unwrap_or((line, "(no colon)"));
    (name.to_owned(), value.to_owned())
}

/// Reads chunks, as far as they are there: how many bytes they are.
fn chunks(bytes: &[u8], message: &mut Message) -> usize {
    let line_at = |at: usize| {
        let end = bytes[at..].windows(2).position(|window| window == b"\r\n")?;
        Some((latin(&bytes[at..at + end]), at + end + 2))
    };
    let (mut lines, mut at) = (Vec::new(), 0);
    while let Some((line, data)) = line_at(at) {
        let size = line.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else {
            lines.push(format!("no chunk: {line}"));
            break;
        };
        lines.push(line);
        if size == 0 {
            (message.end, at) = trailers(data, line_at, &mut message.trailers);
            break;
        }
        let end = bytes.len().min(data + size);
        message.body.extend_from_slice(&bytes[data..end]);
        at = data + size + 2;
        if at > bytes.len() {
            break;
        }
    }
    message.framing = Framing::Chunked(lines);
    at.min(bytes.len())
}

fn trailers(mut at: usize, line_at: impl Fn(usize) -> Option<(String, usize)>, into: &mut Vec<Field>) -> (End, usize) {
    while let Some((line, next)) = line_at(at) {
        at = next;
        if line.is_empty() {
            return (End::Whole, at);
        }
        into.push(field(&line));
    }
    (End::Part, at)
}
