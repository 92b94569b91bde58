//! Serves the connections of clients: HTTP/1 behind its gate, HTTP/2 within the client's share.

use super::{
    Wire,
    body::response::ResponseBody,
    extended::{self, StreamExec},
    guard::Guarded,
    headers, respond,
    share::Share,
    timer::Timer,
    under_way::{Tracked, UnderWay},
    upgrade,
};
use crate::{
    io::{Breakable, Breaker, Connection, Patient},
    limits,
    sys::Asked,
    telemetry::{self, Direction, Reason},
    world::World,
};
use futures_util::{FutureExt, TryFutureExt};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use metrics::Gauge;
use remora_runtime::seldom::Seldom;
use std::{cell::RefCell, convert::Infallible, pin::pin, rc::Rc};
use tokio::{
    io::AsyncWriteExt,
    time::{sleep, timeout},
};

/// What becomes of a request: an answer, whatever goes wrong.
pub(crate) trait Answering: Future<Output = Result<Response<ResponseBody>, Infallible>> + 'static {}

impl<F: Future<Output = Result<Response<ResponseBody>, Infallible>> + 'static> Answering for F {}

/// Serves one connection until its peer closes it, it breaks, the proxy drains, or `goodbye` has come (then the requests
/// under way finish and HTTP/2 peers get GOAWAY).
pub(crate) async fn serve<H, R>(
    world: &Rc<World>,
    stream: impl Connection,
    (direction, wire): (Direction, Wire),
    share: Share,
    goodbye: impl Future<Output = ()>,
    handle: H,
) -> hyper::Result<()>
where
    H: Fn(Request<Incoming>) -> R + 'static,
    R: Answering,
{
    let closing = Seldom::new(closing(world, goodbye));
    let _open = Open::begin(direction, wire);
    match wire {
        Wire::Http1 => http1(world, stream, direction, closing, handle).await,
        Wire::Http2 => http2(world, stream, (direction, share), closing, handle).await,
    }
}

/// A connection that counts as open.
struct Open(Gauge);

impl Open {
    fn begin(direction: Direction, wire: Wire) -> Self {
        let version = match wire {
            Wire::Http1 => "1",
            Wire::Http2 => "2",
        };
        let open = metrics::gauge!("remora_http_connections", "direction" => direction.as_str(), "version" => version);
        open.increment(1);
        Self(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

async fn http1<H, R>(
    world: &Rc<World>,
    stream: impl Connection,
    direction: Direction,
    closing: impl Future<Output = ()>,
    handle: H,
) -> hyper::Result<()>
where
    H: Fn(Request<Incoming>) -> R + 'static,
    R: Answering,
{
    let (under_way, holder, breaker) = (UnderWay::default(), stream.holder().cloned(), Breaker::default());
    let abandoned = Seldom::new(abandoned(under_way.clone(), stream.asked()));
    let stream = Breakable::new(stream, breaker.clone());
    let guarded = Guarded::new(stream, direction, world.resources.config.patience, under_way.clone(), holder);
    let (last_offer, left) = (Rc::new(RefCell::new(None::<OnUpgrade>)), under_way.clone());
    let offered = last_offer.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let token = under_way.begin();
        let ends_with_it = (request.version() < Version::HTTP_11).then(|| breaker.clone());
        let resets = breaker.clone();
        if let Some(offer) = request.extensions().get::<OnUpgrade>() {
            *offered.borrow_mut() = Some(offer.clone());
            request.extensions_mut().insert(breaker.clone());
        }
        let track = move |mut response: Response<ResponseBody>| {
            let unknown = response.body().size_hint().exact().is_none();
            if ends_with_it.is_some() && (unknown || headers::says_close(response.headers())) {
                // The library would write `keep-alive`, if the client asked for that, on an answer that ends the connection.
                *response.version_mut() = Version::HTTP_10;
            }
            if upgrade::leaves(&response) {
                token.leave_http();
            }
            if response.extensions().get::<respond::Reset>().is_some() {
                resets.trip();
            }
            let described = response.status() == StatusCode::NOT_MODIFIED;
            response.map(|body| {
                let body = Tracked::new(body, token, ends_with_it);
                if described { body.described() } else { body }
            })
        };
        handle(request).map_ok(track)
    });
    let connection = conn::http1::Builder::new()
        // The gate has a timer of its own, once per connection; hyper's costs an allocation per request.
        .header_read_timeout(None)
        .max_buf_size(limits::HTTP1_BUFFER_BYTES)
        .serve_connection(TokioIo::new(guarded), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let done = tokio::select! {
        biased;
        done = connection.as_mut() => done,
        // With the connection its requests end, wherever they are.
        () = abandoned => return Ok(()),
        () = closing => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // The library does not end a connection on which an upgrade was asked for: the upgrade would. There was none.
    if let Some(offer) = last_offer.take().filter(|_| done.is_ok() && !left.has_left_http()) {
        let ending = async {
            if let Ok(connection) = offer.await {
                // One that cannot be shut down is broken, and its peer knows it.
                let _broken = TokioIo::new(connection).shutdown().await.is_err();
            }
        };
        let _stalled = timeout(limits::ENDING_IDLE, ending).await.is_err();
    }
    done
}

/// Returns once the client has reset its connection while a request is under way. Where the request's body is not read, because the application
/// takes none of it, nothing else would tell.
async fn abandoned(under_way: UnderWay, asked: Option<Asked>) {
    let Some(asked) = asked else { return std::future::pending().await };
    loop {
        under_way.begun().await;
        sleep(limits::ABANDONED_LOOK).await;
        if under_way.any() && asked.was_reset() {
            return;
        }
    }
}

async fn http2<H, R>(
    world: &Rc<World>,
    stream: impl Connection,
    (direction, share): (Direction, Share),
    closing: impl Future<Output = ()>,
    handle: H,
) -> hyper::Result<()>
where
    H: Fn(Request<Incoming>) -> R + 'static,
    R: Answering,
{
    let streams = StreamExec::new(&world.resources.tasks);
    let leaving = streams.clone();
    // Over HTTP/1 the library does it.
    let service = service_fn(move |mut request: Request<Incoming>| {
        if request.method() == Method::CONNECT {
            leaving.leaves(&mut request);
        }
        let (head, extended) = (request.method() == Method::HEAD, extended::arrive(&mut request));
        handle(request).map(move |Ok(it)| match it.extensions().get() {
            // The library resets the stream with it.
            Some(respond::Unprocessed) if !share.mesh => Err(h2::Error::from(h2::Reason::REFUSED_STREAM)),
            _ if it.extensions().get::<respond::Reset>().is_some() => Err(h2::Error::from(h2::Reason::INTERNAL_ERROR)),
            _ if head => Ok(it.map(ResponseBody::of_head)),
            _ if extended => {
                let leaves = upgrade::leaves(&it);
                Ok(extended::answer(it, leaves))
            }
            _ => Ok(it),
        })
    });
    let mut builder = conn::http2::Builder::new(streams);
    if !share.mesh {
        builder.enable_connect_protocol();
    }
    let connection = builder
        .timer(Timer)
        .max_concurrent_streams(share.streams)
        .initial_stream_window_size(share.window)
        .initial_connection_window_size(share.connection_window)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX as u32)
        .max_send_buf_size(limits::SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(share.pending_resets)
        .max_local_error_reset_streams(limits::LOCAL_RESETS_MAX)
        .keep_alive_interval(limits::SERVER_KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(limits::SERVER_KEEP_ALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(Patient::new(stream, world.resources.config.patience.body)), service);
    let mut connection = pin!(connection);
    let done = tokio::select! {
        biased;
        done = connection.as_mut() => done,
        () = closing => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    done.inspect_err(|error| count_broken(direction, error))
}

/// Counts a connection that ended because its peer broke the rules of HTTP/2.
fn count_broken(direction: Direction, error: &hyper::Error) {
    let broken = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    let Some(reason) = broken.filter(|error| error.is_library()).and_then(h2::Error::reason) else { return };
    let detail = match reason {
        h2::Reason::PROTOCOL_ERROR => "http2_protocol_error",
        h2::Reason::ENHANCE_YOUR_CALM => "http2_flood",
        h2::Reason::FLOW_CONTROL_ERROR => "http2_flow_control",
        h2::Reason::FRAME_SIZE_ERROR => "http2_frame_size",
        h2::Reason::COMPRESSION_ERROR => "http2_compression",
        h2::Reason::STREAM_CLOSED => "http2_stream_closed",
        _ => "http2_other",
    };
    telemetry::refused(direction, Reason::ProtocolError, detail);
}

/// Returns when a connection should take no new requests.
async fn closing(world: &World, goodbye: impl Future<Output = ()>) {
    tokio::select! {
        () = world.drain.signaled() => {}
        () = goodbye => {}
    }
}
