//! Idle connections: opened, used once, then held. Runs as a process of its own in the client pod.

use crate::pods::ANSWER;
use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write, stdin},
    net::{SocketAddrV4, TcpStream},
    time::Duration,
};

/// Printed once all connections stand.
pub(crate) const READY: &str = "all connections are open";
/// A proxy that is slower than this is broken, and the run should say so.
const PATIENCE: Duration = Duration::from_secs(5);

/// Holds `count` connections to `address` until standard input ends.
pub(crate) fn hold(address: SocketAddrV4, count: u32) -> Result<()> {
    let open = |n| connect(address).with_context(|| format!("connection {n} of {count}"));
    let held: Vec<_> = (1..=count).map(open).collect::<Result<_>>()?;
    println!("{READY}");
    stdin().read_to_end(&mut Vec::new()).context("wait for the end of input")?;
    drop(held);
    Ok(())
}

/// One connection that has carried one request.
pub(crate) fn connect(address: SocketAddrV4) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nhost: {address}\r\n\r\n").context("send a request")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(ANSWER.as_bytes()) {
        let n = stream.read(&mut buffer).context("read the answer")?;
        if n == 0 {
            bail!("closed after `{}`", String::from_utf8_lossy(&answer));
        }
        answer.extend_from_slice(&buffer[..n]);
    }
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        bail!("not a 200: `{}`", String::from_utf8_lossy(&answer));
    }
    Ok(stream)
}
