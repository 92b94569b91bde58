//! The origin's HTTP/2. The h2 crate reads what comes and keeps the connection alive; the answers are written by hand beside it, in
//! header blocks that need no table, so that they can be and end as no library would let them.

use super::{
    message::{End, Framing, Message},
    origin::{World, number},
    script::{Ending, Field, Key, NUMBER, latin},
};
use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request};
use remora_tests::wire::http2::{self, frame, kind};
use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

enum Out {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// Serves a connection to its end.
pub fn serve(stream: TcpStream, world: World) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { connection(tokio::net::TcpStream::from_std(stream)?, world).await })
}

async fn connection(stream: tokio::net::TcpStream, world: World) -> std::io::Result<()> {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (mut input, mut output) = stream.into_split();
    let (mut from_h2, mut to_h2) = tokio::io::split(near);
    let (out, mut frames) = unbounded_channel();
    let ended = Arc::<AtomicBool>::default();
    let how = ended.clone();
    let reading = async move {
        if tokio::io::copy(&mut input, &mut to_h2).await.is_err() {
            how.store(true, Ordering::Relaxed);
        }
        // Kept until here: dropped, it would end the library's connection too.
        to_h2.shutdown().await
    };
    let mixed = out.clone();
    let passing = async move {
        let mut bytes = Vec::new();
        while from_h2.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
            let (_, length) = http2::frames(&bytes);
            let _ = mixed.send(Out::Bytes(bytes.drain(..length).collect()));
        }
    };
    let writing = write(&mut frames, &mut output);
    let serving = accept(far, out, world, ended);
    tokio::select! {
        reset = writing => if reset { socket2::SockRef::from(output.as_ref()).set_linger(Some(Duration::ZERO))? },
        // The end of the connection is the library's to notice, and whoever reads a stream's.
        ((), _, ()) = async { tokio::join!(serving, reading, passing) } => {}
    }
    Ok(())
}

/// Writes what is to be written; whether the connection is to be reset then.
async fn write(frames: &mut UnboundedReceiver<Out>, output: &mut tokio::net::tcp::OwnedWriteHalf) -> bool {
    while let Some(out) = frames.recv().await {
        let written = match out {
            Out::Bytes(bytes) => output.write_all(&bytes).await,
            Out::Fin => output.shutdown().await,
            Out::Reset => return true,
        };
        if written.is_err() {
            break;
        }
    }
    std::future::pending().await
}

async fn accept(stream: tokio::io::DuplexStream, out: UnboundedSender<Out>, world: World, ended: Arc<AtomicBool>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let (mut kept, mut tasks) = (Vec::new(), tokio::task::JoinSet::new());
    while let Some(Ok((request, respond))) = connection.accept().await {
        let stream = respond.stream_id().as_u32();
        // Dropped, it would reset the stream.
        let respond: SendResponse<Bytes> = respond;
        kept.push(respond);
        tasks.spawn(answer(request, stream, out.clone(), world.clone(), ended.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

async fn answer(
    request: Request<h2::RecvStream>,
    stream: u32,
    out: UnboundedSender<Out>,
    world: World,
    ended: Arc<AtomicBool>,
) {
    let (head, mut body) = request.into_parts();
    let mut record = Message::new(format!("{} {}", head.method, head.uri), Framing::Http2);
    record.fields = fields(&head.headers);
    let key = record.values(NUMBER).next().and_then(number);
    let Some((key, call)) = key.and_then(|key| Some((key, world.call(key)?))) else {
        world.stage.stray(format!("{record:?}"));
        return;
    };
    let place = world.stage.arrives(key, record.clone());
    if call.answer.early {
        send(&world, key, stream, &out).await;
    }
    record.end = loop {
        match body.data().await {
            None => match body.trailers().await {
                Ok(trailers) => {
                    record.trailers = trailers.as_ref().map(fields).unwrap_or_default();
                    break End::Whole;
                }
                Err(error) => break end(&error, ended.load(Ordering::Relaxed)),
            },
            Some(Ok(data)) => {
                record.body.extend_from_slice(&data);
                let _ = body.flow_control().release_capacity(data.len());
                world.stage.update(key, place, record.clone());
            }
            Some(Err(error)) => break end(&error, ended.load(Ordering::Relaxed)),
        }
    };
    let whole = record.end == End::Whole;
    world.stage.update(key, place, record);
    if whole && !call.answer.early {
        send(&world, key, stream, &out).await;
    }
}

/// What became of a stream that did not become whole, on a connection that was, or was not, reset.
pub fn end(error: &h2::Error, was_reset: bool) -> End {
    match error.reason() {
        Some(code) if error.is_reset() => End::Stream(code.into()),
        Some(code) if error.is_go_away() => End::Away(code.into()),
        _ if was_reset => End::Reset,
        _ => End::Fin,
    }
}

/// All fields, names in the order in which they came.
pub fn fields(fields: &HeaderMap) -> Vec<Field> {
    fields.iter().map(|(name, value)| (name.to_string(), latin(value.as_bytes()))).collect()
}

async fn send(world: &World, key: Key, stream: u32, out: &UnboundedSender<Out>) {
    let Some(call) = world.call(key) else { return };
    let answer = &call.answer;
    let say = |bytes: Vec<u8>| out.send(Out::Bytes(bytes)).unwrap_or_default();
    if !answer.ending.is_before() {
        say(answer.http2(stream));
        if let Some(count) = answer.ending.at() {
            let stage = world.stage.clone();
            let _ = tokio::task::spawn_blocking(move || stage.wait_heard(key, count)).await;
        }
    }
    let away = |last: u32, code: u32| frame(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat());
    let then = match answer.ending {
        Ending::Whole => return,
        Ending::StreamBefore(code) | Ending::StreamAt(_, code) => {
            say(frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes()));
            return;
        }
        Ending::ResetBefore | Ending::ResetAt(_) => Out::Reset,
        Ending::AwayAt(_, code) => {
            say(away(stream, code));
            Out::Fin
        }
        Ending::AwayBefore => {
            say(away(0, 0));
            Out::Fin
        }
        Ending::FinBefore | Ending::FinAt(_) | Ending::NoLastChunk => Out::Fin,
    };
    let _ = out.send(then);
}
