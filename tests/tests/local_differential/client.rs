//! The client's end of an exchange in HTTP/1 or in bytes: it keeps every byte that it gets. HTTP/2 is [`super::client2`]'s.

use super::{
    client2,
    message::{self, End, Framing, Kind, Message},
    origin::BYTES,
    script::{Call, Ending, Exchange, Key, Protocol, Request, Talk, TalkEnd},
    stage::{PATIENCE, Stage},
};
use anyhow::{Context as _, ensure};
use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

/// What a client got for a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Interim answers, the answer, and whatever should not have come behind it.
    pub messages: Vec<Message>,
    pub after: After,
}

/// How the connection stands behind an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It can be used again, and ended in order when the client did so.
    Kept,
    Fin,
    Reset,
    /// The client has left it.
    Left,
    Silent,
}

/// A way to the origin.
#[derive(Debug, Clone)]
pub struct Road {
    pub to: SocketAddr,
    /// Where a tunnel must be asked for.
    pub proxy: bool,
    pub stage: Arc<Stage>,
}

/// The authority of the origin.
pub const AUTHORITY: &str = "api:80";

/// Plays the client's part.
pub fn play(exchange: &Exchange, road: &Road) -> anyhow::Result<Vec<Heard>> {
    match exchange.protocol {
        Protocol::Http2 => client2::play(exchange, road),
        Protocol::Bytes => {
            let call = &exchange.calls[0];
            let talk = call.talk.as_ref().context("bytes without a word")?;
            Ok(vec![Client::connect(road, true)?.converse(talk, exchange.key(0), Message::new("", Framing::Bytes))])
        }
        Protocol::Http1 | Protocol::Tunnel => http1(exchange, road),
    }
}

fn http1(exchange: &Exchange, road: &Road) -> anyhow::Result<Vec<Heard>> {
    let connect = || Client::connect(road, exchange.protocol == Protocol::Tunnel);
    let (mut client, mut all) = (Some(connect()?), Vec::new());
    if exchange.pipelined
        && let Some(client) = &mut client
    {
        let requests = exchange.calls.iter().map(|call| [call.request.head(), call.request.rest()].concat());
        client.say(&requests.collect::<Vec<_>>().concat());
    }
    for (number, call) in exchange.calls.iter().enumerate() {
        let mut now = match client.take() {
            None if exchange.pipelined => break,
            None => connect()?,
            Some(client) => client,
        };
        let mut heard = now.call(call, exchange.key(number), exchange.pipelined);
        if heard.after == After::Kept {
            match number + 1 == exchange.calls.len() {
                true => now.leave(&mut heard),
                false => client = Some(now),
            }
        }
        all.push(heard);
    }
    Ok(all)
}

struct Client {
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    stage: Arc<Stage>,
}

impl Client {
    fn connect(road: &Road, tunnel: bool) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(road.to).with_context(|| format!("connecting to {}", road.to))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { stream: Some(stream), buffer: Vec::new(), stage: road.stage.clone() };
        if tunnel && road.proxy {
            client.say(format!("CONNECT {AUTHORITY} HTTP/1.1\r\nHost: {AUTHORITY}\r\n\r\n").as_bytes());
            while !client.buffer.ends_with(b"\r\n\r\n") {
                ensure!(client.more().is_none(), "no tunnel: {}", String::from_utf8_lossy(&client.buffer));
            }
            ensure!(client.buffer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&client.buffer));
            client.buffer.clear();
        }
        Ok(client)
    }

    /// Sends. Who does not take it ends the connection, which is in the record.
    fn say(&mut self, bytes: &[u8]) {
        let _ = self.stream.as_mut().map(|stream| stream.write_all(bytes));
    }

    fn end(&self) {
        let _ = self.stream.as_ref().map(|stream| stream.shutdown(Shutdown::Write));
    }

    fn reset(&mut self) {
        let _ = self.stream.take().map(|it| socket2::SockRef::from(&it).set_linger(Some(Duration::ZERO)));
    }

    /// Waits for more: how the connection ended, if there is none.
    fn more(&mut self) -> Option<End> {
        let mut piece = [0; 16 * 1024];
        match self.stream.as_mut().map(|stream| stream.read(&mut piece)) {
            Some(Ok(0)) | None => Some(End::Fin),
            Some(Ok(count)) => {
                self.buffer.extend_from_slice(&piece[..count]);
                None
            }
            Some(Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock => Some(End::Silent),
            Some(Err(_)) => Some(End::Reset),
        }
    }

    fn call(&mut self, call: &Call, key: Key, sent: bool) -> Heard {
        let request = &call.request;
        if !sent {
            self.say(&request.head());
            if !request.waits {
                self.say(&request.rest());
            }
        }
        let cut = match request.ending {
            Ending::Whole => false,
            ending => {
                self.stage.wait_arrived(key, ending.at().unwrap_or(request.body.bytes.len()));
                if matches!(ending, Ending::ResetAt(_)) {
                    self.reset();
                    return Heard { messages: Vec::new(), after: After::Left };
                }
                self.end();
                true
            }
        };
        let mut messages = self.hear(request, key);
        let Some(last) = messages.last() else { return Heard { messages, after: After::Left } };
        if let (101, Some(talk)) = (last.status(), &call.talk) {
            let mut heard = self.converse(talk, key, Message::new("", Framing::Bytes));
            messages.append(&mut heard.messages);
            return Heard { messages, after: heard.after };
        }
        let kept = last.end == End::Whole && last.keeps() && keeps(request) && !cut;
        let after = if kept { After::Kept } else { self.rest(&mut messages) };
        Heard { messages, after }
    }

    /// Reads answers up to the one that is not interim.
    fn hear(&mut self, request: &Request, key: Key) -> Vec<Message> {
        let (mut messages, mut waits) = (Vec::new(), request.waits);
        loop {
            let (mut message, length) = message::read(&self.buffer, Kind::Answer { to_head: request.method == "HEAD" });
            if message.framing != Framing::Unknown && !message.is_interim() {
                self.stage.hears(key, message.body.len());
            }
            if message.end == End::Whole {
                self.buffer.drain(..length);
                let interim = message.is_interim();
                if std::mem::take(&mut waits) {
                    self.say(&request.rest());
                }
                messages.push(message);
                if interim {
                    continue;
                }
                return messages;
            }
            if let Some(end) = self.more() {
                let closes = message.framing == Framing::Close && end == End::Fin;
                message.end = if closes { End::Whole } else { end };
                self.buffer.clear();
                messages.push(message);
                return messages;
            }
        }
    }

    /// What else comes, up to the end.
    fn rest(&mut self, messages: &mut Vec<Message>) -> After {
        let end = loop {
            if let Some(end) = self.more() {
                break end;
            }
        };
        if !self.buffer.is_empty() {
            let mut rest = Message::new("behind the answer", Framing::Bytes);
            rest.body = std::mem::take(&mut self.buffer);
            messages.push(rest);
        }
        match end {
            End::Fin => After::Fin,
            End::Silent => After::Silent,
            _ => After::Reset,
        }
    }

    /// Ends a connection that could be used again.
    fn leave(&mut self, heard: &mut Heard) {
        self.end();
        let after = self.rest(&mut heard.messages);
        if after != After::Fin {
            heard.after = after;
        }
    }

    /// The client's part of bytes both ways.
    fn converse(&mut self, talk: &Talk, key: Key, mut record: Message) -> Heard {
        self.say(&talk.client);
        let mut end = None;
        while self.buffer.len() < talk.server.len() && end.is_none() {
            end = self.more();
        }
        self.stage.hears(key, self.buffer.len());
        match talk.end {
            _ if end.is_some() => {}
            TalkEnd::ClientFin => self.end(),
            TalkEnd::ClientReset => {
                self.reset();
                end = Some(End::Whole);
            }
            TalkEnd::ServerFin | TalkEnd::ServerReset => {}
        }
        while end.is_none() {
            end = self.more();
        }
        if talk.end == TalkEnd::ServerFin {
            self.say(&talk.late);
        }
        record.body = std::mem::take(&mut self.buffer);
        record.end = end.unwrap_or(End::Part);
        Heard { messages: vec![record], after: After::Left }
    }
}

fn keeps(request: &Request) -> bool {
    message::read(&request.head(), Kind::Request).0.keeps()
}

/// What bytes begin with that belong to this call.
pub fn greeting((exchange, call): Key) -> Vec<u8> {
    [&[BYTES], format!("{exchange}.{call}\n").as_bytes()].concat()
}
