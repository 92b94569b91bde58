//! A stream to a port of a pod, through the API server: what `kubectl port-forward` does, without a local port.
//!
//! In: a pod and a port. Out: a stream, which ends at the pod's own loopback: so an admin server takes us for the pod
//! itself. Who may do this is RBAC's affair (`create` on `pods/portforward`).

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::Portforwarder};
use remora_kube::client::CallError;
use std::{fmt, time::Duration};
use tokio::io::DuplexStream;

/// After the answer, how long to wait to be told why there was none.
const REASON_WAIT: Duration = Duration::from_millis(200);

/// A port of a pod.
#[derive(Clone)]
pub(crate) struct PodPort {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) port: u16,
}

impl fmt::Display for PodPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {} of pod {}/{}", self.port, self.namespace, self.pod)
    }
}

impl fmt::Debug for PodPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Api(CallError),
    #[error("the forwarder has no stream for the port")]
    NoStream,
    #[error("the node says: {0}")]
    Refused(String),
}

impl Error {
    /// What the API server said, where it was the API server.
    pub(crate) fn call(&self) -> Option<&CallError> {
        match self {
            Self::Api(error) => Some(error),
            Self::NoStream | Self::Refused(_) => None,
        }
    }
}

impl PodPort {
    /// Opens it.
    pub(crate) async fn open(&self) -> Result<Forwarded, Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let forwarder = pods.portforward(&self.pod, &[self.port]).await.map_err(|error| Error::Api(error.into()))?;
        Ok(Forwarded { forwarder, port: self.port })
    }
}

/// An open stream; dropping it ends the forwarding.
pub(crate) struct Forwarded {
    forwarder: Portforwarder,
    port: u16,
}

impl Forwarded {
    /// The stream; there is one.
    pub(crate) fn stream(&mut self) -> Result<DuplexStream, Error> {
        self.forwarder.take_stream(self.port).ok_or(Error::NoStream)
    }

    /// Ends it, and says what the node had to say.
    pub(crate) async fn close(mut self) -> Option<String> {
        let said = self.forwarder.take_error(self.port)?;
        tokio::time::timeout(REASON_WAIT, said).await.ok().flatten()
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}
