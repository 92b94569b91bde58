//! WebSocket and its like over HTTP/2: extended CONNECT (RFC 8441). In the proxy they are upgrades, as over HTTP/1, so that routes,
//! policy and signals see one kind of request: a GET, which is what RFC 8441 §5 has in its place.
//!
//! In: a request of an HTTP/2 client with `:protocol`. Out: the upgrade that it stands for, and the upgrade's answer as that client reads it.
//! Between two proxies an upgrade has a connection of its own, over HTTP/1, with a field that says how it came ([`EXTENDED`](super::headers::EXTENDED)); the last
//! proxy gives the server what the client sent, on an HTTP/2 connection of its own.

use super::{
    body::{request::RequestBody, response::ResponseBody},
    respond,
    timer::Timer,
};
use crate::{
    backend::endpoint::{AnswerBody, ByteStream, Failed},
    io::{Breakable, Breaker, write_through},
    limits,
    tasks::{Attached, LocalExec, Tasks},
    telemetry::Reason,
};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, HOST, UPGRADE},
    uri::{Authority, Parts, PathAndQuery, Scheme},
};
use hyper::{client::conn::http2, ext::Protocol};
use hyper_util::rt::TokioIo;
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, oneshot},
    time::timeout,
};

/// A request that its client wrote as extended CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extended {
    scheme: Scheme,
}

impl Extended {
    /// The value of [`EXTENDED`](super::headers::EXTENDED).
    pub(crate) fn value(&self) -> HeaderValue {
        HeaderValue::from_static(if self.scheme == Scheme::HTTPS { "https" } else { "http" })
    }

    /// What a value of [`EXTENDED`](super::headers::EXTENDED) says.
    pub(crate) fn read(value: &HeaderValue) -> Self {
        Self { scheme: if value == "https" { Scheme::HTTPS } else { Scheme::HTTP } }
    }

    /// Writes an upgrade as what it was: the request for the server, and the protocol that it asks for.
    fn restore<B>(&self, mut request: Request<B>) -> Result<(Request<B>, HeaderValue), Failed> {
        let malformed = |_| Failed::refused(Reason::ProtocolError, "the request's target is malformed");
        let fields = request.headers_mut();
        let protocol = fields.remove(UPGRADE).ok_or_else(|| Failed::new(Reason::Internal))?;
        let host = fields.remove(HOST);
        fields.remove(CONNECTION);
        let uri = request.uri();
        let authority = uri.authority().cloned();
        let authority = authority.or_else(|| Authority::try_from(host.as_ref()?.as_bytes()).ok());
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.path_and_query = Some(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
        parts.authority = authority;
        *request.uri_mut() = Uri::from_parts(parts).map_err(malformed)?;
        *request.method_mut() = Method::CONNECT;
        *request.version_mut() = Version::HTTP_2;
        let name = protocol.to_str().map_err(|_| Failed::new(Reason::ProtocolError))?;
        request.extensions_mut().insert(Protocol::from(name));
        Ok((request, protocol))
    }
}

/// Makes an upgrade of a request that an HTTP/2 client sent, if it is an extended CONNECT.
pub(super) fn arrive<B>(request: &mut Request<B>) -> bool {
    if request.method() != Method::CONNECT {
        return false;
    }
    let Some(protocol) = request.extensions_mut().remove::<Protocol>() else { return false };
    let scheme = request.uri().scheme().cloned().unwrap_or(Scheme::HTTP);
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    let fields = request.headers_mut();
    // One that is no field's value asks for nothing, and is answered as such.
    if let Ok(protocol) = HeaderValue::from_bytes(protocol.as_ref()) {
        fields.insert(UPGRADE, protocol);
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    request.extensions_mut().insert(Extended { scheme });
    true
}

/// The answer to an upgrade, with which its stream leaves HTTP or not, as its client reads it who asked by extended CONNECT: success is 200
/// and nothing else.
pub(super) fn answer(mut answer: Response<ResponseBody>, leaves: bool) -> Response<ResponseBody> {
    if leaves {
        *answer.status_mut() = StatusCode::OK;
        answer.headers_mut().remove(UPGRADE);
        answer.headers_mut().remove(CONNECTION);
    } else if answer.status().is_success() || answer.status().is_informational() {
        // A server that passed the upgrade over, as HTTP/1 has it. The client would take its body for the other protocol's.
        return respond::empty(StatusCode::NOT_IMPLEMENTED);
    }
    answer
}

/// Sends an upgrade to a server as the extended CONNECT that it was, over `stream`, which is its own. The answer is an upgrade's, with
/// the server's bytes to be had; that of a server which takes no extended CONNECT is 501. `breaker` breaks the connection off.
pub(super) async fn send(
    tasks: &Tasks,
    (stream, breaker): (ByteStream, &Breaker),
    extended: &Extended,
    request: Request<RequestBody>,
) -> Result<Response<AnswerBody>, Failed> {
    let (request, protocol) = extended.restore(request)?;
    let (stream, heard) = (Breakable::new(stream, breaker.clone()), Arc::<Notify>::default());
    let handshake = http2::Builder::new(LocalExec(tasks.clone()))
        .timer(Timer)
        .initial_stream_window_size(limits::HTTP1_BUFFER_BYTES as u32)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX as u32)
        .max_send_buf_size(limits::SEND_BUFFER_BYTES)
        .handshake(TokioIo::new(Heard { inner: stream, heard: heard.clone() }));
    let Ok((mut sender, connection)) = handshake.await else {
        return Err(Failed::unsent(Reason::UpstreamReset, request));
    };
    let (tell, told) = oneshot::channel();
    tasks.spawn(async move {
        let mut connection = pin!(connection);
        // The library reads in a task of its own, which has done so when this one is woken.
        let ended = loop {
            if connection.is_extended_connect_protocol_enabled() {
                break false;
            }
            tokio::select! {
                () = heard.notified() => {}
                _ended = connection.as_mut() => break true,
            }
        };
        // Its requester may have given up.
        let _ = tell.send(!ended);
        if !ended {
            let _ended = connection.await;
        }
    });
    // RFC 8441 §4: not before the server has said that it takes it.
    if !matches!(timeout(limits::SETTINGS_TIMEOUT, told).await, Ok(Ok(true))) {
        tracing::debug!("a server takes no extended CONNECT");
        let mut answer = Response::new(AnswerBody::Empty);
        *answer.status_mut() = StatusCode::NOT_IMPLEMENTED;
        return Ok(answer);
    }
    let sent = sender.send_request(request).await;
    let mut answer = sent.map_err(|error| {
        tracing::debug!(%error, "an extended CONNECT failed");
        Failed::new(Reason::UpstreamReset)
    })?;
    if answer.status() == StatusCode::OK {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        answer.headers_mut().insert(UPGRADE, protocol);
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    *answer.version_mut() = Version::HTTP_11;
    Ok(answer.map(AnswerBody::from))
}

/// A connection of whose reads somebody else is told.
struct Heard<S> {
    inner: S,
    heard: Arc<Notify>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        self.heard.notify_one();
        Poll::Ready(read)
    }
}

write_through!(Heard);

/// What a stream that has left HTTP says, an end in order only if it was told. The library reads a reset with CANCEL or NO_ERROR as one (hyper 1.12,
/// `proto/h2/upgrade.rs`), but whoever writes is told.
///
/// Limitation: not behind an end that was written in order, after which the library looks no more.
#[derive(Debug)]
pub(super) struct Certain<S> {
    inner: S,
    end: End,
}

/// What is known of the end.
#[derive(Debug)]
enum End {
    None,
    /// It was read. A reset has woken the library's task that writes, too, which has its turn before this one tells.
    Read(oneshot::Receiver<()>, #[expect(dead_code, reason = "kept for as long as it is waited for")] Attached),
    Certain,
}

impl<S> Certain<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, end: End::None }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Certain<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let End::None = this.end {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let (tell, told) = oneshot::channel();
            this.end = End::Read(told, Attached::spawn(async move { drop(tell) }));
        }
        if let End::Read(told, _) = &mut this.end {
            let _behind_it = ready!(Pin::new(told).poll(cx));
            this.end = End::Certain;
        }
        match Pin::new(&mut this.inner).poll_flush(cx) {
            Poll::Ready(Err(broken)) => Poll::Ready(Err(broken)),
            // What is to be written yet waits for somebody who reads.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }
}

write_through!(Certain);

/// Runs the streams of a client's connection. What has left HTTP is written by a task that the library spawns while it runs that of its
/// request, and which ends the stream in order when its user is gone. With its breaker tripped it is dropped instead, and resets the stream.
#[derive(Clone)]
pub(super) struct StreamExec {
    tasks: Tasks,
    streams: Rc<Streams>,
}

#[derive(Default)]
struct Streams {
    /// Of the request whose task the library spawns next.
    next: RefCell<Option<Breaker>>,
    /// Of the one whose task runs.
    current: RefCell<Option<Breaker>>,
}

impl StreamExec {
    pub(super) fn new(tasks: &Tasks) -> Self {
        Self { tasks: tasks.clone(), streams: Rc::default() }
    }

    /// `request`, for which the library is about to spawn a task, asks to leave HTTP.
    pub(super) fn leaves<B>(&self, request: &mut Request<B>) {
        let breaker = Breaker::default();
        request.extensions_mut().insert(breaker.clone());
        *self.streams.next.borrow_mut() = Some(breaker);
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for StreamExec {
    fn execute(&self, task: F) {
        let (next, current) = (self.streams.next.take(), self.streams.current.borrow().clone());
        if let Some(breaker) = current {
            let mut task = Box::pin(task);
            self.tasks.spawn(poll_fn(move |cx| match breaker.is_tripped() {
                true => Poll::Ready(()),
                false => task.as_mut().poll(cx).map(drop),
            }));
        } else if let Some(breaker) = next {
            let (mut task, streams) = (Box::pin(task), self.streams.clone());
            self.tasks.spawn(poll_fn(move |cx| {
                *streams.current.borrow_mut() = Some(breaker.clone());
                let polled = task.as_mut().poll(cx).map(drop);
                *streams.current.borrow_mut() = None;
                polled
            }));
        } else {
            self.tasks.spawn(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers;

    fn asked(protocol: &str) -> Request<()> {
        let request = Request::builder().method(Method::CONNECT).uri("https://api.shop:8080/chat?room=1");
        let request = request.version(Version::HTTP_2).header("sec-websocket-version", "13");
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(Protocol::from(protocol));
        request
    }

    #[test]
    fn an_extended_connect_is_an_upgrade_inside_and_itself_again_at_the_server() {
        let mut request = asked("websocket");
        assert!(arrive(&mut request));
        assert!(headers::asks_to_leave(&mut request), "it is one of those");
        assert_eq!((request.method(), request.version()), (&Method::GET, Version::HTTP_11));
        let extended = request.extensions_mut().remove::<Extended>().unwrap();
        assert_eq!(Extended::read(&extended.value()), extended);
        // As the form of HTTP/1 has it.
        *request.uri_mut() = Uri::from_static("/chat?room=1");
        request.headers_mut().insert(HOST, HeaderValue::from_static("api.shop:8080"));
        let (restored, protocol) = extended.restore(request).unwrap();
        let (expected, fields) = (asked("websocket"), restored.headers());
        assert_eq!((restored.method(), restored.uri()), (expected.method(), expected.uri()));
        assert_eq!((fields, protocol.as_bytes()), (expected.headers(), &b"websocket"[..]));
        let asks = |request: &Request<()>| request.extensions().get::<Protocol>().map(|it| it.as_ref().to_vec());
        assert_eq!(asks(&restored), asks(&expected));
    }

    #[test]
    fn a_plain_connect_and_all_else_stay_what_they_are() {
        for method in [Method::CONNECT, Method::GET, Method::POST] {
            let mut request = Request::builder().method(method.clone()).uri("http://api:80/").body(()).unwrap();
            assert!(!arrive(&mut request));
            assert_eq!(request.method(), method);
        }
    }

    #[test]
    fn http_in_another_guise_is_not_asked_for_by_it_either() {
        for protocol in ["h2c", "HTTP/2.0", "tls/1.0"] {
            let mut request = asked(protocol);
            assert!(arrive(&mut request) && !headers::asks_to_leave(&mut request), "{protocol}");
        }
    }

    #[test]
    fn an_answer_that_takes_nothing_up_is_no_success() {
        for (status, expected) in [(200, 501), (204, 501), (101, 501), (301, 301), (403, 403), (426, 426), (502, 502)] {
            let said = answer(respond::empty(StatusCode::from_u16(status).unwrap()), false);
            assert_eq!(said.status(), expected, "{status}");
        }
        for status in [101, 200] {
            assert_eq!(answer(respond::empty(StatusCode::from_u16(status).unwrap()), true).status(), 200);
        }
    }
}
