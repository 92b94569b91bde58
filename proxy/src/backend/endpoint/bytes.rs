//! A byte connection upstream: plain, or mesh TLS.

use crate::{
    io::{Abort, TcpStream},
    sys::Asked,
    tls,
};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A byte connection upstream.
#[derive(Debug)]
pub(crate) enum ByteStream {
    Plain(TcpStream),
    Mesh(Box<tls::ClientStream>),
}

impl Abort for ByteStream {
    fn abort(&self) {
        match self {
            Self::Plain(stream) => stream.abort(),
            Self::Mesh(stream) => stream.abort(),
        }
    }

    fn cut(&self) {
        match self {
            Self::Plain(stream) => stream.cut(),
            Self::Mesh(stream) => stream.cut(),
        }
    }

    fn holder(&self) -> Option<&crate::account::Holder> {
        match self {
            Self::Plain(stream) => stream.holder(),
            Self::Mesh(stream) => stream.holder(),
        }
    }

    fn asked(&self) -> Option<Asked> {
        match self {
            Self::Plain(stream) => Abort::asked(stream),
            Self::Mesh(stream) => stream.asked(),
        }
    }

    fn queue_at_most(&mut self, bytes: usize) {
        match self {
            Self::Plain(stream) => stream.queue_at_most(bytes),
            Self::Mesh(stream) => stream.queue_at_most(bytes),
        }
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Mesh(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Mesh(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Mesh(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Mesh(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
