//! A client for well-formed questions to components and backends: HTTP/1.1, one request per connection, blocking.

use anyhow::Context as _;
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long a single question may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head, status line included.
    pub head: String,
    /// What follows the head, as it came.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find_map(|(field, value)| field.eq_ignore_ascii_case(name).then_some(value.trim()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads an answer that ends with its connection.
    pub fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("the answer has no whole head")?;
        let (head, body) = bytes.split_at(end + 4);
        let head = std::str::from_utf8(head)?.to_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the answer has no status")?;
        Ok(Self { status, head, body: body.to_owned() })
    }
}

/// Asks for `path` of `host` at this address.
pub fn get(to: SocketAddr, host: &str, path: &str) -> anyhow::Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    Answer::parse(&exchange(to, request.as_bytes())?)
}

/// Sends these bytes and reads until the other side closes.
pub fn exchange(to: SocketAddr, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT).with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(bytes).with_context(|| format!("writing to {to}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("reading from {to}"))?;
    Ok(answer)
}
