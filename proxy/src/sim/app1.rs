//! An application of a simulation, as far as it speaks HTTP/1.

use super::{
    app::App,
    http1::{Ends, Reader, text, write_body, write_end},
    ledger::{Arriving, answer},
    plan::{Ask, Fate, Framing, Reply},
};
use crate::io::{Abort as _, Prefixed, TcpStream};
use http::Method;
use std::{io, rc::Rc};
use tokio::{
    io::{AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    time::sleep,
};

type Stream = Prefixed<TcpStream>;

/// A request under way, and how it is answered.
struct Call<'a> {
    app: &'a App,
    ask: &'a Ask,
    execution: usize,
    reply: Reply,
    ends: Ends,
}

/// Serves a connection until its client or a reply ends it.
pub(super) async fn serve(app: Rc<App>, stream: Stream) {
    let (read, mut write) = split(stream);
    let mut reader = Reader::new(read);
    let ended = loop {
        match next(&app, &mut reader, &mut write).await {
            Ok(true) => {}
            ended => break ended,
        }
    };
    if ended.is_err() {
        reader.into_inner().unsplit(write).abort();
    }
}

/// One request; false: the connection is to be closed, an error: it is to be reset, if it is not already.
async fn next(app: &App, reader: &mut Reader<ReadHalf<Stream>>, write: &mut WriteHalf<Stream>) -> io::Result<bool> {
    let Some(head) = reader.head().await? else { return Ok(false) };
    let shared = &app.shared;
    let Some(ask) = head.number("x-sim").and_then(|id| shared.ask(id)) else {
        shared.trace.wrong(format_args!("{} got a request that nobody made: {head:?}", app.name));
        return Ok(false);
    };
    if head.first.first().is_none_or(|method| method != ask.method.as_str()) {
        shared.trace.wrong(format_args!("request {} arrived with another method: {head:?}", ask.id));
    }
    let (execution, reply) = app.execute(ask);
    let call = Call { app, ask, execution, reply, ends: head.ends(Ends::Length(0)) };
    call.carry_out(reader, write).await
}

impl Call<'_> {
    async fn carry_out(
        &self,
        reader: &mut Reader<ReadHalf<Stream>>,
        write: &mut WriteHalf<Stream>,
    ) -> io::Result<bool> {
        let reply = &self.reply;
        if !reply.early {
            self.upload(reader).await?;
        }
        sleep(reply.thinks).await;
        let goes_on = self.answer(write).await?;
        if reply.early && (goes_on || reply.fate == Fate::Whole) {
            self.upload(reader).await?;
        }
        Ok(goes_on && !reply.last)
    }

    /// Reads the request's body.
    async fn upload(&self, reader: &mut Reader<ReadHalf<Stream>>) -> io::Result<()> {
        let mut body = Arriving::of(self.ask.id);
        let read = reader.body(self.ends, self.reply.reading, &mut body).await;
        let shared = &self.app.shared;
        shared.ledger.received(&shared.trace, self.ask, &body, read.is_ok());
        read
    }

    /// Whether the answer can have a body.
    fn has_body(&self) -> bool {
        self.ask.method != Method::HEAD && !matches!(self.reply.status.as_u16(), 204 | 304)
    }

    fn head(&self, framing: Framing) -> Vec<u8> {
        let Self { reply, execution, .. } = self;
        let date = "Sun, 06 Nov 1994 08:49:37 GMT".to_owned();
        let mut fields = vec![("date", date), ("x-sim-try", execution.to_string())];
        match framing {
            _ if reply.status == 204 => {}
            Framing::Length => fields.push(("content-length", reply.body.to_string())),
            Framing::Chunked => fields.push(("transfer-encoding", "chunked".to_owned())),
            Framing::Close => {}
        }
        if framing == Framing::Close || (reply.last && reply.says_last) {
            fields.push(("connection", "close".to_owned()));
        }
        text(&format!("HTTP/1.1 {} Sim", reply.status.as_str()), &fields)
    }

    /// Writes the answer; whether the connection may go on.
    async fn answer(&self, write: &mut WriteHalf<Stream>) -> io::Result<bool> {
        let Self { reply, ask, execution, app, .. } = self;
        let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
        if reply.interim {
            write.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await?;
        }
        let head = self.head(reply.framing);
        match reply.fate {
            Fate::ResetBeforeHead | Fate::Refused => return Err(broken()),
            Fate::CloseBeforeHead => return Ok(false),
            Fate::ResetInHead => {
                write.write_all(&head[..head.len() / 2]).await?;
                return Err(broken());
            }
            _ => write.write_all(&head).await?,
        }
        if !self.has_body() {
            app.shared.ledger.answered(ask.id, *execution, 0);
            return Ok(reply.framing != Framing::Close);
        }
        let (count, told) = match reply.fate {
            Fate::ResetInBody(at) | Fate::CloseInBody(at) | Fate::EndInBody(at) => (at, false),
            _ => (reply.body, true),
        };
        // Where the connection's end is the answer's, a close tells it. And what has all its bytes has its end.
        let closes = matches!(reply.fate, Fate::CloseInBody(_) | Fate::EndInBody(_));
        let has_all = reply.framing == Framing::Length && count == reply.body;
        if told || has_all || (closes && reply.framing == Framing::Close) {
            app.shared.ledger.answered(ask.id, *execution, count);
        }
        write_body(write, (reply.framing, answer(ask.id, *execution)), count, reply.pace).await?;
        if !told {
            return if closes { Ok(false) } else { Err(broken()) };
        }
        if reply.framing == Framing::Chunked {
            write_end(write, reply.trailers).await?;
        }
        Ok(reply.framing != Framing::Close)
    }
}
