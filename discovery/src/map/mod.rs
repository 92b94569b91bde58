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
    Asking,
    limits::{ASKED_FOR_MAP_AT_ONCE_MAX, MAP_FRESH, MAP_KEPT, MAP_PATIENCE, SIGNALS_READERS_MAX},
};
use axum::{
    Router,
    extract::{RawQuery, State as Of},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use build::{Builder, Map};
use futures_util::{StreamExt as _, stream};
use remora_runtime::admin;
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, MissedTickBehavior, interval},
};

const PAGE: &str = include_str!("page.html");
/// The page loads nothing from elsewhere and is shown in no frame.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

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

async fn page() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(PAGE))
}

async fn map(Of(state): Of<State>, RawQuery(query): RawQuery) -> Response {
    let wanted = match signals::Wanted::read(query.as_deref()) {
        Ok(wanted) if wanted.pods.is_empty() => wanted,
        Ok(_) => return (StatusCode::BAD_REQUEST, "a map is of a namespace=NAME, or of all\n").into_response(),
        Err(wrong) => return (StatusCode::BAD_REQUEST, wrong).into_response(),
    };
    let made = state.current().await;
    // What takes some milliseconds is done where no probe waits for it.
    let shown = move || made.map.json(wanted.namespace.as_deref(), made.at_ms, made.took_ms);
    match tokio::task::spawn_blocking(shown).await {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the map could not be written\n").into_response(),
    }
}

impl State {
    /// The map of now. Who comes while one is made waits for it, and asks nobody.
    async fn current(&self) -> Made {
        let mut last = self.last.lock().await;
        if let Some(made) = last.as_ref().filter(|made| made.since.elapsed() < MAP_FRESH) {
            return made.clone();
        }
        let since = Instant::now();
        let map = Arc::new(self.ask_all().await);
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
        let made = Made { map, since, at_ms, took_ms: millis(since.elapsed()) };
        *last = Some(made.clone());
        made
    }

    /// Asks every proxy.
    async fn ask_all(&self) -> Map {
        let proxies = self.asking.proxies(|_, _| true);
        let mut builder = Builder::new(&self.asking.members(), &proxies);
        let late = Instant::now() + MAP_PATIENCE;
        let mut answers = stream::iter(proxies)
            .map(async |proxy| {
                let patience = late.saturating_duration_since(Instant::now());
                let answer = self.asking.ask(&proxy, "/map", patience).await.map_err(|why| why.to_string());
                (answer.and_then(|body| told::read(body.bytes())), proxy)
            })
            .buffer_unordered(ASKED_FOR_MAP_AT_ONCE_MAX);
        while let Some((told, proxy)) = answers.next().await {
            builder.take(&proxy, told);
        }
        builder.build()
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
