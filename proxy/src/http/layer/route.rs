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

#[cfg(test)]
mod tests {
    use super::{
        super::test::{address, backend, incoming, paused, plan, proxy, reason, routed},
        *,
    };
    use crate::{
        http::{
            Wire,
            request::{Arrived, ClientConnection},
        },
        sim::Proxy,
    };
    use remora_model::Target;
    use tokio::time::Instant;

    /// What is answered to a request for a path, by a target with rules for these paths and no endpoint.
    async fn answered(rules: &[&str], path: &str) -> (Proxy, Response<ResponseBody>) {
        let target = Target::Address(address(80));
        let proxy = proxy([backend(&[]), routed(&target, rules)]);
        let plan = plan(&proxy, &target).await;
        let (request, _client) = incoming(format!("GET {path} HTTP/1.1\r\nhost: api\r\n\r\n").as_bytes()).await;
        let client = ClientConnection::of_application(Wire::Http1, true);
        let arrived = Arrived { request, started: Instant::now(), grpc: false, authority: None, client };
        let answer = Route::new(&proxy.world.resources).call(Planned { arrived, plan }).await.unwrap();
        (proxy, answer)
    }

    /// The routes under which something was counted.
    fn counted(proxy: &Proxy) -> Vec<String> {
        let json = proxy.routes.json();
        let routes = json["routes"].as_array().unwrap().iter().filter(|route| route["requests"] != 0);
        routes.map(|route| route["route"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_request_goes_to_the_stack_of_the_rule_that_matches() {
        paused(async {
            for (path, rule) in [("/a", "rule of /a"), ("/b/c", "rule of /b")] {
                let (proxy, answer) = answered(&["/a", "/b"], path).await;
                assert_eq!((reason(&answer), counted(&proxy)), ("no_endpoints", vec![rule.to_owned()]), "{path}");
            }
            let (proxy, answer) = answered(&[], "/c").await;
            assert_eq!(
                (reason(&answer), counted(&proxy).len()),
                ("no_endpoints", 1),
                "without rules all are the Service's"
            );
        });
    }

    #[test]
    fn a_request_that_no_rule_matches_is_answered_and_counted_under_no_route() {
        paused(async {
            let (proxy, answer) = answered(&["/a", "/b"], "/ab").await;
            assert_eq!((answer.status().as_u16(), reason(&answer)), (404, "no_route"));
            assert!(counted(&proxy).is_empty());
        });
    }
}
