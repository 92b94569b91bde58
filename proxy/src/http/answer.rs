//! What an HTTP/1 server may answer. In: the bytes of its connection, then the head that hyper read. Out: the head, or
//! why it is none. Refuses: framing that two readers could read in two ways, and heads without end.
//!
//! hyper reads answers as leniently as requests, but here nobody reads behind us: we frame every answer anew. So bare
//! LFs and the like are mended by being written again, and only what says where the body ends must be beyond doubt:
//! whoever may write a field of an application's answer must not split it. [`super::guard`] is the gate for requests.

use http::{
    HeaderName, HeaderValue, Response,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    #[error("the answer switches protocols and nobody asked for it")]
    Interim,
    #[error("the answer's transfer-encoding is not exactly one `chunked`, or a content-length stands beside it")]
    TransferEncoding,
    #[error("the answer's content-length is not one decimal number")]
    ContentLength,
}

/// Judges the head of an answer to a request that asked for no upgrade. Equal lengths become one.
pub fn check<B>(response: &mut Response<B>) -> Result<(), BadAnswer> {
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

/// How many bytes may yet come before the head of an answer is whole: interim answers, of which there may be any
/// number, and the head itself. Shared by a connection and whoever sends on it; both live on one thread.
#[derive(Debug, Clone)]
pub struct Allowance(Arc<AtomicUsize>);

impl Default for Allowance {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }
}

impl Allowance {
    /// A request goes out: its answer's head is awaited.
    pub fn head(&self) {
        self.0.store(limits::ANSWER_HEAD_BYTES_MAX, Relaxed);
    }

    /// The head came: a body may be as long as it likes.
    pub fn body(&self) {
        self.0.store(usize::MAX, Relaxed);
    }

    fn take(&self, count: usize) -> io::Result<()> {
        match self.0.load(Relaxed) {
            usize::MAX => Ok(()),
            left => {
                let rest = left.checked_sub(count).ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "the server sends interim answers or a head without end")
                })?;
                self.0.store(rest, Relaxed);
                Ok(())
            }
        }
    }
}

/// A connection to a server that keeps to an [`Allowance`].
#[derive(Debug)]
pub struct Allowed<S> {
    stream: S,
    allowance: Allowance,
}

impl<S> Allowed<S> {
    /// `stream`, from which no more may be read than `allowance` has left.
    pub fn new(stream: S, allowance: Allowance) -> Self {
        Self { stream, allowance }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Allowed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.allowance.take(buf.filled().len() - before))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Allowed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

    fn verdict(status: u16, fields: &[(&'static str, &'static str)]) -> Result<Vec<String>, BadAnswer> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let mut response = response.body(()).unwrap();
        check(&mut response)?;
        Ok(response.headers().values().map(|value| value.to_str().unwrap().to_owned()).collect())
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
