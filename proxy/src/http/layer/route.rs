//! Finds the rule that governs a request, draws one of its backends, and calls that one's stack.
//!
//! The innermost service of a connection's stack: what follows belongs to the plan, which is replaced when discovery says something new.

use super::{Branch, always_ready};
use crate::{
    discover::Plan,
    http::{
        body::response::ResponseBody,
        request::{Planned, Routed},
        respond,
    },
    resources::Resources,
    route,
    telemetry::{Direction, Reason},
};
use futures_util::future::{Either, Ready, ready};
use http::Response;
use hyper::body::Incoming;
use std::{convert::Infallible, rc::Rc};
use tower::Service;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    resources: Rc<Resources>,
}

impl Route {
    /// Backends are drawn by the worker's own randomness.
    pub(crate) fn new(resources: &Rc<Resources>) -> Self {
        Self { resources: resources.clone() }
    }
}

impl Service<Planned<Plan>> for Route {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Self::Response, Infallible>>, <Branch as Service<Routed<Incoming>>>::Future>;

    always_ready!();

    fn call(&mut self, Planned { arrived, plan }: Planned<Plan>) -> Self::Future {
        let head = &arrived.request;
        let selected = route::select(&plan.outbound, head.method(), head.uri(), head.headers());
        let (rule, prefix) = match selected {
            Some(selected) => (Some(selected.index), selected.prefix.len()),
            None if plan.outbound.rules.is_empty() => (None, 0),
            None => {
                let text = "no route of this Service matches";
                let answer = respond::refusal(Direction::Outbound, Reason::NoRoute, arrived.grpc, text);
                return Either::Left(ready(Ok(answer)));
            }
        };
        let branch = plan.draw(rule, &mut self.resources.rng.borrow_mut());
        Either::Right(branch.borrow_mut().call(Routed { arrived, prefix }))
    }
}
