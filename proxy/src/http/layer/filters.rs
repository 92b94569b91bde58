//! Changes a request as its rule and backend say (Gateway API: HTTPRouteFilter), and the answer; or answers itself: with a redirect, or
//! a browser that asks what a script may do.
//!
//! Stands inside [`Signals`](super::Signals), so that a redirect is counted, and outside of all that holds something for the
//! request, since a redirect needs nothing. [`Hop`](super::Hop) stands behind them: hop-by-hop fields are removed from a request after they
//! have changed it, and from an answer before.

use super::{After, Outcome, Within, always_ready};
use crate::{
    backend::endpoint::AnswerBody,
    http::{
        cors, filter,
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
    /// For cross-origin requests: the last of them, which is the backend's own if it has one.
    cors: Option<Rc<cors::Rules>>,
}

impl FiltersLayer {
    /// The rule's filters, then the backend's own.
    pub(crate) fn of<'a>(filters: impl IntoIterator<Item = &'a Filter>) -> Self {
        // Mirrors have a layer of their own.
        let filters = filters.into_iter().filter(|filter| !matches!(filter, Filter::Mirror { .. }));
        let filters: Rc<[Filter]> = filters.cloned().collect();
        let cors = filters.iter().rev().find_map(|filter| match filter {
            Filter::Cors(cors) => Some(Rc::new(cors::Rules::of(cors))),
            _ => None,
        });
        let edits_answers = filters.iter().any(|filter| matches!(filter, Filter::ResponseHeaders(_)));
        Self { filters, edits_answers, cors }
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
        let mut mark = None;
        if !filters.is_empty() {
            if let Some(cors) = &self.layer.cors {
                if let Some(answer) = cors.preflight(&outgoing.request) {
                    return Within::early(Ok(Answered::own(answer.map(|()| AnswerBody::Empty))));
                }
                mark = Some(Box::new(cors.mark(&outgoing.request)));
            }
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
        let edits = Edits { filters: self.layer.edits_answers.then(|| filters.clone()), mark };
        Within::inner(self.inner.call(outgoing), edits)
    }
}

/// What is changed of the answer.
#[derive(Debug)]
pub(crate) struct Edits {
    filters: Option<Rc<[Filter]>>,
    mark: Option<Box<cors::Mark>>,
}

impl After for Edits {
    type Output = Outcome;

    fn after(self, outcome: Outcome) -> Outcome {
        if self.filters.is_none() && self.mark.is_none() {
            return outcome;
        }
        outcome.map(|mut answered| {
            let headers = answered.response.headers_mut();
            for filter in self.filters.iter().flat_map(|filters| filters.iter()) {
                filter::response(filter, headers);
            }
            if let Some(mark) = self.mark {
                mark.set(headers);
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
    use remora_model::{Cors, HeaderEdit, Origins, PathRewrite, Redirect, cors::Allowed};

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
    fn a_browsers_question_is_answered_here_by_the_backends_own_filter_and_answers_are_marked() {
        real(async {
            let world = Rc::new(World::new(&[address(1)]));
            let filter = |max_age| {
                let (methods, headers, expose) = (Allowed::Any, Allowed::Any, Allowed::Any);
                Filter::Cors(
                    Cors { origins: Origins::Any, credentials: false, methods, headers, expose, max_age }.into(),
                )
            };
            let (answers, filters) = (world.clone(), [filter(1), filter(2)]);
            let inner = Inner::ready(move |_| answers.answer(200, None));
            let mut service = FiltersLayer::of(&filters).layer(inner.clone());
            let asked = |method: &str| {
                let request = Request::builder().method(method).uri("/").header("origin", "https://a");
                world.outgoing(Wire::Http1, request.header("access-control-request-method", "PUT"))
            };
            let answered = service.call(asked("OPTIONS")).await.unwrap();
            assert_eq!((answered.response.status(), inner.asked()), (StatusCode::NO_CONTENT, 0));
            assert_eq!(answered.response.headers()["access-control-max-age"], "2");
            let answered = service.call(asked("PUT")).await.unwrap();
            assert_eq!(
                (&answered.response.headers()["access-control-allow-origin"], inner.asked()),
                (&"*".parse().unwrap(), 1)
            );
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
