//! Takes off what belongs to one hop only (RFC 9110 §7.6.1), of requests and of answers, and gives a request the form in which it
//! goes between proxies: HTTP/2, or HTTP/1.1 where it asks to leave HTTP.
//!
//! Stands inside [`Filters`](super::Filters), whose edits are end-to-end fields, and outside of all that sends the request, so
//! that every copy of it has this form already.

use super::{After, Outcome, Within, always_ready};
use crate::{
    http::{
        Wire, headers,
        request::{Answered, Failed, Outgoing},
        upgrade::Offer,
    },
    telemetry::Reason,
};
use http::Version;
use std::rc::Rc;
use tower::{Layer, Service};

/// Makes [`Hop`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct HopLayer;

impl<S> Layer<S> for HopLayer {
    type Service = Hop<S>;

    fn layer(&self, inner: S) -> Hop<S> {
        Hop { inner }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Hop<S> {
    inner: S,
}

impl<S> Service<Outgoing> for Hop<S>
where
    S: Service<Outgoing, Response = Answered, Error = Failed>,
{
    type Response = Answered;
    type Error = Failed;
    type Future = Within<S::Future, Stripped, Outcome>;

    always_ready!();

    fn call(&mut self, mut outgoing: Outgoing) -> Self::Future {
        if let Err(reason) = fit(&mut outgoing) {
            return Within::early(Err(Failed::refused(reason, "the request's target is malformed")));
        }
        let stripped = Stripped(outgoing.offer.clone());
        Within::inner(self.inner.call(outgoing), stripped)
    }
}

fn fit(outgoing: &mut Outgoing) -> Result<(), Reason> {
    let request = &mut outgoing.request;
    if let Some(offer) = &outgoing.offer {
        offer.prepare(request);
        return Ok(());
    }
    let version = request.version();
    headers::strip_hop_by_hop(request.headers_mut());
    match outgoing.client.wire {
        // A mesh peer restores it; towards anybody else the request stays HTTP/1 and this is taken off again.
        Wire::Http1 => request.headers_mut().insert(headers::RESTORE, headers::restore_value(version)),
        Wire::Http2 => request.headers_mut().insert(headers::CALLER, outgoing.client.callers.name()),
    };
    headers::to_http2(request, outgoing.authority.as_ref())
}

/// Takes off what belongs to the answer's hop.
#[derive(Debug)]
pub(crate) struct Stripped(Option<Rc<Offer>>);

impl After for Stripped {
    type Output = Outcome;

    fn after(self, outcome: Outcome) -> Outcome {
        let mut answered = outcome?;
        let left = self.0.is_some_and(|offer| offer.is_taken(&answered.response));
        let mesh = answered.origin.as_ref().is_some_and(|origin| origin.mesh);
        if !left {
            *answered.response.version_mut() = Version::HTTP_11;
        }
        let fields = answered.response.headers_mut();
        if left || !mesh {
            headers::strip_reserved(fields);
        }
        match left {
            true => headers::strip_for_upgrade(fields),
            false => headers::strip_hop_by_hop(fields),
        }
        Ok(answered)
    }
}
