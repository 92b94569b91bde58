//! A client of a simulation over HTTP/2: all its requests on one connection, beside each other.

use super::{
    app2::send,
    client::within,
    http1::Paced,
    ledger::{Arriving, Outcome, Shared, answer},
    plan::{Ask, Framing},
};
use bytes::Bytes;
use futures_util::future::join_all;
use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, SendRequest},
};
use http::{HeaderMap, Method, Request, header::HeaderName};
use std::{cell::RefCell, net::SocketAddr, pin::pin};
use tokio::{task::JoinHandle, time::sleep};

/// A connection, with the task that drives it.
struct Connection {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Makes all requests.
pub(super) async fn run(shared: &Shared, asks: &[Ask], address: (SocketAddr, SocketAddr)) {
    let connections = RefCell::new(Vec::new());
    let asking = asks.iter().map(async |ask| {
        sleep(ask.after).await;
        let outcome = match sender(shared, &connections, address).await {
            Some(sender) => within(shared, ask, async { (one(shared, ask, sender).await, ()) }).await.0,
            None => Outcome::Broken("connect"),
        };
        shared.ledger.outcome(&shared.trace, ask.id, outcome);
    });
    join_all(asking).await;
}

/// A connection that takes a request: the last one, or if that has ended a new one.
async fn sender(
    shared: &Shared,
    connections: &RefCell<Vec<Connection>>,
    (to, from): (SocketAddr, SocketAddr),
) -> Option<SendRequest<Bytes>> {
    let last = connections.borrow().last().map(|last| last.sender.clone());
    if let Some(last) = last
        && let Ok(ready) = last.ready().await
    {
        return Some(ready);
    }
    let stream = shared.net.dial(to, from).await.ok()?;
    let (sender, driver) = Builder::new().handshake(stream).await.ok()?;
    // How it ends its requests hear.
    let driver = tokio::task::spawn_local(async move { drop(driver.await) });
    connections.borrow_mut().push(Connection { sender: sender.clone(), driver });
    sender.ready().await.ok()
}

fn head(ask: &Ask) -> Request<()> {
    let uri = format!("http://api.shop/r{}/{}", ask.rule, ask.id);
    let mut request = Request::builder().method(ask.method.clone()).uri(uri).header("x-sim", ask.id.to_string());
    if ask.grpc {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
        if let Some(timeout) = ask.timeout {
            request = request.header("grpc-timeout", format!("{}m", timeout.as_millis()));
        }
    } else if ask.framing == Framing::Length && (ask.body > 0 || ask.method == Method::POST) {
        request = request.header("content-length", ask.body.to_string());
    }
    request.body(()).unwrap_or_default()
}

async fn one(shared: &Shared, ask: &Ask, mut sender: SendRequest<Bytes>) -> Outcome {
    shared.trace.say("client", format_args!("request {}: {} {} bytes, HTTP/2", ask.id, ask.method, ask.body));
    let bodiless = ask.body == 0 && !ask.trailers && ask.breaks.is_none();
    if bodiless {
        shared.ledger.uploaded(ask, 0);
    }
    let Ok((response, stream)) = sender.send_request(head(ask), bodiless) else { return Outcome::Broken("send") };
    shared.ledger.asked.set(shared.ledger.asked.get() + 1);
    let upload = async { if bodiless { Ok(true) } else { upload(shared, ask, stream).await } };
    let answer = async {
        match response.await {
            Ok(response) => read(shared, ask, response).await,
            Err(_) => Outcome::Broken("before the head"),
        }
    };
    let (mut answer, mut upload) = (pin!(answer), pin!(upload));
    let mut uploads = true;
    loop {
        tokio::select! {
            biased;
            outcome = &mut answer => return outcome,
            uploaded = &mut upload, if uploads => {
                uploads = false;
                if uploaded == Ok(false) {
                    return Outcome::GaveUp;
                }
            }
        }
    }
}

/// Sends the body. False: the stream was reset.
async fn upload(shared: &Shared, ask: &Ask, mut stream: SendStream<Bytes>) -> Result<bool, ()> {
    let count = ask.breaks.unwrap_or(ask.body);
    if ask.framing == Framing::Length && !ask.grpc && ask.breaks.is_none() {
        shared.ledger.uploaded(ask, count);
    }
    send(&mut stream, ask.id, count, Paced::new(ask.upload)).await.map_err(drop)?;
    if ask.breaks.is_some() {
        stream.send_reset(if ask.id.is_multiple_of(2) { Reason::CANCEL } else { Reason::NO_ERROR });
        return Ok(false);
    }
    shared.ledger.uploaded(ask, count);
    let ended = if ask.trailers {
        let mut trailers = HeaderMap::new();
        trailers.insert(HeaderName::from_static("x-sim-end"), ask.id.into());
        stream.send_trailers(trailers)
    } else {
        stream.send_data(Bytes::new(), true)
    };
    ended.map(|()| true).map_err(drop)
}

async fn read(shared: &Shared, ask: &Ask, response: http::Response<RecvStream>) -> Outcome {
    let (head, mut body) = response.into_parts();
    let text = |fields: &HeaderMap, name| fields.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let execution = text(&head.headers, "x-sim-try").and_then(|number| number.parse().ok());
    let reason = text(&head.headers, "x-remora-error");
    let mut arriving = Arriving::of(execution.map_or(0, |execution| answer(ask.id, execution)));
    let mut paced = Paced::new(ask.reading);
    loop {
        paced.next().await;
        match body.data().await {
            Some(Ok(bytes)) => {
                arriving.take(&bytes);
                // The stream may have ended meanwhile.
                let _ended = body.flow_control().release_capacity(bytes.len()).is_err();
            }
            Some(Err(_)) => return Outcome::Broken("in the body"),
            None => break,
        }
    }
    let Ok(trailers) = body.trailers().await else { return Outcome::Broken("in the trailers") };
    let status = head.status.as_u16();
    match (execution, reason) {
        (None, Some(reason)) => Outcome::Told { status, reason },
        (Some(execution), _) => {
            if ask.grpc {
                // The proxy's own end says so.
                let trailers = trailers.unwrap_or_default();
                if !trailers.contains_key("x-sim-end") {
                    return match text(&trailers, "grpc-message") {
                        Some(reason) => Outcome::Told { status, reason },
                        None => {
                            shared.trace.wrong(format_args!("call {} ended without a status", ask.id));
                            Outcome::Broken("no status")
                        }
                    };
                }
            }
            shared.ledger.whole(&shared.trace, ask.id, execution, &arriving);
            Outcome::Answered { status, execution }
        }
        (None, None) => {
            shared.trace.wrong(format_args!("request {} got an answer of nobody: {head:?}", ask.id));
            Outcome::Broken("nobody's")
        }
    }
}
