//! A worker: a thread with its own runtime, listeners, connections and pools. Nothing of it is shared or locked.

use crate::{
    accept,
    account::{Account, Peer},
    config::Config,
    discover::Directory,
    http::outbound::branch,
    inbound, inspect,
    io::{self, Prefixed, TcpStream},
    limits, outbound, pulse,
    resources::Resources,
    spans,
    tasks::Tasks,
    telemetry::{Journal, Routes},
    tls,
    world::World,
};
use futures_util::FutureExt;
use remora_runtime::{drain, seldom::Seldom};
use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc};
use tokio::net::TcpListener;

/// The listeners of a worker.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub outbound: Vec<std::net::TcpListener>,
    pub inbound: Vec<std::net::TcpListener>,
}

/// Runs a worker on the current thread until the drain is over. Returns how many connections were cut off.
pub(crate) fn run(parts: Parts, listeners: Listeners) -> std::io::Result<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(31).build()?;
    tokio::task::LocalSet::new().block_on(&runtime, serve(parts, listeners))
}

/// What a worker takes over from the control thread.
#[derive(Debug)]
pub(crate) struct Parts {
    pub config: Arc<Config>,
    pub tls: tls::Source,
    pub discover: crate::discover::Handle,
    pub routes: Arc<Routes>,
    pub drain: drain::Watch,
    pub room: accept::Room,
    pub pulse: pulse::Answers,
    pub inspect: inspect::Answers,
    pub account: Account,
    /// One worker sends the spans of all …
    pub spans: Option<spans::Inbox>,
    /// … of which none is missing while others hold this.
    pub alive: spans::Alive,
}

async fn serve(parts: Parts, listeners: Listeners) -> std::io::Result<usize> {
    let room = parts.room;
    let resources = Rc::new(Resources {
        tls: tls::Store::new(parts.tls, &parts.account).refusing(parts.discover.revoked.clone()),
        pod: parts.account.holder(Peer::Pod),
        account: parts.account,
        config: parts.config,
        tasks: Tasks::default(),
        background: Tasks::default(),
        tokens: Default::default(),
        rng: RefCell::new(fastrand::Rng::new()),
    });
    let settings = parts.discover.settings.clone();
    let world = Rc::new(World {
        directory: Directory::new(parts.discover, resources.clone(), branch, Journal::new(&parts.routes)),
        resources,
        drain: parts.drain,
        peers: crate::http::peers::Peers::default(),
    });
    for listener in listeners.outbound {
        let listener = TcpListener::from_std(listener)?;
        world.resources.tasks.spawn(listen(world.clone(), room, listener, |_| Peer::Pod, outbound::serve));
    }
    for listener in listeners.inbound {
        let listener = TcpListener::from_std(listener)?;
        world.resources.tasks.spawn(listen(world.clone(), room, listener, |from| Peer::at(from.ip()), inbound::serve));
    }
    world.resources.background.spawn(parts.pulse.serve());
    world.resources.background.spawn(parts.inspect.serve(world.clone()));
    let sweeper = world.clone();
    world.resources.background.spawn(async move {
        loop {
            tokio::time::sleep(limits::IDLE_TIMEOUT).await;
            sweeper.directory.sweep();
        }
    });
    let spans = parts.spans.map(|inbox| tokio::task::spawn_local(spans::serve(world.clone(), inbox)));
    // The thread asks for it with everything it does.
    Seldom::new(world.drain.signaled()).await;
    let grace = settings.borrow().drain_grace;
    let finished = tokio::time::timeout(grace, world.resources.tasks.idle()).await.is_ok();
    // Requests of other workers may go on; their last spans are lost then, if this is the one that sends them.
    drop(parts.alive);
    if let Some(spans) = spans {
        let _ended = tokio::time::timeout(limits::TRACE_LAST, spans).await;
    }
    Ok(if finished { 0 } else { world.resources.tasks.running() })
}

async fn listen<F>(
    world: Rc<World>,
    room: accept::Room,
    listener: TcpListener,
    whose: impl Fn(SocketAddr) -> Peer,
    serve: impl Fn(Rc<World>, Prefixed<TcpStream>, SocketAddr) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    loop {
        let (stream, peer) = tokio::select! {
            accepted = accept::next(&listener) => accepted,
            () = world.drain.signaled() => return,
        };
        let holder = world.resources.account.holder(whose(peer));
        let charge = holder.charge(limits::CONNECTION_BYTES);
        let Some(charge) = charge.filter(|_| room.has(&stream)) else {
            remora_runtime::limited!(warn, %peer, reason = "overloaded", "connection closed at once");
            metrics::counter!("remora_connections_refused_total", "reason" => "overloaded").increment(1);
            // Others come first; a sleep, however short, would bound how many are accepted from all.
            tokio::task::yield_now().await;
            continue;
        };
        let serving = serve(world.clone(), Prefixed::charged(io::accepted(stream), holder), peer);
        world.resources.tasks.spawn(serving.map(move |()| drop(charge)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{inbound as requests_in, outbound::Connection};
    use http::Request;
    use hyper::body::Incoming;
    use tower::Service;

    fn connection<F: Future>(_: impl Fn(Rc<World>, Prefixed<TcpStream>, SocketAddr) -> F) -> usize {
        size_of::<F>()
    }

    fn request<S: Service<Request<Incoming>>>() -> usize {
        size_of::<S::Future>()
    }

    /// It is what an idle connection costs, and what is copied with every request.
    #[test]
    fn what_a_connection_and_a_request_hold_is_small() {
        let sizes = [
            ("outbound connection", connection(outbound::serve), 900),
            ("inbound connection", connection(inbound::serve), 1600),
            ("outbound request", request::<Connection>(), 1200),
            ("inbound request", request::<requests_in::Connection>(), 656),
        ];
        for (what, bytes, most) in sizes {
            println!("{what}: {bytes} bytes, at most {most}");
        }
        assert!(sizes.iter().all(|(_, bytes, most)| bytes <= most), "see above");
    }
}
