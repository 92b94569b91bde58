//! The self-check: a dry run of the webhook as an API server would call it. Every half minute a review of a pod that
//! nobody creates goes through our own Service, by the name and the authorities that the live webhook configuration has.
//! So it sees what a probe of this process cannot: the Service, its endpoints, the certificate's chain and its name.
//! It needs no right to create pods. The result is a metric and a line in the log when it changes; not readiness, for a
//! replica that is not ready is not in the Service.

use crate::{
    registration::BY_NAMESPACE,
    webhook::{SELF_CHECK, Stats},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use remora_runtime::{drain, tls::web};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::TlsConnector;

/// Between two checks.
const INTERVAL: Duration = Duration::from_secs(30);
/// As long as an API server waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// After what it depends on changed, API servers and routes need a moment, and so does this.
const SETTLE: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    #[error("the authorities of the webhook configuration are of no use: {0}")]
    Authorities(#[source] web::WebError),
    #[error("its certificate is not for {0}: {1}")]
    Name(String, String),
    #[error("handshake: {0}")]
    Handshake(#[source] std::io::Error),
    #[error("request: {0}")]
    Http(#[source] hyper::Error),
    #[error("the answer is not the one there should be: {0}")]
    Answer(String),
    #[error("no answer within {PATIENCE:?}")]
    Timeout,
}

/// Checks until `drain`. `host` is the Service as an API server dials it.
pub(crate) async fn run(
    host: String,
    mut trusted: watch::Receiver<Option<Arc<str>>>,
    stats: Arc<Stats>,
    drain: drain::Watch,
) {
    let mut before = None;
    loop {
        tokio::select! {
            () = drain.signaled() => return,
            Ok(()) = trusted.changed(), if before.is_none() => {}
            () = tokio::time::sleep(if before == Some(true) { INTERVAL } else { SETTLE }) => {}
        }
        let Some(bundle) = trusted.borrow_and_update().clone() else { continue };
        let result = timeout(PATIENCE, check(&host, &bundle)).await.unwrap_or(Err(Failed::Timeout));
        stats.self_check(result.is_ok());
        match &result {
            Ok(()) if before != Some(true) => {
                tracing::info!("the self-check is good: the webhook answers through its Service")
            }
            Err(error) if before == Some(true) => {
                tracing::warn!(%error, host, "the self-check fails: the API server may not reach this webhook");
            }
            Err(error) => tracing::debug!(%error, host, "the self-check fails"),
            Ok(()) => {}
        }
        before = Some(result.is_ok());
    }
}

async fn check(host: &str, bundle: &str) -> Result<(), Failed> {
    let config = web::client_config(bundle.as_bytes()).map_err(Failed::Authorities)?;
    let name = web::name(host).map_err(|error| Failed::Name(host.to_owned(), error))?;
    let tcp = TcpStream::connect((host, 443)).await.map_err(Failed::Connect)?;
    let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(Failed::Handshake)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(Failed::Http)?;
    let request = hyper::Request::post(BY_NAMESPACE).header("host", host).header("content-type", "application/json");
    let request = request.body(Full::new(Bytes::from(review().to_string())));
    let request = request.map_err(|error| Failed::Answer(error.to_string()))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(Failed::Http)?;
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| Failed::Answer(error.to_string()))
    };
    let mut exchange = std::pin::pin!(exchange);
    let body = tokio::select! {
        biased;
        body = &mut exchange => body?,
        _ = connection => exchange.await?,
    };
    judge(&body)
}

/// A pod that is never created.
fn review() -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "self-check",
            "namespace": SELF_CHECK,
            "operation": "CREATE",
            "dryRun": true,
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "object": {
                "metadata": { "name": "self-check" },
                "spec": { "serviceAccountName": "default", "containers": [{ "name": "app", "image": "app" }] },
            },
        },
    })
}

/// The pod must get its sidecar.
fn judge(body: &[u8]) -> Result<(), Failed> {
    let answer: Value = serde_json::from_slice(body).map_err(|error| Failed::Answer(error.to_string()))?;
    let response = &answer["response"];
    if response["allowed"] == true && response["patch"].is_string() {
        Ok(())
    } else {
        Err(Failed::Answer(response.to_string().chars().take(256).collect()))
    }
}
