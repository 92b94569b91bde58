//! The server: its ports, and how it ends.

mod heard;
mod http;
mod tcp;

use crate::{drain::drained, text};
use anyhow::Context as _;
use rustls::ServerConfig;
use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// HTTP/1 and HTTP/2 port, repeatable; 8080 if no port of any kind is given
    #[arg(long = "port")]
    ports: Vec<u16>,
    /// Which of these speaks TLS, repeatable
    #[arg(long)]
    tls: Vec<u16>,
    /// Certificate and key for TLS; where the files are not, one is made
    #[arg(long = "crt")]
    certificate: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
    /// gRPC port, repeatable (any HTTP port answers gRPC too)
    #[arg(long)]
    grpc: Vec<u16>,
    /// Port that sends bytes back, repeatable
    #[arg(long)]
    tcp: Vec<u16>,
    /// Port that greets first, then sends bytes back, repeatable
    #[arg(long)]
    banner: Vec<u16>,
    /// What to do on SIGTERM
    #[arg(long, default_value = "graceful")]
    shutdown: Shutdown,
    /// How long a slow shutdown goes on as if nothing had been said
    #[arg(long, default_value = "10s", value_parser = text::duration)]
    linger: Duration,
    /// How long what is in flight may take to finish
    #[arg(long, default_value = "25s", value_parser = text::duration)]
    grace: Duration,
    /// /ready answers 503 for so long
    #[arg(long, default_value = "0s", value_parser = text::duration)]
    ready_after: Duration,
    /// What to say as ServiceVersion
    #[arg(long, default_value = "")]
    version: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shutdown {
    /// Take no more connections, finish what is in flight, tell clients that keep a connection to close it
    Graceful,
    /// Exit at once, whatever is in flight
    Abrupt,
    /// Linger, then as graceful
    Slow,
}

/// What all connections share.
#[derive(Debug)]
struct App {
    hostname: String,
    version: String,
    live: AtomicBool,
    ready: AtomicBool,
    requests: AtomicU64,
    heard: heard::Heard,
    draining: watch::Receiver<bool>,
}

#[derive(Debug, Clone)]
enum Kind {
    Http(Option<Arc<ServerConfig>>),
    Tcp { banner: bool },
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let (drain, draining) = watch::channel(false);
    let app = Arc::new(App {
        hostname: fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        version: args.version.clone(),
        live: AtomicBool::new(true),
        ready: AtomicBool::new(args.ready_after.is_zero()),
        requests: AtomicU64::new(0),
        heard: heard::Heard::default(),
        draining,
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut listeners = JoinSet::new();
    for (port, kind) in ports(&args)? {
        let listener = bind(port).with_context(|| format!("port {port}"))?;
        println!("serving {} on {port}", kind.name());
        listeners.spawn(accept(listener, kind, Arc::clone(&app)));
    }
    if !args.ready_after.is_zero() {
        let (app, wait) = (Arc::clone(&app), args.ready_after);
        listeners.spawn(async move {
            sleep(wait).await;
            app.ready.store(true, Ordering::Relaxed);
            Ok(())
        });
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        Some(Ok(Err(error))) = listeners.join_next() => return Err(error),
    }
    println!("asked to stop: {:?}", args.shutdown);
    match args.shutdown {
        Shutdown::Abrupt => return Ok(()),
        Shutdown::Slow => sleep(args.linger).await,
        Shutdown::Graceful => {}
    }
    drain.send_replace(true);
    let finished = timeout(args.grace, async { while listeners.join_next().await.is_some() {} }).await;
    println!("stopped{}", if finished.is_err() { "; connections were cut" } else { "" });
    Ok(())
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Http(None) => "HTTP",
            Self::Http(Some(_)) => "HTTPS",
            Self::Tcp { banner: false } => "TCP",
            Self::Tcp { banner: true } => "TCP with a banner",
        }
    }
}

fn ports(args: &Args) -> anyhow::Result<Vec<(u16, Kind)>> {
    let tls = match &*args.tls {
        [] => None,
        _ => Some(crate::tls::server(args.certificate.as_deref(), args.key.as_deref())?),
    };
    let mut ports: Vec<(u16, Kind)> = Vec::new();
    for &port in args.ports.iter().chain(&args.grpc) {
        ports.push((port, Kind::Http(tls.clone().filter(|_| args.tls.contains(&port)))));
    }
    ports.extend(args.tcp.iter().map(|&port| (port, Kind::Tcp { banner: false })));
    ports.extend(args.banner.iter().map(|&port| (port, Kind::Tcp { banner: true })));
    if ports.is_empty() {
        ports.push((8080, Kind::Http(None)));
    }
    Ok(ports)
}

/// Both families, or IPv4 where there is no IPv6.
fn bind(port: u16) -> anyhow::Result<TcpListener> {
    let both = std::net::TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    let listener = both.or_else(|_| std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// Takes connections until the drain, then waits for them.
async fn accept(listener: TcpListener, kind: Kind, app: Arc<App>) -> anyhow::Result<()> {
    let (mut connections, mut draining) = (JoinSet::new(), app.draining.clone());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => drop(connections.spawn(serve(stream, peer, kind.clone(), Arc::clone(&app)))),
                // Out of files, say. The next connection may do better.
                Err(error) => { eprintln!("accept: {error}"); sleep(Duration::from_millis(50)).await }
            },
            Some(_) = connections.join_next() => {}
            () = drained(&mut draining) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn serve(stream: TcpStream, peer: SocketAddr, kind: Kind, app: Arc<App>) {
    let served = async {
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        match kind {
            Kind::Http(None) => http::serve(stream, http::Seen { peer, local, alpn: None }, app).await,
            Kind::Http(Some(config)) => {
                let stream = TlsAcceptor::from(config).accept(stream).await?;
                let alpn = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
                http::serve(stream, http::Seen { peer, local, alpn }, app).await
            }
            Kind::Tcp { banner } => tcp::serve(stream, banner, &app).await,
        }
    };
    // Clients that go away are no news; a test that wants to know looks at its client.
    drop::<anyhow::Result<()>>(served.await);
}
