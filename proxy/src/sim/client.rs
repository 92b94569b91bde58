//! A client of a simulation: makes its requests as the plan says, gives up where the plan says so, and writes down what became of
//! each. Here over HTTP/1, one at a time.

use super::{
    client2,
    http1::{Ends, Head, Reader, text, write_body, write_end},
    ledger::{Arriving, Outcome, Shared},
    plan::{Ask, Client, Framing, Speech},
};
use crate::io::{Abort as _, TcpStream};
use http::Method;
use std::{io, net::SocketAddr, pin::pin, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    time::{sleep, timeout},
};

/// By then every request has an outcome, whatever the plan.
const PATIENCE: Duration = Duration::from_secs(900);

/// Makes all requests of a client, to whoever listens at `to`.
pub(super) async fn run(shared: Rc<Shared>, client: Client, to: SocketAddr, from: SocketAddr) {
    match client.speech {
        Speech::Http1 => {
            let mut kept = None;
            for ask in &client.asks {
                sleep(ask.after).await;
                kept = one(&shared, ask, kept, (to, from)).await;
            }
        }
        Speech::Http2 => client2::run(&shared, &client.asks, (to, from)).await,
    }
}

/// What became of a request within the time that there is; gives up where the plan says so.
pub(super) async fn within<T>(
    shared: &Shared,
    ask: &Ask,
    asking: impl Future<Output = (Outcome, T)>,
) -> (Outcome, Option<T>) {
    let bounded = async {
        if let Ok((outcome, kept)) = timeout(PATIENCE, asking).await {
            return (outcome, Some(kept));
        }
        shared.net.describe();
        shared.trace.wrong(format_args!("request {} has no outcome, a deadlock", ask.id));
        (Outcome::Broken("never"), None)
    };
    let outcome = match ask.gives_up {
        Some((after, _)) => timeout(after, bounded).await,
        None => Ok(bounded.await),
    };
    outcome.unwrap_or((Outcome::GaveUp, None))
}

struct Connection {
    reader: Reader<ReadHalf<TcpStream>>,
    writer: WriteHalf<TcpStream>,
}

/// One request, on the connection that was kept or a new one. Returns it if it can be kept.
async fn one(
    shared: &Shared,
    ask: &Ask,
    kept: Option<Connection>,
    (to, from): (SocketAddr, SocketAddr),
) -> Option<Connection> {
    let mut connection = match kept {
        Some(kept) => kept,
        None => {
            let Ok(stream) = shared.net.dial(to, from).await else {
                shared.ledger.outcome(&shared.trace, ask.id, Outcome::Broken("connect"));
                return None;
            };
            let (read, writer) = split(stream);
            Connection { reader: Reader::new(read), writer }
        }
    };
    let asking = async { (exchange(shared, ask, &mut connection).await, ()) };
    let (outcome, _) = within(shared, ask, asking).await;
    let (outcome, keeps) = match outcome {
        Outcome::Answered { .. } | Outcome::Told { .. } => (outcome, true),
        other => (other, false),
    };
    let gave_up = outcome == Outcome::GaveUp;
    let keeps = keeps && connection.reader.is_kept();
    shared.ledger.outcome(&shared.trace, ask.id, outcome);
    if keeps {
        return Some(connection);
    }
    let stream = connection.reader.into_inner().unsplit(connection.writer);
    if gave_up && ask.gives_up.is_some_and(|(_, resets)| resets) {
        stream.abort();
    }
    None
}

async fn exchange(shared: &Shared, ask: &Ask, connection: &mut Connection) -> Outcome {
    let Connection { reader, writer } = connection;
    reader.keep(false);
    shared.trace.say("client", format_args!("request {}: {} {} bytes", ask.id, ask.method, ask.body));
    if writer.write_all(&head(ask)).await.is_err() {
        return Outcome::Broken("write");
    }
    shared.ledger.asked.set(shared.ledger.asked.get() + 1);
    let (outcome, keeps) = both(shared, ask, reader, writer).await;
    connection.reader.keep(keeps);
    outcome
}

/// Sends the body and reads the answer beside each other.
async fn both(
    shared: &Shared,
    ask: &Ask,
    reader: &mut Reader<ReadHalf<TcpStream>>,
    writer: &mut WriteHalf<TcpStream>,
) -> (Outcome, bool) {
    let (mut answer, mut upload) = (pin!(answer(shared, ask, reader)), pin!(upload(shared, ask, writer)));
    let mut uploads = true;
    loop {
        tokio::select! {
            biased;
            (outcome, keeps) = &mut answer => return (outcome, keeps && !uploads),
            uploaded = &mut upload, if uploads => match uploaded {
                Ok(true) => uploads = false,
                // It was broken off, by this client; or the proxy reads no more, and may have said why.
                Ok(false) if ask.id.is_multiple_of(2) => return (Outcome::GaveUp, false),
                Ok(false) | Err(_) => return ((&mut answer).await.0, false),
            },
        }
    }
}

fn head(ask: &Ask) -> Vec<u8> {
    let mut fields = vec![("host", "api.shop".to_owned()), ("x-sim", ask.id.to_string())];
    if ask.body > 0 || [Method::POST, Method::PUT].contains(&ask.method) {
        match ask.framing {
            Framing::Length | Framing::Close => fields.push(("content-length", ask.body.to_string())),
            Framing::Chunked => fields.push(("transfer-encoding", "chunked".to_owned())),
        }
    }
    text(&format!("{} /r{}/{} HTTP/1.1", ask.method, ask.rule, ask.id), &fields)
}

/// Sends the body. False: it was broken off, and the connection's end is all that tells.
async fn upload(shared: &Shared, ask: &Ask, writer: &mut WriteHalf<TcpStream>) -> io::Result<bool> {
    let chunked = ask.framing == Framing::Chunked;
    if ask.breaks.is_none() && !chunked {
        shared.ledger.uploaded(ask, ask.body);
    }
    write_body(writer, (ask.framing, ask.id), ask.breaks.unwrap_or(ask.body), ask.upload).await?;
    if ask.breaks.is_some() {
        writer.shutdown().await?;
        return Ok(false);
    }
    if chunked && (ask.body > 0 || [Method::POST, Method::PUT].contains(&ask.method)) {
        shared.ledger.uploaded(ask, ask.body);
        write_end(writer, ask.trailers).await?;
    }
    Ok(true)
}

/// Reads the answer; and whether the connection can be used again.
async fn answer(shared: &Shared, ask: &Ask, reader: &mut Reader<ReadHalf<TcpStream>>) -> (Outcome, bool) {
    let head = loop {
        match reader.head().await {
            Ok(Some(head)) if head.first.get(1).is_some_and(|status| status.starts_with('1')) => {}
            Ok(Some(head)) => break head,
            Ok(None) => return (Outcome::Broken("closed before the head"), false),
            Err(_) => return (Outcome::Broken("broken before the head"), false),
        }
    };
    let status = head.status();
    let bodiless = ask.method == Method::HEAD || matches!(status, 204 | 304);
    let ends = if bodiless { Ends::Length(0) } else { head.ends(Ends::Close) };
    let execution = head.number::<usize>("x-sim-try");
    let message = execution.map_or(0, |execution| super::ledger::answer(ask.id, execution));
    let mut body = Arriving::of(message);
    let read = reader.body(ends, ask.reading, &mut body).await;
    let reuse = !head.says_close() && !matches!(ends, Ends::Close);
    let outcome = match read {
        Err(_) => Outcome::Broken("in the body"),
        Ok(()) => match execution {
            Some(execution) => {
                shared.ledger.whole(&shared.trace, ask.id, execution, &body);
                Outcome::Answered { status, execution }
            }
            None => told(shared, ask, status, &head),
        },
    };
    (outcome, reuse)
}

fn told(shared: &Shared, ask: &Ask, status: u16, head: &Head) -> Outcome {
    let reason = head.get("x-remora-error").unwrap_or_default().to_owned();
    if reason.is_empty() {
        shared.trace.wrong(format_args!("request {} got an answer of nobody: {head:?}", ask.id));
    }
    Outcome::Told { status, reason }
}
