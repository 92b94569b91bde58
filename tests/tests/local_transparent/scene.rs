//! Two pods whose application and client the test plays, and what it reads of their connections.

use anyhow::{bail, ensure};
use remora_tests::local::{Mesh, Proxy};
use socket2::SockRef;
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(10);
/// The last answer on its connection.
pub const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";

/// How a connection ended for its reader.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Orderly,
    Reset,
}

/// Two pods; the test plays the client and the application.
pub struct Scene {
    pub web: Proxy,
    pub api: Proxy,
    pub app: TcpListener,
    pub mesh: Mesh,
}

impl Scene {
    pub fn start() -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
        let app = TcpListener::bind((api.ip, 0))?;
        // Linux bounds an accept by it.
        SockRef::from(&app).set_read_timeout(Some(PATIENCE))?;
        mesh.service("api", 80, None, &[app.local_addr()?])?;
        Ok(Self { web: web.ready()?, api: api.ready()?, app, mesh })
    }

    /// A client that has said this.
    pub fn ask(&self, request: &str) -> anyhow::Result<TcpStream> {
        let mut client = patient(TcpStream::connect(self.web.outbound)?)?;
        client.write_all(request.as_bytes())?;
        Ok(client)
    }

    /// The application's next connection, with the head of its first request. One that was opened while it was open what its
    /// client speaks may end without a byte.
    pub fn asked(&self) -> anyhow::Result<(TcpStream, String)> {
        loop {
            let mut stream = patient(self.app.accept()?.0)?;
            if stream.peek(&mut [0])? > 0 {
                let head = read_head(&mut stream)?;
                return Ok((stream, head));
            }
        }
    }

    /// Both ends of a WebSocket.
    pub fn websocket(&self) -> anyhow::Result<(TcpStream, TcpStream)> {
        let upgrade = "GET /chat HTTP/1.1\r\nhost: api:80\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
        let mut client = self.ask(upgrade)?;
        let (mut server, _) = self.asked()?;
        server.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")?;
        let head = read_head(&mut client)?;
        ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Ok((client, server))
    }
}

pub fn patient(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads one head and not a byte more.
pub fn read_head(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        ensure!(stream.read(&mut byte)? == 1, "an end in the middle of a head: {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}

/// All that comes, and how it ends.
pub fn read_out(stream: &mut TcpStream) -> anyhow::Result<(String, End)> {
    let mut text = Vec::new();
    let end = match stream.read_to_end(&mut text) {
        Ok(_) => End::Orderly,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
        Err(error) => bail!("{error} after {:?}", String::from_utf8_lossy(&text)),
    };
    Ok((String::from_utf8(text)?, end))
}

pub fn reset(stream: TcpStream) -> anyhow::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(())
}
