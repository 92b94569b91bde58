//! Fuzz target of the gate: what passes it is one thing to every reader. In: the bytes of a connection. Out: nothing, or a
//! panic.
//!
//! Two other readers are asked about what passed: httparse with the framing of RFC 9112 §6 spelt out below, and hyper, which
//! reads behind the gate. Does not: judge what is refused; the tests of rows do.

use super::{Guard, Refusal, State};
use crate::{
    detect::{Detection, METHOD_BYTES_MAX, detect},
    fuzzing::drive::{pieces, settle},
    limits,
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    cell::RefCell,
    convert::Infallible,
    io::{self, Cursor},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, ReadBuf};

/// A request as far as it has come.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    method: String,
    target: String,
    body: u64,
    whole: bool,
}

/// The gate decides the same however the bytes are cut; what it lets pass, HTTP is detected in, and httparse and hyper divide
/// into the same requests with the same bodies.
pub fn http1_requests(data: &[u8]) {
    let judge = |mut pieces: &mut dyn Iterator<Item = &[u8]>| -> (Result<State, Refusal>, u64) {
        let mut guard = Guard::requests();
        let judged = (&mut pieces).try_for_each(|piece| guard.feed(piece));
        (judged.map(|()| guard.state), guard.heads)
    };
    let (judged, heads) = judge(&mut std::iter::once(data));
    assert_eq!(judge(&mut data.chunks(1)).0, judged, "byte by byte");
    assert_eq!(judge(&mut pieces(data)).0, judged, "in pieces");
    let Ok(state) = judged else { return };
    if heads == 0 {
        return;
    }
    let expected = messages(data);
    // A longer method is not detected: where nobody says that HTTP is spoken, its connection is one of bytes.
    if expected.first().is_none_or(|message| message.method.len() <= METHOD_BYTES_MAX) {
        assert_eq!(detect(data), Detection::Http1, "the gate takes what is not detected");
    }
    assert_eq!(expected.len() as u64, heads, "httparse divides it into {expected:#?}");
    let ended = expected.last().is_none_or(|message| message.whole);
    let within = !matches!(state, State::Start { .. } | State::Fields);
    assert_eq!(ended, !within, "the gate is at {state:?}, httparse read {expected:#?}");
    let (seen, said) = hyper(data);
    // hyper may end the connection behind a request (RFC 9112 §9.3), but reads nothing in another way.
    assert_eq!(seen, expected[..seen.len()], "hyper divides it differently");
    if seen.len() < expected.len() {
        assert!(matches!(said, Some(Ok(()))), "hyper stops before request {}: {said:?}", seen.len() + 1);
    }
}

/// The requests in `data` by httparse and RFC 9112 §6.3.
fn messages(data: &[u8]) -> Vec<Message> {
    let (mut all, mut rest) = (Vec::new(), data);
    loop {
        let mut fields = [httparse::EMPTY_HEADER; limits::HEADER_COUNT_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(length)) = request.parse(rest) else { return all };
        let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        let value = |wanted: &str| {
            let found = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(wanted));
            found.map(|field| String::from_utf8_lossy(field.value).into_owned())
        };
        rest = &rest[length..];
        let (body, whole) = match (value("transfer-encoding"), value("content-length")) {
            (Some(_), _) => chunked(&mut rest),
            (None, Some(length)) => {
                let length: u64 = length.trim().parse().expect("the gate lets only numbers pass");
                let there = length.min(rest.len() as u64);
                rest = &rest[there as usize..];
                (there, there == length)
            }
            (None, None) => (0, true),
        };
        // `http` writes an absolute target without a path with one.
        let target = target.parse::<http::Uri>().map_or_else(|_| target.to_owned(), |target| target.to_string());
        all.push(Message { method: method.to_owned(), target, body, whole });
        if !whole {
            return all;
        }
    }
}

/// Takes a chunked body off the front: how long it is, and whether all of it is there.
fn chunked(rest: &mut &[u8]) -> (u64, bool) {
    let mut body = 0;
    loop {
        let Ok(httparse::Status::Complete((at, size))) = httparse::parse_chunk_size(rest) else { return (body, false) };
        *rest = &rest[at..];
        if size == 0 {
            let mut trailers = [httparse::EMPTY_HEADER; limits::HEADER_COUNT_MAX];
            let Ok(httparse::Status::Complete((at, _))) = httparse::parse_headers(rest, &mut trailers) else {
                return (body, false);
            };
            *rest = &rest[at..];
            return (body, true);
        }
        let there = size.min(rest.len() as u64);
        body += there;
        *rest = &rest[there as usize..];
        let Some(behind) = rest.strip_prefix(b"\r\n") else { return (body, false) };
        *rest = behind;
    }
}

/// The requests in `data` by hyper, set as the proxy sets it, and how the connection ended, if it did.
fn hyper(data: &[u8]) -> (Vec<Message>, Option<hyper::Result<()>>) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: http::Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (method, target) = (request.method().to_string(), request.uri().to_string());
            seen.borrow_mut().push(Message { method, target, body: 0, whole: false });
            let update = |update: &dyn Fn(&mut Message)| seen.borrow_mut().last_mut().map(update);
            let mut body = request.into_body();
            let mut ended = body.frame().await;
            while let Some(Ok(frame)) = ended {
                update(&|message| message.body += frame.data_ref().map_or(0, |data| data.len() as u64));
                ended = body.frame().await;
            }
            update(&|message| message.whole = ended.is_none());
            Ok::<_, Infallible>(http::Response::new(Empty::<&[u8]>::new()))
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(limits::HTTP1_BUFFER_BYTES)
        .serve_connection(TokioIo::new(tokio::io::join(Sends(Cursor::new(data.to_vec())), tokio::io::sink())), service)
        .with_upgrades();
    let said = settle(pin!(connection));
    (seen.take(), said)
}

/// A client that sends something and then waits.
struct Sends(Cursor<Vec<u8>>);

impl AsyncRead for Sends {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let all_sent = self.0.position() as usize == self.0.get_ref().len();
        if all_sent { Poll::Pending } else { Pin::new(&mut self.0).poll_read(cx, buf) }
    }
}
