//! What an HTTP/1 server may answer. In: the bytes of its connection, then the head that hyper read. Out: the head, or
//! why it is none. Refuses: framing that two readers could read in two ways, and heads without end.
//!
//! hyper reads responses as leniently as requests, but here no other parser reads the same bytes: we frame every response anew. So bare
//! LFs and the like are corrected by being written again, and only the end of the body must be certain:
//! an attacker who controls a field of an application's response must not be able to split it. [`super::guard`] is the gate for requests.

use super::stall::Stall;
use crate::{
    account::{Account, Holder},
    io::Abort,
    limits,
};
use http::{
    HeaderName, HeaderValue, Response,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAnswer {
    #[error("the response switches protocols, but the request asked for no upgrade")]
    Interim,
    #[error("the answer's transfer-encoding is not exactly one `chunked`, or a content-length stands beside it")]
    TransferEncoding,
    #[error("the answer's content-length is not one decimal number")]
    ContentLength,
}

/// An answer whose head does not end within what is allowed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the server sends interim answers or a head without end")]
struct Endless;

/// What a connection says of it.
pub(crate) fn endless() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Endless)
}

/// Whether a connection failed for the sake of such an answer.
pub(crate) fn is_endless(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Endless>())
}

/// Judges the head of an answer to a request that asked for no upgrade. Equal lengths become one.
pub(crate) fn check<B>(response: &mut Response<B>) -> Result<(), BadAnswer> {
    if response.status().is_informational() {
        return Err(BadAnswer::Interim);
    }
    let headers = response.headers_mut();
    let all = |wanted: HeaderName| headers.iter().filter(move |(name, _)| *name == wanted).map(|(_, value)| value);
    let mut lengths = all(CONTENT_LENGTH);
    let (first, more) = (lengths.next(), lengths.next().is_some());
    if !first.is_none_or(is_decimal) {
        return Err(BadAnswer::ContentLength);
    }
    let mut codings = all(TRANSFER_ENCODING);
    if let Some(coding) = codings.next()
        && (first.is_some() || codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(BadAnswer::TransferEncoding);
    }
    if more && let Some(first) = first.cloned() {
        if headers.get_all(CONTENT_LENGTH).iter().any(|length| length != first) {
            return Err(BadAnswer::ContentLength);
        }
        headers.insert(CONTENT_LENGTH, first);
    }
    Ok(())
}

fn is_decimal(value: &HeaderValue) -> bool {
    (1..=19).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_digit)
}

/// What the connection of an HTTP/1 request may take: bytes before the head of the answer is whole (interim answers, of which
/// there may be any number, and the head itself), and memory for an upload that its server does not read. Shared by a
/// connection and whoever sends on it; both live on one thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowance(Arc<Allowed>);

#[derive(Debug)]
struct Allowed {
    head_bytes: AtomicUsize,
    /// For what waits to be written of a request's body.
    upload: Mutex<Option<Stall>>,
    /// Set only while the upload is charged; lets all other writes skip the lock.
    charged: AtomicBool,
    /// Nobody waits for the answer any more.
    given_up: AtomicBool,
    /// The answer came, to its end.
    answered: AtomicBool,
    /// Who waits until the server takes more.
    writer: Mutex<Option<Waker>>,
}

impl Default for Allowed {
    fn default() -> Self {
        Self {
            head_bytes: AtomicUsize::new(usize::MAX),
            upload: Mutex::default(),
            charged: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            writer: Mutex::default(),
        }
    }
}

impl Allowance {
    /// A request goes out, with a body that is charged to `uploader`, or without one: its answer's head is awaited.
    pub(crate) fn head(&self, uploader: Option<Holder>) {
        self.0.head_bytes.store(limits::ANSWER_HEAD_BYTES_MAX, Relaxed);
        self.0.answered.store(false, Relaxed);
        if let Some(uploader) = uploader {
            *self.upload() = Some(Stall::new(uploader, limits::HTTP1_BUFFER_BYTES));
            self.0.charged.store(false, Relaxed);
        }
    }

    /// The head came: a body may be as long as it likes.
    pub(crate) fn body(&self) {
        self.0.head_bytes.store(usize::MAX, Relaxed);
    }

    /// The answer came, to its end. What is left of the request is still written, unless the server takes nothing of it for
    /// [`limits::ANSWERED_UPLOAD_TIMEOUT`].
    pub(crate) fn answered(&self) {
        self.0.answered.store(true, Relaxed);
        self.writer().take().into_iter().for_each(Waker::wake);
    }

    /// Nobody waits for the answer any more: what the server does not take at once is not written. The library ends a connection
    /// only when all that it has is written, which a server that reads nothing can put off for ever.
    pub(crate) fn give_up(&self) {
        self.0.given_up.store(true, Relaxed);
        self.writer().take().into_iter().for_each(Waker::wake);
    }

    fn upload(&self) -> MutexGuard<'_, Option<Stall>> {
        self.0.upload.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a write: what the server does not take is held, or given up.
    fn written(&self, cx: &Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_pending() {
            if self.0.given_up.load(Relaxed) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            *self.writer() = Some(cx.waker().clone());
        }
        if result.is_pending() == self.0.charged.load(Relaxed) {
            return result;
        }
        if let Some(upload) = &mut *self.upload() {
            if result.is_pending() {
                upload.begin()?;
            } else {
                upload.end();
            }
            self.0.charged.store(upload.is_charged(), Relaxed);
        }
        result
    }

    fn take(&self, count: usize) -> io::Result<()> {
        match self.0.head_bytes.load(Relaxed) {
            usize::MAX => Ok(()),
            left => {
                let rest = left.checked_sub(count).ok_or_else(endless)?;
                self.0.head_bytes.store(rest, Relaxed);
                Ok(())
            }
        }
    }
}

/// A connection to a server that keeps to an [`Allowance`].
#[derive(Debug)]
pub(crate) struct Frugal<S> {
    stream: S,
    allowance: Allowance,
    /// Of the process: while it is tight, little is read at once.
    account: Option<Account>,
    /// How the server broke off while it was written to. It may have answered before: that is read first, and the rest of the request is dropped.
    broken: Option<io::ErrorKind>,
    /// Runs while the server, which has answered, takes nothing of the rest of the request.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Frugal<S> {
    /// `stream`, from which no more may be read than `allowance` has left.
    pub(crate) fn new(stream: S, allowance: Allowance) -> Self {
        Self { stream, allowance, account: None, broken: None, waits: None }
    }

    /// The same, from which little is read at once while `account` is tight.
    pub(crate) fn sparing(self, account: Account) -> Self {
        Self { account: Some(account), ..self }
    }

    /// After a read of so many bytes. Behind a write that failed, an end is none in order, whatever the kernel says.
    fn got(&self, count: usize) -> io::Result<()> {
        match self.broken {
            Some(how) if count == 0 => Err(how.into()),
            _ => self.allowance.take(count),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frugal<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() > limits::TIGHT_READ_BYTES && self.account.as_ref().is_some_and(Account::is_tight) {
            let mut piece = ReadBuf::new(buf.initialize_unfilled_to(limits::TIGHT_READ_BYTES));
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
            let count = piece.filled().len();
            buf.advance(count);
            return Poll::Ready(self.got(count));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let count = buf.filled().len() - before;
        Poll::Ready(self.got(count))
    }
}

impl<S: Abort> Frugal<S> {
    /// What was written and is not read stands before an orderly end, which the server would see only behind it: one that is given up
    /// is reset. A server that takes no more of `bytes` may have said why (413, 502): they count as taken, and what it said is read.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        bytes: usize,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Err(error)) = &result
            && matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        {
            self.broken = Some(error.kind());
            return Poll::Ready(Ok(bytes));
        }
        let result = self.allowance.written(cx, result);
        if result.is_ready() {
            self.waits = None;
        } else if self.allowance.0.answered.load(Relaxed) {
            let timer = self.waits.get_or_insert_with(|| Box::pin(sleep(limits::ANSWERED_UPLOAD_TIMEOUT)));
            ready!(timer.as_mut().poll(cx));
            self.allowance.give_up();
            self.stream.cut();
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if matches!(&result, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted) {
            self.stream.cut();
        }
        result
    }
}

impl<S: AsyncWrite + Abort + Unpin> AsyncWrite for Frugal<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken.is_some() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, bytes.len(), result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = bytes.iter().map(|piece| piece.len()).sum();
        if self.broken.is_some() {
            return Poll::Ready(Ok(count));
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(cx, count, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// What a stream of TLS keeps to itself waits here for a server that takes nothing.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.is_some() {
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        self.written(cx, 0, result).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Abort for tokio::io::DuplexStream {
        fn abort(&self) {}
    }

    fn verdict(status: u16, fields: &[(&'static str, &'static str)]) -> Result<Vec<String>, BadAnswer> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let mut response = response.body(()).unwrap();
        check(&mut response)?;
        Ok(response.headers().values().map(|value| value.to_str().unwrap().to_owned()).collect())
    }

    #[tokio::test]
    async fn little_is_read_at_once_while_the_account_is_tight() {
        use crate::account::Peer;
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let account = Account::new(1600);
        let (mut far, near) = tokio::io::duplex(1 << 20);
        far.write_all(&vec![7; 200_000]).await.unwrap();
        let mut near = Frugal::new(near, Allowance::default()).sparing(account.clone());
        let mut buffer = vec![0; 64 * 1024];
        assert_eq!(near.read(&mut buffer).await.unwrap(), 64 * 1024);
        let charge = account.holder(Peer::Pod).charge(1600 / limits::TIGHT_SHARE + 1).unwrap();
        assert_eq!(near.read(&mut buffer).await.unwrap(), limits::TIGHT_READ_BYTES);
        assert!(buffer[..limits::TIGHT_READ_BYTES].iter().all(|byte| *byte == 7));
        drop(charge);
        assert_eq!(near.read(&mut buffer).await.unwrap(), 64 * 1024);
    }

    #[tokio::test]
    async fn an_upload_that_a_server_does_not_read_is_charged_to_who_sends_it() {
        use crate::account::Peer;
        use tokio::io::AsyncReadExt as _;
        let account = Account::new(3 * limits::HTTP1_BUFFER_BYTES);
        let client = account.holder(Peer::at([10, 0, 0, 1].into()));
        let connection = |uploader: Option<&Holder>| {
            let ((far, near), allowance) = (tokio::io::duplex(64), Allowance::default());
            allowance.head(uploader.cloned());
            (far, Frugal::new(near, allowance))
        };
        let write = |near: &mut Frugal<_>| {
            Pin::new(near).poll_write(&mut Context::from_waker(Waker::noop()), &[7; 64]).map_err(|error| error.kind())
        };
        let ((mut far, mut first), (_silent, mut second)) = (connection(Some(&client)), connection(Some(&client)));
        assert_eq!((write(&mut first), account.used()), (Poll::Ready(Ok(64)), 0));
        assert_eq!((write(&mut first), account.used()), (Poll::Pending, limits::HTTP1_BUFFER_BYTES));
        assert_eq!(write(&mut second), Poll::Ready(Ok(64)));
        assert_eq!(write(&mut second), Poll::Ready(Err(io::ErrorKind::OutOfMemory)), "half of all is one peer's");
        far.read_exact(&mut [0; 64]).await.unwrap();
        assert_eq!((write(&mut first), account.used()), (Poll::Ready(Ok(64)), 0));
        let (_silent, mut bare) = connection(None);
        assert_eq!((write(&mut bare), write(&mut bare), account.used()), (Poll::Ready(Ok(64)), Poll::Pending, 0));
    }

    #[tokio::test]
    async fn an_upload_that_a_server_does_not_read_ends_with_whoever_waited_for_the_answer() {
        use tokio::io::AsyncWriteExt as _;
        let ((_silent, near), allowance) = (tokio::io::duplex(64), Allowance::default());
        let mut near = Frugal::new(near, allowance.clone());
        allowance.head(None);
        let upload = near.write_all(&[7; 100]);
        let give_up = async { allowance.give_up() };
        // The upload waits by then, and nothing but this wakes it.
        let (uploaded, ()) = tokio::join!(upload, give_up);
        assert_eq!(uploaded.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionAborted));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_a_server_does_not_read_ends_some_time_after_its_answer() {
        use tokio::{io::AsyncWriteExt as _, time::Instant};
        let ((mut slow, near), allowance) = (tokio::io::duplex(64), Allowance::default());
        let mut near = Frugal::new(near, allowance.clone());
        allowance.head(None);
        let began = Instant::now();
        let upload = near.write_all(&[7; 200]);
        let server = async {
            sleep(2 * limits::ANSWERED_UPLOAD_TIMEOUT).await;
            allowance.answered();
            // What is taken now and then goes on.
            sleep(limits::ANSWERED_UPLOAD_TIMEOUT / 2).await;
            tokio::io::AsyncReadExt::read_exact(&mut slow, &mut [0; 64]).await.unwrap();
        };
        let (uploaded, ()) = tokio::join!(upload, server);
        assert_eq!(uploaded.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionAborted));
        assert_eq!(began.elapsed(), limits::ANSWERED_UPLOAD_TIMEOUT * 7 / 2);
    }

    #[tokio::test]
    async fn what_a_server_said_before_it_broke_off_is_read_and_an_end_behind_that_is_none() {
        use tokio::{
            io::{AsyncReadExt as _, AsyncWriteExt as _},
            net::{TcpListener, TcpStream},
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for resets in [true, false] {
            let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut far, _) = listener.accept().await.unwrap();
            far.write_all(b"HTTP/1.0 413 \r\n\r\ntoo").await.unwrap();
            if resets {
                far.abort();
            }
            drop(far);
            let mut near = Frugal::new(near, Allowance::default());
            // The first may meet a server that is there as far as its kernel knows.
            for _ in 0..3 {
                near.write_all(&[7; 64]).await.unwrap();
            }
            let mut heard = Vec::new();
            let end = near.read_to_end(&mut heard).await.map_err(|error| error.kind());
            assert_eq!(&heard[..], b"HTTP/1.0 413 \r\n\r\ntoo");
            assert!(matches!(end, Err(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)), "{end:?}");
        }
    }

    #[test]
    fn an_answer_ends_in_one_place_or_is_none() {
        let (length, coding) = ("content-length", "transfer-encoding");
        assert_eq!(verdict(200, &[]), Ok(vec![]));
        assert_eq!(verdict(200, &[(length, "5")]), Ok(vec!["5".to_owned()]));
        assert_eq!(verdict(200, &[(length, "5"), (length, "5")]), Ok(vec!["5".to_owned()]));
        assert_eq!(verdict(200, &[(coding, "Chunked")]), Ok(vec!["Chunked".to_owned()]));
        for bad in ["", "5, 5", "+5", "-5", "5 5", "0x5", "99999999999999999999"] {
            assert_eq!(verdict(200, &[(length, bad)]), Err(BadAnswer::ContentLength), "{bad}");
        }
        assert_eq!(verdict(200, &[(length, "5"), (length, "6")]), Err(BadAnswer::ContentLength));
        for bad in ["gzip", "gzip, chunked", "chunked, chunked", "xchunked", ""] {
            assert_eq!(verdict(200, &[(coding, bad)]), Err(BadAnswer::TransferEncoding), "{bad}");
        }
        assert_eq!(verdict(200, &[(coding, "chunked"), (coding, "chunked")]), Err(BadAnswer::TransferEncoding));
        assert_eq!(verdict(200, &[(coding, "chunked"), (length, "5")]), Err(BadAnswer::TransferEncoding));
        assert_eq!(verdict(101, &[]), Err(BadAnswer::Interim));
    }
}
