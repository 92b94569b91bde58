//! Reads what a request asks for, and refuses what two readers could read in two ways: more than one authority, or a head beyond
//! the bounds. Takes off the fields that only proxies may write.
//!
//! Stands outermost in a connection's stack: nothing behind it sees a field that the client made up.

use super::always_ready;
use crate::{
    http::{
        Wire,
        body::response::ResponseBody,
        grpc,
        headers::{self, LastHost},
        request::{Arrived, ClientConnection},
        respond,
    },
    telemetry::{Direction, Reason},
};
use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use std::{convert::Infallible, rc::Rc, time::Instant};
use tower::{Layer, Service};

/// Makes [`Sanitize`] of one client connection.
#[derive(Debug, Clone)]
pub(crate) struct SanitizeLayer {
    client: Rc<ClientConnection>,
}

impl SanitizeLayer {
    /// The connection is `client`'s.
    pub(crate) fn outbound(client: &Rc<ClientConnection>) -> Self {
        Self { client: client.clone() }
    }
}

impl<S> Layer<S> for SanitizeLayer {
    type Service = Sanitize<S>;

    fn layer(&self, inner: S) -> Sanitize<S> {
        Sanitize { inner, client: self.client.clone(), host: LastHost::default() }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sanitize<S> {
    inner: S,
    client: Rc<ClientConnection>,
    host: LastHost,
}

impl<B, S> Service<Request<B>> for Sanitize<S>
where
    S: Service<Arrived<B>, Response = Response<ResponseBody>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<S::Response, Infallible>>, S::Future>;

    always_ready!();

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let started = Instant::now();
        let grpc = grpc::is_grpc(request.headers());
        let refusal =
            |reason, detail| Either::Left(ready(Ok(respond::refusal(Direction::Outbound, reason, grpc, detail))));
        if self.client.wire == Wire::Http2 && !headers::within_bounds(request.headers()) {
            return refusal(Reason::HeaderTooLarge, "");
        }
        match headers::authority(&request, &self.host) {
            Err(reason) => refusal(reason, "the request names no single authority"),
            Ok(authority) => {
                headers::strip_reserved(request.headers_mut());
                let client = self.client.clone();
                Either::Right(self.inner.call(Arrived { request, started, grpc, authority, client }))
            }
        }
    }
}
