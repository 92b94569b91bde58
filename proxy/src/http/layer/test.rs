//! What the layers are tested with: a backend, and an inner service that answers as a test says.

use super::Outcome;
use crate::{
    backend::{
        Pool, Zone,
        endpoint::{AnswerBody, Dialing, Table, Upstream},
    },
    config,
    discover::{self, Plan, Port},
    http::{
        Wire,
        body::request::RequestBody,
        request::{
            Answered, Arrived, ClientConnection, Counted, Failed, Fate, Ingoing, Inward, Origin, Outgoing, Outward, Way,
        },
        visit::Visit,
    },
    policy::{self, Act, Peer, To},
    resources::Resources,
    sim::Proxy,
    telemetry::{Counters, Direction, Journal, Proto, Reason, Routes, Tls},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, request::Builder};
use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use remora_api::sync::Resource;
use remora_model::{
    Backend, BackendId, BackendRef, BackendRefState, BackendSettings, Endpoint, Inbound, MtlsMode, Outbound, Parent,
    PathMatch, Protocol, RouteMatch, Rule, SpiffeId, Target, TrustDomain,
};
use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream},
    sync::oneshot,
    task::LocalSet,
    time::Instant,
};
use tower::Service;

/// A worker with one backend.
pub(super) struct World {
    pub resources: Rc<Resources>,
    pub pool: Rc<Pool>,
    pub routes: Arc<Routes>,
    pub counters: Rc<Counters>,
    /// How often discovery was asked again.
    pub doubts: Rc<Cell<u32>>,
}

/// A backend of the tests.
pub(super) fn id() -> BackendId {
    BackendId::service("shop", "api", 80)
}

/// An address that nobody listens on.
pub(super) fn address(last: u16) -> SocketAddr {
    ([127, 0, 0, 1], last).into()
}

/// An endpoint outside the mesh.
fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { address, identity: None, proxy: None, weight: 1, zone: "".into(), pod: "".into(), node: None }
}

/// The settings under which nothing but the request itself bounds its tries.
pub(super) fn generous() -> BackendSettings {
    BackendSettings { min_retries: 1000, ..BackendSettings::default() }
}

impl World {
    /// With endpoints outside the mesh.
    pub(super) fn new(addresses: &[SocketAddr]) -> Self {
        let (resources, doubts) = (Resources::of_tests(config::tests::least()), Rc::new(Cell::new(0)));
        let (table, asked) = (Rc::<Table>::default(), doubts.clone());
        let doubt = Box::new(move || asked.set(asked.get() + 1));
        let (kept, _) = oneshot::channel();
        let pool = Rc::new(Pool::new(id(), (doubt, Zone::default()), (&resources, &table), kept));
        let routes = Routes::new("shop/web-1".into());
        let counters =
            Counters::new(Journal::new(&routes), Direction::Outbound, "shop/api:80".into(), vec!["rule".into()]);
        let world = Self { resources, pool, routes, counters: Rc::new(counters), doubts };
        world.settings(generous(), addresses);
        world
    }

    /// Another state of the backend.
    pub(super) fn settings(&self, settings: BackendSettings, addresses: &[SocketAddr]) {
        let endpoints = addresses.iter().copied().map(endpoint).collect();
        self.pool.update(&Backend { id: id(), protocol: Protocol::Detect, settings, endpoints });
    }

    /// What an endpoint of the backend answers.
    pub(super) fn answer(&self, status: u16, fate: Option<Fate>) -> Outcome {
        let (upstream, in_flight) =
            self.pool.pick(Instant::now(), &mut self.resources.rng.borrow_mut(), &[], None).map_err(Failed::new)?;
        let mut response = Response::new(AnswerBody::Empty);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let endpoint = upstream.endpoint.address;
        let permit = policy::outbound(To::Endpoint(&upstream.endpoint));
        let told = fate.map(|fate| match fate {
            Fate::Undelivered(reason) => reason,
            Fate::BrokenOff => Reason::UpstreamReset,
        });
        let origin =
            Origin { endpoint, mesh: fate.is_some(), fate, told, in_flight: Some(in_flight), lease: None, permit };
        Ok(Box::new(Answered { origin: Some(origin), ..*Answered::own(response) }))
    }

    /// A request as it is inside of signals.
    pub(super) fn outgoing(&self, wire: Wire, request: Builder) -> Outgoing {
        let request = request.body(RequestBody::Empty).unwrap();
        let peer = (&"".into(), Tls::Plain);
        let begun = self.counters.request(Some(0), &request, Proto::Http1, peer, Instant::now());
        let record = begun.record().clone();
        let grpc = crate::http::grpc::is_grpc(request.headers());
        let (started, client) = (Instant::now(), ClientConnection::of_application(wire, true));
        let authority = request.uri().authority().cloned();
        Counted { request, authority, started, grpc, client, record, offer: None, of: Outward { prefix: 0 } }
    }

    /// What the one route of the test has counted under `name`.
    pub(super) fn counted(&self, name: &str) -> u64 {
        self.routes.json()["routes"][0][name].as_u64().unwrap_or_else(|| panic!("no {name} in {}", self.routes.json()))
    }

    /// The failures of the one route, by reason.
    pub(super) fn failures(&self) -> String {
        self.routes.json()["routes"][0]["failures"].to_string()
    }
}

/// A port that lets everybody in.
pub(super) fn open_port() -> Inbound {
    Inbound {
        port: 80,
        parent: "shop/api:80".into(),
        protocol: Protocol::Detect,
        mtls: MtlsMode::Permissive,
        rules: Vec::new(),
        default_deny: false,
        dry_run: Default::default(),
        ending: false,
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
    }
}

/// A pod with one port, as a peer visits it. Its application is at `app`.
pub(super) struct Visited {
    pub visit: Rc<Visit>,
    pub resources: Rc<Resources>,
    pub routes: Arc<Routes>,
}

impl Visited {
    /// By a proxy of the mesh, or by a client outside of it.
    pub(super) fn new(inbound: Inbound, mesh: bool, app: SocketAddr) -> Self {
        let resources = Resources::of_tests(config::tests::least());
        let routes = Routes::new("shop/api-1".into());
        let port = Port::of_tests(inbound, Rc::new(Counters::inbound(Journal::new(&routes), "shop/api:80".into())));
        let identity = mesh.then(|| SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap());
        let visit = Visit {
            holder: resources.pod.clone(),
            port,
            peer: Peer { identity, address: [10, 0, 0, 9].into() },
            trust: None,
            peer_name: "".into(),
            client_id: None,
            tls: if mesh { Tls::Mtls } else { Tls::Plain },
            goodbye: None,
            app: Upstream::new(
                &resources,
                &Rc::<Table>::default(),
                endpoint(app),
                Dialing::within(crate::limits::APP_CONNECT_TIMEOUT),
            ),
        };
        Self { visit: Rc::new(visit), resources, routes }
    }

    /// A request as it is inside of signals.
    pub(super) fn ingoing(&self, wire: Wire, mesh: bool, way: Way, request: Builder) -> Ingoing {
        let permit = self.visit.judge(Act::Bytes).unwrap();
        let arrived = arrived(wire, request.body(RequestBody::Empty).unwrap());
        let record = self.visit.port.signals.bytes(&"".into(), Tls::Plain, Instant::now()).record().clone();
        let Arrived { request, started, grpc, authority, .. } = arrived;
        let client = Rc::new(ClientConnection::of_peer(wire, mesh, 1024));
        Counted { request, authority, started, grpc, client, record, offer: None, of: Inward { way, permit } }
    }
}

/// A request as it is before it has a route.
pub(super) fn arrived(wire: Wire, request: Request<RequestBody>) -> Arrived<RequestBody> {
    let grpc = crate::http::grpc::is_grpc(request.headers());
    let authority = request.uri().authority().cloned();
    Arrived { request, started: Instant::now(), grpc, authority, client: ClientConnection::of_application(wire, true) }
}

/// A failure for this reason, after which the request may have been delivered.
pub(super) fn failed(reason: Reason) -> Outcome {
    Err(Failed::new(reason))
}

type Reply = Pin<Box<dyn Future<Output = Outcome>>>;

/// An inner service: keeps what it is asked, and answers as the test says for each question by its number.
pub(super) struct Inner<R> {
    pub seen: Rc<RefCell<Vec<R>>>,
    reply: Rc<dyn Fn(usize) -> Reply>,
}

impl<R> Clone for Inner<R> {
    fn clone(&self) -> Self {
        Self { seen: self.seen.clone(), reply: self.reply.clone() }
    }
}

impl<R> Inner<R> {
    pub(super) fn new<F: Future<Output = Outcome> + 'static>(reply: impl Fn(usize) -> F + 'static) -> Self {
        Self { seen: Rc::default(), reply: Rc::new(move |number| Box::pin(reply(number))) }
    }

    /// Answers every question at once.
    pub(super) fn ready(reply: impl Fn(usize) -> Outcome + 'static) -> Self {
        Self::new(move |number| std::future::ready(reply(number)))
    }

    /// Never answers.
    pub(super) fn silent() -> Self {
        Self::new(|_| std::future::pending())
    }

    /// How often it was asked.
    pub(super) fn asked(&self) -> usize {
        self.seen.borrow().len()
    }
}

impl<R> Service<R> for Inner<R> {
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Reply;

    super::always_ready!();

    fn call(&mut self, request: R) -> Reply {
        self.seen.borrow_mut().push(request);
        (self.reply)(self.asked() - 1)
    }
}

/// Runs a test in time that passes when nothing else can happen.
pub(super) fn paused(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// Runs a test with real sockets.
pub(super) fn real(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// The status of an outcome, or the reason.
pub(super) fn told(outcome: &Outcome) -> String {
    match outcome {
        Ok(answered) => answered.response.status().as_u16().to_string(),
        Err(failed) => failed.reason.as_str().to_owned(),
    }
}

/// A request as the library gives it, of a client that has sent this much over HTTP/1; with the client's end.
pub(super) async fn incoming(sent: &[u8]) -> (Request<Incoming>, DuplexStream) {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    client.write_all(sent).await.unwrap();
    let (tell, told) = oneshot::channel();
    let tell = RefCell::new(Some(tell));
    let service = service_fn(move |request: Request<Incoming>| {
        if let Some(tell) = tell.take() {
            drop(tell.send(request));
        }
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    });
    tokio::task::spawn_local(http1::Builder::new().serve_connection(TokioIo::new(server), service));
    (told.await.unwrap(), client)
}

/// What discovery says of a target: a Service, with a rule for each of these paths.
pub(super) fn routed(target: &Target, paths: &[&str]) -> Resource {
    let matched = |(rule, path): (usize, &&str)| {
        let path = Some(PathMatch::Prefix((*path).into()));
        RouteMatch { path, method: None, headers: Vec::new(), query: Vec::new(), rule }
    };
    let backends = vec![BackendRef { backend: id(), weight: 1, state: BackendRefState::Valid, filters: Vec::new() }];
    let rule = |path: &&str| Rule { backends: backends.clone(), ..Rule::closed(format!("rule of {path}").into()) };
    Resource::Outbound(Outbound {
        matches: paths.iter().enumerate().map(matched).collect(),
        rules: paths.iter().map(rule).collect(),
        ..Outbound::bare(target.clone(), Parent::Backend(id()))
    })
}

/// What discovery says of the backend.
pub(super) fn backend(addresses: &[SocketAddr]) -> Resource {
    let endpoints = addresses.iter().copied().map(endpoint).collect();
    Resource::Backend(Backend { id: id(), protocol: Protocol::Detect, settings: generous(), endpoints })
}

/// A proxy that is told so.
pub(super) fn proxy(told: impl IntoIterator<Item = Resource>) -> Proxy {
    let proxy = Proxy::new(config::tests::least(), None, 7);
    told.into_iter().for_each(|resource| proxy.control.say(resource));
    proxy
}

/// The plan of a target.
pub(super) async fn plan(proxy: &Proxy, target: &Target) -> Rc<Plan> {
    match proxy.world.directory.route(target).await.unwrap() {
        (_, discover::Way::Mesh(plan)) => plan,
        (_, other) => panic!("{target} is {other:?}"),
    }
}

/// The reason that an answer tells.
pub(super) fn reason<B>(answer: &Response<B>) -> &str {
    answer.headers().get("x-remora-error").map_or("", |reason| reason.to_str().unwrap())
}
