//! Counts a request from here to the last byte of its answer, and turns what failed inside into an answer.
//!
//! Stands outermost in a branch, and into the pod behind [`Judge`](super::Judge) alone: whatever the layers inside decide, the request has exactly one record, under the name that it
//! came with (filters rewrite paths) and with the reason that its client reads. Gives the inner service the counters, for what
//! is counted on the way (retries).

use super::{After, Outcome, Within, always_ready};
use crate::{
    backend::Pool,
    http::{
        body::response::ResponseBody,
        exchange::Exchange,
        request::{
            Answered, Arrived, Counted, Entering, Failed, Fate, Ingoing, Inward, Judged, Outgoing, Outward, Refused,
            Restored, Routed,
        },
        respond,
        stall::Overloaded,
        visit::Visit,
    },
    telemetry::{Counters, Reason},
};
use http::Response;
use std::{convert::Infallible, rc::Rc};
use tower::{Layer, Service};

/// Makes [`Signals`]: [`OfRule`] out of the pod, [`OfPort`] into it.
#[derive(Debug, Clone)]
pub(crate) struct SignalsLayer<C>(C);

/// The counters of one backend of one rule.
#[derive(Debug, Clone)]
pub(crate) struct OfRule {
    counters: Rc<Counters>,
    /// Index of the rule, whose label the counters have; `None` where no rule speaks for the request.
    rule: Option<usize>,
    /// Who answers.
    pool: Rc<Pool>,
}

/// The counters of the port that a peer visits.
#[derive(Debug, Clone)]
pub(crate) struct OfPort(Rc<Visit>);

impl SignalsLayer<OfRule> {
    /// Counts under the rule's label, or under what the request asks for where it has none.
    pub(crate) fn of(counters: &Rc<Counters>, rule: Option<usize>, pool: &Rc<Pool>) -> Self {
        Self(OfRule { counters: counters.clone(), rule, pool: pool.clone() })
    }
}

impl SignalsLayer<OfPort> {
    /// Counts at the port of `visit`, what was refused in a series of its own.
    pub(crate) fn of_port(visit: &Rc<Visit>) -> Self {
        Self(OfPort(visit.clone()))
    }
}

impl<C: Clone, S> Layer<S> for SignalsLayer<C> {
    type Service = Signals<C, S>;

    fn layer(&self, inner: S) -> Signals<C, S> {
        Signals { inner, of: self.0.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Signals<C, S> {
    inner: S,
    of: C,
}

impl<B, S> Service<Routed<B>> for Signals<OfRule, S>
where
    S: Service<Outgoing<B>, Response = Box<Answered>, Error = Failed>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Within<S::Future, Exchange, Result<Self::Response, Infallible>>;

    always_ready!();

    fn call(&mut self, Routed { arrived, prefix }: Routed<B>) -> Self::Future {
        let OfRule { counters, rule, pool } = &self.of;
        let (peer, tls) = pool.peers();
        let begun = counters.request(*rule, &arrived.request, arrived.proto(), (&peer, tls), arrived.started);
        let (record, exchange) = (begun.record().clone(), Exchange::of(begun, arrived.grpc));
        let Arrived { request, started, grpc, authority, client } = arrived;
        let of = Outward { prefix };
        let outgoing = Counted { request, authority, started, grpc, client, record, offer: None, of };
        Within::inner(self.inner.call(outgoing), exchange)
    }
}

impl<B, S> Service<Judged<B>> for Signals<OfPort, S>
where
    S: Service<Ingoing<B>, Response = Box<Answered>, Error = Failed>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Within<S::Future, Exchange, Result<Self::Response, Infallible>>;

    always_ready!();

    fn call(&mut self, judged: Judged<B>) -> Self::Future {
        let OfPort(visit) = &self.of;
        let signals = &visit.port.signals;
        let (permit, Entering { restored, authority }) = match judged {
            Ok(permitted) => permitted.open(),
            Err(Refused { restored, why }) => {
                let (proto, grpc) = (restored.proto(), restored.grpc);
                let peer = (&*visit.peer_name, visit.tls);
                let begun = signals.denied(Some(&restored.request), proto, peer, restored.started);
                return Within::early(Exchange::of(begun, grpc).after(Err(why)));
            }
        };
        let proto = restored.proto();
        let Restored { request, started, grpc, client, way } = restored;
        let begun = signals.request(None, &request, proto, (&visit.peer_name, visit.tls), started);
        let (record, exchange) = (begun.record().clone(), Exchange::of(begun, grpc));
        let of = Inward { way, permit };
        let ingoing = Counted { request, authority, started, grpc, client, record, offer: None, of };
        Within::inner(self.inner.call(ingoing), exchange)
    }
}

/// Dropped before its end, a request counts as cancelled by the client.
impl After for Exchange {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn after(mut self, outcome: Outcome) -> Self::Output {
        Ok(match outcome {
            Ok(answered) => pass_on(*answered, self),
            Err(failed) => {
                self.fail(failed.blame());
                let mut answer = respond::failure(failed.reason, self.is_grpc(), &failed.detail);
                if failed.unprocessed {
                    answer.extensions_mut().insert(respond::Unprocessed);
                }
                if let Some(says) = &failed.says {
                    respond::say(&mut answer, says, self.is_grpc());
                }
                answer
            }
        })
    }
}

/// The answer as the client gets it, counted to its end.
fn pass_on(answered: Answered, mut exchange: Exchange) -> Response<ResponseBody> {
    let Answered { mut response, origin, until, charge, tunnel } = answered;
    if let Some(Fate::Undelivered(Reason::Draining | Reason::RefusedStream)) =
        origin.as_ref().and_then(|origin| origin.fate)
    {
        response.extensions_mut().insert(respond::Unprocessed);
    }
    let (parts, body) = response.into_parts();
    if let Some(charge) = charge {
        exchange.hold(charge);
    }
    let (in_flight, lease, permit, told) = match origin {
        Some(origin) => (origin.in_flight, origin.lease, Some(origin.permit), origin.told),
        None => (None, None, None, None),
    };
    exchange.told(told);
    if let (Some(tunnel), Some(permit)) = (tunnel, permit) {
        return tunnel.relay(Response::from_parts(parts, ()), permit, exchange, in_flight);
    }
    exchange.head(parts.status, in_flight, lease);
    if http_body::Body::is_end_stream(&body) {
        exchange.ended(Some(&parts.headers));
        return Response::from_parts(parts, ResponseBody::Empty);
    }
    let grpc = exchange.is_grpc();
    match ResponseBody::upstream(body, exchange, until) {
        Ok(body) => Response::from_parts(parts, body),
        Err(Overloaded) => respond::failure(Reason::Overloaded, grpc, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, Visited, World, address, arrived, failed, open_port, real},
        *,
    };
    use crate::http::{
        Wire,
        body::request::RequestBody,
        request::{ClientConnection, Way},
    };
    use http::Request;
    use http_body_util::BodyExt;
    use tokio::time::Instant;

    fn asked() -> Routed<RequestBody> {
        let request = Request::get("http://api.shop/items/7").body(RequestBody::Empty).unwrap();
        Routed { arrived: arrived(Wire::Http1, request), prefix: 0 }
    }

    fn layer(world: &World) -> SignalsLayer<OfRule> {
        SignalsLayer::of(&world.counters, None, &world.pool)
    }

    #[test]
    fn a_request_has_one_record_whatever_becomes_of_it() {
        real(async {
            for (status, success, failures) in [(200, 1, "{}"), (404, 1, "{}"), (503, 0, r#"{"status_5xx":1}"#)] {
                let world = Rc::new(World::new(&[address(1)]));
                let answers = world.clone();
                let Ok(answer) =
                    layer(&world).layer(Inner::ready(move |_| answers.answer(status, None))).call(asked()).await;
                assert_eq!(answer.status(), status);
                assert_eq!((world.counted("requests"), world.counted("success")), (1, success), "{status}");
                assert_eq!(world.failures(), failures);
            }
            let world = World::new(&[]);
            let Ok(answer) = layer(&world).layer(Inner::ready(|_| failed(Reason::QueueFull))).call(asked()).await;
            assert_eq!(answer.headers()["x-remora-error"], "queue_full");
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "remora: queue_full\n");
            assert_eq!((world.counted("requests"), world.failures().as_str()), (1, r#"{"queue_full":1}"#));
        });
    }

    #[test]
    fn what_is_refused_at_the_port_has_one_record_too_in_one_series_of_all() {
        real(async {
            let visited = Visited::new(open_port(), false, address(1));
            let inner = Inner::<Ingoing<RequestBody>>::silent();
            let mut service = SignalsLayer::of_port(&visited.visit).layer(inner.clone());
            for _ in 0..2 {
                let why = Failed::refused(Reason::Denied, "because");
                let request = Request::get("/a").body(RequestBody::Empty).unwrap();
                let (started, client) = (Instant::now(), ClientConnection::of_application(Wire::Http1, true));
                let way = Way::Same { caller: 0 };
                let restored = Box::new(Restored { request, started, grpc: false, client, way });
                let refused = Refused { restored, why };
                let Ok(answer) = service.call(Err(refused)).await;
                assert_eq!(
                    (answer.status().as_u16(), &answer.headers()["x-remora-error"]),
                    (403, &"denied".parse().unwrap())
                );
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "remora: denied: because\n");
            }
            let json = visited.routes.json();
            let routes = json["routes"].as_array().unwrap();
            assert_eq!((inner.asked(), routes.len()), (0, 1), "{json}");
            assert_eq!((&routes[0]["requests"], &routes[0]["failures"]["denied"]), (&2.into(), &2.into()), "{json}");
        });
    }

    #[test]
    fn a_request_that_its_client_gave_up_is_cancelled_and_failed_nobody() {
        real(async {
            let world = World::new(&[]);
            drop(layer(&world).layer(Inner::silent()).call(asked()));
            let counts = ["requests", "cancelled", "success"].map(|name| world.counted(name));
            assert_eq!((counts, world.failures().as_str()), ([1, 1, 0], "{}"));
        });
    }

    #[test]
    fn a_request_is_counted_under_the_path_that_it_came_with() {
        real(async {
            let world = World::new(&[]);
            let inner = Inner::<Outgoing<RequestBody>>::ready(|_| failed(Reason::NoEndpoints));
            let Ok(_) = layer(&world).layer(inner.clone()).call(asked()).await;
            assert_eq!(world.routes.json()["routes"][0]["route"], "GET /items/:id");
            assert_eq!(inner.seen.borrow()[0].request.uri(), "http://api.shop/items/7");
        });
    }
}
