//! `pricing`: a gRPC server.

use super::Pace;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto::{
    QuoteReply, QuoteRequest,
    pricing_server::{Pricing, PricingServer},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, codegen::Service};

#[allow(
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub(super) mod proto {
    tonic::include_proto!("shop.v1");
}

/// An item's name is a path segment; a longer one is an error.
const ITEM_BYTES_MAX: usize = 256;

struct Shop {
    pod: String,
    pace: Pace,
}

#[tonic::async_trait]
impl Pricing for Shop {
    async fn quote(&self, request: Request<QuoteRequest>) -> Result<Response<QuoteReply>, Status> {
        let item = request.into_inner().item;
        if item.len() > ITEM_BYTES_MAX {
            return Err(Status::invalid_argument(format!("an item's name has at most {ITEM_BYTES_MAX} bytes")));
        }
        self.pace.work().await;
        let cents = item.bytes().fold(1, |sum, byte| (sum * 31 + u64::from(byte)) % 10_000);
        Ok(Response::new(QuoteReply { item, cents, pod: self.pod.clone() }))
    }
}

pub(super) async fn run(listener: TcpListener, pod: String, pace: Pace) -> anyhow::Result<()> {
    let server = PricingServer::new(Shop { pod, pace });
    loop {
        let (stream, _) = listener.accept().await?;
        let server = server.clone();
        let service = service_fn(move |request| server.clone().call(request));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        // A connection ends with its peer, or with the process; why is of no interest to a demo.
        tokio::spawn(async move { connection.await.ok() });
    }
}
