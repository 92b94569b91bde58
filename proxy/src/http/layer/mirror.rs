//! Sends copies of requests, and drops their responses (Gateway API: HTTPRequestMirrorFilter).
//!
//! Stands outside of [`Deadline`](super::Deadline) and [`Retry`](super::Retry): a copy is sent once, when the request itself has its
//! answer, with the body that was kept; a body that is larger than what is kept, or still coming, is not mirrored and counted
//! as skipped. What becomes of a copy is no concern of the caller, nor of its signals: it has no retry, and its endpoint's health is
//! judged by what it does for real requests.

use super::{After, Outcome, Within, always_ready};
use crate::{
    backend::{Pool, endpoint::Upstream},
    http::{
        body::{kept::Kept, request::RequestBody},
        form,
        request::{Answered, Failed, Outgoing},
    },
    limits,
    policy::{Permitted, To},
    resources::Resources,
};
use http::Request;
use http_body_util::BodyExt;
use remora_model::{BackendId, Filter};
use std::{collections::HashMap, rc::Rc};
use tokio::time::Instant;
use tower::{Layer, Service};

/// A backend that gets copies of a share of the requests.
#[derive(Debug, Clone)]
pub(crate) struct MirrorTarget {
    pool: Rc<Pool>,
    numerator: u32,
    denominator: u32,
}

impl MirrorTarget {
    /// Whom a filter sends copies to, if it does, and there is such a backend.
    pub(crate) fn of(filter: &Filter, pools: &HashMap<BackendId, Rc<Pool>>) -> Option<Self> {
        let Filter::Mirror { backend, numerator, denominator } = filter else { return None };
        let pool = pools.get(backend)?.clone();
        Some(Self { pool, numerator: *numerator, denominator: *denominator })
    }
}

/// Makes [`Mirror`] of one backend of one rule.
#[derive(Debug, Clone)]
pub(crate) struct MirrorLayer {
    targets: Rc<[MirrorTarget]>,
    resources: Rc<Resources>,
}

impl MirrorLayer {
    /// Copies go to `targets`.
    pub(crate) fn to(targets: Vec<MirrorTarget>, resources: &Rc<Resources>) -> Self {
        Self { targets: targets.into(), resources: resources.clone() }
    }

    /// Who gets a copy of this request. Empty, without an allocation, for nearly all.
    fn draw(&self) -> Vec<Rc<Pool>> {
        let mut rng = self.resources.rng.borrow_mut();
        let drawn = self.targets.iter().filter(|target| rng.u32(..target.denominator.max(1)) < target.numerator);
        drawn.map(|target| target.pool.clone()).collect()
    }
}

impl<S> Layer<S> for MirrorLayer {
    type Service = Mirror<S>;

    fn layer(&self, inner: S) -> Mirror<S> {
        Mirror { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Mirror<S> {
    inner: S,
    layer: MirrorLayer,
}

impl<S> Service<Outgoing> for Mirror<S>
where
    S: Service<Outgoing, Response = Box<Answered>, Error = Failed>,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Within<S::Future, Copies, Outcome>;

    always_ready!();

    fn call(&mut self, mut outgoing: Outgoing) -> Self::Future {
        // What may become bytes has no copy.
        let pools = if outgoing.offer.is_some() { Vec::new() } else { self.layer.draw() };
        let copies = if pools.is_empty() {
            None
        } else {
            let kept;
            (kept, outgoing.request) = Kept::of(outgoing.request);
            Some(Box::new(Copied { kept, pools, resources: self.layer.resources.clone() }))
        };
        Within::inner(self.inner.call(outgoing), Copies(copies))
    }
}

/// What is sent when the request has its answer, and to whom.
#[derive(Debug)]
pub(crate) struct Copies(Option<Box<Copied>>);

#[derive(Debug)]
struct Copied {
    kept: Kept,
    pools: Vec<Rc<Pool>>,
    resources: Rc<Resources>,
}

impl After for Copies {
    type Output = Outcome;

    fn after(self, outcome: Outcome) -> Outcome {
        if let Some(copies) = self.0 {
            let Copied { kept, pools, resources } = *copies;
            for pool in pools {
                send(&resources, pool, &kept);
            }
        }
        outcome
    }
}

/// Sends a copy, in a task of the worker.
fn send(resources: &Resources, pool: Rc<Pool>, kept: &Kept) {
    let picked = pool.enter().filter(|_| kept.is_complete()).and_then(|entered| {
        let request = kept.request();
        let picked = pool.pick(Instant::now(), &mut resources.rng.borrow_mut(), &[], Some(request.headers())).ok();
        picked.map(|picked| (entered, request, picked))
    });
    let Some((entered, request, (upstream, in_flight))) = picked else {
        return metrics::counter!("remora_mirror_skipped_total").increment(1);
    };
    let copy = Permitted::outbound(To::Backend(&pool.id), request);
    resources.tasks.spawn(async move {
        // Dropped unrecorded: a copy says nothing about its endpoint.
        let _held = (entered, in_flight);
        if tokio::time::timeout(limits::MIRROR_TIMEOUT, one(upstream, &pool, copy)).await.is_err() {
            tracing::debug!(backend = %pool.id, "a mirrored request took too long");
        }
    });
}

async fn one(upstream: Rc<Upstream>, pool: &Pool, copy: Permitted<Request<RequestBody>>) {
    let (permit, mut request) = copy.open();
    let mesh = upstream.endpoint.identity.is_some();
    let sent = match !mesh && form::fit(&mut request, pool.protocol()).1 {
        true => upstream.send_http1(&permit, Instant::now(), request).await,
        false => upstream.send_http2(&permit, None, request).await,
    };
    if let Ok(answer) = sent {
        let mut body = answer.response.into_body();
        while let Some(Ok(_)) = body.frame().await {}
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, World, address, generous, id, real, told},
        *,
    };
    use crate::{http::Wire, telemetry::Reason};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    fn target(pool: &Rc<Pool>, numerator: u32) -> Vec<MirrorTarget> {
        let filter = Filter::Mirror { backend: id(), numerator, denominator: 1 };
        MirrorTarget::of(&filter, &HashMap::from([(id(), pool.clone())])).into_iter().collect()
    }

    #[test]
    fn a_copy_arrives_once_the_request_has_its_answer_and_changes_nothing_of_that() {
        real(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let world = Rc::new(World::new(&[address(1)]));
            let shadow = World::new(&[listener.local_addr().unwrap()]);
            for reason in [None, Some(Reason::Timeout)] {
                let answers = world.clone();
                let inner = Inner::ready(move |_| match reason {
                    None => answers.answer(200, None),
                    Some(reason) => super::super::test::failed(reason),
                });
                let mut service = MirrorLayer::to(target(&shadow.pool, 1), &world.resources).layer(inner);
                let request = Request::get("http://api/a")
                    .version(http::Version::HTTP_2)
                    .header(crate::http::headers::RESTORE, "1.1");
                let outcome = service.call(world.outgoing(Wire::Http1, request)).await;
                assert_eq!(told(&outcome), reason.map_or("200", Reason::as_str));
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut head).await.unwrap() > 0);
                }
                assert_eq!(String::from_utf8(head).unwrap(), "GET /a HTTP/1.1\r\nhost: api\r\n\r\n");
                // What the shadow says is of no consequence.
                stream.write_all(b"HTTP/1.1 500 No\r\nconnection: close\r\n\r\n").await.unwrap();
            }
        });
    }

    #[test]
    fn no_share_is_no_copy_and_nothing_is_kept() {
        real(async {
            let world = World::new(&[]);
            let inner = Inner::<Outgoing>::silent();
            for targets in [Vec::new(), target(&world.pool, 0)] {
                let mut service = MirrorLayer::to(targets, &world.resources).layer(inner.clone());
                let Within::Inner { after, .. } = service.call(world.outgoing(Wire::Http1, Request::get("/"))) else {
                    panic!("it asks the inner service");
                };
                assert!(after.unwrap().0.is_none());
            }
            world.settings(generous(), &[]);
        });
    }
}
