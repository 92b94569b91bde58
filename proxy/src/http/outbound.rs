//! The life of a request on its way out of the pod, as a stack of layers: from a client's connection to the endpoint that
//! answers. Read it from the top; each layer's file says what it does and why it stands where it does.
//!
//! A connection has one stack, which ends where a rule's backend is chosen. Each backend of each rule has one of its own, made when
//! discovery says something new, so that a request finds all that governs it in place.

use super::{
    destination::Destination,
    layer::{
        AdmitLayer, AuthorizeLayer, Balance, Branch, ChargeLayer, DeadlineLayer, Discover, DiscoverLayer, FiltersLayer,
        HopLayer, MirrorLayer, RetryLayer, Route, Sanitize, SanitizeLayer, SignalsLayer, TraceLayer, Tunnel,
        TunnelLayer, UpgradeLayer,
    },
};
use crate::{discover::BranchSpec, world::World};
use std::rc::Rc;
use tower::ServiceBuilder;

/// The stack of one client connection.
pub(crate) type Connection = Sanitize<Discover<Tunnel<Route>>>;

/// What answers the requests of a client's connection.
pub(crate) fn connection(world: &Rc<World>, destination: &Rc<Destination>) -> Connection {
    ServiceBuilder::new()
        .layer(SanitizeLayer::outbound(&destination.client))
        .layer(DiscoverLayer::new(world, destination))
        .layer(TunnelLayer::new(&world.resources, destination.is_fixed()))
        .service(Route::new(&world.resources))
}

/// What answers the requests that go to one backend of one rule.
pub(crate) fn branch(spec: BranchSpec<'_>) -> Branch {
    let BranchSpec { resources, counters, rule, pool, parent, filters, mirrors } = spec;
    let (index, rule) = rule.unzip();
    let backend = pool.unwrap_or(parent);
    ServiceBuilder::new()
        .layer(SignalsLayer::of(counters, index, backend))
        .layer(TraceLayer::of(counters.sampling(), resources))
        .layer(FiltersLayer::of(filters))
        .layer(ChargeLayer::to(&resources.pod, &parent.id))
        .layer(UpgradeLayer::on(resources))
        .layer(HopLayer)
        .layer(AdmitLayer::of(pool, rule))
        .layer(MirrorLayer::to(mirrors, resources))
        .layer(DeadlineLayer::of(rule.and_then(|rule| rule.timeouts.request)))
        .layer(RetryLayer::of(rule.and_then(|rule| rule.retry.as_ref()), backend, resources))
        .layer(AuthorizeLayer::egress(&backend.id))
        .service(Balance::over(backend, rule.and_then(|rule| rule.timeouts.backend_request), resources))
}
