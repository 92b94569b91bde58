//! Removes hop-by-hop fields (RFC 9110 §7.6.1) from requests and answers, and gives a request the form in which it
//! goes on. Out of the pod that is the one between proxies: HTTP/2, or HTTP/1.1 where it asks to leave HTTP. Into the pod it is the
//! one in which its client wrote it.
//!
//! Stands inside [`Filters`](super::Filters), whose edits are end-to-end fields, and outside of all that sends the request, so
//! that every copy of it has this form already.

use super::{After, Outcome, Within, always_ready};
use crate::{
    http::{
        Wire,
        form::{self, Form},
        headers,
        request::{Answered, ClientConnection, Counted, Failed, Ingoing, Inward, Outgoing, Outward, Way},
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

impl<D, S> Service<Counted<D>> for Hop<S>
where
    D: Fit,
    S: Service<Counted<D>, Response = Box<Answered>, Error = Failed>,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Within<S::Future, Stripped, Outcome>;

    always_ready!();

    fn call(&mut self, mut counted: Counted<D>) -> Self::Future {
        match &counted.offer {
            Some(offer) => offer.prepare(&mut counted.request, counted.client.transparent),
            None => {
                headers::strip_hop_by_hop(counted.request.headers_mut());
                if let Err(reason) = D::fit(&mut counted) {
                    return Within::early(Err(Failed::refused(reason, "the request's target is malformed")));
                }
            }
        }
        let stripped = Stripped { offer: counted.offer.clone(), client: counted.client.clone() };
        Within::inner(self.inner.call(counted), stripped)
    }
}

/// How requests of one direction go on.
pub(crate) trait Fit: Sized {
    /// Gives the request its form.
    fn fit(counted: &mut Counted<Self>) -> Result<(), Reason>;
}

impl Fit for Outward {
    fn fit(Outgoing { request, authority, client, .. }: &mut Outgoing) -> Result<(), Reason> {
        let form = match client.wire {
            // A mesh peer restores it; towards anybody else the request stays HTTP/1 and this is taken off again.
            Wire::Http1 => {
                let form = Form::of(request, client.transparent);
                request.headers_mut().insert(headers::RESTORE, form.value());
                Some(form)
            }
            Wire::Http2 => {
                request.headers_mut().insert(headers::CALLER, client.callers.name());
                None
            }
        };
        form::to_http2(request, authority.as_ref(), form)
    }
}

impl Fit for Inward {
    fn fit(Ingoing { request, authority, client, of, .. }: &mut Ingoing) -> Result<(), Reason> {
        match (of.way, client.wire) {
            (Way::Changed(form), _) => form.restore(request),
            (Way::Same { .. }, Wire::Http1) => {
                let version = request.version();
                form::frame(request, version);
            }
            (Way::Same { .. }, Wire::Http2) => return form::to_http2(request, authority.as_ref(), None),
        }
        Ok(())
    }
}

/// Takes off what belongs to the answer's hop.
#[derive(Debug)]
pub(crate) struct Stripped {
    offer: Option<Rc<Offer>>,
    client: Rc<ClientConnection>,
}

impl After for Stripped {
    type Output = Outcome;

    fn after(self, outcome: Outcome) -> Outcome {
        let mut answered = outcome?;
        let left = self.offer.is_some_and(|offer| offer.is_taken(&answered.response));
        let mesh = answered.origin.as_ref().is_some_and(|origin| origin.mesh);
        if !left {
            *answered.response.version_mut() = Version::HTTP_11;
        }
        let demanded = headers::demanded_upgrade(&answered.response);
        let fields = answered.response.headers_mut();
        if left || !mesh {
            headers::strip_reserved(fields);
        }
        match left {
            true => headers::strip_for_upgrade(fields),
            false => headers::strip_hop_by_hop(fields),
        }
        if let Some(demanded) = demanded {
            fields.remove(headers::OFFERS);
            match self.client.wire {
                Wire::Http1 => headers::demand_upgrade(fields, demanded),
                Wire::Http2 if self.client.mesh => drop(fields.insert(headers::OFFERS, demanded)),
                Wire::Http2 => {}
            }
        }
        Ok(answered)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, Visited, World, address, open_port, real},
        *,
    };
    use crate::http::request::Fate;
    use http::{HeaderValue, Request};

    #[test]
    fn what_belongs_to_the_clients_hop_ends_here() {
        real(async {
            let (world, inner) = (World::new(&[]), Inner::<Outgoing>::silent());
            let request = |version| {
                let request =
                    Request::get("http://api/a").version(version).header("connection", "x-private, keep-alive");
                request
                    .header("x-private", "1")
                    .header("host", "api")
                    .header("te", "trailers, deflate")
                    .header("x-kept", "1")
            };
            for (wire, version, mark) in [
                (Wire::Http1, Version::HTTP_11, headers::RESTORE),
                (Wire::Http1, Version::HTTP_10, headers::RESTORE),
                (Wire::Http2, Version::HTTP_2, headers::CALLER),
            ] {
                drop(HopLayer.layer(inner.clone()).call(world.outgoing(wire, request(version))));
                let seen = inner.seen.borrow_mut().pop().unwrap().request;
                let mut names: Vec<_> = seen.headers().keys().map(http::HeaderName::as_str).collect();
                names.sort_unstable();
                let mut expected = ["te", "x-kept", mark.as_str()];
                expected.sort_unstable();
                assert_eq!((names, seen.version()), (expected.to_vec(), Version::HTTP_2), "{version:?}");
                assert_eq!(seen.headers()["te"], "trailers");
            }
        });
    }

    #[test]
    fn reserved_fields_of_an_answer_are_believed_from_the_mesh_only() {
        real(async {
            for fate in [None, Some(Fate::BrokenOff)] {
                let world = Rc::new(World::new(&[address(1)]));
                let answers = world.clone();
                let inner = Inner::ready(move |_| {
                    let mut answered = answers.answer(502, fate)?;
                    for (name, value) in [("x-remora-error", "upstream_reset"), ("keep-alive", "timeout=5")] {
                        answered.response.headers_mut().insert(name, value.parse().unwrap());
                    }
                    Ok(answered)
                });
                let outcome = HopLayer.layer(inner).call(world.outgoing(Wire::Http1, Request::get("http://api/")));
                let answered = outcome.await.unwrap();
                let kept = answered.response.headers();
                assert_eq!(
                    (kept.contains_key("x-remora-error"), kept.contains_key("keep-alive")),
                    (fate.is_some(), false)
                );
            }
        });
    }

    #[test]
    fn the_application_gets_the_http_that_the_client_spoke() {
        real(async {
            let (visited, inner) = (Visited::new(open_port(), true, address(1)), Inner::<Ingoing>::silent());
            let changed = |form: &'static str| Way::Changed(Form::read(&HeaderValue::from_static(form)));
            let same = Way::Same { caller: 0 };
            for (wire, way, came, version, uri, host) in [
                (Wire::Http2, changed("1.1"), Version::HTTP_2, Version::HTTP_11, "/a", Some("api")),
                (Wire::Http2, changed("1.0;no-host"), Version::HTTP_2, Version::HTTP_10, "/a", None),
                (Wire::Http2, changed("1.1;absolute"), Version::HTTP_2, Version::HTTP_11, "http://api/a", Some("api")),
                (Wire::Http2, same, Version::HTTP_2, Version::HTTP_2, "http://api/a", None),
                (Wire::Http1, same, Version::HTTP_11, Version::HTTP_11, "http://api/a", None),
            ] {
                let request = Request::get("http://api/a").version(came).header("keep-alive", "timeout=5");
                drop(HopLayer.layer(inner.clone()).call(visited.ingoing(wire, true, way, request)));
                let seen = inner.seen.borrow_mut().pop().unwrap().request;
                let host_seen = seen.headers().get("host").map(|host| host.to_str().unwrap());
                assert_eq!(
                    (seen.version(), seen.uri().to_string().as_str(), host_seen),
                    (version, uri, host),
                    "{way:?}"
                );
                assert!(!seen.headers().contains_key("keep-alive"));
            }
        });
    }

    #[test]
    fn a_demand_to_upgrade_reaches_a_client_that_can_and_the_proxy_of_one() {
        real(async {
            for (wire, mesh, field) in [
                (Wire::Http1, false, Some("upgrade")),
                (Wire::Http2, true, Some("x-remora-upgrade")),
                (Wire::Http2, false, None),
            ] {
                let (visited, world) =
                    (Visited::new(open_port(), mesh, address(1)), Rc::new(World::new(&[address(1)])));
                let inner = Inner::ready(move |_| {
                    let mut answered = world.answer(426, None)?;
                    for (name, value) in
                        [("upgrade", "websocket"), ("connection", "upgrade"), ("x-remora-upgrade", "x")]
                    {
                        answered.response.headers_mut().insert(name, value.parse().unwrap());
                    }
                    Ok(answered)
                });
                let request = visited.ingoing(wire, mesh, Way::Same { caller: 0 }, Request::get("http://api/"));
                let answered = HopLayer.layer(inner).call(request).await.unwrap();
                let names = ["upgrade", "x-remora-upgrade"];
                let seen = names.into_iter().find(|name| answered.response.headers().contains_key(*name));
                assert_eq!(seen, field, "{wire:?} {mesh}");
            }
        });
    }

    #[test]
    fn options_of_the_server_itself_stays_that() {
        real(async {
            let (world, inner) = (World::new(&[]), Inner::<Outgoing>::silent());
            let mut asked = world.outgoing(Wire::Http1, Request::get("/"));
            *asked.request.uri_mut() = http::Uri::from_static("*");
            *asked.request.method_mut() = http::Method::OPTIONS;
            drop(HopLayer.layer(inner.clone()).call(asked));
            assert_eq!(inner.seen.borrow()[0].request.uri().path(), "*", "OPTIONS * arrives as it left");
        });
    }
}
