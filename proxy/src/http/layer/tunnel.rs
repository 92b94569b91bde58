//! CONNECT to a Service: bytes to one of its endpoints, where the connection itself has no target.
//!
//! Stands behind [`Discover`](super::Discover), which knows the Service, and outside of routes, which are of requests only.
//! A CONNECT on a connection that was made to a server is that server's to answer, and goes on.

use super::always_ready;
use crate::{
    discover::Plan,
    http::{body::response::ResponseBody, request::Planned, upgrade},
    resources::Resources,
};
use futures_util::future::Either;
use http::{Method, Response};
use std::{convert::Infallible, pin::Pin, rc::Rc};
use tower::{Layer, Service};

/// Makes [`Tunnel`] of one client connection.
#[derive(Debug, Clone)]
pub(crate) struct TunnelLayer {
    resources: Rc<Resources>,
    /// Whether the connection has a target of its own.
    fixed: bool,
}

impl TunnelLayer {
    /// `fixed`: the connection was made to a server, which answers a CONNECT itself.
    pub(crate) fn new(resources: &Rc<Resources>, fixed: bool) -> Self {
        Self { resources: resources.clone(), fixed }
    }
}

impl<S> Layer<S> for TunnelLayer {
    type Service = Tunnel<S>;

    fn layer(&self, inner: S) -> Tunnel<S> {
        Tunnel { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Tunnel<S> {
    inner: S,
    layer: TunnelLayer,
}

impl<B, S> Service<Planned<Plan, B>> for Tunnel<S>
where
    B: 'static,
    S: Service<Planned<Plan, B>, Response = Response<ResponseBody>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Either<S::Future, Pin<Box<dyn Future<Output = Result<S::Response, Infallible>>>>>;

    always_ready!();

    fn call(&mut self, planned: Planned<Plan, B>) -> Self::Future {
        if self.layer.fixed || planned.arrived.request.method() != Method::CONNECT {
            return Either::Left(self.inner.call(planned));
        }
        let resources = self.layer.resources.clone();
        let Planned { arrived, plan } = planned;
        Either::Right(Box::pin(async move { Ok(upgrade::tunnel(resources, plan, arrived.request).await) }))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{address, arrived, backend, paused, plan, proxy, reason, routed},
        *,
    };
    use crate::http::{Wire, body::request::RequestBody, respond};
    use http::{Request, StatusCode};
    use remora_model::Target;
    use std::future::ready;

    fn target() -> Target {
        Target::Address(address(80))
    }

    /// What is answered to a request with this method, and whether the inner service did it.
    async fn answered(fixed: bool, method: Method) -> (u16, String, bool) {
        let proxy = proxy([backend(&[]), routed(&target(), &[])]);
        let plan = plan(&proxy, &target()).await;
        let inner =
            tower::service_fn(|_: Planned<Plan, RequestBody>| ready(Ok(respond::empty(StatusCode::IM_A_TEAPOT))));
        let mut tunnel = TunnelLayer::new(&proxy.world.resources, fixed).layer(inner);
        let request = Request::builder().method(method).uri("api:80").body(RequestBody::Empty).unwrap();
        let answer = tunnel.call(Planned { arrived: arrived(Wire::Http1, request), plan }).await.unwrap();
        let inside = answer.status() == StatusCode::IM_A_TEAPOT;
        let counted = u64::from(!inside);
        assert_eq!(
            (proxy.counted("requests"), proxy.ended()),
            (counted, counted),
            "one record, if it is not a request"
        );
        (answer.status().as_u16(), reason(&answer).to_owned(), inside)
    }

    #[test]
    fn a_connect_leaves_the_stack_where_the_connection_has_no_target_of_its_own() {
        paused(async {
            assert!(answered(true, Method::CONNECT).await.2, "it is the server's to answer");
            assert!(answered(false, Method::OPTIONS).await.2);
            assert_eq!(answered(false, Method::CONNECT).await, (503, "no_endpoints".into(), false));
        });
    }

    #[test]
    fn a_client_that_gives_up_while_its_tunnel_is_made_has_its_record_too() {
        paused(async {
            let (trace, at) = (Rc::new(crate::sim::Trace::new(false)), address(8080));
            let net = crate::sim::Net::enter(7, &trace);
            let _incoming = net.silent(at);
            let proxy = proxy([backend(&[at]), routed(&target(), &[])]);
            let plan = plan(&proxy, &target()).await;
            let inner = tower::service_fn(|_: Planned<Plan, RequestBody>| ready(Ok(respond::empty(StatusCode::OK))));
            let mut tunnel = TunnelLayer::new(&proxy.world.resources, false).layer(inner);
            let request = Request::connect("api:80").body(RequestBody::Empty).unwrap();
            let asked = tunnel.call(Planned { arrived: arrived(Wire::Http1, request), plan });
            assert!(tokio::time::timeout(std::time::Duration::from_millis(500), asked).await.is_err());
            assert_eq!((proxy.counted("requests"), proxy.counted("cancelled"), net.open()), (1, 1, 0));
            crate::sim::Net::leave();
        });
    }
}
