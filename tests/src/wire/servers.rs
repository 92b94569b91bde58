//! Applications that speak HTTP/2: one that does it right and keeps what it is asked, one that says what it is told to.

use super::{
    http1::Message,
    http2::{self, END_HEADERS, END_STREAM, PREFACE, frame, kind},
    recorder::Recorder,
};
use anyhow::Context as _;
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

impl Recorder {
    /// Listens on a port of `ip` and speaks HTTP/2.
    pub fn start_http2(ip: IpAddr) -> anyhow::Result<Self> {
        recorder(ip)
    }
}

/// An HTTP/2 application without encryption that answers every request with a small 200 and keeps it.
fn recorder(ip: IpAddr) -> anyhow::Result<Recorder> {
    let listener = TcpListener::bind((ip, 0)).context("listening as an application")?;
    listener.set_nonblocking(true)?;
    let recorder = Recorder::silent(listener.local_addr()?);
    let seen = recorder.keeper();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                let seen = seen.clone();
                tokio::spawn(async move { serve(stream, seen).await });
            }
            #[allow(unreachable_code, reason = "names the type of the errors")]
            std::io::Result::Ok(())
        })
    });
    Ok(recorder)
}

async fn serve(
    stream: tokio::net::TcpStream,
    keep: impl Fn(Message) + Clone + Send + 'static,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::spawn(answer(request, respond, keep.clone()));
    }
    Ok(())
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<bytes::Bytes>,
    keep: impl Fn(Message),
) -> Result<(), h2::Error> {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    let fields = |fields: &http::HeaderMap| {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect::<Vec<_>>()
    };
    let trailers = stream.trailers().await?.as_ref().map(fields).unwrap_or_default();
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    let start = format!("{} {target} HTTP/2", head.method);
    keep(Message { start, fields: fields(&head.headers), body, trailers, length: 0 });
    let mut stream = respond.send_response(http::Response::new(()), false)?;
    stream.send_data("ok".into(), true)
}

type Script = Arc<dyn Fn(u32) -> Vec<u8> + Send + Sync>;

/// An HTTP/2 application without manners: it answers each request with the bytes that a script makes of its stream.
pub struct Puppet {
    /// Where it listens.
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl std::fmt::Debug for Puppet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Puppet").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A 200 with a small body.
pub fn fine(stream: u32) -> Vec<u8> {
    [frame(kind::HEADERS, END_HEADERS, stream, &[0x88]), frame(kind::DATA, END_STREAM, stream, b"ok")].concat()
}

impl Puppet {
    /// Listens on a port of `ip`, and answers well until told otherwise.
    pub fn start(ip: IpAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((ip, 0)).context("listening as an application")?;
        let address = listener.local_addr()?;
        let script = Arc::new(Mutex::new(Arc::new(fine) as Script));
        let shared = script.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = shared.clone();
                thread::spawn(move || play(stream, &script));
            }
        });
        Ok(Self { address, script })
    }

    /// What it says from now on.
    pub fn say(&self, script: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
    }
}

/// Plays the server's part: how the connection ended is nobody's business.
fn play(mut stream: TcpStream, script: &Mutex<Script>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = vec![0; PREFACE.len()];
    stream.read_exact(&mut bytes)?;
    bytes.clear();
    stream.write_all(&[http2::settings(&[]), frame(kind::SETTINGS, http2::ACK, 0, &[])].concat())?;
    let mut buffer = [0; 16 * 1024];
    loop {
        let (frames, length) = http2::frames(&bytes);
        bytes.drain(..length);
        for asked in frames {
            match asked.kind {
                kind::HEADERS => {
                    let script = script.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    stream.write_all(&script(asked.stream))?;
                }
                kind::PING if asked.flags & http2::ACK == 0 => {
                    stream.write_all(&frame(kind::PING, http2::ACK, 0, &asked.payload))?;
                }
                _ => {}
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}
