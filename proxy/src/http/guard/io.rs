//! The guard as a stream: what hyper reads has passed it.

use super::{Guard, Patience, Refusal, Wait, stall::Watch};
use crate::{
    account::Holder,
    http::{
        stall::{Overloaded, Stall},
        under_way::UnderWay,
    },
    limits,
    telemetry::{self, Direction, Reason},
};
use http::StatusCode;
use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The server's side of an HTTP/1 connection, whose reads are judged and whose waits are bounded.
///
/// A refused read never reaches the reader, so that a refused head is never whole: it sees an error of kind
/// [`io::ErrorKind::InvalidData`] with the [`Refusal`] inside. If the client has heard nothing yet, or all
/// that it asked before is answered, it is told with a bare response; otherwise an answer may be under way that another one would
/// corrupt, and the connection just ends. A client that stalls ([`Patience`]) meets the same end; an idle one meets the end of the connection.
///
/// Judging ends when the server says that the connection has left HTTP ([`UnderWay::has_left_http`]), and not before:
/// nothing that passes here is taken for a sign of it. Until the answer, a client that asked for that has nothing more to say.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    direction: Direction,
    guard: Guard,
    patience: Patience,
    under_way: UnderWay,
    reading: Watch,
    writing: Watch,
    /// Bytes that the client took.
    written: u64,
    /// Whether the client took every answer so far whole: nothing of one waits above.
    quiet: bool,
    /// Of answers that the client does not take; `None` where nobody counts.
    unsent: Option<Stall>,
    end: Option<End>,
    /// Bytes that may yet be taken after a refusal.
    lingers: usize,
    /// How often a read had to wait while an answer was owed.
    owed: u64,
    /// Whether the client was told that nothing follows.
    shut: bool,
}

/// What is taken from a client after its refusal was told, and for how long.
const LINGER_BYTES_MAX: usize = 1 << 20;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// For how long a client is listened to that sends more of a request which has its answer: as many round trips as it needs to see that.
const ANSWERED_LINGER_TIMEOUT: Duration = Duration::from_secs(10);
/// What is taken of that at once, on the stack.
const SCRATCH_BYTES: usize = 4096;
/// A mark that never moves.
const LINGERING: u64 = u64::MAX;
/// Marks below this one are of nothing else.
const OWED: u64 = u64::MAX;

/// Why the guard ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum End {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the client stalled: {}", .0.as_str())]
    Stalled(Wait),
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
}

impl End {
    const fn status(self) -> StatusCode {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::Stalled(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn reason(self) -> Reason {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Stalled(_) => Reason::Timeout,
            Self::Overloaded(_) => Reason::Overloaded,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.as_str(),
            Self::Stalled(wait) => wait.as_str(),
            Self::Overloaded(_) => "unread_answers",
        }
    }

    fn error(self) -> io::Error {
        let kind = match self {
            Self::Refused(_) => io::ErrorKind::InvalidData,
            Self::Stalled(_) => io::ErrorKind::TimedOut,
            Self::Overloaded(_) => io::ErrorKind::OutOfMemory,
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
    /// Judges what comes from a client on `stream`. Answers that it does not take are charged to `holder`.
    pub(crate) fn new(
        stream: S,
        direction: Direction,
        patience: Patience,
        under_way: UnderWay,
        holder: Option<Holder>,
    ) -> Self {
        Self {
            stream,
            direction,
            guard: Guard::requests(),
            patience,
            under_way,
            reading: Watch::default(),
            writing: Watch::default(),
            written: 0,
            quiet: true,
            unsent: holder.map(|holder| Stall::new(holder, limits::HTTP1_BUFFER_BYTES)),
            end: None,
            lingers: 0,
            owed: 0,
            shut: false,
        }
    }

    /// What the next bytes will be part of; `None` once the connection has left HTTP.
    fn awaited(&self) -> Option<(Wait, u64)> {
        self.guard.awaited().filter(|_| !self.under_way.has_left_http())
    }
}

#[cfg(test)]
impl<S> Guarded<S> {
    /// Why the connection ended, if that was the guard's doing.
    pub(crate) const fn end(&self) -> Option<End> {
        self.end
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// Ends the connection; the client is told, if no other answer is or was under way.
    fn refuse(&mut self, cx: &mut Context<'_>, end: End) -> io::Error {
        self.end = Some(end);
        telemetry::refused(self.direction, end.reason(), end.as_str());
        let silent = self.written == 0 || (self.quiet && !self.under_way.any());
        if silent && !matches!(end, End::Stalled(Wait::Write) | End::Overloaded(_)) {
            // One attempt: a socket on which nothing waits to be sent takes 150 bytes, and whoever made it refuse them has
            // no claim on them. Whatever the task has left of its budget: there is no second one.
            let (stream, response) = (&mut self.stream, end.response());
            let telling = poll_fn(|cx| {
                let _ = Pin::new(&mut *stream).poll_write(cx, response.as_bytes());
                Pin::new(&mut *stream).poll_shutdown(cx)
            });
            if pin!(tokio::task::unconstrained(telling)).poll(cx).is_ready() {
                self.lingers = LINGER_BYTES_MAX;
            }
        }
        end.error()
    }

    /// After a write: what it says about the client.
    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(count)) => {
                self.written += count as u64;
                self.quiet = false;
                if let Some(unsent) = &mut self.unsent {
                    unsent.end();
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                // A tunnel's bytes are charged where they are relayed.
                let unsent = self.unsent.as_mut().filter(|_| !self.under_way.has_left_http());
                if let Some(Err(overloaded)) = unsent.map(Stall::begin) {
                    return Poll::Ready(Err(self.refuse(cx, End::Overloaded(overloaded))));
                }
                let patience = Wait::Write.patience(&self.patience);
                if self.awaited().is_some() && self.writing.stalled(cx, Wait::Write, self.written, patience) {
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
        if self.under_way.has_left_http() {
            self.guard.opaque();
        }
        self.guard.answered(self.under_way.answered());
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

    /// After the last answer, which came before its request's end: takes what comes of that, for the same reason.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [MaybeUninit::uninit(); SCRATCH_BYTES];
        while matches!(self.awaited(), Some((Wait::Body, _))) && self.end.is_none() {
            let mut rest = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut rest) {
                Poll::Ready(Ok(())) if !rest.filled().is_empty() => {
                    if self.guard.feed(rest.filled()).is_err() {
                        break;
                    }
                }
                Poll::Pending if !self.reading.stalled(cx, Wait::Body, LINGERING, ANSWERED_LINGER_TIMEOUT) => {
                    return Poll::Pending;
                }
                _ => break,
            }
        }
        Poll::Ready(())
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
            Poll::Pending => this.awaited().map(|(wait, mark)| match wait {
                // Between requests is only who is owed no answer, however long that takes: a mark of its own each time.
                Wait::Idle if this.under_way.any() => {
                    this.owed += 1;
                    (wait, OWED - this.owed)
                }
                _ => (wait, mark),
            }),
            // It may have ended its side only. Whether it is gone shows when an answer is written, or never.
            Poll::Ready(()) if buf.filled().len() == before && buf.remaining() > 0 && this.under_way.any() => {
                match this.awaited() {
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(end) = self.end {
            return Poll::Ready(Err(end.error()));
        }
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
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// The writer flushes when it has written all that it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if !self.quiet && flushed.is_ready() {
            self.quiet = !self.under_way.any();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.shut = true;
        }
        self.poll_rest(cx).map(Ok)
    }
}
