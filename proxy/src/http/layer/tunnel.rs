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
