//! Commands in pods, logs, forwarded ports.

use super::Scope;
use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, LogParams};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

/// How long a command in a pod may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// What a command in a pod printed, and whether it ended well.
#[derive(Debug, Clone)]
pub struct Said {
    pub out: String,
    pub err: String,
    pub ok: bool,
}

impl Said {
    /// Fails if the command did.
    pub fn well(self) -> anyhow::Result<Self> {
        ensure!(self.ok, "the command failed: {} {}", self.err.trim(), self.out.trim());
        Ok(self)
    }

    /// The status that the echo client saw.
    pub fn status(&self) -> Option<u16> {
        self.out.lines().find_map(|line| line.split_once("StatusCode=")?.1.trim().parse().ok())
    }

    /// A fact that the echo server told: `Hostname`, `Proto`, …
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.out.lines().find_map(|line| line.split_once("body] ")?.1.strip_prefix(name)?.strip_prefix('='))
    }

    /// A header that the server received, by its name in lower case.
    pub fn request_header(&self, name: &str) -> Option<&str> {
        let headers = self.out.lines().filter_map(|line| line.split_once("RequestHeader=")?.1.split_once(':'));
        headers.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The body that the echo client printed.
    pub fn body(&self) -> String {
        self.out.lines().filter_map(|line| Some(line.split_once("body] ")?.1)).collect::<Vec<_>>().join("\n")
    }
}

impl Scope<'_> {
    fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.client(), &self.namespace)
    }

    /// Runs a command in a container.
    pub fn exec(&self, pod: &str, container: &str, command: &[&str]) -> anyhow::Result<Said> {
        let api = self.pods_api();
        let parameters = AttachParams::default().container(container).stdin(false).stdout(true).stderr(true);
        let said = async {
            let mut process = api.exec(pod, command.iter().copied(), &parameters).await?;
            let status = process.take_status().context("no status")?;
            let (out, err) = (process.stdout(), process.stderr());
            let (out, err, status) = tokio::join!(read(out), read(err), status);
            let ok = status.is_some_and(|status| status.status.as_deref() == Some("Success"));
            anyhow::Ok(Said { out: out?, err: err?, ok })
        };
        let said = self.cluster.runtime.block_on(async { tokio::time::timeout(COMMAND_TIMEOUT, said).await });
        said.context("it went on for too long")?.with_context(|| format!("{command:?} in {pod}/{container}"))
    }

    /// Asks a URL from the container `echo` of a pod.
    pub fn get(&self, pod: &str, url: &str) -> anyhow::Result<Said> {
        self.exec(pod, "echo", &["client", url])
    }

    /// What a container printed.
    pub fn logs(&self, pod: &str, container: &str) -> anyhow::Result<String> {
        let parameters = LogParams { container: Some(container.into()), ..Default::default() };
        self.cluster.ask(self.pods_api().logs(pod, &parameters)).with_context(|| format!("logs of {pod}/{container}"))
    }

    /// One HTTP request through a forwarded port; what came back, head and all.
    pub fn port_forward(&self, pod: &str, port: u16, path: &str) -> anyhow::Result<String> {
        let api = self.pods_api();
        let asked = async {
            let mut forwarder = api.portforward(pod, &[port]).await?;
            let mut stream = forwarder.take_stream(port).context("no stream")?;
            stream
                .write_all(format!("GET {path} HTTP/1.1\r\nhost: forwarded\r\nconnection: close\r\n\r\n").as_bytes())
                .await?;
            read(Some(stream)).await
        };
        let said = self.cluster.runtime.block_on(async { tokio::time::timeout(COMMAND_TIMEOUT, asked).await });
        said.context("no answer by the forwarded port")?.with_context(|| format!("forwarding to {pod}:{port}"))
    }
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> anyhow::Result<String> {
    let mut text = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut text).await?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
