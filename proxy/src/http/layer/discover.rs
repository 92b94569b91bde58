//! Finds the plan of a request's target: that of its connection, or of the authority that it names.
//!
//! Stands behind [`Sanitize`](super::Sanitize), which says that there is one authority, and outside of all that a plan holds. A known
//! plan costs no wait; what is not known waits for discovery, bounded, and is refused in the end rather than sent anywhere.

use super::always_ready;
use crate::{
    discover::{Plan, Refusal},
    http::{
        Wire,
        body::response::ResponseBody,
        destination::Destination,
        request::{Arrived, Planned},
        respond,
    },
    telemetry::Direction,
    world::World,
};
use futures_util::future::Either;
use http::{HeaderValue, Response, header};
use std::{convert::Infallible, pin::Pin, rc::Rc};
use tower::{Layer, Service};

/// Makes [`Discover`] of one client connection.
#[derive(Debug, Clone)]
pub(crate) struct DiscoverLayer {
    world: Rc<World>,
    destination: Rc<Destination>,
}

impl DiscoverLayer {
    /// Requests go where `destination` says.
    pub(crate) fn new(world: &Rc<World>, destination: &Rc<Destination>) -> Self {
        Self { world: world.clone(), destination: destination.clone() }
    }
}

impl<S> Layer<S> for DiscoverLayer {
    type Service = Discover<S>;

    fn layer(&self, inner: S) -> Discover<S> {
        Discover { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Discover<S> {
    inner: S,
    layer: DiscoverLayer,
}

impl<B, S> Service<Arrived<B>> for Discover<S>
where
    B: 'static,
    S: Service<Planned<Plan, B>, Response = Response<ResponseBody>, Error = Infallible> + Clone + 'static,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Either<S::Future, Pin<Box<dyn Future<Output = Result<S::Response, Infallible>>>>>;

    always_ready!();

    fn call(&mut self, arrived: Arrived<B>) -> Self::Future {
        if let Some(plan) = self.layer.destination.known(arrived.authority.as_ref()) {
            return Either::Left(self.inner.call(Planned { arrived, plan }));
        }
        let (mut inner, DiscoverLayer { world, destination }) = (self.inner.clone(), self.layer.clone());
        Either::Right(Box::pin(async move {
            match destination.discover(&world, arrived.authority.as_ref()).await {
                Ok(plan) => inner.call(Planned { arrived, plan }).await,
                Err(refusal) => Ok(unserved(&arrived, &destination, &refusal)),
            }
        }))
    }
}

/// Answers a request whose target cannot be reached for now. A connection that was made to that target ends with it, so
/// that the client's next one may find another answer.
fn unserved<B>(arrived: &Arrived<B>, destination: &Destination, refusal: &Refusal) -> Response<ResponseBody> {
    let Refusal { reason, detail } = refusal;
    remora_runtime::limited!(warn by reason.as_str(), reason = reason.as_str(), %detail, "request refused");
    let mut answer = respond::refusal(Direction::Outbound, *reason, arrived.grpc, detail);
    if destination.is_fixed() {
        destination.end();
        if arrived.client.wire == Wire::Http1 {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    answer
}
