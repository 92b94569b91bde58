//! Makes a span of a request, if tracing is on and the request is sampled: the record notes it, and the head that goes on names it as the
//! caller.
//!
//! Stands inside [`Signals`](super::Signals), whose record the span is, and outside of [`Filters`](super::Filters), which may take the
//! fields off again. The caller's decision holds. Where there is none, a share of requests begins a trace: those of the pod's own application, and of
//! clients outside of the mesh. A mesh peer has decided already, for its proxy met the request before. What is not sampled goes on as it came.

use super::always_ready;
use crate::{
    http::{context::Context, request::Counted},
    resources::Resources,
    telemetry::{Sampling, Span},
};
use std::{rc::Rc, sync::Arc};
use tower::{Layer, Service};

/// Makes [`Trace`].
#[derive(Debug, Clone)]
pub(crate) struct TraceLayer {
    sampling: Arc<Sampling>,
    resources: Rc<Resources>,
}

impl TraceLayer {
    /// Spans are made as `sampling` says at each request, with ids of the worker's own randomness.
    pub(crate) fn of(sampling: &Arc<Sampling>, resources: &Rc<Resources>) -> Self {
        Self { sampling: sampling.clone(), resources: resources.clone() }
    }

    /// Kept out of the way of requests where tracing is off.
    #[inline(never)]
    fn trace<D, B>(&self, counted: &mut Counted<D, B>) {
        let context = Context::read(counted.request.headers());
        let mut rng = self.resources.rng.borrow_mut();
        let sampled = match context.sampled {
            Some(sampled) => sampled,
            None => !counted.client.mesh && self.sampling.draws(&mut rng),
        };
        if sampled {
            let (trace, parent) = match context.caller {
                Some((trace, caller)) => (trace, Some(caller)),
                None => (rng.u128(1..), None),
            };
            let span = Span { trace, id: rng.u64(1..), parent };
            counted.record.traced(span);
            context.write(counted.request.headers_mut(), span.trace, span.id);
        }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Trace<S> {
    inner: S,
    layer: TraceLayer,
}

impl<D, B, S> Service<Counted<D, B>> for Trace<S>
where
    S: Service<Counted<D, B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    always_ready!();

    fn call(&mut self, mut counted: Counted<D, B>) -> S::Future {
        if self.layer.sampling.is_on() {
            self.layer.trace(&mut counted);
        }
        self.inner.call(counted)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, Visited, World, address, open_port},
        *,
    };
    use crate::http::{
        Wire,
        request::{Ingoing, Outgoing, Way},
    };
    use http::{HeaderMap, Request, request::Builder};
    use remora_model::Tracing;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const CALLER: u64 = 0x00f0_67aa_0ba9_02b7;

    fn get(fields: &[(&str, &str)]) -> Builder {
        fields.iter().fold(Request::get("/a"), |request, (name, value)| request.header(*name, *value))
    }

    /// What goes on of a request out of the pod, and the span that is made of it.
    fn out(setting: &str, fields: &[(&str, &str)]) -> (HeaderMap, Option<Span>) {
        let (world, inner) = (World::new(&[]), Inner::<Outgoing>::silent());
        let sampling = world.counters.sampling();
        sampling.set(&setting.parse().unwrap());
        let mut service = TraceLayer::of(sampling, &world.resources).layer(inner.clone());
        drop(service.call(world.outgoing(Wire::Http1, get(fields))));
        let seen = inner.seen.borrow_mut().pop().unwrap();
        let span = seen.record.span();
        (seen.request.into_parts().0.headers, span)
    }

    /// The same of one into the pod, of a proxy of the mesh or of a client outside of it.
    fn into(setting: &str, mesh: bool, fields: &[(&str, &str)]) -> (HeaderMap, Option<Span>) {
        let (visited, inner) = (Visited::new(open_port(), mesh, address(1)), Inner::<Ingoing>::silent());
        let sampling = visited.routes.sampling();
        sampling.set(&setting.parse().unwrap());
        let mut service = TraceLayer::of(sampling, &visited.resources).layer(inner.clone());
        drop(service.call(visited.ingoing(Wire::Http2, mesh, Way::Same { caller: 0 }, get(fields))));
        let seen = inner.seen.borrow_mut().pop().unwrap();
        let span = seen.record.span();
        (seen.request.into_parts().0.headers, span)
    }

    #[test]
    fn without_tracing_no_field_is_touched_and_no_span_is_made() {
        for fields in [&[][..], &[("traceparent", SAMPLED)], &[("b3", "malformed"), ("traceparent", "")]] {
            for (headers, span) in [out("off", fields), into("off", true, fields), into("off", false, fields)] {
                assert_eq!((headers, span), (get(fields).body(()).unwrap().headers().clone(), None));
            }
        }
    }

    #[test]
    fn a_sampled_caller_gets_a_child_whom_the_next_hop_has_for_its_caller() {
        for setting in ["otel:4317 sample=0%", "otel:4317 sample=100%"] {
            let fields = [("traceparent", SAMPLED), ("tracestate", "congo=t61rcWkgMzE")];
            for (headers, span) in [out(setting, &fields), into(setting, true, &fields), into(setting, false, &fields)]
            {
                let span = span.unwrap();
                assert_eq!((span.trace, span.parent), (TRACE, Some(CALLER)));
                assert_eq!(Context::read(&headers).caller, Some((TRACE, span.id)));
                assert_eq!(headers["tracestate"], "congo=t61rcWkgMzE");
            }
        }
    }

    #[test]
    fn what_the_caller_does_not_sample_goes_on_as_it_came() {
        for fields in [&[("traceparent", UNSAMPLED)][..], &[("b3", "0")], &[("x-b3-sampled", "0")]] {
            let all = "otel:4317 sample=100%";
            for (headers, span) in [out(all, fields), into(all, true, fields), into(all, false, fields)] {
                assert_eq!((headers, span), (get(fields).body(()).unwrap().headers().clone(), None));
            }
        }
    }

    #[test]
    fn a_trace_begins_where_a_request_is_met_first() {
        let (all, none) = ("otel:4317 sample=100%", "otel:4317 sample=0%");
        for (headers, span) in [out(all, &[]), into(all, false, &[])] {
            let span = span.unwrap();
            assert_eq!((span.parent, Context::read(&headers).caller), (None, Some((span.trace, span.id))));
        }
        for (headers, span) in [out(none, &[]), into(none, false, &[]), into(all, true, &[])] {
            assert_eq!((headers.len(), span), (0, None), "nobody has to hear of what is not sampled");
        }
        let undecided = [("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7")];
        let (headers, span) = out(all, &undecided);
        assert_eq!(
            span.map(|span| (span.trace, span.parent)),
            Some((TRACE, Some(CALLER))),
            "the decision was left to us"
        );
        assert_eq!(Context::read(&headers).sampled, Some(true));
        assert_eq!(into(all, true, &undecided).1, None, "it was left to the peer's proxy, which met it before");
        assert_eq!(out(none, &undecided).0["b3"], undecided[0].1);
    }

    #[test]
    fn a_caller_that_wants_a_trace_and_has_none_gets_one() {
        let (headers, span) = out("otel:4317 sample=0%", &[("b3", "1")]);
        let span = span.unwrap();
        assert_eq!((span.parent, Context::read(&headers).caller), (None, Some((span.trace, span.id))));
        assert!(!headers.contains_key("traceparent"), "it speaks B3");
    }

    #[test]
    fn a_setting_holds_from_the_next_request_on() {
        let (world, inner) = (World::new(&[]), Inner::<Outgoing>::silent());
        let mut service = TraceLayer::of(world.counters.sampling(), &world.resources).layer(inner.clone());
        for (setting, expected) in [("off", false), ("otel:4317 sample=100%", true), ("off", false)] {
            world.routes.sampling().set(&setting.parse::<Tracing>().unwrap());
            drop(service.call(world.outgoing(Wire::Http2, get(&[]))));
            let seen = inner.seen.borrow_mut().pop().unwrap();
            assert_eq!(seen.record.span().is_some(), expected, "{setting}");
        }
    }
}
