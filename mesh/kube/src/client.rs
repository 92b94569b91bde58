//! A client of the API server, and calls that end.
//!
//! In: `KUBECONFIG` (or `~/.kube/config`), else what Kubernetes gives a pod. Out: a [`Client`] that names the part and
//! its version in `User-Agent`. The client has no timeout of its own over a whole call, since watches have no end; so
//! every call that is not a watch goes through [`call`] or [`call_within`]. Watches use [`watching`].

use crate::outage::{Outage, Part};
use http::Response;
use kube::{
    Client,
    client::ClientBuilder,
    config::{Config, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
    core::Status,
    runtime::watcher,
};
use std::{path::Path, sync::Arc, time::Duration};
use tower::{BoxError, util::MapResultLayer};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a write may make no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long any call but a watch may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A watch is asked anew this often. It resumes where it was, which costs one request; what it buys is that a
/// connection that died without a word (kube finds it 5 s after this) hides changes for a minute at most, not for five.
pub const WATCH_SECONDS: u32 = 55;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither a kubeconfig nor a pod's service account.
    #[error("no way to the API server: no kubeconfig ({}), and not in a pod ({})", chain(.kubeconfig), chain(.in_cluster))]
    Config {
        /// What is wrong with the kubeconfig.
        kubeconfig: Box<KubeconfigError>,
        /// What is wrong with the pod's service account.
        in_cluster: Box<InClusterError>,
    },
    /// The kubeconfig that was named, or the context in it, cannot be used.
    #[error("the kubeconfig cannot be used: {}", chain(.0))]
    Kubeconfig(Box<KubeconfigError>),
    /// The part's name or version make no header.
    #[error("no User-Agent: {0}")]
    Agent(#[source] http::header::InvalidHeaderValue),
    /// The configuration cannot be used.
    #[error("cannot make a client of the API server: {}", chain(.0))]
    Build(#[source] kube::Error),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time.
    #[error("the API server did not answer within {0:?}")]
    Timeout(Duration),
    /// It said no.
    #[error("the API server refuses: {}", .0.message)]
    Refused(Box<Status>),
    /// It could not be reached or understood.
    #[error("cannot reach the API server: {}", chain(.0))]
    Away(#[source] kube::Error),
}

impl CallError {
    /// The HTTP status code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(status) => Some(status.code),
            Self::Timeout(_) | Self::Away(_) => None,
        }
    }

    /// There is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Somebody else was faster: the object exists, or is no longer what was read.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// It does not answer, or is in no state to: trying again later may help.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.code().is_none_or(|code| code >= 500 || code == 429)
    }

    /// We may not.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status),
            other => Self::Away(other),
        }
    }
}

/// Reads the configuration: a kubeconfig if there is one, else the pod's service account.
///
/// Unlike `Config::infer` it takes no debugging overrides from the environment, which could make a part speak to
/// another server as another user.
pub async fn config(options: &KubeConfigOptions) -> Result<Config, ClientError> {
    let config = match Config::from_kubeconfig(options).await {
        Ok(config) => config,
        Err(kubeconfig) => Config::incluster().map_err(|in_cluster| ClientError::Config {
            kubeconfig: Box::new(kubeconfig),
            in_cluster: Box::new(in_cluster),
        })?,
    };
    Ok(bounded(config))
}

/// Reads the configuration that a person named: the file `kubeconfig`, or the one that [`config`] would read, with `options` in it. A pod's
/// service account is never taken for it.
pub async fn config_named(kubeconfig: Option<&Path>, options: &KubeConfigOptions) -> Result<Config, ClientError> {
    let refused = |error| ClientError::Kubeconfig(Box::new(error));
    let read = kubeconfig.map_or_else(Kubeconfig::read, Kubeconfig::read_from).map_err(refused)?;
    Ok(bounded(Config::from_custom_kubeconfig(read, options).await.map_err(refused)?))
}

fn bounded(mut config: Config) -> Config {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    config
}

/// A client for the program named `agent`, whose caller tells its user what fails. Does not connect yet.
pub fn client(config: Config, agent: &str) -> Result<Client, ClientError> {
    Ok(ClientBuilder::try_from(named(config, agent)?).map_err(ClientError::Build)?.build())
}

/// A client for a part of the control plane, that logs when the API server cannot be reached. Does not connect yet.
pub fn client_as(part: Part, config: Config) -> Result<Client, ClientError> {
    let outage = Arc::new(Outage::new(part, config.cluster_url.to_string()));
    let watched = MapResultLayer::new(move |ended: Result<Response<_>, BoxError>| {
        outage.ended(ended.as_ref().map(Response::status).map_err(|error| chain(&**error)));
        ended
    });
    let builder = ClientBuilder::try_from(named(config, part.name)?).map_err(ClientError::Build)?;
    Ok(builder.with_layer(&watched).build())
}

fn named(mut config: Config, agent: &str) -> Result<Config, ClientError> {
    let agent = format!("{agent}/{}", env!("CARGO_PKG_VERSION")).parse().map_err(ClientError::Agent)?;
    config.headers.push((http::header::USER_AGENT, agent));
    Ok(config)
}

/// [`config`] and [`client`] with nothing chosen.
pub async fn connect(agent: &str) -> Result<Client, ClientError> {
    client(config(&KubeConfigOptions::default()).await?, agent)
}

/// [`config`] and [`client_as`] with nothing chosen: what a part in its pod wants.
pub async fn connect_as(part: Part) -> Result<Client, ClientError> {
    client_as(part, config(&KubeConfigOptions::default()).await?)
}

/// Waits for `request` for [`CALL_TIMEOUT`]. Cancel-safe as far as reads go; a cancelled write may have happened.
pub async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    call_within(CALL_TIMEOUT, request).await
}

/// Waits for `request` for `limit`.
pub async fn call_within<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(CallError::from),
        Err(_) => Err(CallError::Timeout(limit)),
    }
}

/// How to watch: put a selector on it, and `.default_backoff()` on the stream.
#[must_use]
pub fn watching() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// The error and what caused it, each once: kube's own text leaves out why a connection failed.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_refusal_says_what_the_server_said_and_nothing_twice() {
        let status = Status::failure("leases \"x\" already exists", "AlreadyExists").with_code(409);
        let error = CallError::from(kube::Error::Api(Box::new(status)));
        assert!(error.is_conflict() && !error.is_not_found());
        assert_eq!(error.to_string(), "the API server refuses: leases \"x\" already exists");
    }

    #[tokio::test]
    async fn a_call_without_an_answer_ends() {
        let limit = Duration::from_millis(1);
        let error = call_within(limit, std::future::pending::<kube::Result<()>>()).await.unwrap_err();
        assert!(matches!(error, CallError::Timeout(waited) if waited == limit), "{error}");
    }
}
