//! Asks policy whether a try may leave the pod, for this backend.
//!
//! Stands inside [`Retry`](super::Retry): every try is judged, by the policy of its moment. What stands inside takes permitted
//! tries only, so that a stack without this layer does not compile.

use super::always_ready;
use crate::{
    http::request::{Answered, Attempt, Failed},
    policy::{Permitted, To},
};
use remora_model::BackendId;
use tower::{Layer, Service};

/// Makes [`Authorize`] of one backend.
#[derive(Debug, Clone)]
pub(crate) struct AuthorizeLayer {
    to: BackendId,
}

impl AuthorizeLayer {
    /// Tries go to `to`.
    pub(crate) fn egress(to: &BackendId) -> Self {
        Self { to: to.clone() }
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize { inner, to: self.to.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Authorize<S> {
    inner: S,
    to: BackendId,
}

impl<S> Service<Attempt> for Authorize<S>
where
    S: Service<Permitted<Attempt>, Response = Box<Answered>, Error = Failed>,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = S::Future;

    always_ready!();

    fn call(&mut self, attempt: Attempt) -> S::Future {
        self.inner.call(Permitted::outbound(To::Backend(&self.to), attempt))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::test::id, *};
    use crate::{
        http::{Wire, body::request::RequestBody, request::ClientConnection},
        telemetry::{Reason, Record},
    };
    use futures_util::FutureExt;
    use http::Request;
    use std::future::ready;
    use tokio::time::Instant;
    use tower::service_fn;

    #[test]
    fn what_is_judged_is_what_goes_on() {
        let inner = service_fn(|attempt: Permitted<Attempt>| {
            let (_permit, attempt) = attempt.open();
            assert_eq!(attempt.request.uri(), "http://api/a");
            ready(Err::<Box<Answered>, _>(Failed::new(Reason::NoEndpoints)))
        });
        let request = Request::get("http://api/a").body(RequestBody::Empty).unwrap();
        let client = ClientConnection::of_application(Wire::Http2, true);
        let (record, began) = (Record::of_tests(), Instant::now());
        let attempt = Attempt { request, began, grpc: false, client, record, offer: None, tried: Vec::new() };
        let outcome = AuthorizeLayer::egress(&id()).layer(inner).call(attempt).now_or_never().unwrap();
        assert_eq!(outcome.unwrap_err().reason, Reason::NoEndpoints);
    }
}
