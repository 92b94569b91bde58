//! Uploads as the library gives them: how they end, and what becomes of a try that another one follows.

use super::{
    client::{ClientBody, RequestError},
    replay::{Replay, Replayable},
};
use crate::{
    account::{Account, Holder, Peer},
    http::Wire,
    limits,
    tasks::{LocalExec, Tasks},
    telemetry::Record,
};
use bytes::Bytes;
use h2::{Reason, SendStream};
use http::{Request, Response};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    cell::RefCell,
    convert::Infallible,
    future::{pending, poll_fn},
    task::Poll,
};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream, duplex},
    sync::oneshot,
    task::{LocalSet, spawn_local},
};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn holder() -> Holder {
    Account::new(1 << 30).holder(Peer::at([10, 0, 0, 1].into()))
}

/// The body of the first request that a client sends on this connection. It is never answered.
async fn received(wire: Wire, stream: DuplexStream) -> ClientBody {
    let (tell, told) = oneshot::channel::<Incoming>();
    let tell = RefCell::new(Some(tell));
    let service = service_fn(move |request: Request<Incoming>| {
        if let Some(tell) = tell.take() {
            tell.send(request.into_body()).unwrap();
        }
        pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    });
    let stream = TokioIo::new(stream);
    match wire {
        Wire::Http1 => drop(spawn_local(http1::Builder::new().serve_connection(stream, service))),
        Wire::Http2 => {
            let executor = LocalExec(Tasks::default());
            drop(spawn_local(http2::Builder::new(executor).serve_connection(stream, service)));
        }
    }
    ClientBody::new(told.await.unwrap(), wire, (&holder(), limits::HTTP1_BUFFER_BYTES), Record::of_tests()).unwrap()
}

/// An upload over HTTP/2.
async fn http2() -> (SendStream<Bytes>, ClientBody) {
    let (near, far) = duplex(1 << 16);
    let (mut client, connection) = h2::client::handshake(near).await.unwrap();
    spawn_local(connection);
    let (response, stream) = client.send_request(Request::post("http://api/").body(()).unwrap(), false).unwrap();
    spawn_local(response);
    (stream, received(Wire::Http2, far).await)
}

/// An upload of ten bytes over HTTP/1.
async fn http1() -> (DuplexStream, ClientBody) {
    let (mut near, far) = duplex(1 << 16);
    near.write_all(b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 10\r\n\r\n").await.unwrap();
    let body = received(Wire::Http1, far).await;
    (near, body)
}

/// All that comes of a body, and whether its end came.
async fn read(body: &mut ClientBody) -> (usize, bool) {
    let mut bytes = 0;
    loop {
        match poll_fn(|cx| body.poll_frame(cx)).await {
            Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => return (bytes, false),
            None => return (bytes, true),
        }
    }
}

/// The next piece of a try.
async fn next(body: &mut Replay) -> Option<Result<Bytes, RequestError>> {
    poll_fn(|cx| body.poll_frame(cx)).await.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
}

#[test]
fn a_reset_is_never_the_end_of_an_upload_whatever_its_code() {
    for code in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        run(async {
            let (mut stream, mut body) = http2().await;
            stream.send_data("half".into(), false).unwrap();
            assert!(poll_fn(|cx| body.poll_frame(cx)).await.unwrap().is_ok());
            stream.send_reset(code);
            assert_eq!(read(&mut body).await, (0, false), "{code:?}");
        });
    }
    run(async {
        let (mut stream, mut body) = http2().await;
        stream.send_data("all".into(), true).unwrap();
        assert_eq!(read(&mut body).await, (3, true));
        let (mut stream, mut body) = http2().await;
        stream.send_data("all".into(), false).unwrap();
        stream.send_trailers(http::HeaderMap::new()).unwrap();
        assert_eq!(read(&mut body).await, (3, true));
        let (mut client, mut body) = http1().await;
        client.write_all(b"0123456789").await.unwrap();
        assert_eq!(read(&mut body).await, (10, true));
        let (client, mut body) = http1().await;
        drop(client);
        assert_eq!(read(&mut body).await, (0, false));
    });
}

#[test]
fn a_try_that_another_one_follows_ends_as_broken_and_the_other_sends_all() {
    run(async {
        let (mut client, body) = http1().await;
        client.write_all(b"01234").await.unwrap();
        let kept = Replayable::new(body);
        let mut first = kept.body();
        assert_eq!(next(&mut first).await.unwrap().unwrap(), "01234");
        let waiting = spawn_local(async move { next(&mut first).await });
        // It waits by then for what the client never sends to it.
        tokio::task::yield_now().await;
        let mut second = kept.body();
        assert!(matches!(waiting.await.unwrap(), Some(Err(RequestError::Superseded))));
        assert_eq!(next(&mut second).await.unwrap().unwrap(), "01234");
        let rest = poll_fn(|cx| Poll::Ready(second.poll_frame(cx).is_pending())).await;
        assert!(rest, "no more came");
        client.write_all(b"56789").await.unwrap();
        assert_eq!(next(&mut second).await.unwrap().unwrap(), "56789");
        assert!(next(&mut second).await.is_none());
    });
}
