//! Fuzz targets of what HTTP says in heads. In: any bytes. Out: nothing, or a panic. Does not: know the gate for requests, which
//! has a target of its own.

use super::{
    answer,
    form::{self, Form},
    grpc, headers,
};
use crate::{fuzzing::drive::finish, limits};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING},
};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use remora_model::Protocol;
use std::{
    io::{self, Cursor},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What passes says in one way at most where it ends, and hyper ends it there.
pub fn http1_answers(data: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; limits::HEADER_COUNT_MAX];
    let mut head = httparse::Response::new(&mut fields);
    if let Ok(httparse::Status::Complete(_)) = head.parse(data)
        && let Ok(status) = http::StatusCode::from_u16(head.code.unwrap_or_default())
    {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = read(head.headers);
        judged(&mut response);
    }
    let (mut sender, connection) = finish(http1::handshake(TokioIo::new(Answering::new(data)))).expect("a handshake");
    let asked = async {
        let request = Request::get("/").body(Empty::<Bytes>::new()).expect("a request");
        let mut response = sender.send_request(request).await.ok()?;
        let passed = judged(&mut response);
        let (parts, body) = response.into_parts();
        let body = body.collect().await.ok().map(|body| body.to_bytes());
        passed.then_some((parts, body?))
    };
    let both = async {
        tokio::select! {
            answer = asked => answer,
            _ = connection => None,
        }
    };
    let Some((parts, body)) = finish(both) else { return };
    assert!(body.len() <= data.len());
    let bodiless = matches!(parts.status.as_u16(), 204 | 304);
    if let Some(length) = parts.headers.get(CONTENT_LENGTH).filter(|_| !bodiless) {
        assert_eq!(length.to_str().ok().and_then(|text| text.parse().ok()), Some(body.len()), "{parts:?}");
    }
}

/// Whether an answer passes; then it says in one way at most where it ends.
fn judged<B>(response: &mut Response<B>) -> bool {
    let before = response.headers().clone();
    if answer::check(response).is_err() {
        return false;
    }
    let fields = response.headers();
    let count = |name: HeaderName| fields.get_all(name).iter().count();
    assert!(count(CONTENT_LENGTH) + count(TRANSFER_ENCODING) <= 1, "{fields:?}");
    let others = |fields: &HeaderMap| fields.keys().filter(|name| **name != CONTENT_LENGTH).count();
    assert_eq!(others(fields), others(&before), "nothing else is touched");
    if let Some(length) = fields.get(CONTENT_LENGTH) {
        assert!(before.get_all(CONTENT_LENGTH).iter().all(|other| other == length), "{before:?}");
    }
    true
}

/// The stream of a server that answers `bytes` to the first request, and closes.
struct Answering {
    bytes: Cursor<Vec<u8>>,
    asked: bool,
    waiting: Option<Waker>,
}

impl Answering {
    fn new(bytes: &[u8]) -> Self {
        Self { bytes: Cursor::new(bytes.to_vec()), asked: false, waiting: None }
    }
}

impl AsyncRead for Answering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.asked {
            return Pin::new(&mut self.bytes).poll_read(cx, buf);
        }
        self.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Answering {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A deadline is read, written and read again: never a longer one, and hardly a shorter one.
pub fn grpc_fields(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut fields = HeaderMap::new();
    for name in ["grpc-timeout", "grpc-status", "content-type"] {
        if let Some(value) = lines.next().and_then(|line| HeaderValue::from_bytes(line).ok()) {
            fields.insert(name, value);
        }
    }
    let kind = fields.get("content-type").map(HeaderValue::as_bytes).unwrap_or_default();
    assert!(
        !grpc::is_grpc(&fields) || (kind.starts_with(b"application/grpc") && !kind.starts_with(b"application/grpc-"))
    );
    assert!(grpc::status(&fields).is_none_or(|status| status < 100));
    assert!(!grpc::failed(&fields) || fields["grpc-status"].len() <= 2);
    let Some(left) = grpc::timeout(&fields) else { return };
    let mut next = fields.clone();
    grpc::set_timeout(&mut next, left);
    let again = grpc::timeout(&next).expect("what we write we read");
    let least = left.mul_f64(0.9999).saturating_sub(Duration::from_micros(1));
    assert!(again <= left && again >= least, "{left:?} became {again:?}");
    assert!(next["grpc-timeout"].len() <= 9, "at most eight digits and a unit: {next:?}");
}

/// What is taken off a request is gone, in any spelling and however often it was there, and taking it off again changes
/// nothing; the request keeps its one authority and its path through the form between proxies and back.
pub fn request_fields(data: &[u8]) {
    let Some((version, data)) = data.split_first() else { return };
    let version = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][usize::from(version % 3)];
    let Some(mut request) = request(version, data) else { return };
    let Ok(authority) = headers::authority(&request, &headers::LastHost::default()) else { return };
    if let Some(authority) = &authority {
        assert!(!authority.as_str().contains('@'), "{authority}");
        let host = request.headers().get(HOST).filter(|host| !host.is_empty()).map(HeaderValue::as_bytes);
        let host = host.map(|host| host.split(|byte| *byte == b':').next().unwrap_or_default());
        let same = host.is_none_or(|host| {
            authority.as_str().as_bytes().get(..host.len()).is_some_and(|start| start.eq_ignore_ascii_case(host))
        });
        assert!(same, "{authority} for {host:?}");
    }
    headers::strip_reserved(request.headers_mut());
    let spelt = |name: &HeaderName| name.as_str().replace('_', "-");
    assert!(!request.headers().keys().any(|name| spelt(name).starts_with(headers::RESERVED_PREFIX)), "{request:?}");
    let leaves = headers::asks_to_leave(&mut request);
    assert!(!request.headers().contains_key("http2-settings"));
    assert!(!headers::offers(request.headers()).any(headers::is_http_again), "{request:?}");
    assert!(!leaves || version == Version::HTTP_11 || request.method() == Method::CONNECT);
    trailers(request.headers().clone());
    let host = request.headers().get_all(HOST).iter().count();
    headers::strip_hop_by_hop(request.headers_mut());
    let hops = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"];
    assert!(!hops.iter().any(|name| request.headers().contains_key(*name)), "{request:?}");
    assert!(request.headers().get_all(TE).iter().all(|te| te == "trailers"), "{request:?}");
    assert_eq!(request.headers().get_all(HOST).iter().count(), host, "no Connection takes the Host off");
    let once = request.headers().clone();
    headers::strip_hop_by_hop(request.headers_mut());
    assert_eq!(*request.headers(), once, "twice is once");
    between_proxies(request, authority.as_ref(), version);
}

fn trailers(mut fields: HeaderMap) {
    headers::strip_trailers(&mut fields);
    let forbidden = [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, CONNECTION, TE];
    assert!(!forbidden.iter().any(|name| fields.contains_key(name)), "{fields:?}");
    assert!(fields.keys().all(|name| headers::may_be_trailer(name.as_str().to_ascii_uppercase().as_bytes())));
}

/// Out in HTTP/2, to an endpoint in whatever form it takes, and back as if that had not been.
fn between_proxies(mut request: Request<Full<Bytes>>, authority: Option<&http::uri::Authority>, version: Version) {
    if request.uri().authority().is_some() && request.uri().scheme().is_none() {
        return; // of a CONNECT only, which does not become HTTP/2
    }
    let (target, host) = (request.uri().to_string(), request.headers().get(HOST).cloned());
    let form = (version != Version::HTTP_2).then(|| Form::of(&request, true));
    if let Some(form) = form {
        request.headers_mut().insert(headers::RESTORE, form.value());
    }
    if form::to_http2(&mut request, authority, form).is_err() {
        return;
    }
    assert_eq!(request.version(), Version::HTTP_2);
    let shown = |request: &Request<Full<Bytes>>| (request.uri().clone(), request.headers().clone(), request.version());
    let before = shown(&request);
    for protocol in [Protocol::Detect, Protocol::Http1, Protocol::Http2] {
        let (unfit, restored) = form::fit(&mut request, protocol);
        assert!(!request.headers().keys().any(|name| headers::is_reserved(name.as_str())), "{request:?}");
        if restored {
            assert_eq!(request.version(), version);
            let now = (request.uri().to_string(), request.headers().get(HOST).cloned());
            let root = if target.is_empty() { "/" } else { &*target };
            assert_eq!(now, (root.to_owned(), host.clone()), "{request:?}");
        }
        unfit.undo(&mut request);
        assert_eq!(shown(&request), before, "by {protocol:?}");
    }
}

/// The request whose head `data` is, as lenient as httparse, or as HTTP/2 would have it.
fn request(version: Version, data: &[u8]) -> Option<Request<Full<Bytes>>> {
    let mut fields = [httparse::EMPTY_HEADER; limits::HEADER_COUNT_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(data).ok()? else { return None };
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(&data[length..])));
    *request.method_mut() = Method::from_bytes(head.method?.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(head.path?).ok()?;
    *request.version_mut() = version;
    *request.headers_mut() = read(head.headers);
    Some(request)
}

fn read(fields: &[httparse::Header<'_>]) -> HeaderMap {
    let field = |field: &httparse::Header<'_>| {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(field.value).ok()?))
    };
    let mut read = HeaderMap::new();
    for (name, value) in fields.iter().filter_map(field) {
        read.append(name, value);
    }
    read
}
