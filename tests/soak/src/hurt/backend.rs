//! A small HTTP server as a process of its own: slow or failing on demand, and it counts what reaches it.

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{cell::Cell, convert::Infallible, net::SocketAddr, process::ExitCode, rc::Rc, time::Duration};

/// What this program is called as when it is a backend.
pub(crate) const NAME: &str = "soak-backend";
/// The header that names the backend which answered.
pub(crate) const SERVED_BY: &str = "x-served-by";

/// How it behaves: set by `GET /-/set/DELAY_MS/STATUS`, and counted for `GET /-/count`.
struct State {
    name: String,
    delay_ms: Cell<u64>,
    status: Cell<u16>,
    count: Cell<u64>,
}

/// `soak-backend NAME --listen ADDRESS`.
pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let [_, _, name, _, listen] = &args[..] else {
        eprintln!("{NAME}: --name NAME --listen ADDRESS");
        return ExitCode::from(64);
    };
    let run = || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio::task::LocalSet::new().block_on(&runtime, serve(name, listen.parse().context("--listen")?))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(name: &str, listen: SocketAddr) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    println!("listens address={}", listener.local_addr()?);
    let state = State { name: name.to_owned(), delay_ms: Cell::new(0), status: Cell::new(200), count: Cell::new(0) };
    let state = Rc::new(state);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let state = state.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| answer(state.clone(), request));
            // A client that goes away is its own affair.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(state: Rc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    let steps: Vec<&str> = request.uri().path().split('/').collect();
    match &steps[..] {
        ["", "-", "count"] => *response.body_mut() = Full::from(state.count.get().to_string()),
        ["", "-", "set", delay_ms, status] => {
            state.delay_ms.set(delay_ms.parse().unwrap_or(0));
            state.status.set(status.parse().unwrap_or(200));
        }
        _ => {
            state.count.set(state.count.get() + 1);
            let delay = Duration::from_millis(state.delay_ms.get());
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            *response.status_mut() = state.status.get().try_into().unwrap_or_default();
            if let Ok(name) = state.name.parse() {
                response.headers_mut().insert(SERVED_BY, name);
            }
        }
    }
    Ok(response)
}
