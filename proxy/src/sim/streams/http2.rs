//! Streams over HTTP/2: extended CONNECT (RFC 8441), whose client and application both speak it. A stream of HTTP/2 is a connection here,
//! so that the same two sides play it.

use super::{
    World,
    book::Outcome,
    plan::{Reply, Stream, Take},
    side::{Left, Side},
};
use crate::{
    io::{Abort, Prefixed, TcpStream},
    sim::{http1::Reader, ledger::answer},
};
use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream, client, ext::Protocol, server};
use http::{HeaderMap, Method, Request, Response};
use std::{
    io,
    pin::Pin,
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, split},
    time::{sleep, timeout},
};

/// A stream of HTTP/2 as a connection.
struct Over2 {
    from: RecvStream,
    to: SendStream<Bytes>,
    held: Bytes,
    aborts: AtomicBool,
}

impl Over2 {
    fn new(from: RecvStream, to: SendStream<Bytes>) -> Self {
        Self { from, to, held: Bytes::new(), aborts: AtomicBool::new(false) }
    }
}

impl Abort for Over2 {
    fn abort(&self) {
        self.aborts.store(true, Relaxed);
    }
}

impl Drop for Over2 {
    /// Without an end the library resets it, too.
    fn drop(&mut self) {
        if self.aborts.load(Relaxed) {
            self.to.send_reset(Reason::CANCEL);
        }
    }
}

impl AsyncRead for Over2 {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            match ready!(self.from.poll_data(cx)) {
                Some(data) => self.held = data.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = buf.remaining().min(self.held.len());
        buf.put_slice(&self.held[..count]);
        self.held.advance(count);
        // A stream that has ended needs no window.
        let _ended = self.from.flow_control().release_capacity(count).is_err();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Over2 {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.to.reserve_capacity(bytes.len());
        let room = match ready!(self.to.poll_capacity(cx)) {
            Some(room) => room.map_err(io::Error::other)?.min(bytes.len()),
            None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        };
        let sent = self.to.send_data(Bytes::copy_from_slice(&bytes[..room]), false);
        Poll::Ready(sent.map(|()| room).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.to.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}

/// A client's connection, which it ends as a client does that wants to hear all: it reads to the other side's end before it closes. Closed over
/// what is unread, a server's GOAWAY for instance, it would be reset, and who relays it as bytes would have to say so.
struct Lingering {
    inner: TcpStream,
    ended: bool,
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
            self.ended = true;
        }
        loop {
            let mut rest = [0; 256];
            let mut rest = ReadBuf::new(&mut rest);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut rest))?;
            if rest.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// One stream on a connection of its own, from its client's side.
pub(super) async fn client(world: &Rc<World>, stream: &Stream, connection: TcpStream) -> Outcome {
    match ask(world, stream, connection).await {
        Err(_) => Outcome::Broken("before it began"),
        Ok((head, over)) => match (head.status().as_u16(), number(head.headers(), "x-sim-try")) {
            (200, Some(execution)) => {
                let says_and_hears = (super::question(stream.id), answer(stream.id, execution));
                match side(world, over, &stream.script, says_and_hears).talk().await {
                    Left::Whole => Outcome::Whole,
                    Left::Gone => Outcome::Left,
                    Left::Broken => Outcome::Broken("in the middle"),
                }
            }
            (403, Some(_)) => Outcome::Refused,
            (status, _) => {
                let reason = head.headers().get("x-remora-error").and_then(|reason| reason.to_str().ok());
                Outcome::Told(reason.map_or_else(|| status.to_string(), str::to_owned))
            }
        },
    }
}

async fn ask(world: &Rc<World>, stream: &Stream, connection: TcpStream) -> io::Result<(Response<()>, Over2)> {
    let connection = Lingering { inner: connection, ended: false };
    let (sender, driver) = client::handshake(connection).await.map_err(io::Error::other)?;
    // How it ends its stream hears, but not whether what the library had taken of it was sent.
    let (world, id) = (world.clone(), stream.id);
    tokio::task::spawn_local(async move {
        if driver.await.is_err() {
            world.book.breaks(id);
        }
    });
    let mut sender = sender.ready().await.map_err(io::Error::other)?;
    let told = async {
        while !sender.is_extended_connect_protocol_enabled() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), told).await?;
    let uri = format!("http://api.shop/r{}/{}", stream.id % 3, stream.id);
    let request = Request::builder().method(Method::CONNECT).uri(uri).header("x-sim", stream.id.to_string());
    let mut request = request.body(()).map_err(io::Error::other)?;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let (head, to) = sender.send_request(request, false).map_err(io::Error::other)?;
    let (head, from) = head.await.map_err(io::Error::other)?.into_parts();
    Ok((Response::from_parts(head, ()), Over2::new(from, to)))
}

fn number<N: std::str::FromStr>(fields: &HeaderMap, name: &str) -> Option<N> {
    fields.get(name)?.to_str().ok()?.parse().ok()
}

/// What a side of the stream does from now on. Nobody can be asked whether the other side has reset it.
fn side<'a>(
    world: &'a World,
    over: Over2,
    script: &'a super::plan::Script,
    (says, hears): (u64, u64),
) -> Side<'a, Over2> {
    let (read, writer) = split(over);
    Side {
        world,
        reader: Reader::new(read),
        writer,
        asked: None,
        before: Vec::new(),
        at_once: false,
        script,
        says,
        hears,
    }
}

/// An application's connection.
pub(super) async fn serve(world: &Rc<World>, connection: Prefixed<TcpStream>) {
    let mut builder = server::Builder::new();
    builder.enable_connect_protocol();
    let Ok(mut connection) = builder.handshake::<_, Bytes>(connection).await else { return };
    // What breaks is the client's to tell.
    while let Some(Ok((request, respond))) = connection.accept().await {
        let world = world.clone();
        tokio::task::spawn_local(async move { one(&world, request, respond).await });
    }
}

async fn one(world: &World, request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>) {
    let protocol = request.extensions().get::<Protocol>().map(Protocol::as_str);
    let stream = number(request.headers(), "x-sim").and_then(|id| world.plan.stream(id));
    let Some(stream) = stream.filter(|_| protocol == Some("websocket") && request.method() == Method::CONNECT) else {
        return world.trace().wrong(format_args!("an extended CONNECT arrived as another request: {request:?}"));
    };
    let execution = world.book.got(stream.id);
    let Reply { take, thinks, ref script, .. } = world.plan.reply(stream, execution);
    world.trace().say("app", format_args!("stream {}, execution {execution}: {take:?} {script:?}", stream.id));
    sleep(thinks).await;
    let says = answer(stream.id, execution);
    let status = match take {
        Take::Yes => 200,
        Take::No => 403,
        Take::Resets | Take::Closes => {
            world.book.goes(says);
            return respond.send_reset(Reason::INTERNAL_ERROR);
        }
    };
    let head = Response::builder().status(status).header("x-sim-try", execution).body(()).unwrap_or_default();
    // A client that has gone does not want to know.
    let Ok(to) = respond.send_response(head, take == Take::No) else { return world.book.goes(says) };
    if take == Take::Yes {
        world.book.takes(stream.id);
        side(world, Over2::new(request.into_body(), to), script, (says, super::question(stream.id))).talk().await;
    }
}
