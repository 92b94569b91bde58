//! Reads what the peer's proxy says of how a request came to it, and takes off all fields that only proxies may write.
//!
//! Stands outside of everything that looks at the request: nothing behind it sees a field that a client made up. Proxies add fields
//! to requests over HTTP/2 only; a request over HTTP/1 came through a tunnel, as its client wrote it.

use super::always_ready;
use crate::{
    backend::endpoint::Callers,
    http::{
        Wire,
        form::Form,
        grpc, headers,
        request::{ClientConnection, Restored, Way},
    },
};
use http::Request;
use std::{rc::Rc, time::Instant};
use tower::{Layer, Service};

/// Makes [`Restore`] of one client connection.
#[derive(Debug, Clone)]
pub(crate) struct RestoreLayer {
    client: Rc<ClientConnection>,
}

impl RestoreLayer {
    /// The connection is `client`'s.
    pub(crate) fn of(client: &Rc<ClientConnection>) -> Self {
        Self { client: client.clone() }
    }
}

impl<S> Layer<S> for RestoreLayer {
    type Service = Restore<S>;

    fn layer(&self, inner: S) -> Restore<S> {
        Restore { inner, client: self.client.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Restore<S> {
    inner: S,
    client: Rc<ClientConnection>,
}

impl<B, S> Service<Request<B>> for Restore<S>
where
    S: Service<Restored<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    always_ready!();

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let started = Instant::now();
        let fields = request.headers_mut();
        let believed = self.client.mesh && self.client.wire == Wire::Http2;
        let way = match fields.get(headers::RESTORE).filter(|_| believed) {
            Some(form) => Way::Changed(Form::read(form)),
            None if believed => Way::Same { caller: Callers::number(fields.get(headers::CALLER)) },
            None => Way::Same { caller: 0 },
        };
        headers::strip_reserved(fields);
        let grpc = grpc::is_grpc(fields);
        self.inner.call(Restored { request, started, grpc, client: self.client.clone(), way })
    }
}
