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
use http::uri::Authority;
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
    let refused = |restored, why| Err(Refused { restored: Box::new(restored), why });
    let request = &restored.request;
    if restored.client.wire == Wire::Http2 && !headers::within_bounds(request.headers()) {
        return refused(restored, Failed::new(Reason::HeaderTooLarge));
    }
    let authority = match headers::authority(request, host) {
        Ok(authority) => authority,
        Err(reason) => return refused(restored, Failed::refused(reason, "the request names no single authority")),
    };
    let (method, path) = (request.method(), request.uri().path());
    let host = authority.as_ref().map(Authority::as_str);
    match visit.judge(Act::Request { method, path, host, headers: request.headers() }) {
        Ok(permit) => Ok(Permitted::of(permit, Entering { restored, authority })),
        Err(denial) => {
            let why = match denial {
                Denial::Ambiguous(_) => Failed::refused(Reason::ProtocolError, denial.to_string()),
                _ => Failed::new(Reason::Denied),
            };
            remora_runtime::limited!(info by why.reason.as_str(), peer = %visit.peer_name, address = %visit.peer.address,
                parent = %visit.port.inbound().parent, method = policy::logged(method.as_str()), path = policy::logged(path), reason = why.reason.as_str(), %denial, "request denied");
            refused(restored, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Visited, address, open_port},
        *,
    };
    use crate::{
        http::{
            body::request::RequestBody,
            request::{ClientConnection, Way},
        },
        limits,
    };
    use futures_util::FutureExt;
    use http::{Request, request::Builder};
    use remora_model::{AuthorizationRule, Inbound, Operation, PathPattern};
    use std::{convert::Infallible, future::ready};
    use tokio::time::Instant;
    use tower::service_fn;

    /// The authority of a request that is let in, or why it is not with what its caller may know.
    fn ask(inbound: Inbound, wire: Wire, request: Builder) -> Result<String, (Reason, String)> {
        let visited = Visited::new(inbound, false, address(1));
        let inner = service_fn(|judged: Judged<RequestBody>| ready(Ok::<_, Infallible>(judged)));
        let (client, request) =
            (Rc::new(ClientConnection::of_peer(wire, false, 1024)), request.body(RequestBody::Empty).unwrap());
        let way = Way::Same { caller: 0 };
        let restored = Restored { request, started: Instant::now(), grpc: false, client, way };
        let Ok(judged) = JudgeLayer::at(&visited.visit).layer(inner).call(restored).now_or_never().unwrap();
        match judged {
            Ok(permitted) => Ok(permitted.open().1.authority.unwrap().to_string()),
            Err(Refused { why, .. }) => Err((why.reason, why.detail.into_owned())),
        }
    }

    /// Nobody may ask for anything below `/admin`.
    fn guarded() -> Inbound {
        let to = vec![Operation { paths: vec![PathPattern::parse("/admin/*").unwrap()], ..Operation::default() }];
        let rule = AuthorizationRule { to, ..AuthorizationRule::deny_everything("shop/closed rule 1".into()) };
        Inbound { rules: vec![rule], ..open_port() }
    }

    #[test]
    fn a_request_comes_in_as_policy_says_and_its_caller_is_told_no_more_than_that() {
        let ask = |path: &str| ask(guarded(), Wire::Http1, Request::get(path).header("host", "api:80"));
        assert_eq!(ask("/a"), Ok("api:80".to_owned()));
        assert_eq!(ask("/admin/a"), Err((Reason::Denied, String::new())));
        let (reason, told) = ask("/a/..%2fadmin/a").unwrap_err();
        assert_eq!(reason, Reason::ProtocolError);
        assert!(told.starts_with("policy judges paths here, and "), "{told}");
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused_before_policy_is_asked() {
        let two = || Request::get("http://a/admin/a").header("host", "b");
        let told = "the request names no single authority".to_owned();
        assert_eq!(ask(guarded(), Wire::Http1, two()), Err((Reason::ProtocolError, told)));
        let large = "x".repeat(limits::HEADER_BYTES_MAX + limits::RESERVED_BYTES_MAX);
        let large = || Request::get("http://api/").header("x-large", &large);
        assert_eq!(ask(open_port(), Wire::Http2, large()), Err((Reason::HeaderTooLarge, String::new())));
        assert_eq!(ask(open_port(), Wire::Http1, large()), Ok("api".to_owned()), "the gate has looked at it");
    }
}
