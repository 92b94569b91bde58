//! Idle HTTP/1 connections to one address. Each carries one request at a time, so no caller waits for another's answer.

use super::{Request, keep::Place};
use crate::{http::answer::Allowance, limits, sys::Socket};
use http::{Method, Response, Version};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
    time::Duration,
};
use tokio::time::Instant;

type Sender = http1::SendRequest<crate::http::body::request::RequestBody>;
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request>>;

/// Connections that were just given back are looked past, in search of a ready one.
const NOT_READY_MAX: usize = 8;

/// An HTTP/1 connection, for one request at a time. Dropped before its answer was read to the end, it closes at once, whatever is
/// still to be written.
#[derive(Debug)]
pub(super) struct Http1 {
    sender: Sender,
    wire: Rc<Wire>,
}

/// What is known of a connection that the library owns. In one place, because it is copied with every request.
#[derive(Debug)]
struct Wire {
    allowance: Allowance,
    socket: Socket,
    /// Whether the request or its answer was HTTP/1.0. A server closes behind a request of that version that asks for nothing else (RFC
    /// 9112 §9.3), and behind an answer of it the library would write whatever comes next as 1.0, without its chunked body.
    old: Cell<bool>,
    /// Whether the last answer was read to its end.
    done: Cell<bool>,
    /// What the server had taken before the request under way, where that matters.
    taken: Cell<Option<u64>>,
    _place: Place,
}

impl Drop for Http1 {
    fn drop(&mut self) {
        if !self.wire.done.get() {
            self.wire.allowance.give_up();
        }
    }
}

impl Http1 {
    pub(super) fn new(sender: Sender, allowance: Allowance, socket: Socket, place: Place) -> Self {
        Self {
            sender,
            wire: Rc::new(Wire {
                allowance,
                socket,
                old: Cell::new(false),
                done: Cell::new(false),
                taken: Cell::new(None),
                _place: place,
            }),
        }
    }

    pub(super) fn send(&mut self, request: Request) -> impl Future<Output = Sent> + use<> {
        self.wire.done.set(false);
        self.wire.old.set(request.version() == Version::HTTP_10);
        self.wire.allowance.head(request.body().holder());
        self.sender.try_send_request(request)
    }

    /// Whether the server closed this connection, which was kept, before the request reached it: the request was on its way when the
    /// server's end came.
    pub(super) fn missed(&self) -> bool {
        self.wire.socket.took_nothing_since(self.wire.taken.get())
    }

    /// The head of an answer of this version came: its body may be as long as it likes.
    pub(super) fn answered(&self, version: Version) {
        if version == Version::HTTP_10 {
            self.wire.old.set(true);
        }
        self.wire.allowance.body();
    }
}

/// The idle ones, the youngest last. At most [`limits::IDLE_CONNECTIONS_MAX`].
pub(super) struct Idle {
    kept: RefCell<Vec<(Http1, Instant)>>,
    /// For how long.
    within: Duration,
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Idle").field(&self.kept.borrow().len()).finish()
    }
}

impl Idle {
    /// None yet; each is kept for so long.
    pub(super) fn new(within: Duration) -> Self {
        Self { kept: RefCell::default(), within }
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(super) fn keep(&self, connection: Http1, now: Instant) {
        connection.wire.done.set(true);
        connection.wire.allowance.answered();
        let mut idle = self.kept.borrow_mut();
        let usable = !connection.wire.old.get() && !connection.sender.is_closed();
        if usable && idle.len() < limits::IDLE_CONNECTIONS_MAX {
            idle.push((connection, now));
        }
    }

    /// The connection that was used last, among those that can take a request. For one that must not be sent twice (RFC 9110
    /// §9.2.2), the kernel is asked whether the server has closed it meanwhile: the library may not have heard of it yet.
    pub(super) fn take(&self, now: Instant, method: &Method) -> Option<Http1> {
        let mut idle = self.kept.borrow_mut();
        // The youngest is last; behind the first one that is too old, all are.
        if now.saturating_duration_since(idle.last()?.1) > self.within {
            idle.clear();
            return None;
        }
        // One given back a moment ago may not be ready before its task has run; a few of those at most are passed over.
        let mut at = idle.len();
        let mut passed_over = 0;
        while at > 0 && passed_over < NOT_READY_MAX {
            at -= 1;
            let connection = &idle[at].0;
            let mut ended = connection.sender.is_closed();
            if !ended && connection.sender.is_ready() {
                let (again, wire) = (method.is_idempotent(), &connection.wire);
                if again || !wire.socket.has_ended() {
                    wire.taken.set(if again { None } else { wire.socket.taken() });
                    return Some(idle.remove(at).0);
                }
                ended = true;
            }
            if ended {
                idle.remove(at);
            } else {
                passed_over += 1;
            }
        }
        None
    }

    /// Drops the connection that was idle for longest, if there is one.
    pub(super) fn drop_one(&self) -> bool {
        let mut idle = self.kept.borrow_mut();
        let is_there = !idle.is_empty();
        idle.drain(..usize::from(is_there));
        is_there
    }

    /// Drops connections that were idle for too long.
    pub(super) fn sweep(&self) {
        self.kept
            .borrow_mut()
            .retain(|(connection, since)| !connection.sender.is_closed() && since.elapsed() < self.within);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backend::endpoint::keep::Places, http::body::request::RequestBody, sys::Watched};
    use hyper_util::rt::TokioIo;
    use remora_model::ConnectionSettings;
    use std::io::Write as _;
    use tokio::{net::TcpStream, task::LocalSet};

    /// Of two places, one for a connection to `listener`.
    async fn connect(
        listener: &std::net::TcpListener,
        places: &std::sync::Arc<Places>,
    ) -> (Http1, std::net::TcpStream) {
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, socket) = Watched::new(near);
        let (mut sender, connection) = http1::handshake::<_, RequestBody>(TokioIo::new(near)).await.unwrap();
        tokio::task::spawn_local(connection);
        sender.ready().await.unwrap();
        let place = places.take().unwrap();
        (Http1::new(sender, Allowance::default(), socket, place), listener.accept().unwrap().0)
    }

    fn two_places() -> std::sync::Arc<Places> {
        let settings = ConnectionSettings { max_connections: std::num::NonZeroU32::new(2), ..Default::default() };
        Places::new(&settings, 1)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_kept_connection_is_used_while_it_is_young_and_makes_room_for_another() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let kept = async {
            let (idle, places, now) = (Idle::new(Duration::from_secs(1)), two_places(), Instant::now());
            let (one, _one) = connect(&listener, &places).await;
            let (two, _two) = connect(&listener, &places).await;
            idle.keep(one, now);
            let later = now + Duration::from_millis(900);
            assert!(idle.take(later, &Method::GET).is_some_and(|one| {
                idle.keep(one, later);
                true
            }));
            assert!(places.take().is_none(), "one is kept, the other in use");
            assert!(idle.drop_one() && !idle.drop_one());
            assert!(places.take().is_some());
            idle.keep(two, later);
            assert!(idle.take(later + Duration::from_millis(1001), &Method::GET).is_none(), "it was kept for too long");
            assert!(idle.is_empty());
        };
        LocalSet::new().run_until(kept).await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_request_that_must_not_be_sent_twice_gets_no_connection_that_its_server_has_closed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closes = async {
            for method in [Method::POST, Method::PATCH, Method::GET] {
                for bytes in [None, Some(&b"HTTP/1.1 408 Request Timeout\r\n\r\n"[..]), Some(b"")] {
                    let (idle, now) = (Idle::new(limits::IDLE_TIMEOUT), Instant::now());
                    let (connection, mut server) = connect(&listener, &two_places()).await;
                    idle.keep(connection, now);
                    if let Some(bytes) = bytes {
                        server.write_all(bytes).unwrap();
                        drop(server);
                    }
                    // Nothing was awaited since: the library has not heard of it.
                    let taken = idle.take(now, &method).is_some();
                    assert_eq!(taken, bytes.is_none() || method == Method::GET, "{method} {bytes:?}");
                    assert!(idle.is_empty());
                }
            }
        };
        LocalSet::new().run_until(closes).await;
    }
}
