//! The guard as a stream: what hyper reads has passed it.

use super::{Guard, Refusal, head::Leaving};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The server's side of an HTTP/1 connection, whose reads are judged.
///
/// A refused read never reaches the reader, so that a refused head is never whole: it sees an error of kind
/// [`io::ErrorKind::InvalidData`] with the [`Refusal`] inside. If nothing was asked on this connection before, the client is told with a bare response;
/// otherwise an answer may be under way that another one would corrupt, and the connection just ends.
///
/// A 101 or 2xx that is written in answer to an upgrade or CONNECT ends the judging: what follows is not HTTP/1.
/// Limitation: it is known by the bytes a write begins with, so hyper must not join it to the answer before it; it does
/// not, since an upgrade waits for the answers before it.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    guard: Guard,
    /// Whether the reader has answered anything.
    answered: bool,
    refusal: Option<Refusal>,
}

impl<S> Guarded<S> {
    /// Judges what comes from a client on `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, guard: Guard::requests(), answered: false, refusal: None }
    }

    /// See [`Guard::opaque`].
    pub fn opaque(&mut self) {
        self.guard.opaque();
    }

    fn writing(&mut self, bytes: &[u8]) {
        self.answered = true;
        let status = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 ")).unwrap_or_default();
        let granted: &[u8] = match self.guard.leaving() {
            Leaving::No => return,
            Leaving::Upgrade => b"101",
            Leaving::Tunnel => b"2",
        };
        if status.starts_with(granted) {
            self.guard.opaque();
        }
    }

    /// Why the connection ended, if that was the guard's doing.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// The stream, for what follows an upgrade.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

/// The whole response to a refused first request.
fn response(refusal: Refusal) -> String {
    let status = refusal.status();
    let word = if status == 400 || status == 505 { "protocol_error" } else { "header_too_large" };
    format!("HTTP/1.1 {status}\r\nx-remora-error: {word}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(refusal) = this.refusal {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        if let Err(refusal) = this.guard.feed(read) {
            buf.set_filled(before);
            this.refusal = Some(refusal);
            if !this.answered {
                // One attempt: a socket on which nothing was written takes 150 bytes, and whoever made it refuse them
                // has no claim on them.
                let _ = Pin::new(&mut this.stream).poll_write(cx, response(refusal).as_bytes());
            }
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(refusal) = self.refusal {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)));
        }
        self.writing(bytes);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(refusal) = self.refusal {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)));
        }
        self.writing(bytes.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice));
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(flavor = "current_thread")]
    async fn a_refused_first_request_is_told_and_never_whole() {
        let (mut client, server) = tokio::io::duplex(4096);
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await
            .unwrap();
        let mut server = Guarded::new(server);
        let mut read = Vec::new();
        let error = server.read_to_end(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(!read.ends_with(b"\r\n\r\n"), "the end of the head was let through");
        assert_eq!(server.refusal(), Some(Refusal::TwoLengths));
        assert!(server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_err());
        drop(server);
        let mut told = String::new();
        client.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 400 Bad Request\r\nx-remora-error: protocol_error\r\n"), "{told}");
        assert_eq!(told.matches("HTTP/1.1").count(), 1);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_under_way_is_not_corrupted() {
        let (mut client, server) = tokio::io::duplex(4096);
        let mut server = Guarded::new(server);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut read = [0; 64];
        assert_eq!(server.read(&mut read).await.unwrap(), 27);
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        client.write_all(b"GET /\n").await.unwrap();
        assert!(server.read(&mut read).await.is_err());
        drop(server);
        let mut told = String::new();
        client.read_to_string(&mut told).await.unwrap();
        assert!(told.ends_with("half"), "{told}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn good_requests_and_what_follows_an_upgrade_pass() {
        let (mut client, server) = tokio::io::duplex(4096);
        let mut server = Guarded::new(server);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n").await.unwrap();
        let mut read = [0; 64];
        assert!(server.read(&mut read).await.unwrap() > 0);
        server.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
        client.write_all(b"\0\n\0").await.unwrap();
        assert_eq!(server.read(&mut read).await.unwrap(), 3);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_refused_upgrade_leaves_the_gate_in_place() {
        let (mut client, server) = tokio::io::duplex(4096);
        let mut server = Guarded::new(server);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n").await.unwrap();
        let mut read = [0; 64];
        assert!(server.read(&mut read).await.unwrap() > 0);
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        client.write_all(b"\0\n\0").await.unwrap();
        assert!(server.read(&mut read).await.is_err());
    }
}
