//! Asks policy whether a request may come in: as who its peer is, at this port, for its method and path. Refuses before that what
//! two readers could read in two ways: more than one authority, or a head beyond the bounds.
//!
//! Stands outside of [`Signals`](super::Signals): what is refused must not use up the room for the signals of what is let in, and
//! goes on as a refusal, to be counted and answered there. Inside, nothing but what was permitted goes anywhere.

use super::always_ready;
use crate::{
    http::{
        Wire,
        headers::{self, LastHost},
        request::{Entering, Failed, Judged, Refused, Restored},
        visit::Visit,
    },
    policy::{self, Act, Denial, Permitted},
    telemetry::Reason,
};
use std::rc::Rc;
use tower::{Layer, Service};

/// Makes [`Judge`] of one visit.
#[derive(Debug, Clone)]
pub(crate) struct JudgeLayer {
    visit: Rc<Visit>,
}

impl JudgeLayer {
    /// Requests are the peer's of `visit`.
    pub(crate) fn at(visit: &Rc<Visit>) -> Self {
        Self { visit: visit.clone() }
    }
}

impl<S> Layer<S> for JudgeLayer {
    type Service = Judge<S>;

    fn layer(&self, inner: S) -> Judge<S> {
        Judge { inner, visit: self.visit.clone(), host: LastHost::default() }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Judge<S> {
    inner: S,
    visit: Rc<Visit>,
    host: LastHost,
}

impl<B, S> Service<Restored<B>> for Judge<S>
where
    S: Service<Judged<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    always_ready!();

    fn call(&mut self, restored: Restored<B>) -> S::Future {
        let judged = judge(&self.visit, &self.host, restored);
        self.inner.call(judged)
    }
}

fn judge<B>(visit: &Visit, host: &LastHost, restored: Restored<B>) -> Judged<B> {
    let refused = |restored: &Restored<B>, why| {
        let (proto, started, grpc) = (restored.proto(), restored.started, restored.grpc);
        Err(Refused { proto, started, grpc, why })
    };
    let request = &restored.request;
    if restored.client.wire == Wire::Http2 && !headers::within_bounds(request.headers()) {
        return refused(&restored, Failed::new(Reason::HeaderTooLarge));
    }
    let authority = match headers::authority(request, host) {
        Ok(authority) => authority,
        Err(reason) => return refused(&restored, Failed::refused(reason, "the request names no single authority")),
    };
    let (method, path) = (request.method(), request.uri().path());
    match visit.judge(Act::Request { method, path }) {
        Ok(permit) => Ok(Permitted::of(permit, Entering { restored, authority })),
        Err(denial) => {
            let why = match denial {
                Denial::Ambiguous(_) => Failed::refused(Reason::ProtocolError, denial.to_string()),
                _ => Failed::new(Reason::Denied),
            };
            remora_runtime::limited!(info by why.reason.as_str(), peer = %visit.peer_name, address = %visit.peer.address,
                parent = %visit.port.inbound().parent, method = policy::logged(method.as_str()), path = policy::logged(path), reason = why.reason.as_str(), %denial, "request denied");
            refused(&restored, why)
        }
    }
}
