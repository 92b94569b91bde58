//! The guard as a stream: what hyper reads has passed it.

use super::stall::Watch;
use super::{Guard, Patience, Refusal, Wait, head::Leaving};
use crate::http::under_way::UnderWay;
use crate::telemetry::{self, Direction, Reason};
use http::StatusCode;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The server's side of an HTTP/1 connection, whose reads are judged and whose waits are bounded.
///
/// A refused read never reaches the reader, so that a refused head is never whole: it sees an error of kind
/// [`io::ErrorKind::InvalidData`] with the [`Refusal`] inside. If nothing was asked on this connection before, the client
/// is told with a bare response; otherwise an answer may be under way that another one would corrupt, and the connection
/// just ends. A client that stalls ([`Patience`]) meets the same end; an idle one meets the end of the connection.
///
/// A 101 or 2xx that is written in answer to an upgrade or CONNECT ends the judging: what follows is not HTTP/1.
/// Limitation: it is known by the bytes a write begins with, so hyper must not join it to the answer before it; it does
/// not, since an upgrade waits for the answers before it.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    direction: Direction,
    guard: Guard,
    patience: Patience,
    under_way: UnderWay,
    reading: Watch,
    writing: Watch,
    /// Bytes that the client took.
    written: u64,
    end: Option<End>,
    /// Bytes that may yet be taken after a refusal.
    lingers: usize,
}

/// What is taken from a client after its refusal was told, and for how long.
const LINGER_BYTES_MAX: usize = 1 << 20;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// A mark that never moves.
const LINGERING: u64 = u64::MAX;

/// Why the guard ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the client stalled: {}", .0.as_str())]
    Stalled(Wait),
}

impl End {
    const fn status(self) -> StatusCode {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::Stalled(_) => StatusCode::REQUEST_TIMEOUT,
        }
    }

    fn reason(self) -> Reason {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Stalled(_) => Reason::Timeout,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.as_str(),
            Self::Stalled(wait) => wait.as_str(),
        }
    }

    fn error(self) -> io::Error {
        let kind = match self {
            Self::Refused(_) => io::ErrorKind::InvalidData,
            Self::Stalled(_) => io::ErrorKind::TimedOut,
        };
        io::Error::new(kind, self)
    }

    /// The whole response to a first request that came to this end.
    fn response(self) -> String {
        let (status, reason) = (self.status(), self.reason().as_str());
        format!("HTTP/1.1 {status}\r\nx-remora-error: {reason}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    }
}

impl<S> Guarded<S> {
    /// Judges what comes from a client on `stream`.
    pub fn new(stream: S, direction: Direction, patience: Patience, under_way: UnderWay) -> Self {
        let guard = Guard::requests();
        let (reading, writing) = (Watch::default(), Watch::default());
        Self { stream, direction, guard, patience, under_way, reading, writing, written: 0, end: None, lingers: 0 }
    }

    /// See [`Guard::opaque`].
    pub fn opaque(&mut self) {
        self.guard.opaque();
    }

    fn writing(&mut self, bytes: &[u8]) {
        let granted: &[u8] = match self.guard.leaving() {
            Leaving::No => return,
            Leaving::Upgrade => b"101",
            Leaving::Tunnel => b"2",
        };
        let status = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 ")).unwrap_or_default();
        if status.starts_with(granted) {
            self.guard.opaque();
        }
    }

    /// Why the connection ended, if that was the guard's doing.
    #[must_use]
    pub const fn end(&self) -> Option<End> {
        self.end
    }

    /// The stream, for what follows an upgrade.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// Ends the connection; the client is told, if no other answer is or was under way.
    fn refuse(&mut self, cx: &mut Context<'_>, end: End) -> io::Error {
        self.end = Some(end);
        telemetry::refused(self.direction, end.reason(), end.as_str());
        if self.written == 0 && end != End::Stalled(Wait::Write) {
            // One attempt: a socket on which nothing was written takes 150 bytes, and whoever made it refuse them has
            // no claim on them.
            let _ = Pin::new(&mut self.stream).poll_write(cx, end.response().as_bytes());
            if Pin::new(&mut self.stream).poll_shutdown(cx).is_ready() {
                self.lingers = LINGER_BYTES_MAX;
            }
        }
        end.error()
    }

    /// After a write: what it says about the client.
    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(count)) => self.written += count as u64,
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let patience = Wait::Write.patience(&self.patience);
                if self.guard.awaited().is_some() && self.writing.stalled(cx, Wait::Write, self.written, patience) {
                    return Poll::Ready(Err(self.refuse(cx, End::Stalled(Wait::Write))));
                }
            }
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    /// Judges what was read.
    fn judge(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, before: usize) -> Poll<io::Result<()>> {
        let read = buf.filled().get(before..).unwrap_or_default();
        if let Err(refusal) = self.guard.feed(read) {
            buf.set_filled(before);
            self.refuse(cx, End::Refused(refusal));
            return self.linger(cx, buf, End::Refused(refusal));
        }
        Poll::Ready(Ok(()))
    }

    /// After a refusal that the client was told: takes what it had under way, for a moment and not without end, because
    /// a socket closed over unread bytes is reset, and the client would lose what it was told.
    fn linger(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, end: End) -> Poll<io::Result<()>> {
        let (before, period) = (buf.filled().len(), self.patience.head.min(LINGER_TIMEOUT));
        while self.lingers > 0 {
            match Pin::new(&mut self.stream).poll_read(cx, buf) {
                Poll::Pending if !self.reading.stalled(cx, Wait::Head, LINGERING, period) => {
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if buf.filled().len() > before => {
                    self.lingers = self.lingers.saturating_sub(buf.filled().len() - before);
                    buf.set_filled(before);
                }
                _ => self.lingers = 0,
            }
        }
        Poll::Ready(Err(end.error()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(end) = this.end {
            return this.linger(cx, buf, end);
        }
        let before = buf.filled().len();
        let wait = match Pin::new(&mut this.stream).poll_read(cx, buf)? {
            Poll::Pending => this.guard.awaited(),
            // It may have ended its side only. Whether it is gone shows when an answer is written, or never.
            Poll::Ready(()) if buf.filled().len() == before && buf.remaining() > 0 && this.under_way.any() => {
                match this.guard.awaited() {
                    Some((Wait::Idle, _)) => {
                        this.under_way.wake(cx);
                        Some((Wait::Answer, this.written))
                    }
                    _ => return Poll::Ready(Ok(())),
                }
            }
            Poll::Ready(()) => return this.judge(cx, buf, before),
        };
        let Some((wait, mark)) = wait else { return Poll::Pending };
        match this.reading.stalled(cx, wait, mark, wait.patience(&this.patience)) {
            false => Poll::Pending,
            true if matches!(wait, Wait::Idle | Wait::Answer) => Poll::Ready(Ok(())),
            true => Poll::Ready(Err(this.refuse(cx, End::Stalled(wait)))),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(end) = self.end {
            return Poll::Ready(Err(end.error()));
        }
        self.writing(bytes);
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(end) = self.end {
            return Poll::Ready(Err(end.error()));
        }
        self.writing(bytes.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice));
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(cx, result)
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    const PATIENCE: Patience = Patience {
        head: Duration::from_millis(40),
        body: Duration::from_millis(150),
        idle: Duration::from_millis(100),
    };
    /// What a busy machine may add.
    const LATE: Duration = Duration::from_secs(5);

    fn guarded(stream: DuplexStream) -> Guarded<DuplexStream> {
        Guarded::new(stream, Direction::Outbound, PATIENCE, UnderWay::default())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_refused_first_request_is_told_and_never_whole() {
        let (mut client, server) = tokio::io::duplex(4096);
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await
            .unwrap();
        let mut server = guarded(server);
        let mut read = Vec::new();
        client.shutdown().await.unwrap();
        let error = server.read_to_end(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(!read.ends_with(b"\r\n\r\n"), "the end of the head was let through");
        assert_eq!(server.end(), Some(End::Refused(Refusal::TwoLengths)));
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
        let mut server = guarded(server);
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
        let mut server = guarded(server);
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
        let mut server = guarded(server);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n").await.unwrap();
        let mut read = [0; 64];
        assert!(server.read(&mut read).await.unwrap() > 0);
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        client.write_all(b"\0\n\0").await.unwrap();
        assert!(server.read(&mut read).await.is_err());
    }

    /// Reads what comes: when it ended, and how.
    async fn read_all(mut server: Guarded<DuplexStream>) -> (Duration, io::Result<usize>) {
        let (began, mut read) = (Instant::now(), Vec::new());
        let result = server.read_to_end(&mut read).await;
        (began.elapsed(), result)
    }

    /// Sends `bytes` and then one more byte every `pause`, as long as anybody reads: what the reader came to, and the
    /// client was told.
    async fn drip(bytes: &[u8], byte: u8, pause: Duration) -> (Duration, io::Result<usize>, String) {
        let (client, server) = tokio::io::duplex(4096);
        let (mut hears, mut says) = tokio::io::split(client);
        says.write_all(bytes).await.unwrap();
        let dripping = async {
            let mut timer = tokio::time::interval_at(Instant::now() + pause, pause);
            loop {
                timer.tick().await;
                if says.write_all(&[byte]).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let (took, result) = tokio::select! {
            read = read_all(guarded(server)) => read,
            () = dripping => unreachable!("drips forever"),
        };
        let mut told = String::new();
        hears.read_to_string(&mut told).await.unwrap();
        (took, result, told)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_head_that_drips_is_told_408_in_time() {
        for bytes in [&b"GET"[..], b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX: "] {
            let (took, result, told) = drip(bytes, b'x', Duration::from_millis(4)).await;
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(told.starts_with("HTTP/1.1 408 Request Timeout\r\nx-remora-error: timeout\r\n"), "{told}");
            assert!(took <= 2 * PATIENCE.head + LATE, "{took:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_body_may_be_slow_and_must_not_stop() {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n";
        let (took, ..) = drip(head, b'x', PATIENCE.body / 10).await;
        assert!(took >= 4 * PATIENCE.body, "a slow body was cut after {took:?}");
        let (took, result, told) = drip(head, b'x', 3 * PATIENCE.body).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(took <= 2 * PATIENCE.body + LATE && told.starts_with("HTTP/1.1 408"), "{took:?} {told}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_idle_connection_ends_in_order_and_late() {
        for bytes in [&b""[..], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let (mut client, server) = tokio::io::duplex(4096);
            client.write_all(bytes).await.unwrap();
            let (took, result) = read_all(guarded(server)).await;
            assert_eq!(result.unwrap(), bytes.len());
            assert!(took >= PATIENCE.idle && took <= 2 * PATIENCE.idle + LATE, "{took:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_reader_that_takes_nothing_is_left() {
        let (mut client, server) = tokio::io::duplex(4096);
        let mut server = guarded(server);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(server.read(&mut [0; 64]).await.unwrap() > 0);
        let began = Instant::now();
        let error = server.write_all(&[0; 8192]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() <= 2 * PATIENCE.body + LATE);
        assert_eq!(server.end(), Some(End::Stalled(Wait::Write)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_tunnel_may_be_silent_for_ever() {
        let (client, server) = tokio::io::duplex(4096);
        let mut server = guarded(server);
        server.opaque();
        assert!(tokio::time::timeout(4 * PATIENCE.idle, server.read(&mut [0; 64])).await.is_err());
        drop(client);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_that_ended_its_side_is_waited_for_while_it_is_owed_an_answer() {
        let (mut client, server) = tokio::io::duplex(4096);
        let under_way = UnderWay::default();
        let mut server = Guarded::new(server, Direction::Outbound, PATIENCE, under_way.clone());
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        let mut buffer = [0; 64];
        assert!(server.read(&mut buffer).await.unwrap() > 0);
        let (owed, began) = (under_way.begin(), Instant::now());
        assert_eq!(server.read(&mut buffer).await.unwrap(), 0);
        assert!(began.elapsed() >= PATIENCE.body, "it was left after {:?}", began.elapsed());
        let began = Instant::now();
        let (read, ()) = tokio::join!(server.read(&mut buffer), async { drop(owed) });
        assert_eq!(read.unwrap(), 0);
        assert!(began.elapsed() < PATIENCE.body, "the end of the answer woke nobody for {:?}", began.elapsed());
    }
}
