//! The application of a stream: finds out which one it has before it, and takes it or not, as the plan says.

use super::{
    GREETING, World, http2,
    plan::{Begins, Reply, Stream, Take},
    side::Side,
};
use crate::{
    io::{Abort as _, Prefixed, TcpStream},
    sim::{
        http1::{Reader, text},
        ledger::answer,
        net::Incoming,
    },
};
use std::{io, rc::Rc};
use tokio::{
    io::{AsyncWriteExt as _, split},
    time::{sleep, timeout},
};

/// Serves all connections.
pub(super) async fn serve(world: Rc<World>, mut incoming: Incoming) {
    while let Some((connection, _)) = incoming.recv().await {
        let world = world.clone();
        tokio::task::spawn_local(async move {
            if timeout(super::PATIENCE, one(&world, Prefixed::new(connection))).await.is_err() {
                world.trace().wrong(format_args!("a connection of an application lasts for ever"));
            }
        });
    }
}

/// Serves a connection. What breaks before there is a stream is the client's to tell.
async fn one(world: &Rc<World>, mut connection: Prefixed<TcpStream>) {
    if world.plan.greets && connection.write_all(GREETING).await.is_err() {
        return;
    }
    if !matches!(connection.read_ahead(1).await, Ok(1)) {
        return;
    }
    if connection.prefix() == b"P" {
        return http2::serve(world, connection).await;
    }
    let bytes = connection.prefix() == &super::header(0)[..1];
    let asked = connection.asked();
    let (read, writer) = split(connection);
    let mut reader = Reader::new(read);
    let Ok(Some(stream)) = which(world, &mut reader, bytes).await else { return };
    let execution = world.book.got(stream.id);
    let reply = world.plan.reply(stream, execution);
    world.trace().say("app", format_args!("stream {}, execution {execution}: {reply:?}", stream.id));
    if bytes && world.book.taken(stream.id) > 0 {
        world.trace().wrong(format_args!("stream {} reached an application twice", stream.id));
    }
    sleep(reply.thinks).await;
    let Reply { take, at_once, ref script, .. } = reply;
    let (before, goes_on) = match take {
        Take::Yes | Take::No if bytes => (Vec::new(), true),
        Take::Yes => (head(stream, execution), true),
        Take::No => (no(execution), false),
        Take::Resets | Take::Closes => {
            let says = answer(stream.id, execution);
            world.book.goes(says);
            if take == Take::Closes && bytes {
                world.book.ends(says);
                world.book.takes(stream.id);
            }
            let connection = reader.into_inner().unsplit(writer);
            if take == Take::Resets {
                connection.abort();
            }
            return;
        }
    };
    if goes_on {
        world.book.takes(stream.id);
        let (says, hears) = (answer(stream.id, execution), super::question(stream.id));
        Side { world, reader, writer, asked, before, at_once, script, says, hears }.talk().await;
    } else {
        let mut connection = reader.into_inner().unsplit(writer);
        // A client that has gone does not want to know.
        let _gone = connection.write_all(&before).await.is_err() || connection.shutdown().await.is_err();
    }
}

/// Which stream it is; `None`: none, or the client has gone before it said.
async fn which<'a, R: tokio::io::AsyncRead + Unpin>(
    world: &'a World,
    reader: &mut Reader<R>,
    bytes: bool,
) -> io::Result<Option<&'a Stream>> {
    let (id, begins) = if bytes {
        let header = reader.exactly_these(super::header(0).len()).await?;
        (header.last().map(|id| u64::from(*id)), Begins::Bytes)
    } else {
        let Some(head) = reader.head().await? else { return Ok(None) };
        let connects = head.first.first().is_some_and(|method| method == "CONNECT");
        if !connects && head.get("upgrade") != Some("websocket") {
            world.trace().wrong(format_args!("an upgrade arrived as another request: {head:?}"));
        }
        (head.number("x-sim"), if connects { Begins::Connect } else { Begins::Upgrade })
    };
    let stream = id.and_then(|id| world.plan.stream(id));
    if stream.is_none_or(|stream| stream.begins != begins) {
        world.trace().wrong(format_args!("an application got stream {id:?} as {begins:?}, which nobody made"));
    }
    Ok(stream)
}

fn head(stream: &Stream, execution: usize) -> Vec<u8> {
    let number = ("x-sim-try", execution.to_string());
    match stream.begins {
        Begins::Connect => text("HTTP/1.1 200 Sim", &[number]),
        Begins::Bytes | Begins::Upgrade | Begins::Extended => {
            let upgrade = [("connection", "upgrade".to_owned()), ("upgrade", "websocket".to_owned())];
            text("HTTP/1.1 101 Sim", &[&[number][..], &upgrade].concat())
        }
    }
}

fn no(execution: usize) -> Vec<u8> {
    let fields = [("content-length", "0"), ("connection", "close")].map(|(name, value)| (name, value.to_owned()));
    text("HTTP/1.1 403 Sim", &[&[("x-sim-try", execution.to_string())][..], &fields].concat())
}
