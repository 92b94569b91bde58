//! A byte connection upstream: plain, or mesh TLS.

use super::keep::Place;
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

/// A byte connection upstream, which counts at its endpoint as long as it is open.
#[derive(Debug)]
pub(crate) struct ByteStream {
    way: Way,
    _place: Place,
}

/// What its bytes go through.
#[derive(Debug)]
pub(super) enum Way {
    Plain(TcpStream),
    Mesh(Box<tls::ClientStream>),
}

impl ByteStream {
    /// A connection that is there, in its place.
    pub(super) fn new(way: Way, place: Place) -> Self {
        Self { way, _place: place }
    }
}

impl Abort for ByteStream {
    fn abort(&self) {
        match &self.way {
            Way::Plain(stream) => stream.abort(),
            Way::Mesh(stream) => stream.abort(),
        }
    }

    fn cut(&self) {
        match &self.way {
            Way::Plain(stream) => stream.cut(),
            Way::Mesh(stream) => stream.cut(),
        }
    }

    fn holder(&self) -> Option<&crate::account::Holder> {
        match &self.way {
            Way::Plain(stream) => stream.holder(),
            Way::Mesh(stream) => stream.holder(),
        }
    }

    fn asked(&self) -> Option<Asked> {
        match &self.way {
            Way::Plain(stream) => Abort::asked(stream),
            Way::Mesh(stream) => stream.asked(),
        }
    }

    fn queue_at_most(&mut self, bytes: usize) {
        match &mut self.way {
            Way::Plain(stream) => stream.queue_at_most(bytes),
            Way::Mesh(stream) => stream.queue_at_most(bytes),
        }
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Way::Mesh(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().way {
            Way::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Way::Mesh(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Way::Mesh(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Way::Mesh(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
