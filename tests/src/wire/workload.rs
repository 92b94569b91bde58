//! A workload with a certificate of the mesh and no proxy: whoever took over a pod. It can say anything to anybody.

use super::Line;
use crate::local::{Mesh, NAMESPACE, Proxy};
use anyhow::Context as _;
use remora_model::{SpiffeId, TrustDomain};
use remora_runtime::{
    certify::{self, CertifyConfig},
    tls::{self, Alpn, Credentials},
};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::{net::TcpStream, sync::Arc};

/// A certified workload.
#[derive(Debug)]
pub struct Workload {
    credentials: Arc<Credentials>,
}

impl Workload {
    /// Has the mesh's identity service certify the service account `account`.
    pub fn certified(mesh: &Mesh, account: &str) -> anyhow::Result<Self> {
        let domain: TrustDomain = "cluster.local".parse()?;
        let config = CertifyConfig {
            identity_addr: mesh.identity.kept("--listen")?.to_string(),
            identity_id: SpiffeId::workload(&domain, "remora", "remora-identity")?,
            token_path: mesh.token(NAMESPACE, account, account)?,
            anchors_path: mesh.dir().join("issuer/ca.crt"),
            id: SpiffeId::workload(&domain, NAMESPACE, account)?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let credentials = runtime.block_on(async {
            let (mut source, _task) = certify::start(config)?;
            let credentials = source.wait_for(Option::is_some).await?.clone();
            credentials.context("no certificate")
        })?;
        Ok(Self { credentials })
    }

    /// Connects to a proxy's inbound listener by mesh TLS and names `port` of its pod.
    pub fn dial(&self, to: &Proxy, alpn: Alpn, port: u16) -> anyhow::Result<Line> {
        let mut line = self.connect(to, &[alpn.as_bytes()])?;
        line.send(&destination(port));
        Ok(line)
    }

    /// Connects to a proxy's inbound listener by TLS, with these protocols to choose from.
    pub fn connect(&self, to: &Proxy, alpn: &[&[u8]]) -> anyhow::Result<Line> {
        let socket = TcpStream::connect(to.inbound).with_context(|| format!("connecting to {}", to.inbound))?;
        Line::tls(StreamOwned::new(self.handshake(to, alpn, |_| ())?, socket))
    }

    /// The client's side of a handshake that has not begun.
    pub fn handshake(
        &self,
        to: &Proxy,
        alpn: &[&[u8]],
        change: impl FnOnce(&mut ClientConfig),
    ) -> anyhow::Result<ClientConnection> {
        let config = tls::client_config(&self.credentials, &SpiffeId::parse(&to.identity)?, &[])?;
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        change(&mut config);
        let name = if config.enable_sni { "api.test.svc.cluster.local".try_into()? } else { tls::server_name() };
        Ok(ClientConnection::new(Arc::new(config), name)?)
    }
}

/// What a peer says first where nothing redirects: the port of the pod that it wants.
pub fn destination(port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\0\0\0\0\x7f\0\0\x01\0\0".to_vec();
    header.extend_from_slice(&port.to_be_bytes());
    header
}
