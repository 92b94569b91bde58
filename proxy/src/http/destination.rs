//! Where the requests of one client connection go.

use super::{Wire, request::ClientConnection};
use crate::{
    discover::{Plan, Refusal, Route, Way},
    telemetry::Reason,
    world::World,
};
use http::uri::Authority;
use remora_model::Target;
use std::{cell::RefCell, rc::Rc};
use tokio::sync::Notify;

const NO_TARGET: &str = "the request must name a host and port that are not this proxy's own";

/// Where the requests of one client connection go.
#[derive(Debug)]
pub(crate) struct Destination {
    /// The original destination of a redirected connection; otherwise each request's authority decides.
    fixed: Option<Rc<Route>>,
    /// The last authority seen here and its route: clients rarely change it.
    last: RefCell<Option<(Authority, Rc<Route>)>>,
    /// The client.
    pub(super) client: Rc<ClientConnection>,
    /// Why none of its requests is sent anywhere.
    refusal: Option<Refusal>,
    ended: Notify,
}

impl Destination {
    /// All requests of the connection go where it went.
    pub(crate) fn fixed(wire: Wire, route: Rc<Route>) -> Self {
        Self { fixed: Some(route), client: ClientConnection::of_application(wire, true), ..Self::by_authority(wire) }
    }

    /// All requests of the connection are refused, and it ends with the first of them.
    pub(crate) fn refused(wire: Wire, refusal: Refusal) -> Self {
        Self { refusal: Some(refusal), ..Self::by_authority(wire) }
    }

    /// Each request says where it goes.
    pub(crate) fn by_authority(wire: Wire) -> Self {
        Self {
            fixed: None,
            last: RefCell::default(),
            client: ClientConnection::of_application(wire, false),
            refusal: None,
            ended: Notify::new(),
        }
    }

    /// Whether the connection itself has a target, or none that can be reached.
    pub(super) fn is_fixed(&self) -> bool {
        self.fixed.is_some() || self.refusal.is_some()
    }

    /// The connection should end.
    pub(super) fn end(&self) {
        self.ended.notify_one();
    }

    /// The plan, if no wait is needed to know it.
    pub(super) fn known(&self, authority: Option<&Authority>) -> Option<Rc<Plan>> {
        match (&self.fixed, &*self.last.borrow(), authority) {
            (Some(route), ..) => route.plan(),
            (None, Some((known, route)), Some(authority)) if known == authority => route.plan(),
            _ => None,
        }
    }

    /// The plan, as soon as it is known.
    pub(super) async fn discover(&self, world: &World, authority: Option<&Authority>) -> Result<Rc<Plan>, Refusal> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let nowhere = |reason| Refusal { reason, detail: NO_TARGET.into() };
        let (route, way) = match &self.fixed {
            Some(route) => (route.clone(), world.directory.way(route).await?),
            None => {
                let authority = authority.ok_or_else(|| nowhere(Reason::ProtocolError))?;
                let target = Target::parse(authority.as_str(), 80).map_err(|_| nowhere(Reason::ProtocolError))?;
                if matches!(target, Target::Address(address) if world.resources.config.is_own(address, address.ip())) {
                    return Err(nowhere(Reason::Loop));
                }
                world.directory.route(&target).await?
            }
        };
        let Way::Mesh(plan) = way else {
            let target = &route.target;
            let detail = format!("{target} is outside the mesh, by all that discovery has said of it");
            return Err(Refusal { reason: Reason::UnknownTarget, detail: detail.into() });
        };
        if let Some(authority) = authority.filter(|_| self.fixed.is_none()) {
            *self.last.borrow_mut() = Some((authority.clone(), route));
        }
        Ok(plan)
    }

    /// Returns when the connection should end: what it was made to cannot be reached now, and another one may have
    /// another answer.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }
}
