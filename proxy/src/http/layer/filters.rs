//! Changes a request as its rule and backend say (Gateway API: HTTPRouteFilter), and the answer; or answers with a redirect.
//!
//! Stands inside [`Signals`](super::Signals), so that a redirect is counted, and outside of all that holds something for the
//! request, since a redirect needs nothing. [`Hop`](super::Hop) stands behind them: hop-by-hop fields are removed from a request after they
//! have changed it, and from an answer before.

use super::{After, Outcome, Within, always_ready};
use crate::{
    backend::endpoint::AnswerBody,
    http::{
        filter,
        request::{Answered, Failed, Outgoing},
    },
};
use http::uri::Authority;
use remora_model::Filter;
use std::rc::Rc;
use tower::{Layer, Service};

/// Makes [`Filters`] of one backend of one rule.
#[derive(Debug, Clone)]
pub(crate) struct FiltersLayer {
    filters: Rc<[Filter]>,
    /// Whether any of them changes answers.
    edits_answers: bool,
}

impl FiltersLayer {
    /// The rule's filters, then the backend's own.
    pub(crate) fn of<'a>(filters: impl IntoIterator<Item = &'a Filter>) -> Self {
        // Mirrors have a layer of their own.
        let filters = filters.into_iter().filter(|filter| !matches!(filter, Filter::Mirror { .. }));
        let filters: Rc<[Filter]> = filters.cloned().collect();
        let edits_answers = filters.iter().any(|filter| matches!(filter, Filter::ResponseHeaders(_)));
        Self { filters, edits_answers }
    }
}

impl<S> Layer<S> for FiltersLayer {
    type Service = Filters<S>;

    fn layer(&self, inner: S) -> Filters<S> {
        Filters { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Filters<S> {
    inner: S,
    layer: FiltersLayer,
}

impl<B, S> Service<Outgoing<B>> for Filters<S>
where
    S: Service<Outgoing<B>, Response = Box<Answered>, Error = Failed>,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Within<S::Future, Edits, Outcome>;

    always_ready!();

    fn call(&mut self, mut outgoing: Outgoing<B>) -> Self::Future {
        let filters = &self.layer.filters;
        if !filters.is_empty() {
            let prefix = outgoing.request.uri().path().get(..outgoing.of.prefix).unwrap_or_default().to_owned();
            let mut redirects =
                filters.iter().filter_map(|filter| filter::redirect(filter, &prefix, &outgoing.request));
            if let Some(redirect) = redirects.next() {
                return Within::early(Ok(Answered::own(redirect.map(|()| AnswerBody::Empty))));
            }
            for filter in filters.iter() {
                filter::request(filter, &prefix, &mut outgoing.request);
                if let Filter::Rewrite { hostname: Some(host), .. } = filter {
                    // What it is rewritten to is what goes out, on whichever wire.
                    outgoing.authority = Authority::try_from(&**host).ok().or(outgoing.authority);
                }
            }
        }
        let edits = Edits(self.layer.edits_answers.then(|| filters.clone()));
        Within::inner(self.inner.call(outgoing), edits)
    }
}

/// What is changed of the answer.
#[derive(Debug)]
pub(crate) struct Edits(Option<Rc<[Filter]>>);

impl After for Edits {
    type Output = Outcome;

    fn after(self, outcome: Outcome) -> Outcome {
        let Some(filters) = self.0 else { return outcome };
        outcome.map(|mut answered| {
            for filter in filters.iter() {
                filter::response(filter, answered.response.headers_mut());
            }
            answered
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, World, address, failed, real, told},
        *,
    };
    use crate::{
        http::{Wire, request::Outward},
        telemetry::Reason,
    };
    use http::{HeaderName, HeaderValue, Request, StatusCode};
    use remora_model::{HeaderEdit, PathRewrite, Redirect};

    fn edit(name: &'static str, value: &'static str) -> HeaderEdit {
        let set = vec![(HeaderName::from_static(name), HeaderValue::from_static(value))];
        HeaderEdit { set, ..HeaderEdit::default() }
    }

    #[test]
    fn a_redirect_is_answered_here_and_nobody_is_asked() {
        real(async {
            let world = World::new(&[]);
            let to = Redirect { scheme: None, hostname: None, port: None, path: None, status: StatusCode::FOUND };
            let (inner, filters) = (Inner::silent(), [Filter::Redirect(to)]);
            let mut service = FiltersLayer::of(&filters).layer(inner.clone());
            let asked = world.outgoing(Wire::Http1, Request::get("/old").header("host", "api"));
            let answered = service.call(asked).await.unwrap();
            assert_eq!(answered.response.headers()["location"], "http://api/old");
            assert!(answered.origin.is_none() && inner.asked() == 0);
        });
    }

    #[test]
    fn a_rewritten_host_is_the_authority_on_every_wire_and_a_prefix_is_that_of_the_match() {
        real(async {
            let world = World::new(&[]);
            let filters = [
                Filter::Rewrite { hostname: Some("other".into()), path: Some(PathRewrite::Prefix("/new".into())) },
                Filter::RequestHeaders(edit("x-added", "1")),
                Filter::Mirror { backend: super::super::test::id(), numerator: 1, denominator: 1 },
            ];
            let inner = Inner::ready(|_| failed(Reason::NoEndpoints));
            let mut service = FiltersLayer::of(&filters).layer(inner.clone());
            for wire in [Wire::Http1, Wire::Http2] {
                let request = Request::get("/old/a").header("host", "api");
                let outcome =
                    service.call(Outgoing { of: Outward { prefix: 4 }, ..world.outgoing(wire, request) }).await;
                assert_eq!(told(&outcome), "no_endpoints");
                let seen = inner.seen.borrow_mut().pop().unwrap();
                assert_eq!(seen.authority.unwrap(), "other");
                assert_eq!(
                    (seen.request.uri().path(), &seen.request.headers()["x-added"]),
                    ("/new/a", &"1".parse().unwrap())
                );
            }
        });
    }

    #[test]
    fn answers_are_edited_and_failures_are_left_alone() {
        real(async {
            let world = Rc::new(World::new(&[address(1)]));
            let (answers, filters) = (world.clone(), [Filter::ResponseHeaders(edit("x-answer", "1"))]);
            let mut service = FiltersLayer::of(&filters).layer(Inner::ready(move |number| match number {
                0 => answers.answer(200, None),
                _ => failed(Reason::Timeout),
            }));
            let ask = || world.outgoing(Wire::Http1, Request::get("/"));
            assert_eq!(service.call(ask()).await.unwrap().response.headers()["x-answer"], "1");
            assert_eq!(told(&service.call(ask()).await), "timeout");
        });
    }
}
