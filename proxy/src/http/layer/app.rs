//! Hands a request over to the application: over HTTP/2 on a connection of its caller's, over HTTP/1 on one that is idle or new,
//! or, where it asks to leave HTTP, on a connection of its own.
//!
//! The innermost service of the stack into the pod. There is one endpoint and no second try, but for kept connections that the
//! application had closed already. Its future is the one that is boxed: it holds the request while it is sent.

use super::{Outcome, always_ready};
use crate::{
    backend::endpoint::{Answer, Upstream},
    http::{
        Wire,
        body::request::RequestBody,
        headers,
        request::{Answered, ClientConnection, Failed, Ingoing, Origin},
        upgrade::{self, Offer},
    },
    limits,
    policy::Permit,
    resources::Resources,
    telemetry::Record,
};
use http::{Request, Version};
use std::{pin::Pin, rc::Rc};
use tokio::time::Instant;
use tower::Service;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct App {
    upstream: Rc<Upstream>,
    resources: Rc<Resources>,
}

impl App {
    /// The application is at `upstream`.
    pub(crate) fn of(upstream: &Rc<Upstream>, resources: &Rc<Resources>) -> Self {
        Self { upstream: upstream.clone(), resources: resources.clone() }
    }
}

impl Service<Ingoing> for App {
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Outcome>>>;

    always_ready!();

    fn call(&mut self, ingoing: Ingoing) -> Self::Future {
        let Ingoing { request, started, client, record, offer, of, .. } = ingoing;
        record.tries(self.upstream.endpoint.address, Instant::now());
        let going = Going { upstream: self.upstream.clone(), client, record, permit: of.permit };
        match offer {
            Some(offer) => Box::pin(going.leave(self.resources.clone(), offer, request)),
            None if request.version() == Version::HTTP_2 => Box::pin(going.over_http2(of.way.caller(), request)),
            None => Box::pin(going.over_http1(started, request)),
        }
    }
}

/// A request on its last way. Each wire has a future of its own, so that none holds the room for another.
struct Going {
    upstream: Rc<Upstream>,
    client: Rc<ClientConnection>,
    record: Rc<Record>,
    permit: Permit,
}

impl Going {
    async fn over_http1(self, started: Instant, mut request: Request<RequestBody>) -> Outcome {
        for _ in 0..limits::IDLE_CONNECTIONS_MAX {
            match self.upstream.send_http1(&self.permit, started, request).await {
                // The application closed connections that were kept; each of them is used up by this.
                Err(Failed { stale: true, unsent: Some(unsent), .. }) => request = *unsent,
                sent => return self.came_to(sent),
            }
        }
        let sent = self.upstream.send_http1(&self.permit, started, request).await;
        self.came_to(sent)
    }

    async fn over_http2(self, caller: u32, request: Request<RequestBody>) -> Outcome {
        let sent = self.upstream.send_http2(&self.permit, Some((&self.client.callers, caller)), request).await;
        self.came_to(sent)
    }

    async fn leave(self, resources: Rc<Resources>, offer: Rc<Offer>, request: Request<RequestBody>) -> Outcome {
        let sent = upgrade::send(&resources.tasks, &self.upstream, &self.permit, &offer, request).await;
        self.came_to(sent)
    }

    fn came_to(self, sent: Result<Answer, Failed>) -> Outcome {
        let Self { upstream, client, record, permit } = self;
        let Answer { response, lease, sent } = sent.inspect_err(|failed| {
            client.last.set(true);
            if failed.reason.is_of_connecting() {
                record.sent(Instant::now());
            }
        })?;
        if let Some(at) = sent {
            record.sent(at);
        }
        if client.wire == Wire::Http1 {
            client.last.set(headers::says_close(response.headers()));
        }
        let endpoint = upstream.endpoint.address;
        let origin = Origin { endpoint, mesh: false, fate: None, told: None, in_flight: None, lease, permit };
        Ok(Answered::of(response, origin))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Visited, open_port, real, told},
        *,
    };
    use crate::{http::request::Way, telemetry::Reason};
    use http_body_util::BodyExt;
    use std::net::SocketAddr;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    const EMPTY: &[u8] = b"HTTP/1.1 200 Fine\r\ncontent-length: 0\r\n\r\n";

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Reads a head, and answers it.
    async fn answer(stream: &mut TcpStream, answer: &[u8]) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.unwrap() > 0, "{}", String::from_utf8_lossy(&head));
        }
        stream.write_all(answer).await.unwrap();
        String::from_utf8(head).unwrap()
    }

    fn asked(visited: &Visited, method: &str) -> Ingoing {
        let request = Request::builder().method(method).uri("/a").header("host", "api");
        visited.ingoing(Wire::Http1, false, Way::Same { caller: 0 }, request)
    }

    #[test]
    fn a_connection_that_the_application_closed_while_it_was_kept_costs_no_request() {
        real(async {
            let (listener, address) = listen().await;
            let visited = Visited::new(open_port(), false, address);
            let mut app = App::of(&visited.visit.app, &visited.resources);
            let (first, mut stream) = tokio::join!(app.call(asked(&visited, "GET")), async {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert_eq!(answer(&mut stream, EMPTY).await, "GET /a HTTP/1.1\r\nhost: api\r\n\r\n");
                stream
            });
            let answered = first.unwrap();
            assert!(answered.response.into_body().collect().await.unwrap().to_bytes().is_empty());
            answered.origin.unwrap().lease.unwrap().give_back(Instant::now());
            // A GET might be sent, and sent again by whoever asked: this is what nobody may send twice.
            stream.shutdown().await.unwrap();
            drop(stream);
            let (second, _stream) = tokio::join!(app.call(asked(&visited, "POST")), async {
                let (mut stream, _) = listener.accept().await.unwrap();
                answer(&mut stream, EMPTY).await;
                stream
            });
            assert_eq!(told(&second), "200");
        });
    }

    #[test]
    fn the_client_is_to_leave_when_the_application_is_gone_or_says_so() {
        real(async {
            let (listener, address) = listen().await;
            let visited = Visited::new(open_port(), false, address);
            let mut app = App::of(&visited.visit.app, &visited.resources);
            for (answers, last) in
                [(EMPTY, false), (b"HTTP/1.1 200 Fine\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", true)]
            {
                let asked = asked(&visited, "GET");
                let client = asked.client.clone();
                let (outcome, _stream) = tokio::join!(app.call(asked), async {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    answer(&mut stream, answers).await;
                    stream
                });
                assert_eq!((told(&outcome), client.last.get()), ("200".to_owned(), last));
            }
            drop(listener);
            let asked = asked(&visited, "GET");
            let client = asked.client.clone();
            let failed = app.call(asked).await.unwrap_err();
            assert_eq!((failed.reason, client.last.get()), (Reason::ConnectRefused, true));
        });
    }
}
