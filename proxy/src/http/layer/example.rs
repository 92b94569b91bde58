//! The worked example of `docs/add-a-layer.md`, which quotes what stands between the two markers; `tests/tests/tidy/quoted.rs` compares
//! them. It is compiled with the tests only: no stack has this layer.

// docs/add-a-layer.md: begin
use super::{After, Outcome, Within, always_ready};
use crate::http::request::{Answered, Failed, Outgoing};
use http::HeaderValue;
use tokio::time::Instant;
use tower::{Layer, Service};

/// Makes [`ServerTiming`]. A layer with settings keeps them here: it is made once per plan, not per request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerTimingLayer;

impl<S> Layer<S> for ServerTimingLayer {
    type Service = ServerTiming<S>;

    fn layer(&self, inner: S) -> ServerTiming<S> {
        ServerTiming { inner }
    }
}

/// Adds the field `server-timing` (W3C Server Timing) to a response: the milliseconds from the request to the response's head.
#[derive(Debug, Clone)]
pub(crate) struct ServerTiming<S> {
    inner: S,
}

impl<B, S> Service<Outgoing<B>> for ServerTiming<S>
where
    S: Service<Outgoing<B>, Response = Box<Answered>, Error = Failed>,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Within<S::Future, Timed, Outcome>;

    always_ready!();

    fn call(&mut self, outgoing: Outgoing<B>) -> Self::Future {
        let timed = Timed { started: outgoing.started };
        Within::inner(self.inner.call(outgoing), timed)
    }
}

/// What the layer keeps while the inner service has the request.
#[derive(Debug)]
pub(crate) struct Timed {
    started: Instant,
}

impl After for Timed {
    type Output = Outcome;

    fn after(self, outcome: Outcome) -> Outcome {
        let mut answered = outcome?;
        let value = format!("mesh;dur={}", self.started.elapsed().as_millis());
        if let Ok(value) = HeaderValue::try_from(value) {
            answered.response.headers_mut().append("server-timing", value);
        }
        Ok(answered)
    }
}
// docs/add-a-layer.md: end

#[cfg(test)]
mod tests {
    // docs/add-a-layer.md: begin
    use super::{
        super::test::{Inner, World, address, failed, real, told},
        *,
    };
    use crate::{http::Wire, telemetry::Reason};
    use http::Request;
    use std::{rc::Rc, time::Duration};

    #[test]
    fn a_response_says_how_long_it_took_and_a_failure_stays_as_it_is() {
        real(async {
            let world = Rc::new(World::new(&[address(1)]));
            let answers = world.clone();
            let inner = Inner::ready(move |number| match number {
                0 => answers.answer(200, None),
                _ => failed(Reason::ConnectRefused),
            });
            let mut service = ServerTimingLayer.layer(inner);
            let asked = || {
                let started = Instant::now() - Duration::from_secs(2);
                Outgoing { started, ..world.outgoing(Wire::Http1, Request::get("/")) }
            };
            let answered = service.call(asked()).await.unwrap();
            let timing = answered.response.headers()["server-timing"].to_str().unwrap();
            assert!(timing.starts_with("mesh;dur=2"), "{timing}");
            assert_eq!(told(&service.call(asked()).await), "connect_refused");
        });
    }
    // docs/add-a-layer.md: end
}
