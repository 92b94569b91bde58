//! A client's raw connection.

use anyhow::Context as _;
use rustls::{ClientConnection, StreamOwned};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// How long the other side may think before it counts as silent. Nobody needs that long, but a machine may be busy.
const SILENCE: Duration = Duration::from_secs(25);
/// How long it is listened to once more after that.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// How a connection stands after it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The other side closed it, in order.
    Closed,
    /// The other side reset it.
    Reset,
    /// It is open, and as much was heard as was asked for.
    Open,
    /// It is open, and nothing more came.
    Silent,
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Every byte.
    pub bytes: Vec<u8>,
    /// What came after them.
    pub ending: Ending,
}

impl Heard {
    /// The bytes, for a reader.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A raw connection. Writes that fail are no error: who refuses bytes may close before it has taken them all.
#[derive(Debug)]
pub struct Line(Stream);

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Line {
    /// Connects.
    pub fn plain(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, SILENCE).with_context(|| format!("connecting to {to}"))?;
        prepare(&stream)?;
        Ok(Self(Stream::Plain(stream)))
    }

    /// Inside TLS, whose handshake may still be ahead.
    pub fn tls(stream: StreamOwned<ClientConnection, TcpStream>) -> anyhow::Result<Self> {
        prepare(&stream.sock)?;
        Ok(Self(Stream::Tls(Box::new(stream))))
    }

    fn socket(&self) -> &TcpStream {
        match &self.0 {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    /// Sends: whether all was taken.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = match &mut self.0 {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
        sent.is_ok()
    }

    /// Says that nothing more will be sent.
    pub fn end(&mut self) {
        if let Stream::Tls(stream) = &mut self.0 {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        let _ = self.socket().shutdown(Shutdown::Write);
    }

    /// Closes with a reset, whatever is under way.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
    }

    /// Reads until `enough` says so, the other side ends, or it is silent.
    pub fn hear(&mut self, mut enough: impl FnMut(&[u8]) -> bool) -> Heard {
        let deadline = Instant::now() + SILENCE;
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 * 1024];
        let ending = loop {
            if enough(&bytes) {
                break Ending::Open;
            }
            if Instant::now() > deadline {
                break Ending::Silent;
            }
            let read = match self.read(&mut buffer) {
                // A machine that stood still has used up the time of both sides, and the other one has not run since.
                Err(error) if is_late(&error) => {
                    let _ = self.socket().set_read_timeout(Some(AFTERWARDS));
                    let read = self.read(&mut buffer);
                    let _ = self.socket().set_read_timeout(Some(SILENCE));
                    read
                }
                read => read,
            };
            match read {
                Ok(0) => break Ending::Closed,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) if is_late(&error) => break Ending::Silent,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    // TLS that ends without a farewell.
                    ErrorKind::UnexpectedEof => break Ending::Closed,
                    _ => break Ending::Reset,
                },
            }
        };
        Heard { bytes, ending }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }

    /// Reads to the end.
    pub fn hear_all(&mut self) -> Heard {
        self.hear(|_| false)
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))
}
