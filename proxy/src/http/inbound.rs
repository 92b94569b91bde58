//! The life of a request on its way into the pod, as a stack of layers: from a peer's connection to the application. Read it from
//! the top; each layer's file says what it does and why it stands where it does.

use super::{
    layer::{
        App, Charge, ChargeLayer, ClientId, ClientIdLayer, Fault, FaultLayer, Hop, HopLayer, Judge, JudgeLayer, Leave,
        LeaveLayer, Limit, LimitLayer, OfPort, Restore, RestoreLayer, Signals, SignalsLayer, Trace, TraceLayer,
        Upgrade, UpgradeLayer,
    },
    request::ClientConnection,
    visit::Visit,
};
use crate::resources::Resources;
use std::rc::Rc;
use tower::ServiceBuilder;

/// The stack of one peer's connection.
pub(crate) type Connection =
    Leave<Restore<Judge<Signals<OfPort, Limit<Trace<Charge<Fault<ClientId<Upgrade<Hop<App>>>>>>>>>>>;

/// What answers the requests of a peer's connection.
pub(crate) fn connection(resources: &Rc<Resources>, visit: &Rc<Visit>, client: &Rc<ClientConnection>) -> Connection {
    ServiceBuilder::new()
        .layer(LeaveLayer::of(client, &visit.port))
        .layer(RestoreLayer::of(client))
        .layer(JudgeLayer::at(visit))
        .layer(SignalsLayer::of_port(visit))
        .layer(LimitLayer::at(visit))
        .layer(TraceLayer::of(visit.port.signals.sampling(), resources))
        .layer(ChargeLayer::to_peer(visit))
        .layer(FaultLayer::at(visit, resources))
        .layer(ClientIdLayer::of(visit.client_id.as_ref()))
        .layer(UpgradeLayer::revocable(resources, visit))
        .layer(HopLayer)
        .service(App::of(&visit.app, resources))
}
