//! The application of the pod that is burdened. In: HTTP/1 and byte connections. Out: small answers, answers without end
//! (`/endless`), bodies read to their end, bytes without end. Each on a thread of its own, and those without end give way to
//! the proxy at the cores: it is the proxy that is judged, not how the kernel shares a core.

use anyhow::Context as _;
use remora_tests::local::thread_elsewhere;
use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const SMALL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";

/// The ports of the application.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// HTTP, for everybody.
    pub(super) http: SocketAddr,
    /// HTTP again, for those who ask for answers without end.
    pub(super) big: SocketAddr,
    /// Bytes without end.
    pub(super) bytes: SocketAddr,
}

/// Serves on ports of `ip`.
pub(super) fn start(ip: IpAddr) -> anyhow::Result<Ports> {
    Ok(Ports { http: serve(ip, answer, true)?, big: serve(ip, answer, false)?, bytes: serve(ip, endless, false)? })
}

fn serve<F>(ip: IpAddr, each_by: fn(TcpStream) -> F, honest: bool) -> anyhow::Result<SocketAddr>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = std::net::TcpListener::bind((ip, 0)).with_context(|| format!("listening on {ip}"))?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let run = move || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(each(listener, each_by))?)
    };
    if honest {
        std::thread::spawn(run);
    } else {
        thread_elsewhere(run)?;
    }
    Ok(address)
}

async fn each<F>(listener: std::net::TcpListener, serve: fn(TcpStream) -> F) -> std::io::Result<()>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection that breaks is the proxy's to report.
        tokio::spawn(async move { drop(serve(stream).await) });
    }
}

async fn endless(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        stream.write_all(&[b'x'; 64 * 1024]).await?;
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut read = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break read.drain(..at + 4).collect::<Vec<u8>>();
            }
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<u64>().ok());
        let mut left = length.unwrap_or_default();
        while left > 0 {
            if read.is_empty() && stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
            let taken = read.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            read.drain(..taken);
            left -= taken as u64;
        }
        if head.starts_with("get /endless") {
            stream.write_all(ENDLESS).await?;
            return endless(stream).await;
        }
        stream.write_all(SMALL).await?;
    }
}
