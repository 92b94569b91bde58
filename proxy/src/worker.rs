//! A worker: a thread with its own runtime, listeners, connections and pools. Nothing of it is shared or locked.

use crate::{accept, config::Config, discover::Directory, inbound, limits, outbound, telemetry::Routes, tls};
use remora_runtime::drain;
use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::Notify};

/// All that a connection of this worker needs.
#[derive(Debug)]
pub struct World {
    pub config: Arc<Config>,
    pub tls: tls::Store,
    pub directory: Directory,
    pub routes: Arc<Routes>,
    pub drain: drain::Watch,
    /// What the drain waits for: connections accepted, and tunnels.
    pub tasks: Tasks,
    /// What ends with the worker: connections upstream, which idle until a request wants them, and subscriptions.
    pub background: Tasks,
    pub rng: RefCell<fastrand::Rng>,
}

/// The tasks of one worker, which it awaits before it ends.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Rc<Count>);

#[derive(Debug, Default)]
struct Count {
    running: Cell<usize>,
    ended: Notify,
}

struct Running(Rc<Count>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        if self.0.running.get() == 0 {
            self.0.ended.notify_waiters();
        }
    }
}

impl Tasks {
    /// Runs `task` on this thread.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.running.set(self.0.running.get() + 1);
        let running = Running(self.0.clone());
        tokio::task::spawn_local(async move {
            task.await;
            drop(running);
        });
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.0.running.get()
    }

    /// Waits until none runs. Cancel safe.
    pub async fn idle(&self) {
        while self.0.running.get() > 0 {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            ended.as_mut().enable();
            if self.0.running.get() > 0 {
                ended.await;
            }
        }
    }
}

/// The listeners of a worker.
#[derive(Debug)]
pub struct Listeners {
    pub outbound: Vec<std::net::TcpListener>,
    pub inbound: Vec<std::net::TcpListener>,
}

/// Runs a worker on the current thread until the drain is over. Returns how many connections were cut off.
pub fn run(parts: Parts, listeners: Listeners) -> std::io::Result<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(31).build()?;
    tokio::task::LocalSet::new().block_on(&runtime, serve(parts, listeners))
}

/// What a worker takes over from the control thread.
#[derive(Debug)]
pub struct Parts {
    pub config: Arc<Config>,
    pub tls: tls::Source,
    pub discover: crate::discover::Handle,
    pub routes: Arc<Routes>,
    pub drain: drain::Watch,
}

async fn serve(parts: Parts, listeners: Listeners) -> std::io::Result<usize> {
    let tasks = Tasks::default();
    let background = Tasks::default();
    let world = Rc::new(World {
        directory: Directory::new(parts.discover, background.clone(), parts.routes.clone(), parts.config.clone()),
        background,
        tls: tls::Store::new(parts.tls),
        config: parts.config,
        routes: parts.routes,
        drain: parts.drain,
        tasks,
        rng: RefCell::new(fastrand::Rng::new()),
    });
    for listener in listeners.outbound {
        let listener = TcpListener::from_std(listener)?;
        world.tasks.spawn(listen(world.clone(), listener, outbound::serve));
    }
    for listener in listeners.inbound {
        let listener = TcpListener::from_std(listener)?;
        world.tasks.spawn(listen(world.clone(), listener, inbound::serve));
    }
    world.drain.signaled().await;
    let grace = world.config.drain_grace;
    let finished = tokio::time::timeout(grace, world.tasks.idle()).await.is_ok();
    Ok(if finished { 0 } else { world.tasks.running() })
}

async fn listen<F>(
    world: Rc<World>,
    listener: TcpListener,
    serve: impl Fn(Rc<World>, tokio::net::TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let open = Rc::new(Cell::new(0_usize));
    loop {
        let (stream, peer) = tokio::select! {
            accepted = accept::next(&listener) => accepted,
            () = world.drain.signaled() => return,
        };
        if open.get() >= limits::CONNECTIONS_MAX {
            metrics::counter!("remora_connections_refused_total", "reason" => "overloaded").increment(1);
            tokio::time::sleep(Duration::ZERO).await;
            continue;
        }
        open.set(open.get() + 1);
        let (open, connection) = (open.clone(), serve(world.clone(), stream, peer));
        world.tasks.spawn(async move {
            connection.await;
            open.set(open.get() - 1);
        });
    }
}
