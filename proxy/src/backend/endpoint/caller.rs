//! HTTP/2 connections that each caller has for itself.

use super::{
    http2::Streams,
    table::{Connections, Table},
};
use crate::limits;
use http::HeaderValue;
use std::{
    cell::{OnceCell, RefCell},
    rc::{Rc, Weak},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// The callers behind one connection to this proxy, as an application tells them apart. A client outside the mesh is one; so
/// is one of this pod's own. A peer of the mesh names the connections that its pod's requests came on.
///
/// Without the mesh each would have a connection of its own to the application. So it has here: no caller's slowness, resets
/// or huge fields reach another's streams, and what the application counts per connection it counts per caller. (HTTP/1
/// needs none of this: each request has its connection for itself.)
///
/// Dropped, the connections end with the streams under way on them.
#[derive(Debug, Default)]
pub(crate) struct Callers(OnceCell<Box<Known>>);

/// Made when the first HTTP/2 request comes: most connections bring none.
#[derive(Debug)]
struct Known {
    ways: RefCell<Vec<Way>>,
    /// The name by which a peer recognises this caller.
    name: HeaderValue,
}

/// The connections of one caller to one endpoint.
#[derive(Debug)]
struct Way {
    to: Weak<Connections>,
    caller: u32,
    streams: Rc<Streams>,
}

/// The number of the next connection that brings HTTP/2 requests.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Callers {
    /// The word by which a peer of the mesh, who has the requests of all our callers on one connection, tells this one from
    /// the others.
    pub(crate) fn name(&self) -> HeaderValue {
        self.known().name.clone()
    }

    fn known(&self) -> &Known {
        self.0.get_or_init(|| {
            Box::new(Known { ways: RefCell::default(), name: HeaderValue::from(NEXT.fetch_add(1, Relaxed)) })
        })
    }

    /// The number of the caller that a peer names; 0 where it names none. A peer may name as many as it likes: beyond
    /// [`limits::CALLER_STREAMS_MAX`] some share a number.
    pub(crate) fn number(name: Option<&HeaderValue>) -> u32 {
        let number = name.and_then(|name| name.to_str().ok()?.parse::<u32>().ok());
        number.unwrap_or(0) % limits::CALLER_STREAMS_MAX as u32
    }

    /// The way of caller `number` to who has those `connections`. At most [`limits::CALLER_STREAMS_MAX`] are kept; the one that came first
    /// goes.
    pub(super) fn streams(&self, number: u32, connections: &Rc<Connections>, table: &Table) -> Rc<Streams> {
        let mut ways = self.known().ways.borrow_mut();
        let is_it = |way: &&Way| way.caller == number && way.to.as_ptr() == Rc::as_ptr(connections);
        if let Some(way) = ways.iter().find(is_it) {
            return way.streams.clone();
        }
        if ways.len() >= limits::CALLER_STREAMS_MAX {
            ways.remove(0);
        }
        let streams = table.own(connections);
        ways.push(Way { to: Rc::downgrade(connections), caller: number, streams: streams.clone() });
        streams
    }
}

/// Whose request it is, where that matters to who is asked.
pub(crate) type Caller<'a> = Option<(&'a Callers, u32)>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_apart_by_name_and_a_bad_name_is_as_good_as_none() {
        let (one, two) = (Callers::default(), Callers::default());
        assert_eq!(one.name(), one.name());
        assert_ne!(Callers::number(Some(&one.name())), Callers::number(Some(&two.name())));
        for bad in ["", "x", "-1", "99999999999"] {
            assert_eq!(Callers::number(Some(&HeaderValue::from_static(bad))), 0, "{bad}");
        }
        assert!(Callers::number(Some(&HeaderValue::from(u32::MAX))) < limits::CALLER_STREAMS_MAX as u32);
    }
}
