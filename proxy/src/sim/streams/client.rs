//! The client of a stream: begins it as the plan says, and writes down what became of it.

use super::{
    GREETING, PATIENCE, World,
    book::Outcome,
    http2,
    plan::{Begins, Stream},
    side::{Left, Side},
};
use crate::{
    io::{Abort as _, TcpStream},
    sim::{
        http1::{Head, Reader, text},
        ledger::answer,
    },
};
use std::{io, net::SocketAddr, rc::Rc};
use tokio::{
    io::{AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    time::timeout,
};

/// Makes a stream to whoever listens at `to`.
pub(super) async fn run(world: &Rc<World>, stream: &Stream, (to, from): (SocketAddr, SocketAddr)) {
    let outcome = match timeout(PATIENCE, one(world, stream, (to, from))).await {
        Ok(outcome) => outcome,
        Err(_) => {
            world.shared.net.describe();
            world.trace().wrong(format_args!("stream {} has no outcome, a deadlock", stream.id));
            Outcome::Broken("never")
        }
    };
    world.book.outcome(world.trace(), stream.id, outcome);
}

async fn one(world: &Rc<World>, stream: &Stream, (to, from): (SocketAddr, SocketAddr)) -> Outcome {
    let Ok(connection) = world.shared.net.dial(to, from).await else { return Outcome::Broken("connect") };
    world.trace().say("client", format_args!("stream {}: {:?}, {:?}", stream.id, stream.begins, stream.script));
    if stream.begins == Begins::Extended {
        return http2::client(world, stream, connection).await;
    }
    let asked = connection.asked();
    let (read, writer) = split(connection);
    let mut begins = Beginning { world, stream, reader: Reader::new(read), writer };
    let execution = match begins.begin().await {
        Ok(Ok(execution)) => execution,
        Ok(Err(outcome)) => return outcome,
        Err(_) => return Outcome::Broken("before it began"),
    };
    let Beginning { reader, writer, .. } = begins;
    let before = match stream.begins {
        Begins::Bytes => super::header(stream.id).to_vec(),
        Begins::Upgrade | Begins::Connect | Begins::Extended => Vec::new(),
    };
    let (says, hears) = (super::question(stream.id), answer(stream.id, execution));
    let at_once = stream.id.is_multiple_of(2);
    match (Side { world, reader, writer, asked, before, at_once, script: &stream.script, says, hears }).talk().await {
        Left::Whole => Outcome::Whole,
        Left::Gone => Outcome::Left,
        Left::Broken => Outcome::Broken("in the middle"),
    }
}

/// A stream that has not begun.
struct Beginning<'a> {
    world: &'a World,
    stream: &'a Stream,
    reader: Reader<ReadHalf<TcpStream>>,
    writer: WriteHalf<TcpStream>,
}

impl Beginning<'_> {
    /// The number of the execution that took it, or what became of it instead.
    async fn begin(&mut self) -> io::Result<Result<usize, Outcome>> {
        let Self { world, stream, .. } = *self;
        let explicit = world.plan.base.explicit && !stream.outside;
        if stream.begins != Begins::Bytes {
            let head = self.head(explicit);
            self.writer.write_all(&head).await?;
            let head = self.answer().await?;
            return Ok(match (head.status(), head.number("x-sim-try")) {
                (101 | 200, Some(execution)) => Ok(execution),
                (403, Some(_)) => Err(Outcome::Refused),
                _ => Err(told(world, stream, &head)),
            });
        }
        if explicit {
            self.writer.write_all(&text("CONNECT api.shop:80 HTTP/1.1", &[("host", "api.shop:80".to_owned())])).await?;
            let head = self.answer().await?;
            if head.status() != 200 {
                return Ok(Err(told(world, stream, &head)));
            }
        }
        if world.plan.greets && self.reader.exactly_these(GREETING.len()).await? != GREETING {
            world.trace().wrong(format_args!("stream {} has another greeting", stream.id));
        }
        Ok(Ok(0))
    }

    fn head(&self, explicit: bool) -> Vec<u8> {
        let id = self.stream.id;
        let mut fields = vec![("host", "api.shop".to_owned()), ("x-sim", id.to_string())];
        if self.stream.begins == Begins::Connect {
            fields[0].1 = "there:1".to_owned();
            return text("CONNECT there:1 HTTP/1.1", &fields);
        }
        fields.extend([("connection", "upgrade".to_owned()), ("upgrade", "websocket".to_owned())]);
        let to = if explicit { "http://api.shop" } else { "" };
        text(&format!("GET {to}/r{}/{id} HTTP/1.1", id % 3), &fields)
    }

    /// The head of the answer.
    async fn answer(&mut self) -> io::Result<Head> {
        loop {
            let head = self.reader.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if !(100..=199).contains(&head.status()) || head.status() == 101 {
                return Ok(head);
            }
        }
    }
}

fn told(world: &World, stream: &Stream, head: &Head) -> Outcome {
    let reason = head.get("x-remora-error").unwrap_or_default().to_owned();
    if reason.is_empty() {
        world.trace().wrong(format_args!("stream {} got an answer of nobody: {head:?}", stream.id));
    }
    Outcome::Told(reason)
}
