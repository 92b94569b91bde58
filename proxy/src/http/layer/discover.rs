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

#[cfg(test)]
mod tests {
    use super::{
        super::test::{arrived, backend, paused, proxy, reason, routed},
        *,
    };
    use crate::{http::body::request::RequestBody, limits, sim::Proxy, telemetry::Reason};
    use futures_util::FutureExt as _;
    use http::{Request, StatusCode};
    use remora_model::Target;
    use std::{
        cell::RefCell,
        future::{Ready, ready},
        time::Duration,
    };
    use tokio::time::{Instant, timeout};

    /// The targets' backends of the requests that came through.
    type Seen = Rc<RefCell<Vec<String>>>;

    #[derive(Clone)]
    struct Answers(Seen);

    impl Service<Planned<Plan, RequestBody>> for Answers {
        type Response = Response<ResponseBody>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        always_ready!();

        fn call(&mut self, planned: Planned<Plan, RequestBody>) -> Self::Future {
            self.0.borrow_mut().push(planned.plan.parent.id.to_string());
            ready(Ok(respond::empty(StatusCode::OK)))
        }
    }

    /// The layer of a connection, over an inner service that answers all.
    fn layer(proxy: &Proxy, destination: &Rc<Destination>) -> (Discover<Answers>, Seen) {
        let seen = Seen::default();
        (DiscoverLayer::new(&proxy.world, destination).layer(Answers(seen.clone())), seen)
    }

    fn ask(wire: Wire) -> Arrived<RequestBody> {
        arrived(wire, Request::get("http://api:80/").body(RequestBody::Empty).unwrap())
    }

    fn target() -> Target {
        Target::parse("api:80", 80).unwrap()
    }

    #[test]
    fn a_plan_is_waited_for_once_and_costs_no_wait_from_then_on() {
        paused(async {
            let proxy = proxy([]);
            let (mut layer, seen) = layer(&proxy, &Rc::new(Destination::by_authority(Wire::Http1)));
            let mut asked = layer.call(ask(Wire::Http1));
            assert!(timeout(Duration::from_secs(1), &mut asked).await.is_err(), "discovery is silent");
            proxy.control.say(backend(&[]));
            proxy.control.say(routed(&target(), &[]));
            assert_eq!(asked.await.unwrap().status(), 200);
            assert!(layer.call(ask(Wire::Http1)).now_or_never().is_some());
            assert_eq!(*seen.borrow(), ["shop/api:80", "shop/api:80"]);
        });
    }

    #[test]
    fn what_discovery_does_not_say_is_refused_in_time() {
        paused(async {
            let (proxy, began) = (proxy([]), Instant::now());
            let (mut layer, seen) = layer(&proxy, &Rc::new(Destination::by_authority(Wire::Http1)));
            let answer = layer.call(ask(Wire::Http1)).await.unwrap();
            assert_eq!((answer.status().as_u16(), reason(&answer)), (503, "discovery_silent"));
            assert!(began.elapsed() <= limits::DISCOVERY_WAIT + Duration::from_millis(1));
            let nameless = arrived(Wire::Http1, Request::get("/").body(RequestBody::Empty).unwrap());
            let answer = layer.call(nameless).await.unwrap();
            assert_eq!((answer.status().as_u16(), reason(&answer)), (400, "protocol_error"));
            assert!(seen.borrow().is_empty());
        });
    }

    #[test]
    fn a_connection_to_what_cannot_be_reached_ends_with_its_first_request() {
        for wire in [Wire::Http1, Wire::Http2] {
            paused(async {
                let refusal = Refusal { reason: Reason::UnknownTarget, detail: "nobody knows it".into() };
                let destination = Rc::new(Destination::refused(wire, refusal));
                let (mut layer, seen) = layer(&proxy([]), &destination);
                assert!(destination.ended().now_or_never().is_none());
                let answer = layer.call(ask(wire)).await.unwrap();
                assert_eq!((answer.status().as_u16(), reason(&answer)), (502, "unknown_target"));
                assert_eq!(answer.headers().contains_key(header::CONNECTION), wire == Wire::Http1);
                assert!(destination.ended().now_or_never().is_some() && seen.borrow().is_empty());
            });
        }
    }

    #[test]
    fn a_client_that_gives_up_the_wait_asks_nobody() {
        paused(async {
            let proxy = proxy([]);
            let (mut layer, seen) = layer(&proxy, &Rc::new(Destination::by_authority(Wire::Http2)));
            assert!(timeout(Duration::from_secs(1), layer.call(ask(Wire::Http2))).await.is_err());
            proxy.control.say(backend(&[]));
            proxy.control.say(routed(&target(), &[]));
            tokio::time::sleep(limits::DISCOVERY_WAIT).await;
            assert!(seen.borrow().is_empty());
            assert_eq!(layer.call(ask(Wire::Http2)).await.unwrap().status(), 200, "and the next finds what came");
        });
    }
}
