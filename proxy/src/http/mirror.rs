//! Copies of requests whose answers nobody sees (Gateway API: HTTPRequestMirrorFilter).
//!
//! A copy is sent once the request itself has its answer, with the body that was kept for retries; a body that is larger
//! than that, or still coming, is not mirrored and counted as skipped. What becomes of a copy is no concern of the
//! caller, nor of its signals: it has no retry, and its endpoint's health is judged by what it does for real requests.

use super::{
    body::{replay::Replayable, request::RequestBody},
    governed::Governed,
    headers,
};
use crate::{
    backend::{Pool, endpoint::Upstream},
    limits,
    policy::{self, To},
    world::World,
};
use http::{Request, request::Parts};
use http_body_util::BodyExt;
use remora_model::Filter;
use std::{rc::Rc, time::Instant};

/// The backends that get a copy of this request. Empty, without an allocation, for nearly all.
pub(super) fn pools(governed: &Governed, rng: &mut fastrand::Rng) -> Vec<Rc<Pool>> {
    let mut pools = Vec::new();
    for filter in governed.filters() {
        if let Filter::Mirror { backend, numerator, denominator } = filter
            && rng.u32(..(*denominator).max(1)) < *numerator
        {
            pools.extend(governed.plan.pool(backend).cloned());
        }
    }
    pools
}

/// Sends the copies, in tasks of the worker.
pub(super) fn send(world: &Rc<World>, pools: Vec<Rc<Pool>>, head: &Parts, body: Option<&Replayable>) {
    for pool in pools {
        let whole = body.is_none_or(Replayable::is_complete);
        let Some(entered) = pool.enter().filter(|_| whole) else {
            metrics::counter!("remora_mirror_skipped_total").increment(1);
            continue;
        };
        let Ok((upstream, in_flight)) = pool.pick(Instant::now(), &mut world.resources.rng.borrow_mut(), &[]) else {
            metrics::counter!("remora_mirror_skipped_total").increment(1);
            continue;
        };
        let request =
            Request::from_parts(head.clone(), body.map_or(RequestBody::Empty, |body| RequestBody::Replay(body.body())));
        let copy = one(upstream, pool, request);
        world.resources.tasks.spawn(async move {
            // Dropped unrecorded: a copy says nothing about its endpoint.
            let _held = (entered, in_flight);
            copy.await;
        });
    }
}

async fn one(upstream: Rc<Upstream>, pool: Rc<Pool>, mut request: Request<RequestBody>) {
    let permit = policy::outbound(To::Endpoint(&upstream.endpoint));
    let as_http1 = headers::fit(&mut request, upstream.endpoint.identity.is_some(), pool.protocol());
    let exchange = async {
        let sent = match as_http1 {
            true => upstream.send_http1(&permit, Instant::now(), request).await,
            false => upstream.send_http2(&permit, None, request).await,
        };
        if let Ok(answer) = sent {
            let mut body = answer.response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        }
    };
    if tokio::time::timeout(limits::MIRROR_TIMEOUT, exchange).await.is_err() {
        tracing::debug!(backend = %pool.id, "a mirrored request took too long");
    }
}
