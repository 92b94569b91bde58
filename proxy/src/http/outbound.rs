//! The life of a request on its way out, up to its first try: read what it asks for, find the rule that governs it,
//! change it as the rule says. [`Call`] then tries endpoints.
//!
//! All of that is plain code without a wait, in front of a future that is as small as can be: what it holds is copied
//! with every request.

use super::{
    Wire,
    body::{request::RequestBody, response::ResponseBody},
    destination::Destination,
    exchange::Exchange,
    filter,
    governed::Governed,
    grpc,
    headers::{self, LastHost},
    mirror, respond,
    share::Share,
    tries::Call,
    upgrade::{self, Leaving},
};
use crate::{
    discover::{Plan, Refusal},
    limits,
    telemetry::{Direction, Proto, Reason, Tls},
    world::World,
};
use http::{HeaderValue, Method, Request, Response, header, uri::Authority};
use hyper::body::Incoming;
use std::{pin::Pin, rc::Rc, time::Instant};

/// What becomes of a request once it was looked at.
enum Step {
    /// It is tried. Boxed, since it is handed on several times before it comes to rest.
    Call(Box<Call>),
    /// Anything rarer: an answer of our own, an upgrade, a wait for discovery.
    Other(Pin<Box<dyn Future<Output = Response<ResponseBody>>>>),
}

impl From<Response<ResponseBody>> for Step {
    fn from(response: Response<ResponseBody>) -> Self {
        Self::Other(Box::pin(std::future::ready(response)))
    }
}

impl Step {
    async fn finish(&mut self) -> Response<ResponseBody> {
        match self {
            Self::Call(call) => call.run().await,
            Self::Other(other) => other.await,
        }
    }
}

/// Answers one request. Never fails: what goes wrong becomes an answer that says so.
pub(crate) fn handle(
    world: Rc<World>,
    destination: Rc<Destination>,
    wire: Wire,
    request: Request<Incoming>,
) -> impl Future<Output = Response<ResponseBody>> + 'static {
    let mut step = match Arrival::read(world, &destination.host, wire, request) {
        Err(answer) => (*answer).into(),
        Ok(arrival) => match destination.known(arrival.authority.as_ref()) {
            Some(plan) => arrival.direct(&plan, &destination, destination.fixed.is_some()),
            None => Step::Other(Box::pin(async move {
                match destination.discover(&arrival.world, arrival.authority.as_ref()).await {
                    Ok(plan) => arrival.direct(&plan, &destination, destination.fixed.is_some()).finish().await,
                    Err(refusal) => arrival.unserved(&destination, &refusal),
                }
            })),
        },
    };
    async move { step.finish().await }
}

/// A request that passed the checks which need no route.
struct Arrival {
    world: Rc<World>,
    wire: Wire,
    grpc: bool,
    started: Instant,
    authority: Option<Authority>,
    request: Request<Incoming>,
}

impl Arrival {
    fn read(
        world: Rc<World>,
        last: &LastHost,
        wire: Wire,
        mut request: Request<Incoming>,
    ) -> Result<Self, Box<Response<ResponseBody>>> {
        let started = Instant::now();
        let grpc = grpc::is_grpc(request.headers());
        if wire == Wire::Http2 && !headers::within_bounds(request.headers()) {
            return Err(Box::new(respond::refusal(Direction::Outbound, Reason::HeaderTooLarge, grpc, "")));
        }
        let authority = headers::authority(&request, last).map_err(|reason| {
            Box::new(respond::refusal(Direction::Outbound, reason, grpc, "the request names no single authority"))
        })?;
        headers::strip_reserved(request.headers_mut());
        Ok(Self { world, wire, grpc, started, authority, request })
    }

    fn refuse(&self, reason: Reason, detail: &str) -> Response<ResponseBody> {
        respond::refusal(Direction::Outbound, reason, self.grpc, detail)
    }

    /// Answers a request whose target cannot be reached for now. A connection that was made to that target ends with it, so
    /// that the client's next one may find another answer.
    fn unserved(&self, destination: &Destination, refusal: &Refusal) -> Response<ResponseBody> {
        let Refusal { reason, detail } = refusal;
        remora_runtime::limited!(warn by reason.as_str(), reason = reason.as_str(), %detail, "request refused");
        let mut answer = self.refuse(*reason, detail);
        if destination.fixed.is_some() || destination.refusal.is_some() {
            destination.ended.notify_one();
            if self.wire == Wire::Http1 {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
        }
        answer
    }

    /// Finds the rule that governs the request and applies it.
    fn direct(mut self, plan: &Rc<Plan>, destination: &Rc<Destination>, fixed: bool) -> Step {
        if self.request.method() == Method::CONNECT && !fixed {
            return Step::Other(Box::pin(upgrade::tunnel(self.world, plan.clone(), self.request)));
        }
        let parent = &plan.parent;
        let head = &self.request;
        let (rule, prefix) = match crate::route::select(&plan.outbound, head.method(), head.uri(), head.headers()) {
            Some(selected) => (Some(selected.index), selected.prefix),
            None if plan.outbound.rules.is_empty() => (None, ""),
            None => return self.refuse(Reason::NoRoute, "no route of this Service matches").into(),
        };
        let branch = rule.and_then(|rule| Some((rule, plan.draw(rule, &mut self.world.resources.rng.borrow_mut())?)));
        let pool = match (rule, branch) {
            (None, _) => Some(parent),
            (Some(_), None) => None,
            (Some(_), Some((rule, branch))) => plan.branch(rule, branch).and_then(|branch| branch.pool.as_ref()),
        };
        let peer = pool.unwrap_or(parent).identity();
        let tls = if peer.is_empty() { Tls::Plain } else { Tls::Mtls };
        let stats = plan.signals.request(rule, &self.request, self.proto(), &peer, tls, self.started);
        let mut exchange = Exchange::begin(stats, self.started, self.grpc);
        let governed = Governed { plan: plan.clone(), rule, branch: branch.map(|(_, branch)| branch) };
        if let Some(answer) = governed.filters().find_map(|filter| filter::redirect(filter, prefix, &self.request)) {
            exchange.ended(None);
            return answer.into();
        }
        let Some(pool) = pool.cloned() else {
            exchange.fail(Reason::InvalidBackend);
            let text = "the route names a backend that is not there";
            return respond::failure(Reason::InvalidBackend, self.grpc, text).into();
        };
        for filter in governed.filters() {
            filter::request(filter, prefix, &mut self.request);
        }
        let leaving = Leaving::take(&mut self.request);
        let mirrors = match leaving {
            None => mirror::pools(&governed, &mut self.world.resources.rng.borrow_mut()),
            // What may become bytes has no copy.
            Some(_) => Vec::new(),
        };
        let window = match self.wire {
            Wire::Http1 => limits::HTTP1_BUFFER_BYTES,
            Wire::Http2 => Share::client(true).window as usize,
        };
        let (parts, body) = self.request.into_parts();
        let body = RequestBody::new(body, &self.world.resources.pod, window);
        let (Some(charge), Ok(body)) = (self.world.resources.pod.charge(limits::REQUEST_OUT_BYTES), body) else {
            exchange.fail(Reason::Overloaded);
            let text = "the application has as many requests under way as there is memory for";
            remora_runtime::limited!(warn, parent = %plan.parent.id, reason = Reason::Overloaded.as_str(), text, "request refused");
            return respond::failure(Reason::Overloaded, self.grpc, text).into();
        };
        exchange.hold(charge);
        let request = Request::from_parts(parts, body);
        let client = (destination.clone(), self.wire);
        let mut call = Box::new(Call::new(self.world, client, governed, pool, mirrors, leaving, exchange));
        match call.prepare(request, self.authority.as_ref()) {
            Ok(()) => Step::Call(call),
            Err(answer) => (*answer).into(),
        }
    }

    fn proto(&self) -> Proto {
        match (self.grpc, self.wire) {
            (true, _) => Proto::Grpc,
            (false, Wire::Http1) => Proto::Http1,
            (false, Wire::Http2) => Proto::Http2,
        }
    }
}
