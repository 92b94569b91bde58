//! The network of a simulation: who listens where, and the connections between them. One for each thread at a time, found by the
//! data path's own call to connect.

use super::{
    pipe::{self, Link, Pipe, Weather},
    trace::Trace,
};
use crate::{
    io::{Abort, Tcp},
    sys::{Asked, Watch},
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::{sleep, timeout},
};

/// A connection of the network, by its number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PipeId(u32);

/// What the data path has for a TCP connection in tests.
#[derive(Debug)]
pub(crate) enum TcpStream {
    Real(tokio::net::TcpStream),
    /// Boxed, so that a connection in a test is as large as one that ships.
    Pipe(Box<End>),
}

/// An end of a connection of the network.
#[derive(Debug)]
pub(crate) struct End {
    pipe: Pipe,
    id: PipeId,
    local: SocketAddr,
    dialled: SocketAddr,
}

/// How a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    Up,
    /// Nobody listens.
    Refuses,
    /// Nobody answers.
    Silent,
}

/// A listener's connections: each with its client's address.
pub(crate) type Incoming = mpsc::UnboundedReceiver<(TcpStream, SocketAddr)>;

struct Listener {
    host: Host,
    accepts: mpsc::UnboundedSender<(TcpStream, SocketAddr)>,
    /// Drawn for each connection.
    weather: Rc<dyn Fn(&mut fastrand::Rng) -> Weather>,
    /// Where its clients meant to go, where something redirects them.
    dialled: Option<SocketAddr>,
}

/// What is known of an end that is hidden: its connection, and which of both it is.
type Known = (Weak<Mutex<Link>>, usize);

/// The network.
pub(crate) struct Net {
    seed: u64,
    rng: RefCell<fastrand::Rng>,
    listeners: RefCell<BTreeMap<SocketAddr, Listener>>,
    links: RefCell<BTreeMap<u32, Known>>,
    /// Where each connection goes.
    to: RefCell<BTreeMap<u32, SocketAddr>>,
    next: Cell<u32>,
    open: Arc<AtomicUsize>,
    trace: Rc<Trace>,
}

thread_local! {
    static NET: RefCell<Option<Rc<Net>>> = const { RefCell::new(None) };
}

/// The connection that an end of this number is of, and which end it is; nothing once both are dropped.
fn known(id: PipeId) -> Option<(Arc<Mutex<Link>>, usize)> {
    let net = NET.with_borrow(Clone::clone)?;
    let (link, side) = net.links.borrow().get(&id.0)?.clone();
    Some((link.upgrade()?, side))
}

/// Whether nothing can be asked on the connection any more.
pub(crate) fn has_ended(id: PipeId) -> bool {
    known(id).is_none_or(|(link, side)| link.lock().is_ok_and(|link| link.has_news(side)))
}

/// Whether both sides have ended the connection.
pub(crate) fn is_over(id: PipeId) -> bool {
    known(id).is_none_or(|(link, side)| link.lock().is_ok_and(|link| link.is_over(side)))
}

/// Whether the other side has reset the connection.
pub(crate) fn was_reset(id: PipeId) -> bool {
    known(id).is_none_or(|(link, side)| link.lock().is_ok_and(|link| link.was_reset(side)))
}

impl Net {
    /// The network of this thread from now on.
    pub(crate) fn enter(seed: u64, trace: &Rc<Trace>) -> Rc<Self> {
        let net = Rc::new(Self {
            seed,
            rng: RefCell::new(fastrand::Rng::with_seed(seed ^ 0x6e65_7477)),
            listeners: RefCell::default(),
            links: RefCell::default(),
            to: RefCell::default(),
            next: Cell::new(0),
            open: Arc::default(),
            trace: trace.clone(),
        });
        NET.set(Some(net.clone()));
        net
    }

    /// No network on this thread any more.
    pub(crate) fn leave() {
        drop(NET.take());
    }

    /// Listens. `dialled`: where clients meant to go, if something redirects them here.
    pub(super) fn listen(
        &self,
        at: SocketAddr,
        dialled: Option<SocketAddr>,
        weather: impl Fn(&mut fastrand::Rng) -> Weather + 'static,
    ) -> Incoming {
        let (accepts, incoming) = mpsc::unbounded_channel();
        let listener = Listener { host: Host::Up, accepts, weather: Rc::new(weather), dialled };
        self.listeners.borrow_mut().insert(at, listener);
        incoming
    }

    /// Somebody who is up to `late_ms` late in all things.
    pub(crate) fn host(&self, at: SocketAddr, late_ms: u64) -> Incoming {
        self.listen(at, None, move |_| Weather { late_ms, ..Weather::FINE })
    }

    /// Somewhere where nobody answers.
    pub(crate) fn silent(&self, at: SocketAddr) -> Incoming {
        let incoming = self.listen(at, None, |_| Weather::FINE);
        self.set(at, Host::Silent);
        incoming
    }

    pub(super) fn set(&self, at: SocketAddr, host: Host) {
        if let Some(listener) = self.listeners.borrow_mut().get_mut(&at) {
            self.trace.say("net", format_args!("{at} is {host:?}"));
            listener.host = host;
        }
    }

    /// How many ends of connections there are.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// What is open, in words.
    pub(super) fn describe(&self) {
        for (id, (link, side)) in self.links.borrow().iter() {
            if let Some(link) = link.upgrade().filter(|_| *side == 0) {
                let state = link.lock().map(|link| link.state()).unwrap_or_default();
                self.trace.say("net", format_args!("connection {id} to {}: {state}", self.to.borrow()[id]));
            }
        }
    }

    /// As a client that does not wait for ever.
    pub(super) async fn dial(&self, at: SocketAddr, from: SocketAddr) -> io::Result<TcpStream> {
        timeout(Duration::from_secs(10), self.connect(at, from)).await?
    }

    async fn connect(&self, at: SocketAddr, from: SocketAddr) -> io::Result<TcpStream> {
        let id = self.next.replace(self.next.get() + 2);
        let found =
            self.listeners.borrow().get(&at).map(|it| (it.host, it.accepts.clone(), it.weather.clone(), it.dialled));
        let Some((host, accepts, weather, dialled)) = found else { return Err(refused()) };
        let (weather, late) = {
            let mut rng = self.rng.borrow_mut();
            let weather = weather(&mut rng);
            (weather, rng.u64(..=weather.late_ms))
        };
        sleep(Duration::from_millis(late)).await;
        match host {
            Host::Up => {}
            Host::Refuses => return Err(refused()),
            Host::Silent => std::future::pending().await,
        }
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(id));
        let (near, far) = pipe::pair(weather, seed, &self.open);
        let mut links = self.links.borrow_mut();
        links.insert(id, near.weak());
        links.insert(id + 1, far.weak());
        drop(links);
        self.to.borrow_mut().insert(id, at);
        let from = SocketAddr::new(from.ip(), 20_000 + (id % 40_000) as u16);
        let meant = dialled.unwrap_or(at);
        let far = TcpStream::Pipe(Box::new(End { pipe: far, id: PipeId(id + 1), local: at, dialled: meant }));
        accepts.send((far, from)).map_err(|_| refused())?;
        Ok(TcpStream::Pipe(Box::new(End { pipe: near, id: PipeId(id), local: from, dialled: meant })))
    }
}

fn refused() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNREFUSED)
}

/// Where the proxies' connections come from.
const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 100)), 0);

impl TcpStream {
    /// As tokio's: over the network of the simulation, where this thread is in one.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        match NET.with_borrow(Clone::clone) {
            Some(net) => net.connect(address, PROXY).await,
            None => tokio::net::TcpStream::connect(address).await.map(Self::Real),
        }
    }

    /// The address of this end.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Real(stream) => stream.local_addr(),
            Self::Pipe(end) => Ok(end.local),
        }
    }
}

impl From<tokio::net::TcpStream> for TcpStream {
    fn from(stream: tokio::net::TcpStream) -> Self {
        Self::Real(stream)
    }
}

impl Abort for TcpStream {
    fn abort(&self) {
        match self {
            Self::Real(stream) => stream.abort(),
            Self::Pipe(end) => end.pipe.abort(),
        }
    }

    fn asked(&self) -> Option<Asked> {
        Some(Watch::asked(self))
    }
}

impl Tcp for TcpStream {
    fn original_destination(&self, peer: SocketAddr) -> io::Result<SocketAddr> {
        match self {
            Self::Real(stream) => stream.original_destination(peer),
            Self::Pipe(end) => Ok(end.dialled),
        }
    }

    fn tune(&self) {
        if let Self::Real(stream) = self {
            stream.tune();
        }
    }
}

impl Watch for TcpStream {
    fn asked(&self) -> Asked {
        match self {
            Self::Real(stream) => Watch::asked(stream),
            Self::Pipe(end) => Asked::Pipe(end.id),
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Real(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Pipe(end) => Pin::new(&mut end.pipe).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Real(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Pipe(end) => Pin::new(&mut end.pipe).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Real(stream) => Pin::new(stream).poll_flush(cx),
            Self::Pipe(end) => Pin::new(&mut end.pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Real(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Pipe(end) => Pin::new(&mut end.pipe).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Real(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Pipe(end) => Pin::new(&mut end.pipe).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Real(stream) if stream.is_write_vectored())
    }
}
