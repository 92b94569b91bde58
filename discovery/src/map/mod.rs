//! The map of the mesh: who calls whom, how well, and what of it got worse, for people. `/mesh`, `/mesh/map` and `/mesh/signals` of the admin port.
//!
//! In: readers of the admin port, who come by `kubectl port-forward`: they are let in as the pod itself, so RBAC says who they are. Out: what the
//! proxies that have a stream to this replica tell when they are asked. Discovery keeps nothing of it: while nobody reads nothing is asked,
//! and the history is the proxies' own.

mod build;
mod signals;
mod told;
mod workloads;

use crate::serve::{
    Asking, Body, Failure, Proxy,
    limits::{ASKED_FOR_MAP_AT_ONCE_MAX, MAP_FRESH, MAP_KEPT, MAP_PATIENCE, SIGNALS_READERS_MAX},
};
use axum::{
    Router,
    extract::{RawQuery, State as Of},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use build::{Builder, Map};
use futures_util::{StreamExt as _, stream};
use remora_runtime::admin;
use std::{
    convert::Infallible,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Mutex, Semaphore},
    task::{JoinError, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval},
};

static PAGE: LazyLock<String> = LazyLock::new(|| admin::page::whole(include_str!("page.html")));

/// What the paths share.
#[derive(Clone)]
struct State {
    asking: Asking,
    /// The last map.
    last: Arc<Mutex<Option<Made>>>,
    readers: Arc<Semaphore>,
}

/// A map, and when it was made.
#[derive(Clone)]
struct Made {
    map: Arc<Map>,
    since: Instant,
    at_ms: u64,
    took_ms: u64,
}

/// The paths, and what is to run beside them, for as long as they are served.
pub(crate) fn router(asking: Asking) -> (Router, impl Future<Output = Infallible>) {
    let readers = Arc::new(Semaphore::new(SIGNALS_READERS_MAX));
    let state = State { asking, last: Arc::default(), readers };
    let tidy = tidy(state.clone());
    let own = Router::new()
        .route("/mesh", get(page))
        .route("/mesh/map", get(map))
        .route("/mesh/signals", get(signals::signals));
    (admin::local_only(own).with_state(state), tidy)
}

async fn page() -> Response {
    admin::page::response(&PAGE)
}

async fn map(Of(state): Of<State>, RawQuery(query): RawQuery) -> Response {
    let wanted = match signals::Wanted::read(query.as_deref()) {
        Ok(wanted) if wanted.pods.is_empty() => wanted,
        Ok(_) => return (StatusCode::BAD_REQUEST, "a map is of a namespace=NAME, or of all\n").into_response(),
        Err(wrong) => return (StatusCode::BAD_REQUEST, wrong).into_response(),
    };
    let json =
        state.current().await.map(|made| move || made.map.json(wanted.namespace.as_deref(), made.at_ms, made.took_ms));
    let json = match json {
        Ok(write) => spawn_blocking(write).await,
        Err(error) => Err(error),
    };
    match json {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the map could not be made\n").into_response(),
    }
}

impl State {
    /// The map of now. Who comes while one is made waits for it, and asks nobody.
    async fn current(&self) -> Result<Made, JoinError> {
        let mut last = self.last.lock().await;
        if let Some(made) = last.as_ref().filter(|made| made.since.elapsed() < MAP_FRESH) {
            return Ok(made.clone());
        }
        let since = Instant::now();
        let map = Arc::new(self.ask_all().await?);
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
        let made = Made { map, since, at_ms, took_ms: millis(since.elapsed()) };
        *last = Some(made.clone());
        Ok(made)
    }

    /// Asks every proxy. What they say is read and added up on a thread of its own, so that no probe waits for it.
    async fn ask_all(&self) -> Result<Map, JoinError> {
        let proxies = self.asking.proxies(|_, _| true);
        let (tell, told) = std::sync::mpsc::channel::<(Proxy, Result<Body, Failure>)>();
        let (asking, all) = (self.asking.clone(), proxies.clone());
        let build = spawn_blocking(move || {
            let mut builder = Builder::new(&asking.members(), &all);
            for (proxy, answer) in told {
                let answer = answer.map_err(|why| why.to_string());
                builder.take(&proxy, answer.and_then(|body| told::read(body.bytes())));
            }
            builder.build()
        });
        let late = Instant::now() + MAP_PATIENCE;
        let mut answers = stream::iter(proxies)
            .map(async |proxy| {
                let patience = late.saturating_duration_since(Instant::now());
                let answer = self.asking.ask(&proxy, "/map", patience).await;
                (proxy, answer)
            })
            .buffer_unordered(ASKED_FOR_MAP_AT_ONCE_MAX);
        while let Some(answer) = answers.next().await {
            // It takes all, unless it panicked, which shows below.
            drop(tell.send(answer));
        }
        drop(tell);
        build.await
    }
}

/// Forgets what nobody reads any more.
async fn tidy(state: State) -> Infallible {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        state.asking.tidy();
        if let Ok(mut last) = state.last.try_lock()
            && last.as_ref().is_some_and(|made| made.since.elapsed() >= MAP_KEPT)
        {
            *last = None;
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
