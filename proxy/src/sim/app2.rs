//! An application of a simulation, as far as it speaks HTTP/2.

use super::{
    app::App,
    http1::Paced,
    ledger::{Arriving, answer, piece},
    plan::{Ask, Fate, Framing, Reply},
};
use crate::io::{Breakable, Breaker, Prefixed, TcpStream};
use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use std::{cell::Cell, future::poll_fn, rc::Rc};
use tokio::{sync::Notify, time::sleep};

/// What a request does to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoAway,
    Close,
    Reset,
}

#[derive(Default)]
struct Connection {
    then: Cell<Option<Then>>,
    told: Notify,
}

impl Connection {
    fn tell(&self, then: Then) {
        self.then.set(Some(then));
        self.told.notify_one();
    }
}

/// Serves a connection until its client or a reply ends it.
pub(super) async fn serve(app: Rc<App>, stream: Prefixed<TcpStream>) {
    let breaker = Breaker::default();
    let stream = Breakable::new(stream, breaker.clone());
    let Ok(mut h2) = server::Builder::new().handshake::<_, Bytes>(stream).await else { return };
    let connection = Rc::new(Connection::default());
    loop {
        tokio::select! {
            biased;
            () = connection.told.notified() => match connection.then.get() {
                Some(Then::GoAway) => h2.graceful_shutdown(),
                Some(Then::Reset) => return breaker.trip(),
                Some(Then::Close) | None => return,
            },
            accepted = h2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let (app, connection) = (app.clone(), connection.clone());
                    tokio::task::spawn_local(async move { call(&app, &connection, request, respond).await });
                }
                Some(Err(_)) | None => return,
            },
        }
    }
}

async fn call(app: &App, connection: &Connection, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let shared = &app.shared;
    let id = request.headers().get("x-sim").and_then(|id| id.to_str().ok()?.parse().ok());
    let Some(ask) = id.and_then(|id| shared.ask(id)) else {
        return shared.trace.wrong(format_args!("{} got a request that nobody made: {request:?}", app.name));
    };
    if request.method() != ask.method {
        shared.trace.wrong(format_args!("request {} arrived with another method: {request:?}", ask.id));
    }
    let (execution, reply) = app.execute(ask);
    if reply.fate == Fate::Refused {
        shared.ledger.refused(ask.id, execution);
        return respond.send_reset(Reason::REFUSED_STREAM);
    }
    let call = Call { app, ask, execution, reply, connection };
    let mut body = request.into_body();
    if !call.reply.early && call.upload(&mut body).await.is_err() {
        return;
    }
    sleep(call.reply.thinks).await;
    let answered = call.answer(respond).await;
    if answered.is_ok() && call.reply.early {
        // The client may have gone.
        let _broken = call.upload(&mut body).await.is_err();
    }
    if call.reply.last {
        connection.tell(if call.reply.says_last { Then::GoAway } else { Then::Close });
    }
}

struct Call<'a> {
    app: &'a App,
    ask: &'a Ask,
    execution: usize,
    reply: Reply,
    connection: &'a Connection,
}

impl Call<'_> {
    async fn upload(&self, body: &mut RecvStream) -> Result<(), ()> {
        let (mut arriving, mut paced) = (Arriving::of(self.ask.id), Paced::new(self.reply.reading));
        let whole = loop {
            paced.next().await;
            match body.data().await {
                Some(Ok(bytes)) => {
                    arriving.take(&bytes);
                    // The stream may have ended meanwhile.
                    let _ended = body.flow_control().release_capacity(bytes.len()).is_err();
                }
                Some(Err(_)) => break false,
                None => break body.is_end_stream() || body.trailers().await.is_ok_and(|trailers| trailers.is_some()),
            }
        };
        let shared = &self.app.shared;
        shared.ledger.received(&shared.trace, self.ask, &arriving, whole);
        if whole { Ok(()) } else { Err(()) }
    }

    fn head(&self, has_body: bool) -> Response<()> {
        let Self { reply, ask, execution, .. } = self;
        let mut response = Response::builder()
            .status(reply.status)
            .header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
            .header("x-sim-try", execution.to_string());
        if ask.grpc {
            response = response.header("content-type", "application/grpc");
        } else if reply.framing == Framing::Length && (has_body || ask.method == Method::HEAD) {
            response = response.header("content-length", reply.body.to_string());
        }
        response.body(()).unwrap_or_default()
    }

    /// Sends the answer. An error: nothing more is to be sent on this stream.
    async fn answer(&self, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
        let Self { reply, ask, execution, app, connection } = self;
        let has_body = ask.method != Method::HEAD && !matches!(reply.status.as_u16(), 204 | 304);
        match reply.fate {
            Fate::ResetBeforeHead => {
                respond.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            Fate::CloseBeforeHead | Fate::ResetInHead => {
                connection.tell(if reply.fate == Fate::CloseBeforeHead { Then::Close } else { Then::Reset });
                return Ok(());
            }
            _ => {}
        }
        if !has_body {
            app.shared.ledger.answered(ask.id, *execution, 0);
            return respond.send_response(self.head(false), true).map(drop);
        }
        let mut stream = respond.send_response(self.head(true), false)?;
        let (count, told) = match reply.fate {
            Fate::ResetInBody(at) | Fate::CloseInBody(at) | Fate::EndInBody(at) => (at, false),
            _ => (reply.body, true),
        };
        let message = answer(ask.id, *execution);
        // What has all the bytes that its length says has its end.
        if told || (reply.framing == Framing::Length && !ask.grpc && count == reply.body) {
            app.shared.ledger.answered(ask.id, *execution, count);
        }
        send(&mut stream, message, count, Paced::new(reply.pace)).await?;
        match reply.fate {
            Fate::ResetInBody(_) => stream.send_reset(Reason::INTERNAL_ERROR),
            Fate::EndInBody(_) => stream.send_reset(Reason::NO_ERROR),
            Fate::CloseInBody(_) => connection.tell(Then::Close),
            _ => {}
        }
        if !told {
            return Ok(());
        }
        if reply.trailers {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sim-end", HeaderValue::from(*execution));
            if ask.grpc {
                trailers.insert("grpc-status", HeaderValue::from(0));
            }
            return stream.send_trailers(trailers);
        }
        stream.send_data(Bytes::new(), true)
    }
}

/// Sends so much of a body, as fast as the window and the pace let it.
pub(super) async fn send(
    stream: &mut SendStream<Bytes>,
    message: u64,
    count: usize,
    mut paced: Paced,
) -> Result<(), h2::Error> {
    let mut at = 0;
    while at < count {
        let next = paced.next().await.min(count - at);
        stream.reserve_capacity(next);
        let room = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(room) => room?,
            None => return Err(Reason::CANCEL.into()),
        };
        let next = next.min(room);
        stream.send_data(piece(message, at, next).into(), false)?;
        at += next;
    }
    Ok(())
}
