//! Tells the application who calls: the SPIFFE ID that the peer has proved, in `x-remora-client-id`.
//!
//! Stands inside [`Restore`](super::Restore), which has taken off any that the client wrote itself.

use super::always_ready;
use crate::http::{headers, request::Ingoing};
use http::HeaderValue;
use tower::{Layer, Service};

/// Makes [`ClientId`] of one peer.
#[derive(Debug, Clone)]
pub(crate) struct ClientIdLayer {
    id: Option<HeaderValue>,
}

impl ClientIdLayer {
    /// Requests are of `id`; `None`: nobody has proved who they are.
    pub(crate) fn of(id: Option<&HeaderValue>) -> Self {
        Self { id: id.cloned() }
    }
}

impl<S> Layer<S> for ClientIdLayer {
    type Service = ClientId<S>;

    fn layer(&self, inner: S) -> ClientId<S> {
        ClientId { inner, id: self.id.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct ClientId<S> {
    inner: S,
    id: Option<HeaderValue>,
}

impl<B, S> Service<Ingoing<B>> for ClientId<S>
where
    S: Service<Ingoing<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    always_ready!();

    fn call(&mut self, mut ingoing: Ingoing<B>) -> S::Future {
        if let Some(id) = &self.id {
            ingoing.request.headers_mut().insert(headers::CLIENT_ID, id.clone());
        }
        self.inner.call(ingoing)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, Visited, address, open_port},
        *,
    };
    use crate::http::{Wire, request::Way};
    use http::Request;

    #[test]
    fn the_application_is_told_what_the_peer_has_proved_and_nothing_else() {
        let (visited, inner) = (Visited::new(open_port(), true, address(1)), Inner::<Ingoing>::silent());
        for id in [Some(HeaderValue::from_static("spiffe://cluster.local/ns/shop/sa/web")), None] {
            let request = visited.ingoing(Wire::Http2, true, Way::Same { caller: 0 }, Request::get("http://api/"));
            drop(ClientIdLayer::of(id.as_ref()).layer(inner.clone()).call(request));
            let seen = inner.seen.borrow_mut().pop().unwrap();
            assert_eq!(seen.request.headers().get(headers::CLIENT_ID), id.as_ref());
        }
    }
}
