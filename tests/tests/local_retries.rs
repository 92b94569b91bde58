//! What is sent again without anybody's asking, and what is not: over real processes.

use anyhow::{Context as _, ensure};
use remora_tests::{
    local::{Mesh, NAMESPACE, Proxy, http},
    patience::until,
    wire::{
        Line,
        http2::{self, Outcome, kind},
        servers::{self, Puppet},
    },
};
use socket2::{Domain, Socket, Type};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// What a POST brings.
const BODY: &[u8] = b"hello";

/// An application that breaks off every second request without an answer, and counts all that reach it.
fn flaky(ip: IpAddr) -> anyhow::Result<(SocketAddr, Arc<AtomicUsize>)> {
    answering(ip, |number| number % 2 == 1)
}

/// An application that answers the requests whose number, from 0, `answers` takes, and counts all that reach it.
fn answering(ip: IpAddr, answers: fn(usize) -> bool) -> anyhow::Result<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind((ip, 0))?;
    let (address, count) = (listener.local_addr()?, Arc::<AtomicUsize>::default());
    let counted = count.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A connection that breaks is the client's to report.
            if whole_request(&mut stream).is_some() && answers(counted.fetch_add(1, Ordering::SeqCst)) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
            }
        }
    });
    Ok((address, count))
}

/// Reads a request to its end, as closing before would take the answer back; `None` if there is none.
fn whole_request(stream: &mut TcpStream) -> Option<()> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let more = stream.read(&mut buffer).ok().filter(|more| *more > 0)?;
        request.extend_from_slice(&buffer[..more]);
        let head = request.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        let body = if request.starts_with(b"POST") { BODY.len() } else { 0 };
        if head.is_some_and(|head| request.len() == head + body) {
            return Some(());
        }
    }
}

/// An address that nobody else gets while its socket is held, and where nobody listens.
fn refusing(ip: IpAddr) -> anyhow::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(ip, 0).into())?;
    let address = socket.local_addr()?.as_socket().context("not an IP address")?;
    Ok((socket, address))
}

/// Waits until `web` knows where `api` is.
fn answered(web: &Proxy) -> anyhow::Result<()> {
    until("api is known", || {
        let answer = web.get("api:80", "/")?;
        ensure!(answer.status == 200, "{}", answer.head);
        Ok(Some(()))
    })
}

/// What `api` answers to a POST through `web`.
fn post(web: &Proxy) -> anyhow::Result<http::Answer> {
    let head =
        format!("POST / HTTP/1.1\r\nhost: api:80\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", BODY.len());
    http::Answer::parse(&http::exchange(web.outbound, &[head.as_bytes(), BODY].concat())?)
}

#[test]
fn an_application_that_breaks_off_costs_a_get_a_retry_and_a_post_an_answer() -> anyhow::Result<()> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
    let (address, count) = flaky(api.ip)?;
    mesh.service("api", 80, None, &[address])?;
    let (web, api) = (web.ready()?, api.ready()?);
    answered(&web)?;

    let before = count.load(Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(web.get("api:80", "/")?.status, 200, "{}", web.program.log_end());
    }
    assert_eq!(count.load(Ordering::SeqCst) - before, 10, "each GET was sent twice");

    let statuses = (0..4).map(|_| {
        let answer = post(&web)?;
        Ok((answer.status, answer.header("x-remora-error").map(str::to_owned)))
    });
    let lost = (502, Some("upstream_reset".to_owned()));
    assert_eq!(statuses.collect::<anyhow::Result<Vec<_>>>()?, [lost.clone(), (200, None), lost, (200, None)]);
    assert_eq!(count.load(Ordering::SeqCst) - before, 14, "no POST was sent twice");
    drop(api);
    Ok(())
}

#[test]
fn a_post_that_no_application_was_there_to_take_goes_to_another_endpoint() -> anyhow::Result<()> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
    let (alive, _) = answering(api.ip, |_| true)?;
    let gone = || TcpListener::bind((api.ip, 0)).and_then(|listener| listener.local_addr());
    mesh.service("api", 80, None, &[alive, gone()?, gone()?])?;
    let (web, api) = (web.ready()?, api.ready()?);
    answered(&web)?;

    until("a POST was sent again", || {
        let answer = post(&web)?;
        assert_eq!(answer.status, 200, "{}", answer.head);
        let retries = web.metric("remora_retries_total", &[])?;
        Ok((retries > 0.0).then_some(()))
    })?;
    drop(api);
    Ok(())
}

/// A Service scaled down from thirteen pods to one, at the moment when nobody has heard of it yet.
#[test]
fn a_request_finds_the_one_endpoint_that_is_left() -> anyhow::Result<()> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
    let (alive, _) = answering(api.ip, |_| true)?;
    mesh.service("api", 80, None, &[alive])?;
    let (web, api) = (web.ready()?, api.ready()?);
    answered(&web)?;

    let (_held, mut endpoints): (Vec<Socket>, Vec<SocketAddr>) =
        (0..12).map(|_| refusing(api.ip)).collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip();
    endpoints.push(alive);
    mesh.service("api", 80, None, &endpoints)?;
    until("requests were passed on", || {
        let answer = post(&web)?;
        assert_eq!(answer.status, 200, "{}", answer.head);
        Ok((web.metric("remora_retries_total", &[])? > 3.0).then_some(()))
    })?;
    for _ in 0..50 {
        assert_eq!(post(&web)?.status, 200);
    }
    drop(api);
    Ok(())
}

/// Whether a gRPC call of no message through `web` is answered with a message in the end.
fn call(web: &Proxy) -> anyhow::Result<bool> {
    let mut line = Line::plain(web.outbound)?;
    let head = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "api:80"),
        (":path", "/shop.Api/Get"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    line.send(&[http2::hello(), http2::headers(1, http2::END_STREAM, &http2::block(&head))].concat());
    let heard = line.hear(|bytes| {
        http2::frames(bytes).0.iter().any(|frame| frame.flags & http2::END_STREAM != 0 && frame.stream == 1)
    });
    ensure!(http2::judge(&heard, 1) == Outcome::Answered(200), "{heard:?}");
    let is_message = |frame: &http2::Frame| frame.kind == kind::DATA && !frame.payload.is_empty();
    Ok(http2::frames(&heard.bytes).0.iter().any(is_message))
}

/// A response of gRPC that is nothing but a status (Trailers-Only).
fn trailers_only(stream: u32, status: &str) -> Vec<u8> {
    let fields = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", status)];
    http2::headers(stream, http2::END_STREAM, &http2::block(&fields))
}

#[test]
fn a_grpc_call_is_sent_again_by_the_statuses_that_its_route_names() -> anyhow::Result<()> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
    let puppet = Puppet::start(api.ip)?;
    mesh.service("api", 80, Some("grpc"), &[puppet.address])?;
    let (web, api) = (web.ready()?, api.ready()?);
    until("api is known", || call(&web).map(Some))?;

    let counted = Arc::<AtomicUsize>::default();
    let count = counted.clone();
    // Every other call fails: that of an even number, from 0.
    puppet.say(move |stream| match count.fetch_add(1, Ordering::SeqCst) % 2 {
        0 => trailers_only(stream, "14"),
        _ => servers::fine(stream),
    });
    assert_eq!((call(&web)?, call(&web)?), (false, true), "nobody asked for retries");
    let route = |codes: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{ name: api, namespace: {NAMESPACE}, annotations: {{ remora.dev/retry-codes: '{codes}' }} }}
spec:
  parentRefs: [{{ group: '', kind: Service, name: api }}]
  rules: [{{ backendRefs: [{{ name: api, port: 80 }}] }}]
"
        )
    };
    // Of two calls, how many are answered with a message, and how often `api` is asked.
    let settled = |what: &str, messages: usize, tries: usize| {
        until(what, || {
            let before = counted.load(Ordering::SeqCst);
            let found = usize::from(call(&web)?) + usize::from(call(&web)?);
            let made = counted.load(Ordering::SeqCst) - before;
            Ok((found == messages && made == tries).then_some(()))
        })
    };
    mesh.manifest("route", &route("unavailable,resource-exhausted"))?;
    settled("each call is sent twice and answered", 2, 4)?;
    mesh.manifest("route", &route("internal"))?;
    settled("no call is sent twice", 1, 2)?;
    assert!(web.metric("remora_retries_total", &[])? >= 2.0, "{}", web.program.log_end());
    drop(api);
    Ok(())
}
