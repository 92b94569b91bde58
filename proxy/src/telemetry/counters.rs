//! Which counters a request or connection has: of its route's label, its gRPC method or its path's template. In: a request
//! and who is at the other end. Out: its record, which knows its counters, found by index. Bounded: names come from what discovery said, and from
//! a limited number of templates and methods.

use super::{
    Begun, DENIED, Direction, Found, Journal, OTHER, PathTemplates, Proto, RouteKey, RouteStats, Routes, Sampling,
    TemplateId, Tls,
};
use crate::limits;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    rc::Rc,
    sync::Arc,
};
use tokio::time::Instant;

/// The counters of a target or port, resolved once per route and found by index.
pub(crate) struct Counters {
    journal: Rc<Journal>,
    direction: Direction,
    parent: Arc<str>,
    labels: Vec<Arc<str>>,
    templates: RefCell<PathTemplates>,
    known: RefCell<HashMap<Slot, Found>>,
    /// What was found last: one request in a row of many is like the one before.
    last: RefCell<Option<(Slot, Found)>>,
    methods: RefCell<HashMap<Box<str>, Method>>,
    born: Instant,
    /// When room for methods is looked for again, in seconds since then.
    next_sweep: Cell<u32>,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").field("parent", &self.parent).finish_non_exhaustive()
    }
}

/// A gRPC method that is counted by name.
struct Method {
    name: Arc<str>,
    /// When it was met last, in seconds.
    used: Cell<u32>,
}

/// Which counters.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Slot {
    route: Which,
    peer: Arc<str>,
    tls: Tls,
    protocol: Proto,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Which {
    Rule(usize),
    Template(TemplateId),
    Method(Arc<str>),
    Bytes,
    Denied,
}

impl Counters {
    pub(crate) fn new(journal: Rc<Journal>, direction: Direction, parent: Arc<str>, labels: Vec<Arc<str>>) -> Self {
        Self {
            journal,
            direction,
            parent,
            labels,
            templates: RefCell::new(PathTemplates::new(limits::TEMPLATES_MAX)),
            known: RefCell::default(),
            last: RefCell::default(),
            methods: RefCell::default(),
            born: Instant::now(),
            next_sweep: Cell::default(),
        }
    }

    pub(crate) fn inbound(journal: Rc<Journal>, parent: Arc<str>) -> Self {
        Self::new(journal, Direction::Inbound, parent, Vec::new())
    }

    fn routes(&self) -> &Routes {
        self.journal.routes()
    }

    /// Whether spans are made of what is counted.
    pub(crate) fn sampling(&self) -> &Arc<Sampling> {
        self.routes().sampling()
    }

    /// What they are counted under.
    pub(crate) fn parent(&self) -> &str {
        &self.parent
    }

    /// A request begins, and is counted under its rule, else under its gRPC method, else under its path's template.
    pub(crate) fn request<B>(
        &self,
        rule: Option<usize>,
        request: &http::Request<B>,
        protocol: Proto,
        (peer, tls): (&Arc<str>, Tls),
        started: Instant,
    ) -> Begun {
        let labelled = rule.filter(|index| self.labels.get(*index).is_some_and(|label| !label.is_empty()));
        let route = match labelled {
            Some(index) => Which::Rule(index),
            None if protocol == Proto::Grpc => Which::Method(self.method(request.uri().path(), self.second(started))),
            None => Which::Template(self.template(request.method(), request.uri().path(), self.second(started))),
        };
        self.journal.request(self.find(route, peer, tls, protocol), request, started)
    }

    /// A request that is refused begins: one series for all of them, whatever their caller and route, so that they take no room from
    /// allowed requests. Of what became bytes, or never was a request, there is no head.
    pub(crate) fn denied<B>(
        &self,
        request: Option<&http::Request<B>>,
        protocol: Proto,
        (peer, tls): (&str, Tls),
        started: Instant,
    ) -> Begun {
        let slot = Slot { route: Which::Denied, peer: "".into(), tls, protocol };
        self.journal.refused(self.search(&slot).stats, (request, peer), started)
    }

    fn second(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.born).as_secs() as u32
    }

    fn template(&self, method: &http::Method, path: &str, second: u32) -> TemplateId {
        let mut templates = self.templates.borrow_mut();
        let before = templates.generation();
        let id = templates.learn(method, path, second);
        if templates.generation() != before {
            self.known.borrow_mut().retain(|slot, _| !matches!(slot.route, Which::Template(_)));
            *self.last.borrow_mut() = None;
        }
        id
    }

    /// A byte connection begins.
    pub(crate) fn bytes(&self, peer: &Arc<str>, tls: Tls, started: Instant) -> Begun {
        self.journal.bytes(self.find(Which::Bytes, peer, tls, Proto::Tcp), started)
    }

    fn find(&self, route: Which, peer: &Arc<str>, tls: Tls, protocol: Proto) -> Arc<RouteStats> {
        if let Some((last, found)) = &*self.last.borrow()
            && Arc::ptr_eq(&last.peer, peer)
            && (&last.route, last.tls, last.protocol) == (&route, tls, protocol)
            && self.routes().is_current(found)
        {
            return found.stats.clone();
        }
        let slot = Slot { route, peer: peer.clone(), tls, protocol };
        let found = self.search(&slot);
        let stats = found.stats.clone();
        *self.last.borrow_mut() = Some((slot, found));
        stats
    }

    fn search(&self, slot: &Slot) -> Found {
        if let Some(found) = self.known.borrow().get(slot).filter(|found| self.routes().is_current(found)) {
            return found.clone();
        }
        let route = match &slot.route {
            Which::Rule(index) => self.labels.get(*index).cloned().unwrap_or_else(|| OTHER.into()),
            Which::Template(id) => self.templates.borrow().name(*id),
            Which::Method(name) => name.clone(),
            Which::Bytes => "tcp".into(),
            Which::Denied => DENIED.into(),
        };
        let (direction, parent) = (self.direction, self.parent.clone());
        let Slot { peer, tls, protocol, .. } = slot.clone();
        let found = self.routes().find(RouteKey { direction, parent, route, peer, tls, protocol });
        let mut known = self.known.borrow_mut();
        if known.len() >= limits::SERIES_PER_TARGET_MAX {
            known.retain(|_, found| self.routes().is_current(found));
        }
        if known.len() < limits::SERIES_PER_TARGET_MAX {
            known.insert(slot.clone(), found.clone());
        }
        found
    }

    /// A gRPC method's name, from a bounded set.
    fn method(&self, path: &str, second: u32) -> Arc<str> {
        if let Some(known) = self.methods.borrow().get(path) {
            known.used.set(second);
            return known.name.clone();
        }
        let mut methods = self.methods.borrow_mut();
        let plain =
            path.len() <= 200 && path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_'));
        if !plain {
            return OTHER.into();
        }
        if methods.len() >= limits::TEMPLATES_MAX && second >= self.next_sweep.get() {
            self.next_sweep.set(second.saturating_add(limits::SIGNALS_SWEEP.as_secs() as u32));
            let idle = limits::SIGNALS_IDLE.as_secs() as u32;
            methods.retain(|_, known| second.saturating_sub(known.used.get()) < idle);
        }
        if methods.len() >= limits::TEMPLATES_MAX {
            super::series_full("method");
            return OTHER.into();
        }
        let name: Arc<str> = path.into();
        methods.insert(path.into(), Method { name: name.clone(), used: Cell::new(second) });
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Request};
    use std::time::Duration;

    fn request(path: &str) -> Request<()> {
        Request::builder().method(Method::GET).uri(path).body(()).unwrap()
    }

    fn shown(routes: &Routes) -> Vec<String> {
        let json = routes.json();
        let name = |route: &serde_json::Value| route["route"].as_str().map(str::to_owned);
        json["routes"].as_array().into_iter().flatten().filter_map(name).collect()
    }

    #[test]
    fn what_is_refused_has_one_series_however_much_there_is_of_it() {
        let routes = Routes::new("shop/web-1".into());
        let signals = Counters::inbound(Journal::new(&routes), "shop/api:80".into());
        let now = Instant::now();
        for _ in 0..3000 {
            signals.denied(Some(&request("/never")), Proto::Http1, ("", Tls::Plain), now);
        }
        signals.request(None, &request("/orders"), Proto::Http1, (&"".into(), Tls::Mtls), now);
        assert_eq!(shown(&routes), ["GET /orders", "denied"]);
    }

    #[test]
    fn what_had_no_room_has_its_own_series_as_soon_as_there_is_some() {
        let routes = Routes::new("shop/web-1".into());
        let start = Instant::now();
        let full: Vec<_> = (0..limits::TRACKS_MAX)
            .map(|i| {
                let (direction, parent, peer) = (Direction::Inbound, "shop/old:80".into(), "".into());
                let (tls, protocol) = (Tls::Plain, Proto::Http1);
                routes.find(RouteKey { direction, parent, route: i.to_string().into(), peer, tls, protocol })
            })
            .collect();
        let signals = Counters::inbound(Journal::new(&routes), "shop/api:80".into());
        let peer: Arc<str> = "".into();
        let ask = || signals.request(None, &request("/orders"), Proto::Http1, (&peer, Tls::Mtls), start);
        let deny = || signals.denied::<()>(None, Proto::Http1, ("", Tls::Mtls), start);
        let same = |one: &Begun, other: &Begun| one.record().series() == other.record().series();
        let (other, denied) = (ask(), deny());
        assert!(same(&other, &denied), "there is no room");
        assert!(full.iter().all(|found| routes.is_current(found)));
        // What is under way is not given up itself.
        routes.tick(start + limits::SIGNALS_IDLE + Duration::from_secs(60));
        assert!(!same(&other, &ask()) && !same(&denied, &deny()));
        assert_eq!(shown(&routes).iter().filter(|name| *name == "GET /orders" || *name == DENIED).count(), 2);
    }

    #[test]
    fn paths_and_methods_that_nobody_asks_for_make_room_for_those_that_somebody_does() {
        let routes = Routes::new("shop/web-1".into());
        let signals = Counters::inbound(Journal::new(&routes), "shop/api:80".into());
        let (peer, start): (Arc<str>, _) = ("".into(), Instant::now());
        let ask = |path: &str, protocol, now| {
            signals.request(None, &request(path), protocol, (&peer, Tls::Mtls), now).record().series()
        };
        let letters =
            |i: usize| ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].map(|c| c.repeat(i / 10 + 1))[i % 10].clone();
        for i in 0..limits::TEMPLATES_MAX {
            ask(&format!("/{}/{}", letters(i / 10), letters(i % 10)), Proto::Http1, start);
            ask(&format!("/p.S/M{i}"), Proto::Grpc, start);
        }
        let other = ask("/orders", Proto::Http1, start);
        assert_eq!(other, ask("/orders/x", Proto::Http1, start), "there is no room");
        let later = start + limits::SIGNALS_IDLE + Duration::from_secs(11);
        assert_ne!(other, ask("/orders", Proto::Http1, later));
        assert_ne!(ask("/p.S/New", Proto::Grpc, later), ask("/p.S/Newer", Proto::Grpc, later));
        let names = shown(&routes);
        assert!(["GET /orders", "/p.S/New"].iter().all(|name| names.iter().any(|shown| shown == name)), "{names:?}");
    }
}
