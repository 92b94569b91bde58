//! Changes a request as its rule and backend say (Gateway API: HTTPRouteFilter), and the answer; or answers with a redirect.
//!
//! Stands inside [`Signals`](super::Signals), so that a redirect is counted, and outside of all that holds something for the
//! request, since a redirect needs nothing. What filters write is subject to what [`Hop`](super::Hop) does after them.

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
    S: Service<Outgoing<B>, Response = Answered, Error = Failed>,
{
    type Response = Answered;
    type Error = Failed;
    type Future = Within<S::Future, Edits, Outcome>;

    always_ready!();

    fn call(&mut self, mut outgoing: Outgoing<B>) -> Self::Future {
        let filters = &self.layer.filters;
        if !filters.is_empty() {
            let prefix = outgoing.request.uri().path().get(..outgoing.prefix).unwrap_or_default().to_owned();
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
