//! The application behind the proxies: HTTP/1.1 that answers at once, or slowly when asked to, and an echo of bytes.

use anyhow::Context as _;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

/// How long `/slow` takes.
pub(crate) const SLOW: Duration = Duration::from_secs(2);

/// Answers HTTP/1.1 requests on a port of this address.
pub(crate) fn http(ip: IpAddr) -> anyhow::Result<SocketAddr> {
    serve(ip, answer)
}

/// Sends every byte back, on a port of this address.
pub(crate) fn echo(ip: IpAddr) -> anyhow::Result<SocketAddr> {
    serve(ip, |stream| {
        let mut from = stream.try_clone()?;
        let mut to = stream;
        std::io::copy(&mut from, &mut to).map(drop)
    })
}

fn serve(ip: IpAddr, each: fn(TcpStream) -> std::io::Result<()>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((ip, 0)).with_context(|| format!("listening on {ip}"))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that breaks is the proxy's to report.
            thread::spawn(move || drop(each(stream)));
        }
    });
    Ok(address)
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let start = head.len();
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
            let line = head[start..].to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line.trim().is_empty() {
                break;
            }
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        if head.starts_with("GET /slow") {
            thread::park_timeout(SLOW);
        }
        writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n")?;
    }
}
