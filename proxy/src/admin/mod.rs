//! The admin port: what this proxy does, for people, probes and scrapers.
//!
//! In: a listener on the control thread and an [`AdminState`]. Out: the endpoints that every component has
//! ([`remora_runtime::admin`], which also bounds connections, heads and bodies and keeps foreign web pages out), and those
//! of this proxy: the page at `/`, `/signals` and `/tap` ([`live`] has them as they happen), `/map`, `/routes`, `/errors`, `/config`, `/certificate`,
//! `POST /drain` and the application's probes ([`probe`]). docs/admin-api.md describes them. `/live`, `/ready` and, within bounds, `/metrics` are for every client, probes for clients that have the pod's token;
//! the rest is for the pod itself. It shows no secrets: the configuration is what its
//! caller hands over. It also moves the telemetry's windows on.

mod asked;
mod live;
mod saturation;
mod signals;

pub(crate) use asked::answers;
pub(crate) use saturation::Saturation;

use crate::{
    inspect::Inspect,
    limits, probe,
    telemetry::{Routes, Tapped},
};
use axum::{
    Extension, Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use remora_runtime::{
    admin::{
        self, Admin,
        exposition::{Details, Form, Page},
    },
    drain,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    time::{Instant, MissedTickBehavior},
};

static PAGE: LazyLock<String> = LazyLock::new(|| admin::page::whole(include_str!("page.html")));
const PATHS: &str = "no such path; there are: / /signals /signals/live /signals/heatmap?route=ID /tap?filter= /tap/live?filter= \
                     /map /routes /errors /config /certificate /metrics /live /ready /log-level (GET, PUT) /drain (POST)\n";

/// What the admin port shows and does. Its functions must return at once: they run on the control thread.
#[derive(Clone)]
pub(crate) struct AdminState {
    /// The common endpoints: readiness, log filter, metrics of the recorder.
    pub common: Admin,
    /// The golden signals.
    pub routes: Arc<Routes>,
    /// What workers hold.
    pub inspect: Inspect,
    /// How much of its share of the machine the process uses.
    pub saturation: Saturation,
    /// How the stream to discovery is.
    pub discovery: Arc<dyn Fn() -> Value + Send + Sync>,
    /// The settings in force, without secrets.
    pub config: Arc<dyn Fn() -> Value + Send + Sync>,
    /// The current certificate: identity, serial, validity.
    pub certificate: Arc<dyn Fn() -> Value + Send + Sync>,
    /// What the kubelet asks of the application.
    pub probes: probe::Asked,
    /// The addresses of the pod's node, where they are known: its kubelet always has a connection free.
    pub hosts: Vec<IpAddr>,
    /// Begins the shutdown.
    pub drain: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for AdminState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminState").finish_non_exhaustive()
    }
}

/// Serves the admin port until `stop`, which should come after the workers have drained: an operator wants to look
/// while they do. Not cancel safe: dropping it cuts off responses that are under way.
pub(crate) async fn serve(listener: TcpListener, state: AdminState, stop: drain::Watch) {
    let sampler = sample(state.routes.clone(), state.saturation.clone());
    tokio::select! {
        () = admin::serve_beside(listener, router(state.clone(), stop.clone()), state.hosts, stop) => {}
        never = sampler => match never {},
    }
}

/// Moves the windows of rates and quantiles on, once a second.
async fn sample(routes: Arc<Routes>, saturation: Saturation) -> std::convert::Infallible {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        routes.tick(Instant::now());
        saturation.tick(Instant::now());
    }
}

fn router(state: AdminState, stop: drain::Watch) -> Router {
    let (routes, saturation) = (state.routes.clone(), state.saturation.clone());
    let common = state.common.clone().with_extra_metrics(move |form| {
        let mut text = String::new();
        routes.prometheus(&mut text);
        saturation.prometheus(&mut text);
        let details = if form == Form::Text { Details::new() } else { routes.details() };
        Page { text, details }
    });
    let own = Router::new()
        .route("/", get(page))
        .route("/signals", get(everything))
        .route("/signals/live", get(live::of_signals))
        .route("/signals/heatmap", get(heatmap))
        .route("/tap", get(tap))
        .route("/tap/live", get(live::tap))
        .route("/routes", get(by_route))
        .route("/map", get(map))
        .route("/errors", get(|State(state): State<AdminState>| async move { Json(errors(&state.routes)) }))
        .route("/config", get(config))
        .route("/certificate", get(certificate))
        .route("/drain", post(start_drain))
        .layer(Extension(live::Readers::until(stop)));
    let probes = probe::router(state.probes.clone());
    admin::local_only(own)
        .with_state(state)
        .merge(probes)
        .merge(common.router())
        .fallback(|| async { (StatusCode::NOT_FOUND, PATHS) })
}

async fn map(State(state): State<AdminState>) -> Json<Value> {
    Json(state.routes.map())
}

async fn config(State(state): State<AdminState>) -> Json<Value> {
    Json((state.config)())
}

async fn certificate(State(state): State<AdminState>) -> Json<Value> {
    Json((state.certificate)())
}

async fn page() -> Response {
    admin::page::response(&PAGE)
}

#[derive(Debug, Deserialize)]
struct Detail {
    /// With the latencies of each window, for who adds up those of several proxies.
    #[serde(default)]
    histograms: bool,
}

async fn everything(State(state): State<AdminState>, Query(Detail { histograms }): Query<Detail>) -> Response {
    json_text(signals::text(&state, histograms, None).await)
}

async fn by_route(State(state): State<AdminState>) -> Response {
    let mut object = signals::Object::new(&state.routes.head());
    object.list("routes", state.routes.by_route(), |_, _| true);
    json_text(object.end())
}

fn json_text(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

#[derive(Debug, Deserialize)]
struct OfRoute {
    route: u32,
}

async fn heatmap(State(state): State<AdminState>, Query(OfRoute { route }): Query<OfRoute>) -> Response {
    match state.routes.heatmap(route) {
        Some(heatmap) => Json(heatmap).into_response(),
        None => (StatusCode::NOT_FOUND, format!("no route has the id {route}; /signals lists them\n")).into_response(),
    }
}

async fn tap(State(state): State<AdminState>, Query(asked): Query<live::Asked>) -> Response {
    let filter = match asked.filter() {
        Ok(filter) => filter,
        Err(refused) => return refused.into_response(),
    };
    let most = asked.last.unwrap_or(100).min(limits::TAP_MAX);
    let Tapped { records, seen, kept, since_ms } = state.routes.tap(&filter, most);
    Json(json!({ "records": records, "seen": seen, "kept": kept, "since_ms": since_ms })).into_response()
}

fn errors(routes: &Routes) -> Value {
    json!({ "errors": routes.errors() })
}

async fn start_drain(State(state): State<AdminState>) -> (StatusCode, &'static str) {
    (state.drain)();
    (StatusCode::ACCEPTED, "draining\n")
}

#[cfg(test)]
mod tests;
