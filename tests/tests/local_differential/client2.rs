//! The client's end of an exchange in HTTP/2, by the h2 crate.

use super::{
    client::{After, Heard, Road},
    message::{End, Framing, Message},
    origin2::{end, fields},
    script::{Call, Exchange, Field, Framing as Written, Key, bytes},
    stage::PATIENCE,
};
use anyhow::Context as _;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::{future::poll_fn, pin::Pin, task::Poll};
use tokio::net::TcpStream;

/// Plays the client's part.
pub fn play(exchange: &Exchange, road: &Road) -> anyhow::Result<Vec<Heard>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(calls(exchange, road))
}

async fn calls(exchange: &Exchange, road: &Road) -> anyhow::Result<Vec<Heard>> {
    let (mut sender, mut all) = (None::<SendRequest<Bytes>>, Vec::new());
    for (number, call) in exchange.calls.iter().enumerate() {
        let ready = match sender.take() {
            Some(sender) => sender.ready().await.ok(),
            None => None,
        };
        let mut now = match ready {
            Some(sender) => sender,
            None => connect(road).await?.ready().await?,
        };
        let key = exchange.key(number);
        let heard = tokio::time::timeout(2 * PATIENCE, one(&mut now, call, key, road)).await;
        all.push(match heard {
            Ok(heard) => heard?,
            Err(_) => Heard { messages: Vec::new(), after: After::Silent },
        });
        sender = Some(now);
    }
    Ok(all)
}

async fn connect(road: &Road) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(road.to).await.with_context(|| format!("connecting to {}", road.to))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    // How it ends, its streams say.
    tokio::spawn(connection);
    Ok(sender)
}

fn map(fields: &[Field]) -> anyhow::Result<HeaderMap> {
    let field = |(name, value): &Field| {
        anyhow::Ok((HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_bytes(&bytes(value))?))
    };
    let mut map = HeaderMap::new();
    for field in fields.iter().map(field) {
        let (name, value) = field?;
        map.append(name, value);
    }
    Ok(map)
}

async fn one(sender: &mut SendRequest<Bytes>, call: &Call, key: Key, road: &Road) -> anyhow::Result<Heard> {
    let asked = &call.request;
    let mut request = http::Request::builder().method(asked.method.as_str()).uri(asked.target.as_str()).body(())?;
    *request.headers_mut() = map(&asked.fields)?;
    let body = &asked.body;
    if body.framing == Written::Length {
        request.headers_mut().insert("content-length", body.bytes.len().into());
    }
    let bare = body.framing == Written::None || (body.bytes.is_empty() && body.trailers.is_empty());
    let (response, mut send) = sender.send_request(request, bare)?;
    let sent = asked.ending.at().unwrap_or(body.bytes.len());
    if !bare {
        let pieces: Vec<_> = body.bytes[..sent].chunks(700).collect();
        for (number, piece) in pieces.iter().enumerate() {
            let last = number + 1 == pieces.len() && body.trailers.is_empty() && asked.ending.at().is_none();
            send.send_data(Bytes::copy_from_slice(piece), last)?;
        }
        if asked.ending.at().is_none() && !body.trailers.is_empty() {
            send.send_trailers(map(&body.trailers)?)?;
        }
    }
    if let super::script::Ending::StreamAt(at, code) = asked.ending {
        let stage = road.stage.clone();
        tokio::task::spawn_blocking(move || stage.wait_arrived(key, at)).await?;
        send.send_reset(code.into());
        // The library says it to the other side when it is driven, and the record there says so.
        let stage = road.stage.clone();
        tokio::task::spawn_blocking(move || stage.wait_ended(key)).await?;
        return Ok(Heard { messages: Vec::new(), after: After::Left });
    }
    let messages = hear(response, key, road).await;
    if call.answer.early {
        // The rest of the body is still on its way, and would end with this connection.
        let stage = road.stage.clone();
        tokio::task::spawn_blocking(move || stage.wait_ended(key)).await?;
    }
    Ok(Heard { messages, after: After::Kept })
}

async fn hear(mut response: ResponseFuture, key: Key, road: &Road) -> Vec<Message> {
    let mut messages = Vec::new();
    let head = poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            let mut message = Message::new(format!("HTTP/2 {}", interim.status().as_u16()), Framing::Http2);
            message.fields = fields(interim.headers());
            message.end = End::Whole;
            messages.push(message);
        }
        Pin::new(&mut response).poll(cx)
    });
    let (head, mut body) = match head.await {
        Ok(response) => response.into_parts(),
        Err(error) => {
            let mut message = Message::new("", Framing::Unknown);
            message.end = ended(&error);
            messages.push(message);
            return messages;
        }
    };
    let mut message = Message::new(format!("HTTP/2 {}", head.status.as_u16()), Framing::Http2);
    message.fields = fields(&head.headers);
    road.stage.hears(key, 0);
    message.end = loop {
        match body.data().await {
            None => match body.trailers().await {
                Ok(trailers) => {
                    message.trailers = trailers.as_ref().map(fields).unwrap_or_default();
                    break End::Whole;
                }
                Err(error) => break ended(&error),
            },
            Some(Ok(data)) => {
                message.body.extend_from_slice(&data);
                let _ = body.flow_control().release_capacity(data.len());
                road.stage.hears(key, message.body.len());
            }
            Some(Err(error)) => break ended(&error),
        }
    };
    messages.push(message);
    messages
}

fn ended(error: &h2::Error) -> End {
    end(error, error.get_io().is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset))
}
