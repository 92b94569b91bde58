//! Refuses a request that is over a rate limit of its port, with the time after which it may be sent again.
//!
//! Stands inside [`Signals`](super::Signals), which counts and answers what is refused, and outside of all that holds something for a request: one
//! that is over its limit costs no memory and never meets the application. Who calls is known: [`Judge`](super::Judge) has let it in.

use super::{Outcome, always_ready};
use crate::{
    backend::endpoint::Says,
    http::{
        request::{Answered, Failed, Ingoing},
        visit::Visit,
    },
    policy,
    telemetry::Reason,
    traffic::{Asked, Known, Limited},
};
use futures_util::future::Either;
use std::{
    future::{Ready, ready},
    rc::Rc,
};
use tower::{Layer, Service};

/// Makes [`Limit`] of one visit.
#[derive(Debug, Clone)]
pub(crate) struct LimitLayer {
    visit: Rc<Visit>,
}

impl LimitLayer {
    /// Requests are the peer's of `visit`.
    pub(crate) fn at(visit: &Rc<Visit>) -> Self {
        Self { visit: visit.clone() }
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Limit<S> {
        Limit { inner, visit: self.visit.clone(), known: Known::default() }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Limit<S> {
    inner: S,
    visit: Rc<Visit>,
    known: Known,
}

impl<S> Limit<S> {
    /// Kept out of the way of requests where nothing is limited.
    #[inline(never)]
    fn within<B>(&mut self, ingoing: &Ingoing<B>) -> Result<(), Limited> {
        let Some(traffic) = self.visit.port.traffic.get() else { return Ok(()) };
        let (request, peer) = (&ingoing.request, &self.visit.peer);
        let (method, path) = (request.method(), request.uri().path());
        let asked = Asked::new(method, path, request.headers(), peer.identity.as_ref());
        let outcome = traffic.request(&mut self.known, peer, &asked, ingoing.started);
        if let Err(limited) = &outcome {
            remora_runtime::limited!(info by Reason::RateLimited.as_str(), peer = %self.visit.peer_name, address = %peer.address,
                parent = %self.visit.port.inbound().parent, method = policy::logged(method.as_str()), path = policy::logged(path),
                rule = %limited.rule, reason = Reason::RateLimited.as_str(), "request over its rate limit");
        }
        outcome
    }
}

impl<B, S> Service<Ingoing<B>> for Limit<S>
where
    S: Service<Ingoing<B>, Response = Box<Answered>, Error = Failed>,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Either<S::Future, Ready<Outcome>>;

    always_ready!();

    fn call(&mut self, ingoing: Ingoing<B>) -> Self::Future {
        if !self.visit.port.traffic.is_none()
            && let Err(limited) = self.within(&ingoing)
        {
            return Either::Right(ready(Err(refused(&limited))));
        }
        Either::Left(self.inner.call(ingoing))
    }
}

/// The client is told when, and nothing of the rule.
fn refused(limited: &Limited) -> Failed {
    let says = Says { after: Some(limited.wait), busy: limited.of_all, ..Says::default() };
    Failed { says: Some(Box::new(says)), ..Failed::new(Reason::RateLimited) }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            SignalsLayer,
            test::{Inner, Visited, address, failed, open_port, paused, real, told},
        },
        *,
    };
    use crate::http::{
        Wire,
        body::request::RequestBody,
        request::{Entering, Restored, Way},
    };
    use http::{Request, header::RETRY_AFTER};
    use remora_model::{Amount, By, Inbound, Rate, RateLimit, RequestMatch, Traffic};
    use std::time::Duration;

    /// One request each ten seconds, and two at once.
    fn limited(by: By) -> Inbound {
        let limit = RateLimit {
            name: "shop/limits limit 0".into(),
            only: RequestMatch::default(),
            by,
            of: Amount::Requests,
            rate: Rate { count: 6, interval: Duration::from_secs(60), burst: 2 },
            overrides: Vec::new(),
            dry_run: false,
        };
        Inbound { traffic: Traffic { limits: vec![limit], faults: Vec::new() }, ..open_port() }
    }

    fn ingoing(visited: &Visited) -> Ingoing {
        visited.ingoing(Wire::Http2, true, Way::Same { caller: 0 }, Request::get("http://api/a"))
    }

    #[test]
    fn a_request_over_its_limit_meets_nothing_inside_until_its_time_has_come() {
        paused(async {
            let visited = Visited::new(limited(By::Identity), true, address(1));
            let inner = Inner::<Ingoing>::ready(|_| failed(Reason::NoEndpoints));
            let mut service = LimitLayer::at(&visited.visit).layer(inner.clone());
            for _ in 0..2 {
                assert_eq!(told(&service.call(ingoing(&visited)).await), "no_endpoints");
            }
            let refused = service.call(ingoing(&visited)).await;
            assert_eq!((told(&refused), inner.asked()), ("rate_limited".into(), 2));
            let says = refused.unwrap_err().says.unwrap();
            assert!(says.busy && says.after.is_some_and(|after| after <= Duration::from_secs(10)), "{says:?}");
            tokio::time::advance(Duration::from_secs(10)).await;
            assert_eq!(told(&service.call(ingoing(&visited)).await), "no_endpoints");
            assert_eq!(told(&service.call(ingoing(&visited)).await), "rate_limited");
        });
    }

    #[test]
    fn what_discovery_says_later_holds_for_connections_that_are_open() {
        real(async {
            let visited = Visited::new(open_port(), true, address(1));
            let inner = Inner::<Ingoing>::ready(|_| failed(Reason::NoEndpoints));
            let mut service = LimitLayer::at(&visited.visit).layer(inner.clone());
            let mut five = async || {
                let before = inner.asked();
                for _ in 0..5 {
                    drop(service.call(ingoing(&visited)).await);
                }
                inner.asked() - before
            };
            assert_eq!(five().await, 5);
            visited.visit.port.says(limited(By::Target));
            assert_eq!(five().await, 2);
            visited.visit.port.says(open_port());
            assert_eq!(five().await, 5);
        });
    }

    #[test]
    fn a_refusal_is_an_answer_that_says_when_and_counts_as_the_callers_doing() {
        real(async {
            for grpc in [false, true] {
                let visited = Visited::new(limited(By::Target), true, address(1));
                let inner = Inner::<Ingoing<RequestBody>>::ready(|_| failed(Reason::NoEndpoints));
                let limit = LimitLayer::at(&visited.visit).layer(inner);
                let mut service = SignalsLayer::of_port(&visited.visit).layer(limit);
                let mut last = None;
                for _ in 0..3 {
                    let Ingoing { request, started, client, authority, of, .. } = ingoing(&visited);
                    let restored = Restored { request, started, grpc, client, way: of.way };
                    let permitted = policy::Permitted::of(of.permit, Entering { restored, authority });
                    let Ok(answer) = service.call(Ok(permitted)).await;
                    last = Some(answer);
                }
                let answer = last.unwrap();
                let said = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap());
                assert_eq!(said("x-remora-error"), "rate_limited");
                let told = [said(RETRY_AFTER.as_str()), said("grpc-status")];
                match grpc {
                    false => assert_eq!((answer.status().as_u16(), told), (429, ["10", ""])),
                    true => assert_eq!((answer.status().as_u16(), told), (200, ["", "8"])),
                }
                let millis: u64 = said("grpc-retry-pushback-ms").parse().unwrap_or(10_000);
                assert!((9_000..=10_000).contains(&millis), "{millis}");
                let json = visited.routes.json();
                assert_eq!(json["routes"][0]["failures"]["rate_limited"], 1, "{json}");
            }
        });
    }
}
