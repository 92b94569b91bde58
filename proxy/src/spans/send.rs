//! Sends spans to the collector, on a worker: as a request of the pod's own, through discovery, balancer and policy, over mesh TLS where the collector
//! is in the mesh.
//!
//! In: one message at a time, from the control thread. Out: what the collector answered, or why it was not reached. It does not wait for the
//! next one longer than each may take, tries nothing twice (the [`Exporter`](super::Exporter) does), and looks at no route: the Service itself is asked.
//! The request says that it is not sampled. So neither proxy makes a span of it, and what spans are sent with never makes further ones.

use crate::{
    discover::{Route, Way},
    http::{
        Wire,
        body::request::RequestBody,
        grpc,
        layer::{AuthorizeLayer, Balance},
        request::{Answered, Attempt, ClientConnection},
    },
    limits,
    telemetry::{Begun, Proto, Reason},
    world::World,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use http_body_util::BodyExt as _;
use remora_api::otlp;
use remora_model::Target;
use std::{pin::pin, rc::Rc};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tower::{Layer as _, Service as _};

/// A caller that is not sampled (W3C Trace Context).
const UNSAMPLED: &str = "00-72656d6f726100000000000000007370-616e732d2d2d6f6e-00";

/// A message for the collector.
#[derive(Debug)]
pub(super) struct Export {
    pub collector: Target,
    pub frame: Bytes,
    pub told: oneshot::Sender<Result<Bytes, SendError>>,
}

/// Why spans did not arrive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SendError {
    /// It was not reached, or gave no answer.
    #[error("the collector cannot be reached: {}", .0.as_str())]
    Unreached(Reason),
    /// The proxy ends.
    #[error("the proxy ends")]
    Ended,
    /// It answered with a gRPC status that is not OK.
    #[error("the collector answered with gRPC status {0}")]
    Status(u32),
    /// It answered with something else.
    #[error("the collector's answer is not gRPC's: HTTP status {0}")]
    NotGrpc(u16),
}

impl SendError {
    /// Whether the same message may arrive another time (opentelemetry.io/docs/specs/otlp, "Failures").
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreached(_) | Self::Ended => true,
            Self::Status(code) => matches!(code, 1 | 4 | 8 | 10 | 11 | 14 | 15),
            Self::NotGrpc(status) => matches!(status, 429 | 502 | 503 | 504),
        }
    }
}

/// The worker's end of the way from the [`Exporter`](super::Exporter).
#[derive(Debug)]
pub(crate) struct Inbox(pub(super) mpsc::Receiver<Export>);

/// Sends what comes, until nobody sends any more.
pub(crate) async fn serve(world: Rc<World>, mut inbox: Inbox) {
    let client = ClientConnection::of_application(Wire::Http2, false);
    // Kept, so that its subscription is.
    let mut known: Option<Rc<Route>> = None;
    while let Some(Export { collector, frame, told }) = inbox.0.recv().await {
        let sending = Box::pin(export(&world, &client, &mut known, (&collector, frame)));
        let sent = timeout(limits::TRACE_EXPORT_TIMEOUT, sending).await;
        drop(told.send(sent.unwrap_or(Err(SendError::Unreached(Reason::Timeout)))));
    }
}

async fn export(
    world: &World,
    client: &Rc<ClientConnection>,
    known: &mut Option<Rc<Route>>,
    (collector, frame): (&Target, Bytes),
) -> Result<Bytes, SendError> {
    let unreached = |reason| SendError::Unreached(reason);
    if matches!(collector, Target::Address(address) if world.resources.config.is_own(*address, address.ip())) {
        return Err(unreached(Reason::Loop));
    }
    let way = match known.as_ref().filter(|route| route.target == *collector) {
        Some(route) => world.directory.way(route).await,
        None => world.directory.route(collector).await.map(|(route, way)| {
            *known = Some(route);
            way
        }),
    };
    let Way::Mesh(plan) = way.map_err(|refusal| unreached(refusal.reason))? else {
        return Err(unreached(Reason::UnknownTarget));
    };
    let request = request(collector, frame).ok_or(unreached(Reason::Internal))?;
    let (started, (peer, tls)) = (Instant::now(), plan.parent.peers());
    let mut begun = plan.counters.request(None, &request, Proto::Grpc, (&peer, tls), started);
    let record = begun.record().clone();
    let attempt =
        Attempt { request, began: started, grpc: true, client: client.clone(), record, offer: None, tried: Vec::new() };
    let balance = Balance::over(&plan.parent, None, &world.resources);
    let outcome = AuthorizeLayer::egress(&plan.parent.id).layer(balance).call(attempt).await;
    match outcome {
        Ok(answered) => answer(*answered, &mut begun).await,
        Err(failed) => {
            let reason = failed.reason;
            begun.failure(failed.blame(), Instant::now());
            Err(unreached(reason))
        }
    }
}

/// What the collector says, in its body and behind it.
async fn answer(answered: Answered, begun: &mut Begun) -> Result<Bytes, SendError> {
    let Answered { response, origin, .. } = answered;
    let _in_flight = origin.and_then(|origin| origin.in_flight);
    begun.record().answered(response.status());
    let (parts, body) = response.into_parts();
    let (mut body, mut read, mut trailers) = (pin!(body), BytesMut::new(), None::<HeaderMap>);
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) if read.len() + data.len() <= limits::TRACE_ANSWER_BYTES_MAX => read.extend_from_slice(&data),
            // More than any answer has.
            Ok(Ok(_)) => break,
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => {
                let reason = error.reason();
                begun.failure(reason, Instant::now());
                return Err(SendError::Unreached(reason));
            }
        }
    }
    let code = trailers.as_ref().and_then(grpc::status).or_else(|| grpc::status(&parts.headers));
    begun.record().answered_grpc(code);
    let now = Instant::now();
    match code {
        Some(0) => {
            begun.success(now);
            Ok(read.freeze())
        }
        code => {
            begun.server_error(now);
            Err(code.map_or(SendError::NotGrpc(parts.status.as_u16()), SendError::Status))
        }
    }
}

/// The request that carries a message.
fn request(collector: &Target, frame: Bytes) -> Option<Request<RequestBody>> {
    let uri = Uri::builder().scheme("http").authority(collector.to_string()).path_and_query(otlp::EXPORT);
    let mut request = Request::new(RequestBody::Own(Some(frame)));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.build().ok()?;
    let fields = request.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields.insert(header::TE, HeaderValue::from_static("trailers"));
    fields.insert(header::USER_AGENT, HeaderValue::from_static(concat!("remora-proxy/", env!("CARGO_PKG_VERSION"))));
    fields.insert("traceparent", HeaderValue::from_static(UNSAMPLED));
    grpc::set_timeout(fields, limits::TRACE_EXPORT_TIMEOUT);
    Some(request)
}
