//! Asks an HTTP/1 client to close its connection (`Connection: close`, RFC 9112 §9.6) when the pod is about to end, or the
//! application is gone: a client outside the mesh is connected to this proxy instead of to the application, and would not notice.
//!
//! Stands outermost: the answer may be the application's, or any layer's own. A peer of the mesh has all requests on one HTTP/2
//! connection, and learns of an end by discovery.

use super::always_ready;
use crate::{
    discover::Port,
    http::{Wire, body::response::ResponseBody, request::ClientConnection},
};
use http::{HeaderValue, Response, header::CONNECTION};
use pin_project_lite::pin_project;
use std::{
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tower::{Layer, Service};

/// Makes [`Leave`] of one client connection.
#[derive(Debug, Clone)]
pub(crate) struct LeaveLayer {
    told: Option<Told>,
}

/// Whom to tell, and who knows.
#[derive(Debug, Clone)]
struct Told {
    client: Rc<ClientConnection>,
    port: Rc<Port>,
}

impl LeaveLayer {
    /// The connection is `client`'s, to `port`.
    pub(crate) fn of(client: &Rc<ClientConnection>, port: &Rc<Port>) -> Self {
        let told = || Told { client: client.clone(), port: port.clone() };
        Self { told: (client.wire == Wire::Http1).then(told) }
    }
}

impl<S> Layer<S> for LeaveLayer {
    type Service = Leave<S>;

    fn layer(&self, inner: S) -> Leave<S> {
        Leave { inner, told: self.told.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Leave<S> {
    inner: S,
    told: Option<Told>,
}

impl<R, S> Service<R> for Leave<S>
where
    S: Service<R, Response = Response<ResponseBody>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Leaves<S::Future>;

    always_ready!();

    fn call(&mut self, request: R) -> Self::Future {
        Leaves { inner: self.inner.call(request), told: self.told.clone() }
    }
}

pin_project! {
    /// An answer that may be the last of its connection.
    #[derive(Debug)]
    pub(crate) struct Leaves<F> {
        #[pin]
        inner: F,
        told: Option<Told>,
    }
}

impl<F: Future<Output = Result<Response<ResponseBody>, Infallible>>> Future for Leaves<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(Told { client, port }) = this.told else { return this.inner.poll(cx) };
        let Ok(mut answer) = ready!(this.inner.poll(cx));
        if !crate::http::upgrade::leaves(&answer) && (client.last.get() || port.is_ending()) {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Visited, address, open_port},
        *,
    };
    use crate::http::respond;
    use futures_util::FutureExt;
    use http::StatusCode;
    use remora_model::Inbound;
    use std::future::ready;
    use tower::service_fn;

    /// Whether the client of a port in this state is asked to close its connection.
    fn is_last(wire: Wire, inbound: Inbound, gone: bool) -> bool {
        let (visited, client) =
            (Visited::new(inbound, false, address(1)), Rc::new(ClientConnection::of_peer(wire, false, 1024)));
        let known = client.clone();
        let inner = service_fn(move |()| {
            known.last.set(gone);
            ready(Ok::<_, Infallible>(respond::empty(StatusCode::OK)))
        });
        let asked = LeaveLayer::of(&client, &visited.visit.port).layer(inner).call(());
        let Ok(answer) = asked.now_or_never().unwrap();
        answer.headers().contains_key(CONNECTION)
    }

    #[test]
    fn a_client_over_http1_is_told_that_its_server_is_gone_or_about_to_be() {
        let ending = || Inbound { ending: true, ..open_port() };
        for (inbound, gone, last) in [(open_port(), false, false), (open_port(), true, true), (ending(), false, true)] {
            assert_eq!(is_last(Wire::Http1, inbound.clone(), gone), last, "{gone} {}", inbound.ending);
            assert!(!is_last(Wire::Http2, inbound, gone), "GOAWAY says it there");
        }
    }
}
