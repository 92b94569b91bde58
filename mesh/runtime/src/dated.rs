//! Connections that end no later than the certificates that they were made with.
//!
//! Nothing is revoked in this mesh, so a certificate's end is what bounds a stolen key and a workload that is no more;
//! a connection that outlives it would undo that. In: when the certificates end, and what else ends the connection (a trust anchor that
//! is withdrawn). Out: a [`Span`], and a stream that fails once it is over, wherever the stream is held by then. Limitation: time that a
//! machine sleeps is not counted.

use crate::seldom::Seldom;
use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// A connection may be retired or ended by this share of its life before it must: connections that were made with one
/// certificate must not all be made anew at one moment.
const JITTER: f64 = 0.1;
/// The last quarter of a connection's life is for the requests that are under way, …
const LAST_SHARE: u32 = 4;
/// … but not more than this.
const LAST_MAX: Duration = Duration::from_secs(30 * 60);

/// How long a connection may be used, counted from its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// From then on the side that dialled it puts no new work on it.
    pub retire: Duration,
    /// From then on the side that accepted it tells the other side to put no new work on it. A peer of ours has retired it by
    /// then, whatever its jitter, so this is for others.
    pub goodbye: Duration,
    /// Then it is over.
    pub end: Duration,
}

impl Span {
    /// For a connection made `now` with certificates that are valid until `ends`. `random` is uniform in `0.0..1.0`.
    /// `None` if there is no certificate.
    #[must_use]
    pub fn new(now: SystemTime, ends: impl IntoIterator<Item = SystemTime>, random: f64) -> Option<Self> {
        let life = ends.into_iter().min()?.duration_since(now).unwrap_or_default();
        let jitter = life.mul_f64(JITTER * random.clamp(0.0, 1.0));
        let least = life.mul_f64(1.0 - JITTER);
        let last = (least / LAST_SHARE).min(LAST_MAX);
        Some(Self { retire: (least - last).saturating_sub(jitter), goodbye: least - last / 2, end: life })
    }

    /// For a connection whose work cannot move to another: it ends earlier, by up to a tenth.
    #[must_use]
    pub fn ending_early(self, random: f64) -> Self {
        Self { end: self.end.mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0)), ..self }
    }
}

/// What a read or write of a stream says whose span is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a certificate that this connection was made with has ended")]
pub struct Over;

/// Whether an error is the end of a span.
#[must_use]
pub fn is_over(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Over>())
}

/// A stream with an end.
#[derive(Debug)]
pub struct Dated<S> {
    io: S,
    retire: Option<Instant>,
    goodbye: Option<Instant>,
    end: End,
    on_over: Option<fn()>,
    revoked: Option<Seldom<Revocation>>,
}

/// Answers once if ever: why a stream ends before its time.
struct Revocation(Pin<Box<dyn Future<Output = io::Error> + Send>>);

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revocation")
    }
}

impl Future for Revocation {
    type Output = io::Error;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.0.as_mut().poll(cx)
    }
}

/// When it is over.
#[derive(Debug)]
enum End {
    Never,
    At(Seldom<Sleep>),
    Passed,
    /// Before its time, as an error of this kind.
    Revoked(io::ErrorKind),
}

impl<S> Dated<S> {
    /// `io`, from now on for `span`. Without one it has no end. Somebody who still uses it then has `on_over` called, once.
    pub fn new(io: S, span: Option<Span>, on_over: fn()) -> Self {
        let now = Instant::now();
        let end = span.map_or(End::Never, |span| End::At(Seldom::new(sleep_until(now + span.end))));
        let (retire, goodbye) = (span.map(|span| now + span.retire), span.map(|span| now + span.goodbye));
        Self { io, retire, goodbye, end, on_over: Some(on_over), revoked: None }
    }

    /// The same, which ends earlier once `revoked` says why: who uses it then gets that error.
    #[must_use]
    pub fn until(self, revoked: impl Future<Output = io::Error> + Send + 'static) -> Self {
        Self { revoked: Some(Seldom::new(Revocation(Box::pin(revoked)))), ..self }
    }

    /// The stream beneath.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// The stream beneath. What is read and written there knows no end.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.io
    }

    /// When [`Span::retire`] is.
    pub fn retire(&self) -> Option<Instant> {
        self.retire
    }

    /// When [`Span::goodbye`] is.
    pub fn goodbye(&self) -> Option<Instant> {
        self.goodbye
    }

    /// Why nothing is read or written any more. A stream that always has bytes never waits, so this must be asked, too; that is a load or two.
    fn ended(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        if self.is_over() {
            return Some(self.over());
        }
        match &self.revoked {
            Some(revoked) if revoked.has_rung() => self.poll_revoked(cx),
            _ => None,
        }
    }

    fn poll_revoked(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        let Poll::Ready(why) = Pin::new(self.revoked.as_mut()?).poll(cx) else { return None };
        self.revoked = None;
        self.end = End::Revoked(why.kind());
        Some(why)
    }

    fn is_over(&self) -> bool {
        match &self.end {
            End::Never => false,
            End::At(end) => end.has_rung() && end.get_ref().is_elapsed(),
            End::Passed | End::Revoked(_) => true,
        }
    }

    /// What a wait comes to: the end of the span, or a wake-up at it.
    fn or_over<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        if let End::At(end) = &mut self.end
            && Pin::new(end).poll(cx).is_ready()
        {
            return Poll::Ready(Err(self.over()));
        }
        self.poll_revoked(cx).map_or(Poll::Pending, |why| Poll::Ready(Err(why)))
    }

    fn over(&mut self) -> io::Error {
        if let End::Revoked(kind) = self.end {
            return kind.into();
        }
        self.end = End::Passed;
        if let Some(tell) = self.on_over.take() {
            tell();
        }
        io::Error::new(io::ErrorKind::TimedOut, Over)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Dated<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(why) = self.ended(cx) {
            return Poll::Ready(Err(why));
        }
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.or_over(polled, cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Dated<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(why) = self.ended(cx) {
            return Poll::Ready(Err(why));
        }
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.or_over(polled, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.or_over(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.or_over(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(why) = self.ended(cx) {
            return Poll::Ready(Err(why));
        }
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.or_over(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    fn span(lives: &[Duration], random: f64) -> Span {
        let now = SystemTime::now();
        Span::new(now, lives.iter().map(|life| now + *life), random).unwrap()
    }

    #[test]
    fn a_connection_never_outlives_the_first_of_its_certificates() {
        for random in [0.0, 0.3, 1.0, 7.0] {
            let span = span(&[24 * HOUR, 16 * HOUR], random);
            assert_eq!(span.end, 16 * HOUR);
            let end = span.ending_early(random).end;
            assert!(end <= 16 * HOUR && end >= (16 * HOUR).mul_f64(0.899), "{end:?}");
        }
    }

    #[test]
    fn whoever_dialled_moves_on_before_whoever_accepted_says_goodbye_and_both_before_the_end() {
        for life in [SECOND, 20 * SECOND, 24 * HOUR] {
            for (dialled, accepted) in [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)] {
                let (dialled, accepted) = (span(&[life], dialled), span(&[life], accepted));
                assert!(dialled.retire < accepted.goodbye, "{life:?}");
                assert!(accepted.goodbye < accepted.ending_early(1.0).end, "{life:?}");
                assert!(dialled.end - dialled.retire > (life / 5).min(LAST_MAX), "{life:?}: time to finish");
            }
        }
    }

    #[test]
    fn a_certificate_that_has_ended_leaves_no_time_and_none_leaves_all() {
        let now = SystemTime::now();
        let over = Span { retire: Duration::ZERO, goodbye: Duration::ZERO, end: Duration::ZERO };
        assert_eq!(Span::new(now, [now - SECOND, now + HOUR], 0.5), Some(over));
        assert_eq!(Span::new(now, [], 0.5), None);
    }

    /// Soon over.
    fn brief<S>(io: S) -> Dated<S> {
        Dated::new(io, Some(span(&[20 * MILLISECOND], 0.0)), || ())
    }

    #[tokio::test]
    async fn a_stream_that_waits_ends_with_its_span() {
        let (ours, _theirs) = duplex(16);
        let started = Instant::now();
        let mut dated = brief(ours);
        let error = dated.read_u8().await.unwrap_err();
        assert!(is_over(&error), "{error}");
        assert!(started.elapsed() >= 20 * MILLISECOND);
        assert!(is_over(&dated.write_all(b"x").await.unwrap_err()));
    }

    #[tokio::test]
    async fn a_stream_that_always_has_bytes_ends_too() {
        let (ours, mut theirs) = duplex(1024);
        let mut dated = brief(ours);
        // Its first wait sets the timer.
        let first = tokio::join!(dated.read_u8(), theirs.write_all(b"a")).0;
        assert_eq!(first.unwrap(), b'a');
        let error = loop {
            theirs.write_all(b"b").await.unwrap();
            if let Err(error) = dated.read_u8().await {
                break error;
            }
        };
        assert!(is_over(&error), "{error}");
    }

    #[tokio::test]
    async fn a_writer_whose_peer_reads_nothing_ends_too() {
        let (ours, _theirs) = duplex(4);
        assert!(is_over(&brief(ours).write_all(b"more than fits").await.unwrap_err()));
    }

    #[tokio::test]
    async fn a_stream_ends_when_it_is_revoked_whether_it_waits_or_always_has_bytes() {
        for waits in [true, false] {
            let ((ours, mut theirs), (tell, told)) = (duplex(1024), tokio::sync::oneshot::channel::<()>());
            let mut dated = Dated::new(ours, Some(span(&[HOUR], 0.0)), || ()).until(async {
                let _ = told.await;
                io::Error::new(io::ErrorKind::PermissionDenied, "an anchor was withdrawn")
            });
            theirs.write_all(b"ab").await.unwrap();
            assert_eq!(dated.read_u8().await.unwrap(), b'a');
            let error = if waits {
                assert_eq!(dated.read_u8().await.unwrap(), b'b');
                let (error, ()) = tokio::join!(dated.read_u8(), async { drop(tell) });
                error.unwrap_err()
            } else {
                drop(tell);
                dated.read_u8().await.unwrap_err()
            };
            assert_eq!(error.to_string(), "an anchor was withdrawn", "waits={waits}");
            assert!(!is_over(&error));
            let again = dated.write_all(b"x").await.unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[tokio::test]
    async fn a_stream_without_certificate_has_no_end() {
        let (ours, mut theirs) = duplex(16);
        let mut dated = Dated::new(ours, None, || ());
        theirs.write_all(b"a").await.unwrap();
        assert_eq!(dated.read_u8().await.unwrap(), b'a');
        assert_eq!((dated.retire(), dated.is_over()), (None, false));
    }
}
