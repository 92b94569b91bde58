//! `pricing`: what it costs, over gRPC.

use crate::stop::Stop;
use proto::{
    QuoteReply, QuoteRequest,
    pricing_server::{Pricing, PricingServer},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

#[allow(
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub(crate) mod proto {
    tonic::include_proto!("shop.v1");
}

/// A longer name is a mistake.
const ITEM_BYTES_MAX: usize = 256;

struct Prices;

#[tonic::async_trait]
impl Pricing for Prices {
    async fn quote(&self, request: Request<QuoteRequest>) -> Result<Response<QuoteReply>, Status> {
        let item = request.into_inner().item;
        if item.len() > ITEM_BYTES_MAX {
            return Err(Status::invalid_argument(format!("an item's name has at most {ITEM_BYTES_MAX} bytes")));
        }
        let cents = item.bytes().fold(1, |sum, byte| (sum * 31 + u64::from(byte)) % 10_000);
        Ok(Response::new(QuoteReply { cents, pod: crate::pod() }))
    }
}

pub(crate) async fn run(listener: TcpListener, stop: Stop) -> anyhow::Result<()> {
    let incoming = TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(PricingServer::new(Prices));
    Ok(server.serve_with_incoming_shutdown(incoming, stop.lingered()).await?)
}
