//! Delays and aborts requests on purpose, as FaultPolicies say, so that it can be seen what their callers make of it.
//!
//! Stands inside [`Charge`](super::Charge), so that a request that is delayed is charged to its caller, and before the application. It is the
//! server's proxy that does it: the caller's time-outs, retries and outlier detection meet what they would meet in earnest. What was done
//! is said in `x-remora-fault`, and an abort has a reason of its own.

use super::{Outcome, always_ready};
use crate::{
    backend::endpoint::Says,
    http::{
        headers,
        request::{Answered, Failed, Ingoing},
        visit::Visit,
    },
    resources::Resources,
    telemetry::Reason,
    traffic::{Asked, Happens, fault},
};
use futures_util::future::Either;
use http::{HeaderValue, StatusCode};
use remora_model::AbortWith;
use std::{pin::Pin, rc::Rc};
use tower::{Layer, Service};

/// Makes [`Fault`] of one visit.
#[derive(Debug, Clone)]
pub(crate) struct FaultLayer {
    visit: Rc<Visit>,
    resources: Rc<Resources>,
}

impl FaultLayer {
    /// Requests are the peer's of `visit`; what happens is drawn by the worker's own randomness.
    pub(crate) fn at(visit: &Rc<Visit>, resources: &Rc<Resources>) -> Self {
        Self { visit: visit.clone(), resources: resources.clone() }
    }

    /// Kept out of the way of requests where nothing is to happen.
    #[inline(never)]
    fn drawn(&self, ingoing: &Ingoing) -> Option<Happens> {
        let traffic = self.visit.port.traffic.get().filter(|traffic| !traffic.faults.is_empty())?;
        let (request, peer) = (&ingoing.request, &self.visit.peer);
        let asked = Asked::new(request.method(), request.uri().path(), request.headers(), peer.identity.as_ref());
        let happens = fault::drawn(&traffic.faults, &asked, &mut self.resources.rng.borrow_mut())?;
        remora_runtime::limited!(info, peer = %self.visit.peer_name, parent = %self.visit.port.inbound().parent, rule = %happens.rule,
            delay = ?happens.delay, abort = ?happens.abort, reason = Reason::FaultInjected.as_str(), "fault injected");
        Some(happens)
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = Fault<S>;

    fn layer(&self, inner: S) -> Fault<S> {
        Fault { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Fault<S> {
    inner: S,
    layer: FaultLayer,
}

impl<S> Service<Ingoing> for Fault<S>
where
    S: Service<Ingoing, Response = Box<Answered>, Error = Failed> + Clone + 'static,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Either<S::Future, Pin<Box<dyn Future<Output = Outcome>>>>;

    always_ready!();

    fn call(&mut self, ingoing: Ingoing) -> Self::Future {
        if self.layer.visit.port.traffic.is_none() {
            return Either::Left(self.inner.call(ingoing));
        }
        match self.layer.drawn(&ingoing) {
            None => Either::Left(self.inner.call(ingoing)),
            Some(happens) => Either::Right(Box::pin(happen(happens, self.inner.clone(), ingoing))),
        }
    }
}

async fn happen<S>(happens: Happens, mut inner: S, ingoing: Ingoing) -> Outcome
where
    S: Service<Ingoing, Response = Box<Answered>, Error = Failed>,
{
    if let Some(delay) = happens.delay {
        tokio::time::sleep(delay).await;
    }
    let marked = match (happens.delay, happens.abort) {
        (Some(_), Some(_)) => "delay, abort",
        (None, _) => "abort",
        (Some(_), None) => "delay",
    };
    if let Some(how) = happens.abort {
        return Err(aborted(how, marked));
    }
    let mut answered = inner.call(ingoing).await?;
    answered.response.headers_mut().insert(headers::FAULT, HeaderValue::from_static(marked));
    Ok(answered)
}

fn aborted(how: AbortWith, marked: &'static str) -> Failed {
    let (status, grpc) = match how {
        AbortWith::Status(status) => (Some(status), Some(grpc_of(status))),
        AbortWith::Grpc(code) => (Some(StatusCode::INTERNAL_SERVER_ERROR), Some(code)),
        AbortWith::Reset => (None, None),
    };
    let says = Says { status, grpc, reset: how == AbortWith::Reset, fault: Some(marked), ..Says::default() };
    Failed { says: Some(Box::new(says)), ..Failed::new(Reason::FaultInjected) }
}

/// The gRPC status that a client makes of an HTTP status (gRPC, "HTTP to gRPC Status Code Mapping").
fn grpc_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, Visited, World, address, failed, open_port, paused, told},
        *,
    };
    use crate::http::{Wire, request::Way};
    use http::Request;
    use remora_model::{Fault as Rule, Inbound, RequestMatch, Traffic, traffic::WHOLE};
    use std::time::Duration;
    use tokio::time::Instant;

    fn with(delay: Option<u64>, abort: Option<AbortWith>) -> Inbound {
        let only = RequestMatch { methods: vec![http::Method::GET], ..RequestMatch::default() };
        let delay = delay.map(|millis| (WHOLE, Duration::from_millis(millis)));
        let fault = Rule { name: "shop/f fault 0".into(), only, delay, abort: abort.map(|how| (WHOLE, how)) };
        Inbound { traffic: Traffic { limits: Vec::new(), faults: vec![fault] }, ..open_port() }
    }

    /// What comes of a request, after how many milliseconds, and how often the application was asked.
    async fn asked(inbound: Inbound, method: &str) -> (Outcome, u128, usize) {
        let visited = Visited::new(inbound, true, address(1));
        let world = Rc::new(World::new(&[address(1)]));
        let inner = Inner::<Ingoing>::ready(move |_| world.answer(200, None));
        let mut service = FaultLayer::at(&visited.visit, &visited.resources).layer(inner.clone());
        let request = Request::builder().method(method).uri("http://api/a");
        let began = Instant::now();
        let outcome = service.call(visited.ingoing(Wire::Http2, true, Way::Same { caller: 0 }, request)).await;
        (outcome, began.elapsed().as_millis(), inner.asked())
    }

    #[test]
    fn a_delay_comes_before_the_application_and_is_marked() {
        paused(async {
            let (outcome, took, met) = asked(with(Some(200), None), "GET").await;
            assert_eq!((told(&outcome), took, met), ("200".into(), 200, 1));
            assert_eq!(outcome.unwrap().response.headers()["x-remora-fault"], "delay");
            let (outcome, took, _) = asked(with(Some(200), None), "POST").await;
            assert_eq!((took, outcome.unwrap().response.headers().len()), (0, 0), "another request");
        });
    }

    #[test]
    fn an_abort_never_meets_the_application_and_says_what_was_asked_for() {
        paused(async {
            for (how, status, grpc, reset) in [
                (AbortWith::Status(StatusCode::BAD_GATEWAY), Some(502), Some(14), false),
                (AbortWith::Status(StatusCode::NOT_FOUND), Some(404), Some(12), false),
                (AbortWith::Grpc(4), Some(500), Some(4), false),
                (AbortWith::Reset, None, None, true),
            ] {
                let (outcome, took, met) = asked(with(Some(30), Some(how)), "GET").await;
                assert_eq!((told(&outcome), took, met), ("fault_injected".into(), 30, 0), "{how:?}");
                let says = *outcome.unwrap_err().says.unwrap();
                assert_eq!((says.status.map(|it| it.as_u16()), says.grpc, says.reset), (status, grpc, reset));
                assert_eq!(says.fault, Some("delay, abort"));
            }
        });
    }

    #[test]
    fn a_failure_of_the_application_stays_what_it_is() {
        paused(async {
            let visited = Visited::new(with(Some(10), None), true, address(1));
            let inner = Inner::<Ingoing>::ready(|_| failed(Reason::ConnectRefused));
            let mut service = FaultLayer::at(&visited.visit, &visited.resources).layer(inner);
            let request = visited.ingoing(Wire::Http2, true, Way::Same { caller: 0 }, Request::get("http://api/"));
            assert_eq!(told(&service.call(request).await), "connect_refused");
        });
    }
}
