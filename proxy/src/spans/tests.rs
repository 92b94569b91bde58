//! The exporter against a collector that is there, one that is not, and at the end of the process.

use super::*;
use crate::{
    config,
    sim::Proxy,
    telemetry::{Counters, Direction, Journal, Proto, Span, Tls},
};
use http::Request;
use remora_api::{
    otlp::proto::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    sync::Resource,
};
use remora_model::{Backend, BackendId, BackendSettings, Endpoint, Outbound, Parent, Protocol};
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, task::LocalSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Response, Status, transport::Server};

/// A collector: gives the test what it is sent, with the head's fields, and answers as that says.
struct Collector {
    tell: mpsc::UnboundedSender<(ExportTraceServiceRequest, Option<String>)>,
    refuses: i64,
    status: tonic::Code,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let parent = request.metadata().get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.tell.send((request.into_inner(), parent)).map_err(|_| Status::unavailable("the test has ended"))?;
        if self.status != tonic::Code::Ok {
            return Err(Status::new(self.status, "no"));
        }
        let partial = ExportTracePartialSuccess { rejected_spans: self.refuses, error_message: "old".to_owned() };
        Ok(Response::new(ExportTraceServiceResponse { partial_success: Some(partial) }))
    }
}

type Taken = mpsc::UnboundedReceiver<(ExportTraceServiceRequest, Option<String>)>;

async fn collector(status: tonic::Code) -> (SocketAddr, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, (tell, taken)) = (listener.local_addr().unwrap(), mpsc::unbounded_channel());
    let service = TraceServiceServer::new(Collector { tell, refuses: 0, status });
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    (address, taken)
}

/// A worker that knows of a collector at this address, outside of the mesh.
fn proxy(address: SocketAddr) -> Proxy {
    let (proxy, id) = (Proxy::new(config::tests::least(), None, 7), BackendId::service("observability", "otel", 4317));
    let endpoint =
        Endpoint { address, identity: None, proxy: None, weight: 1, zone: "".into(), pod: "".into(), node: None };
    let settings = BackendSettings::default();
    proxy.control.say(Resource::Backend(Backend {
        id: id.clone(),
        protocol: Protocol::Detect,
        settings,
        endpoints: vec![endpoint],
    }));
    let target = Target::parse("otel.observability:4317", 4317).unwrap();
    proxy.control.say(Resource::Outbound(Outbound::bare(target, Parent::Backend(id))));
    proxy
}

/// A request that ends, of which this span is made.
fn ask(counters: &Counters, id: u64) {
    let request = Request::get("/orders/7").body(()).unwrap();
    let now = Instant::now();
    let mut begun = counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Mtls), now);
    begun.record().traced(Span { trace: 5, id, parent: None });
    begun.success(now + Duration::from_millis(1));
}

fn counters(routes: &Arc<Routes>) -> Counters {
    Counters::new(Journal::new(routes), Direction::Inbound, "shop/web:80".into(), Vec::new())
}

fn settings(tracing: &str) -> (watch::Sender<InForce>, watch::Receiver<InForce>) {
    watch::channel(InForce { tracing: tracing.parse().unwrap(), ..config::tests::least().settings() })
}

const ON: &str = "otel.observability:4317 sample=100%";

fn run<F: Future<Output = ()>>(paused: bool, test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(paused).build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn ids((request, _): &(ExportTraceServiceRequest, Option<String>)) -> Vec<u64> {
    let spans = request.resource_spans.iter().flat_map(|of| &of.scope_spans).flat_map(|of| &of.spans);
    spans.map(|span| u64::from_be_bytes(span.span_id[..].try_into().unwrap())).collect()
}

#[test]
fn spans_arrive_at_a_collector_and_their_export_makes_none() {
    run(false, async {
        let (address, mut taken) = collector(tonic::Code::Ok).await;
        let proxy = proxy(address);
        let (exporter, inbox, alive) = Exporter::new(&proxy.routes, &proxy.world.resources.config);
        let (set, settings) = settings(ON);
        let world = proxy.world.clone();
        let served = tokio::task::spawn_local(serve(world, inbox.unwrap()));
        let exported = tokio::task::spawn_local(exporter.run(settings));
        tokio::task::yield_now().await;
        let counters = counters(&proxy.routes);
        ask(&counters, 1);
        ask(&counters, 2);
        let first = taken.recv().await.unwrap();
        assert_eq!(ids(&first), [1, 2]);
        let resource = first.0.resource_spans[0].resource.as_ref().unwrap();
        assert_eq!(resource.attributes[0].key, "service.name");
        let parent = first.1.as_deref().unwrap();
        assert!(parent.len() == 55 && parent.ends_with("-00"), "whoever sends it on makes no span: {parent}");
        // What is there at the end of the process arrives with it; the export itself was no span.
        ask(&counters, 3);
        drop(alive);
        assert_eq!(ids(&taken.recv().await.unwrap()), [3]);
        served.await.unwrap();
        assert!(taken.try_recv().is_err() && !exported.is_finished());
        assert_eq!(proxy.counted("success"), 5, "three requests, and two exports");
        drop(set);
    });
}

#[test]
fn a_setting_is_followed_while_the_proxy_runs() {
    run(true, async {
        let routes = Routes::new("shop/web-1".into());
        let (exporter, inbox, alive) = Exporter::new(&routes, &config::tests::least());
        let mut inbox = inbox.unwrap();
        let (set, settings) = settings("off");
        tokio::task::spawn_local(exporter.run(settings));
        tokio::task::yield_now().await;
        let counters = counters(&routes);
        assert!(!routes.sampling().is_on());
        ask(&counters, 1);
        let turn = |tracing: &str| set.send_modify(|settings| settings.tracing = tracing.parse().unwrap());
        turn(ON);
        // It reads from now on.
        sleep(Duration::from_millis(1)).await;
        assert!(routes.sampling().is_on());
        ask(&counters, 2);
        let Export { collector, told, .. } = inbox.0.recv().await.unwrap();
        assert_eq!(collector.to_string(), "otel.observability:4317");
        told.send(Ok(Bytes::new())).unwrap();
        ask(&counters, 3);
        turn("other:4317 sample=100%");
        assert_eq!(inbox.0.recv().await.unwrap().collector.to_string(), "other:4317", "what waits goes to the new one");
        turn("off");
        sleep(Duration::from_millis(1)).await;
        assert!(!routes.sampling().is_on());
        drop(alive);
    });
}

/// An exporter whose worker the test plays, with spans that wait.
fn waiting(spans: u64) -> (Exporter, Inbox, Arc<Routes>, Alive) {
    let routes = Routes::new("shop/web-1".into());
    let (mut exporter, inbox, alive) = Exporter::new(&routes, &config::tests::least());
    exporter.set(ON.parse().unwrap());
    let counters = counters(&routes);
    (1..=spans).for_each(|id| ask(&counters, id));
    (exporter, inbox.unwrap(), routes, alive)
}

#[test]
fn what_does_not_arrive_is_sent_again_later_and_given_up_in_the_end() {
    run(true, async {
        let (mut exporter, mut inbox, _routes, _alive) = waiting(3);
        exporter.step(Instant::now());
        assert!(inbox.0.try_recv().is_err(), "a span waits for others");
        tokio::time::advance(limits::TRACE_DELAY).await;
        let (mut sent_at, mut frames) = (Vec::new(), Vec::new());
        let began = Instant::now();
        while exporter.is_busy() && sent_at.len() < 10 && began.elapsed() < Duration::from_secs(120) {
            exporter.step(Instant::now());
            if let Ok(Export { frame, .. }) = inbox.0.try_recv() {
                sent_at.push(Instant::now());
                frames.push(frame);
                exporter.told(Err(SendError::Status(14)));
            }
            tokio::time::advance(limits::TRACE_STEP).await;
        }
        assert_eq!(frames.len() as u32, limits::TRACE_TRIES_MAX);
        assert!(frames.windows(2).all(|two| two[0] == two[1]), "it is the same message");
        let pauses: Vec<Duration> = sent_at.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses[0] >= limits::TRACE_BACKOFF_MIN / 2 && pauses[1] >= limits::TRACE_BACKOFF_MIN, "{pauses:?}");
        assert!(exporter.again.is_none() && exporter.pending.is_empty());
    });
}

#[test]
fn one_is_under_way_at_a_time_and_what_waits_meanwhile_is_bounded() {
    run(true, async {
        let (mut exporter, mut inbox, routes, _alive) = waiting(1);
        exporter.step(Instant::now());
        tokio::time::advance(limits::TRACE_DELAY).await;
        exporter.step(Instant::now());
        let first = inbox.0.try_recv().unwrap();
        let counters = counters(&routes);
        for _ in 0..20 {
            (0..500).for_each(|id| ask(&counters, 10 + id));
            exporter.step(Instant::now());
            tokio::time::advance(limits::TRACE_DELAY).await;
            assert!(inbox.0.try_recv().is_err());
        }
        let waits = exporter.pending.len();
        assert!((1000..5000).contains(&waits), "{waits} of 10000");
        drop(first);
        exporter.told(Err(SendError::Status(3)));
        assert!(exporter.again.is_none(), "a message that was refused is not sent again");
    });
}

#[test]
fn an_end_waits_for_a_collector_that_takes_nothing_only_so_long() {
    run(true, async {
        let (exporter, inbox, _routes, alive) = waiting(3);
        let (_set, settings) = settings(ON);
        let (began, exported) = (Instant::now(), tokio::task::spawn_local(exporter.run(settings)));
        drop(alive);
        // The worker's end: it hears when nothing comes any more.
        let mut inbox = inbox.0;
        let stuck = inbox.recv().await.unwrap();
        assert!(inbox.recv().await.is_none());
        assert!(began.elapsed() <= limits::TRACE_LAST + Duration::from_millis(50), "{:?}", began.elapsed());
        assert!(!exported.is_finished(), "a task of the process never ends");
        drop(stuck);
    });
}

#[test]
fn what_a_collector_answers_is_told_apart() {
    run(false, async {
        for (status, expected) in
            [(tonic::Code::InvalidArgument, SendError::Status(3)), (tonic::Code::Unavailable, SendError::Status(14))]
        {
            let (address, mut taken) = collector(status).await;
            let proxy = proxy(address);
            assert_eq!(told(&proxy, "otel.observability:4317").await, Err(expected));
            assert!(taken.recv().await.is_some());
        }
        // Nobody listens there; and a collector that is this proxy itself.
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let refused = told(&proxy(closed), "otel.observability:4317").await.unwrap_err();
        assert!(matches!(refused, SendError::Unreached(_)) && refused.may_pass(), "{refused}");
        assert!(!SendError::Status(3).may_pass() && !SendError::NotGrpc(404).may_pass());
    });
}

/// What a worker says of one empty message.
async fn told(proxy: &Proxy, collector: &str) -> Result<Bytes, SendError> {
    let (out, inbox) = mpsc::channel(1);
    let served = tokio::task::spawn_local(serve(proxy.world.clone(), Inbox(inbox)));
    let (tell, told) = oneshot::channel();
    let frame = remora_api::otlp::frame(&[], ("a", "b"), Vec::new());
    out.send(Export { collector: collector.parse().unwrap(), frame, told: tell }).await.unwrap();
    let told = told.await.unwrap();
    drop(out);
    served.await.unwrap();
    told
}
