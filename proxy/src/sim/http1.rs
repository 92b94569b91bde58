//! HTTP/1 as both ends of a simulation read and write it: by hand, so that they can break off at any byte and know what was told.

use super::{
    ledger::{Arriving, piece},
    plan::{Framing, Pace},
};
use std::{fmt::Write as _, io};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::sleep,
};

/// After so many pauses a slow writer or reader goes on without.
const PAUSES: usize = 30;

/// The head of a message.
#[derive(Debug)]
pub(super) struct Head {
    /// The words of the first line.
    pub first: Vec<String>,
    fields: Vec<(String, String)>,
}

impl Head {
    /// The value of a field.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A field that is a number.
    pub(super) fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.get(name)?.parse().ok()
    }

    /// The status of an answer; 0 if it has none.
    pub(super) fn status(&self) -> u16 {
        self.first.get(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub(super) fn says_close(&self) -> bool {
        self.get("connection").is_some_and(|value| value.contains("close"))
    }

    /// How the body ends that follows; `otherwise` where the head does not say.
    pub(super) fn ends(&self, otherwise: Ends) -> Ends {
        match (self.get("transfer-encoding"), self.number("content-length")) {
            (Some(_), _) => Ends::Chunked,
            (None, Some(length)) => Ends::Length(length),
            (None, None) => otherwise,
        }
    }
}

/// How a body ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ends {
    Length(usize),
    Chunked,
    Close,
}

/// Waits as the pace says between reads or writes, and says how much the next one may take.
pub(super) struct Paced {
    pace: Pace,
    pauses: usize,
}

impl Paced {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, pauses: 0 }
    }

    pub(super) async fn next(&mut self) -> usize {
        match self.pace {
            Pace::Late(wait) => {
                self.pace = Pace::Fast;
                sleep(wait).await;
            }
            Pace::Slow(count, pause) if self.pauses < PAUSES => {
                self.pauses += 1;
                if self.pauses > 1 {
                    sleep(pause).await;
                }
                return count;
            }
            _ => {}
        }
        16 << 10
    }
}

/// Reads messages.
pub(super) struct Reader<R> {
    inner: R,
    held: Vec<u8>,
    /// Whether another message may follow.
    keeps: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, held: Vec::new(), keeps: true }
    }

    pub(super) fn keep(&mut self, keeps: bool) {
        self.keeps = keeps;
    }

    pub(super) fn is_kept(&self) -> bool {
        self.keeps && self.held.is_empty()
    }

    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    /// Reads on; false at the end.
    async fn more(&mut self, most: usize) -> io::Result<bool> {
        let mut buffer = vec![0; most.min(32 << 10)];
        let count = self.inner.read(&mut buffer).await?;
        self.held.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }

    /// What there is of bytes; none at the end.
    pub(super) async fn some(&mut self, most: usize) -> io::Result<Vec<u8>> {
        if self.held.is_empty() {
            self.more(most).await?;
        }
        Ok(std::mem::take(&mut self.held))
    }

    /// So many bytes.
    pub(super) async fn exactly_these(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.held.len() < count {
            if !self.more(count - self.held.len()).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.held.drain(..count).collect())
    }

    /// Up to and with `end`.
    async fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.held.windows(end.len()).position(|window| window == end) {
                return Ok(Some(self.held.drain(..at + end.len()).collect()));
            }
            if !self.more(16 << 10).await? {
                return if self.held.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The head of the next message; `None`: the connection has ended before it.
    pub(super) async fn head(&mut self) -> io::Result<Option<Head>> {
        let Some(bytes) = self.until(b"\r\n\r\n").await? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(io::Error::other)?;
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default().split(' ').map(str::to_owned).collect();
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Ok(Some(Head { first, fields: lines.map(field).collect() }))
    }

    /// A body; what ends without its end having been told is an error.
    pub(super) async fn body(&mut self, ends: Ends, pace: Pace, body: &mut Arriving) -> io::Result<()> {
        let mut paced = Paced::new(pace);
        match ends {
            Ends::Length(length) => self.exactly(length, &mut paced, body).await,
            Ends::Close => loop {
                body.take(&std::mem::take(&mut self.held));
                let most = paced.next().await;
                if !self.more(most).await? {
                    return Ok(());
                }
            },
            Ends::Chunked => loop {
                let size = self.line().await?;
                let size = size.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
                if size == 0 {
                    while !self.line().await?.is_empty() {}
                    return Ok(());
                }
                self.exactly(size, &mut paced, body).await?;
                if !self.line().await?.is_empty() {
                    return Err(io::Error::other("a chunk is longer than it says"));
                }
            },
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let line = self.until(b"\r\n").await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    async fn exactly(&mut self, length: usize, paced: &mut Paced, body: &mut Arriving) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if self.held.is_empty() {
                let most = paced.next().await;
                if !self.more(most).await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let count = left.min(self.held.len());
            body.take(&self.held[..count]);
            self.held.drain(..count);
            left -= count;
        }
        Ok(())
    }
}

/// Writes `count` bytes of a message's body, without its end.
pub(super) async fn write_body<W: AsyncWrite + Unpin>(
    writer: &mut W,
    (framing, message): (Framing, u64),
    count: usize,
    pace: Pace,
) -> io::Result<()> {
    let (mut paced, mut at) = (Paced::new(pace), 0);
    while at < count {
        let next = paced.next().await.min(count - at);
        let mut bytes = piece(message, at, next);
        if framing == Framing::Chunked {
            let mut chunk = format!("{next:x}\r\n").into_bytes();
            chunk.append(&mut bytes);
            chunk.extend_from_slice(b"\r\n");
            bytes = chunk;
        }
        writer.write_all(&bytes).await?;
        at += next;
    }
    Ok(())
}

/// Writes what ends a body in chunks.
pub(super) async fn write_end<W: AsyncWrite + Unpin>(writer: &mut W, trailers: bool) -> io::Result<()> {
    writer.write_all(if trailers { b"0\r\nx-sim-end: 1\r\n\r\n" } else { b"0\r\n\r\n" }).await
}

/// The text of a head.
pub(super) fn text(first: &str, fields: &[(&str, String)]) -> Vec<u8> {
    let mut text = format!("{first}\r\n");
    for (name, value) in fields {
        // A String takes all.
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}
