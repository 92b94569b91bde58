//! What of the admin port discovery may ask for, over the proxy's own stream to it.
//!
//! In: one of the paths of [`ASKABLE`]. Out: what the admin port would show there. The router has these paths alone, whatever is asked for:
//! what requests say (`/tap`, `/errors`), and what changes the process, is behind the right to reach the pod.

use super::{AdminState, certificate, config, everything, map};
use crate::discover::MakeAnswer;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
    routing::get,
};
use remora_model::asks::{ANSWER_BYTES_MAX, ASKABLE};
use tower::ServiceExt as _;

/// Makes answers for discovery.
pub(crate) fn answers(state: AdminState) -> MakeAnswer {
    let router = router(state);
    Box::new(move |path| Box::pin(answer(router.clone(), path)))
}

fn router(state: AdminState) -> Router {
    Router::new()
        .route("/signals", get(everything))
        .route("/map", get(map))
        .route("/certificate", get(certificate))
        .route("/config", get(config))
        .with_state(state)
}

/// The status and the body.
async fn answer(router: Router, path: std::sync::Arc<str>) -> (u16, Vec<u8>) {
    let nothing = |status: StatusCode| (status.as_u16(), Vec::new());
    if !ASKABLE.contains(&&*path) {
        return nothing(StatusCode::NOT_FOUND);
    }
    let Ok(request) = Request::get(&*path).body(Body::empty()) else { return nothing(StatusCode::NOT_FOUND) };
    let Ok(response) = router.oneshot(request).await;
    let status = response.status().as_u16();
    match to_bytes(response.into_body(), ANSWER_BYTES_MAX).await {
        Ok(body) => (status, body.into()),
        Err(_) => nothing(StatusCode::PAYLOAD_TOO_LARGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admin::Saturation, inspect, probe, telemetry::Routes};
    use remora_runtime::admin::{Admin, Readiness};
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn state(config: Value) -> AdminState {
        AdminState {
            common: Admin::new(Readiness::new()),
            routes: Routes::new("shop/web-1".into()),
            inspect: inspect::channel(0).0,
            saturation: Saturation::of(1000, None),
            discovery: Arc::new(|| json!({"state": "open"})),
            config: Arc::new(move || config.clone()),
            certificate: Arc::new(|| json!({"generation": 1})),
            probes: probe::Asked::default(),
            hosts: Vec::new(),
            drain: Arc::new(|| panic!("discovery must not end a proxy")),
        }
    }

    #[tokio::test]
    async fn discovery_gets_what_concerns_the_mesh_and_nothing_else() {
        let answers = answers(state(json!({"mode": "explicit"})));
        for path in ASKABLE {
            let (status, body) = answers(path.into()).await;
            assert_eq!(status, 200, "{path}");
            assert!(serde_json::from_slice::<Value>(&body).is_ok(), "{path}");
        }
        for path in [
            "/tap",
            "/tap?filter=",
            "/tap/live",
            "/errors",
            "/routes",
            "/drain",
            "/log-level",
            "/signals",
            "/map?",
            "/",
            "",
            "//map",
            "/metrics",
            "/signals/live",
            "http://else/map",
        ] {
            assert_eq!(answers(path.into()).await, (404, Vec::new()), "{path}");
        }
    }

    #[tokio::test]
    async fn an_answer_beyond_the_bound_is_413_and_empty() {
        let answers = answers(state(json!("x".repeat(ANSWER_BYTES_MAX))));
        assert_eq!(answers("/config".into()).await, (413, Vec::new()));
    }
}
