//! The origin: it keeps every byte that it gets, and answers each call by its script. Speaks HTTP/1, bytes, and HTTP/2
//! ([`super::origin2`]), by the first bytes of a connection.

use super::{
    message::{self, End, Framing, Kind, Message},
    origin2,
    script::{Answer, Call, Ending, Exchange, Key, NUMBER, Talk, TalkEnd},
    stage::{PATIENCE, Stage},
};
use anyhow::Context as _;
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

/// What the first byte of bytes that are no HTTP is; then comes the call's number, and a line's end.
pub const BYTES: u8 = 1;

/// An origin.
#[derive(Debug)]
pub struct Origin {
    pub address: SocketAddr,
    pub stage: Arc<Stage>,
}

/// What a connection of the origin knows.
#[derive(Debug, Clone)]
pub struct World {
    pub stage: Arc<Stage>,
    pub exchanges: Arc<Vec<Exchange>>,
}

impl World {
    pub fn call(&self, key: Key) -> Option<&Call> {
        self.exchanges.get(key.0)?.calls.get(key.1)
    }
}

impl Origin {
    /// Listens on a port of `ip`.
    pub fn start(ip: IpAddr, exchanges: &Arc<Vec<Exchange>>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((ip, 0)).context("listening as the origin")?;
        let (address, stage) = (listener.local_addr()?, Arc::<Stage>::default());
        let world = World { stage: stage.clone(), exchanges: exchanges.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let world = world.clone();
                thread::spawn(move || -> std::io::Result<()> {
                    let number = world.stage.opens(stream.try_clone()?);
                    let served = serve(stream, &world);
                    world.stage.closes(number);
                    served
                });
            }
        });
        Ok(Self { address, stage })
    }
}

/// The number of a call, as its field names it.
pub fn number(text: &str) -> Option<Key> {
    let (exchange, call) = text.trim().split_once('.')?;
    Some((exchange.parse().ok()?, call.parse().ok()?))
}

/// How a connection ended is in the record; a failure here is one of those ends.
fn serve(stream: TcpStream, world: &World) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0; 3];
    let count = stream.peek(&mut first)?;
    match &first[..count] {
        b"PRI" => origin2::serve(stream, world.clone()),
        [BYTES, ..] => bytes(Connection { stream, buffer: Vec::new() }, world),
        _ => http1(Connection { stream, buffer: Vec::new() }, world),
    }
}

struct Connection {
    stream: TcpStream,
    /// What has come and is not used yet.
    buffer: Vec<u8>,
}

impl Connection {
    /// Waits for more: how it ended, if there is none.
    fn more(&mut self) -> Option<End> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Some(End::Fin),
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                None
            }
            Err(_) => Some(End::Reset),
        }
    }

    /// Ends in order, and lets the other side end too.
    fn finish(mut self) -> std::io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        self.stream.set_read_timeout(Some(PATIENCE))?;
        std::io::copy(&mut self.stream, &mut std::io::sink()).map(drop)
    }

    fn reset(self) -> std::io::Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }
}

fn http1(mut connection: Connection, world: &World) -> std::io::Result<()> {
    loop {
        let mut place = None;
        let (mut asked, mut answered) = (false, false);
        let (request, arrived) = loop {
            let (mut request, length) = message::read(&connection.buffer, Kind::Request);
            let key = request.values(NUMBER).next().and_then(number);
            if let Some(key) = key {
                let place = *place.get_or_insert_with(|| world.stage.arrives(key, request.clone()));
                world.stage.update(key, place, request.clone());
                let Some(call) = world.call(key) else { return Ok(()) };
                if request.end != End::Whole && !asked && request.lists("expect", "100-continue") {
                    asked = true;
                    connection.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                if call.answer.early && !answered {
                    answered = true;
                    send(&mut connection, &call.answer, key, world)?;
                }
            }
            if request.end == End::Whole {
                connection.buffer.drain(..length);
                break (request, key.zip(place));
            }
            if let Some(end) = connection.more() {
                request.end = end;
                match key.zip(place) {
                    Some((key, place)) => world.stage.update(key, place, request),
                    None if connection.buffer.is_empty() => {}
                    None => world.stage.stray(format!("{request:?}")),
                }
                return Ok(());
            }
        };
        let Some((key, place, call)) = arrived.and_then(|(key, place)| Some((key, place, world.call(key)?))) else {
            world.stage.stray(format!("{request:?}"));
            return Ok(());
        };
        if !answered {
            send(&mut connection, &call.answer, key, world)?;
        }
        match call.answer.ending {
            Ending::ResetBefore | Ending::ResetAt(_) => return connection.reset(),
            Ending::Whole if call.answer.status == 101 => {
                return call.talk.as_ref().map_or(Ok(()), |talk| converse(connection, talk, (key, place), world));
            }
            Ending::Whole if request.keeps() && keeps(call) => {}
            _ => return connection.finish(),
        }
    }
}

fn keeps(call: &Call) -> bool {
    message::read(&call.answer.http1(), Kind::Answer { to_head: call.request.method == "HEAD" }).0.keeps()
}

/// Sends an answer up to its end, and waits until the client has it if something follows that could overtake it.
fn send(connection: &mut Connection, answer: &Answer, key: Key, world: &World) -> std::io::Result<()> {
    connection.stream.write_all(&answer.interim_http1())?;
    if answer.ending.is_before() {
        return Ok(());
    }
    connection.stream.write_all(&answer.http1())?;
    if answer.ending != Ending::Whole {
        world.stage.wait_heard(key, answer.ending.at().unwrap_or(answer.body.bytes.len()));
    }
    Ok(())
}

/// Bytes from the beginning of a connection.
fn bytes(mut connection: Connection, world: &World) -> std::io::Result<()> {
    let key = loop {
        if let Some(end) = connection.buffer.iter().position(|byte| *byte == b'\n') {
            break number(&String::from_utf8_lossy(&connection.buffer[1..end]));
        }
        if connection.more().is_some() {
            break None;
        }
    };
    let Some((key, talk)) = key.and_then(|key| Some((key, world.call(key)?.talk.as_ref()?))) else {
        world.stage.stray(format!("bytes: {:?}", connection.buffer));
        return Ok(());
    };
    let place = world.stage.arrives(key, Message::new("", Framing::Bytes));
    converse(connection, talk, (key, place), world)
}

/// The origin's part of bytes both ways. What it hears is the record's body.
fn converse(mut connection: Connection, talk: &Talk, (key, place): (Key, usize), world: &World) -> std::io::Result<()> {
    let mut record = world.stage.arrived(key).get(place).cloned().unwrap_or_else(|| Message::new("", Framing::Bytes));
    record.end = End::Part;
    world.stage.update(key, place, record.clone());
    let mut end = None;
    while connection.buffer.len() < talk.client.len() && end.is_none() {
        end = connection.more();
    }
    if end.is_none() {
        connection.stream.write_all(&talk.server)?;
    }
    let silent = !world.stage.wait_heard(key, talk.server.len());
    match talk.end {
        TalkEnd::ServerFin => connection.stream.shutdown(Shutdown::Write)?,
        TalkEnd::ServerReset => end = Some(End::Whole),
        TalkEnd::ClientFin | TalkEnd::ClientReset => {}
    }
    connection.stream.set_read_timeout(Some(PATIENCE))?;
    while end.is_none() {
        end = connection.more();
    }
    record.body = std::mem::take(&mut connection.buffer);
    record.end = if silent { End::Silent } else { end.unwrap_or(End::Part) };
    world.stage.update(key, place, record);
    match talk.end {
        TalkEnd::ClientFin => {
            connection.stream.write_all(&talk.late)?;
            connection.finish()
        }
        TalkEnd::ServerReset => connection.reset(),
        TalkEnd::ServerFin | TalkEnd::ClientReset => Ok(()),
    }
}
