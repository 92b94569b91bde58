//! Bounds the requests that are under way to one backend (circuit breaking), and refuses those for a backend that is not there.
//!
//! Stands outside of all tries: a request has its place until its answer's head has come, however often it is sent. What finds
//! no place is refused at once and never waits.

use super::{After, Outcome, Within, always_ready};
use crate::{
    backend::{Entered, Pool},
    http::request::{Answered, Failed, Outgoing},
    telemetry::Reason,
};
use remora_model::Rule;
use std::rc::Rc;
use tower::{Layer, Service};

/// Makes [`Admit`] of one backend.
#[derive(Debug, Clone)]
pub(crate) struct AdmitLayer {
    /// Or what the clients are told for want of one.
    pool: Result<Rc<Pool>, Rc<str>>,
}

impl AdmitLayer {
    /// Requests that `rule` has for `pool` are counted there. Without one it refers to a backend that does not exist or is not permitted, or
    /// is closed because it could not be read.
    pub(crate) fn of(pool: Option<&Rc<Pool>>, rule: Option<&Rule>) -> Self {
        let why = || {
            let rule = rule.map_or("no rule", |rule| &rule.label);
            format!(
                "{rule} has no backend for this request: it is not there, not permitted, or the rule is invalid; see the status of the route"
            )
        };
        Self { pool: pool.cloned().ok_or_else(|| why().into()) }
    }
}

impl<S> Layer<S> for AdmitLayer {
    type Service = Admit<S>;

    fn layer(&self, inner: S) -> Admit<S> {
        Admit { inner, pool: self.pool.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Admit<S> {
    inner: S,
    pool: Result<Rc<Pool>, Rc<str>>,
}

impl<S> Service<Outgoing> for Admit<S>
where
    S: Service<Outgoing, Response = Box<Answered>, Error = Failed>,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Within<S::Future, Admitted, Outcome>;

    always_ready!();

    fn call(&mut self, outgoing: Outgoing) -> Self::Future {
        let pool = match &self.pool {
            Ok(pool) => pool,
            Err(why) => return Within::early(Err(Failed::refused(Reason::InvalidBackend, why.to_string()))),
        };
        match pool.enter() {
            None => Within::early(Err(Failed::refused(Reason::QueueFull, "too many requests wait for this backend"))),
            Some(entered) => Within::inner(self.inner.call(outgoing), Admitted(entered)),
        }
    }
}

/// A request's place; given up with it.
#[derive(Debug)]
pub(crate) struct Admitted(#[expect(dead_code, reason = "held for its drop")] Entered);

impl After for Admitted {
    type Output = Outcome;

    fn after(self, outcome: Outcome) -> Outcome {
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, World, address, generous, real, told},
        *,
    };
    use crate::{http::Wire, limits};
    use http::Request;
    use remora_model::BackendSettings;

    #[test]
    fn what_finds_no_place_is_refused_at_once_and_a_place_is_given_up_with_its_request() {
        real(async {
            let world = Rc::new(World::new(&[address(1)]));
            let (silent, answers) = (Inner::silent(), world.clone());
            let layer = AdmitLayer::of(Some(&world.pool), None);
            let ask = || world.outgoing(Wire::Http1, Request::get("/"));
            let mut held: Vec<_> =
                (0..limits::REQUESTS_PER_BACKEND_MAX).map(|_| layer.layer(silent.clone()).call(ask())).collect();
            let mut service = layer.layer(Inner::ready(move |_| answers.answer(200, None)));
            assert_eq!(told(&service.call(ask()).await), "queue_full");
            held.pop();
            // Its own place is free again as soon as the head of its answer is there.
            let answered = service.call(ask()).await;
            assert_eq!((told(&answered), told(&service.call(ask()).await)), ("200".into(), "200".into()));
        });
    }

    #[test]
    fn a_policys_bound_holds_below_the_proxys_own() {
        real(async {
            let world = World::new(&[address(1)]);
            let layer = AdmitLayer::of(Some(&world.pool), None);
            for (bound, places) in [(0, 0), (1, 1), (3, 3)] {
                world.settings(BackendSettings { pending_max: bound, ..generous() }, &[address(1)]);
                let ask = || world.outgoing(Wire::Http1, Request::get("/"));
                let held: Vec<_> = (0..places).map(|_| layer.layer(Inner::silent()).call(ask())).collect();
                assert_eq!(world.pool.under_way(), places, "{bound}");
                assert_eq!(told(&layer.layer(Inner::silent()).call(ask()).await), "queue_full", "{bound}");
                drop(held);
            }
        });
    }

    #[test]
    fn a_rule_without_a_backend_is_the_configurations_fault_and_is_named() {
        real(async {
            let (world, inner) = (World::new(&[]), Inner::silent());
            let rule = Rule::closed("HTTPRoute/shop/orders rule 1".into());
            let layer = AdmitLayer::of(None, Some(&rule));
            let outcome = layer.layer(inner.clone()).call(world.outgoing(Wire::Http1, Request::get("/"))).await;
            assert_eq!((told(&outcome), inner.asked()), ("invalid_backend".into(), 0));
            let detail = outcome.unwrap_err().detail;
            assert!(detail.starts_with("HTTPRoute/shop/orders rule 1 has no backend"), "{detail}");
        });
    }
}
