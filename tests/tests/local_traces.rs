//! Three hops through real proxies are one trace, at a collector in the mesh.

use anyhow::{Context as _, ensure};
use remora_api::otlp::proto::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, Span,
    trace_service_server::{TraceService, TraceServiceServer},
};
use remora_tests::{
    local::{Mesh, Proxy, http},
    patience::until,
};
use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};
use tonic::{Request, Response, Status, transport::Server};

/// What a collector has taken: each span with the service whose proxy made it.
type Taken = Arc<Mutex<Vec<(String, Span)>>>;

struct Collector(Taken);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of in request.into_inner().resource_spans {
            let service = of.resource.as_ref().and_then(|of| text(&of.attributes, "service.name")).unwrap_or_default();
            let spans = of.scope_spans.into_iter().flat_map(|of| of.spans);
            taken.extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(attributes: &[remora_api::otlp::proto::KeyValue], name: &str) -> Option<String> {
    use remora_api::otlp::proto::any_value::Value;
    let value = attributes.iter().find(|one| one.key == name)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
    })
}

/// A collector in the pod of this proxy.
fn collector(pod: &Proxy) -> anyhow::Result<(SocketAddr, Taken)> {
    let (listener, taken) = (TcpListener::bind((pod.ip, 0))?, Taken::default());
    listener.set_nonblocking(true)?;
    let (address, kept) = (listener.local_addr()?, taken.clone());
    thread::spawn(move || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let incoming = tonic::transport::server::TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?);
            let service = TraceServiceServer::new(Collector(kept));
            Ok(Server::builder().add_service(service).serve_with_incoming(incoming).await?)
        })
    });
    Ok((address, taken))
}

/// An application that asks the next one, through its own proxy, with the fields of the trace that it was asked with. The last one answers.
fn application(pod: &Proxy, next: Option<&str>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((pod.ip, 0))?;
    let (address, proxy, next) = (listener.local_addr()?, pod.outbound, next.map(str::to_owned));
    thread::spawn(move || -> anyhow::Result<()> {
        loop {
            let (mut stream, _) = listener.accept()?;
            let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer)? {
                    0 => break,
                    count => head.extend_from_slice(&buffer[..count]),
                }
            }
            if let Some(next) = &next {
                let head = String::from_utf8_lossy(&head).into_owned();
                let is_trace = |line: &&str| ["traceparent:", "b3:"].iter().any(|name| line.starts_with(name));
                let fields: String = head.lines().filter(is_trace).map(|line| format!("{line}\r\n")).collect();
                let mut upstream = TcpStream::connect(proxy)?;
                write!(upstream, "GET /next HTTP/1.1\r\nhost: {next}\r\nconnection: close\r\n{fields}\r\n")?;
                upstream.read_to_end(&mut Vec::new())?;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
        }
    });
    Ok(address)
}

/// The spans of the one trace that there is, once there are four.
fn trace(taken: &Taken, proxies: &[&Proxy]) -> anyhow::Result<BTreeMap<String, Span>> {
    until("four spans are at the collector", || {
        let taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = |span: &Span| if span.kind == 3 { "client" } else { "server" };
        let spans: BTreeMap<_, _> =
            taken.iter().map(|(service, span)| (format!("{service} {}", kind(span)), span.clone())).collect();
        ensure!(spans.len() >= 4, "there are {:?}", spans.keys());
        ensure!(taken.len() == 4, "{} spans of {:?}", taken.len(), spans.keys());
        Ok(Some(spans))
    })
    .with_context(|| proxies.iter().map(|proxy| proxy.program.log_end()).collect::<String>())
}

fn ask(web: &Proxy, fields: &str) -> anyhow::Result<()> {
    let request = format!("GET /orders/7?secret=1 HTTP/1.1\r\nhost: api:80\r\nconnection: close\r\n{fields}\r\n");
    let answer = http::exchange(web.outbound, request.as_bytes())?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// What a caller says of its trace, the setting, and the parent of the first span.
fn three_hops(fields: &str, sample: &str, root: Option<(&str, &str)>) -> anyhow::Result<()> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let tracing = format!("otel:4317 sample={sample}");
    let spawn = |name: &str| mesh.proxy(name).env("TRACING", &tracing).spawn();
    let (web, api, db, otel) = (spawn("web")?, spawn("api")?, spawn("db")?, spawn("otel")?);
    let (collector, taken) = collector(&otel)?;
    mesh.service("api", 80, Some("http"), &[application(&api, Some("db:80"))?])?;
    mesh.service("db", 80, Some("http"), &[application(&db, None)?])?;
    mesh.service("otel", 4317, None, &[collector])?;
    let (web, api, db, otel) = (web.ready()?, api.ready()?, db.ready()?, otel.ready()?);
    // By requests that nobody samples.
    until("every hop is known", || {
        for (pod, service) in [(&api, "db:80"), (&web, "api:80")] {
            let head = format!("GET / HTTP/1.1\r\nhost: {service}\r\nconnection: close\r\nb3: 0\r\n\r\n");
            let answer = http::exchange(pod.outbound, head.as_bytes())?;
            ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        }
        Ok(Some(()))
    })?;
    ask(&web, fields)?;
    let spans = trace(&taken, &[&web, &api, &db, &otel])?;
    let of = |name: &str| spans.get(name).with_context(|| format!("no {name} in {:?}", spans.keys()));
    let path = [of("web client")?, of("api server")?, of("api client")?, of("db server")?];
    for two in path.windows(2) {
        assert_eq!((&two[0].trace_id, &two[0].span_id), (&two[1].trace_id, &two[1].parent_span_id), "{spans:?}");
        // One clock has all of them here.
        assert!(two[0].start_time_unix_nano <= two[1].end_time_unix_nano, "{spans:?}");
    }
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (id, parent) = (hex(&path[0].trace_id), hex(&path[0].parent_span_id));
    match root {
        Some(root) => assert_eq!((id.as_str(), parent.as_str()), root),
        None => assert_eq!(parent, "", "the trace begins here"),
    }
    let of_api = |name: &str| text(&path[1].attributes, name).unwrap_or_default();
    assert_eq!((of_api("url.path"), of_api("remora.peer")), ("/orders/7".to_owned(), web.identity.clone()));
    // What carries the spans makes none, though the collector's own proxy traces as well.
    assert_eq!(web.metric("remora_trace_spans_dropped_total", &[]).unwrap_or(0.0), 0.0);
    let exports = otel.routes()?["routes"].clone();
    let exports = exports.as_array().into_iter().flatten().find(|row| row["protocol"] == "grpc").cloned();
    let exports = exports.with_context(|| format!("no exports: {:?}", otel.routes()))?;
    assert_eq!(exports["tls"], "mtls", "a collector in the mesh is asked over mesh TLS: {exports}");
    Ok(())
}

#[test]
fn a_call_of_three_hops_is_one_trace_that_begins_at_its_first_proxy() -> anyhow::Result<()> {
    three_hops("", "100%", None)
}

#[test]
fn the_trace_of_a_sampled_caller_goes_on_through_three_hops() -> anyhow::Result<()> {
    let (id, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    three_hops(&format!("b3: {id}-{span}-1\r\n"), "0%", Some((id, span)))
}
