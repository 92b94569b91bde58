//! Calls a part of the control plane from the test, as a pod would: through a forwarded port, with any token, request
//! or certificate. Everything runs on a runtime of its own.

use anyhow::Context as _;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
use kube::{
    Client, ResourceExt as _,
    api::{Api, ListParams, LogParams, PostParams},
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use remora_api::v1::{
    CertifyRequest, CertifyResponse, Hello, SyncRequest, discovery_client::DiscoveryClient,
    identity_client::IdentityClient, sync_request,
};
use remora_kube::names;
use remora_model::{SpiffeId, TrustDomain};
use remora_runtime::{
    grpc::mtls_channel,
    tls::{Alpn, Credentials, Svid, TrustBundle, anonymous_client_config, client_config},
};
use remora_tests::cluster::Cluster;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::TcpListener,
    runtime::Runtime,
};
use tonic::Status;

pub(crate) const IDENTITY_PORT: u16 = 4180;
pub(crate) const IDENTITY_ADMIN: u16 = 4192;
pub(crate) const DISCOVERY_PORT: u16 = 4181;
pub(crate) const DISCOVERY_ADMIN: u16 = 4193;
/// For one thing that is done.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reaches the control plane.
pub(crate) struct Caller {
    runtime: Runtime,
    pub(crate) client: Client,
    pub(crate) control: String,
    trust_domain: TrustDomain,
}

/// A pod of the control plane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pub(crate) admin: u16,
}

pub(crate) const IDENTITY: Part = Part { name: names::IDENTITY, port: IDENTITY_PORT, admin: IDENTITY_ADMIN };
pub(crate) const DISCOVERY: Part = Part { name: names::DISCOVERY, port: DISCOVERY_PORT, admin: DISCOVERY_ADMIN };

impl Caller {
    pub(crate) fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(remora_kube::client::connect("remora-tests"))?;
        Ok(Self { runtime, client, control: cluster.control(), trust_domain: TrustDomain::new("cluster.local")? })
    }

    /// Waits for what must not take long.
    pub(crate) fn wait<T>(&self, what: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, what).await }).context("it took too long")?
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The replica that is asked.
    pub(crate) async fn pod(&self, part: Part) -> anyhow::Result<String> {
        let selector = ListParams::default().labels(&format!("{}={}", names::PART, part.name));
        let pods = self.api::<Pod>(&self.control).list(&selector).await?.items;
        let running = pods.into_iter().find(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
        });
        Ok(running.with_context(|| format!("no pod of {}", part.name))?.name_any())
    }

    /// A local address whose connections end in the part's pod.
    async fn forward(&self, part: Part, port: u16) -> anyhow::Result<String> {
        let (pod, pods) = (self.pod(part).await?, self.api::<Pod>(&self.control));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        tokio::spawn(async move {
            while let Ok((mut local, _)) = listener.accept().await {
                let Ok(mut forwarder) = pods.portforward(&pod, &[port]).await else { return };
                if let Some(mut remote) = forwarder.take_stream(port) {
                    tokio::spawn(async move {
                        // Either end may break it off; the caller sees that.
                        let _ = copy_bidirectional(&mut local, &mut remote).await;
                        drop(forwarder);
                    });
                }
            }
        });
        Ok(address)
    }

    /// Sends bytes to the part's gRPC port, and returns what it answers until it closes.
    pub(crate) async fn say(&self, part: Part, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut stream = tokio::net::TcpStream::connect(self.forward(part, part.port).await?).await?;
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        // A reset is an answer too: none.
        let _ = stream.read_to_end(&mut answer).await;
        Ok(answer)
    }

    /// A sample of the part's metrics; 0 if it is not there yet.
    pub(crate) async fn metric(&self, part: Part, sample: &str) -> anyhow::Result<f64> {
        let mut stream = tokio::net::TcpStream::connect(self.forward(part, part.admin).await?).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let line = answer.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        Ok(line.map_or(Ok(0.0), str::parse)?)
    }

    /// Lines of the part's log since `since` that hold all of `words`.
    pub(crate) async fn logged(&self, part: Part, since: SystemTime, words: &[&str]) -> anyhow::Result<Vec<String>> {
        let seconds = i64::try_from(since.elapsed().unwrap_or_default().as_secs())? + 1;
        let parameters = LogParams { since_seconds: Some(seconds), ..LogParams::default() };
        let log = self.api::<Pod>(&self.control).logs(&self.pod(part).await?, &parameters).await?;
        let lines = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        Ok(lines.map(str::to_owned).collect())
    }

    /// A token of the account `default`, made by the API server.
    pub(crate) async fn token(&self, namespace: &str, audience: &str, pod: Option<&str>) -> anyhow::Result<String> {
        let bound = match pod {
            Some(pod) => {
                let uid = self.api::<Pod>(namespace).get(pod).await?.uid();
                Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod.into()),
                    uid,
                })
            }
            None => None,
        };
        let spec =
            TokenRequestSpec { audiences: vec![audience.into()], bound_object_ref: bound, expiration_seconds: None };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts = self.api::<ServiceAccount>(namespace);
        let made = accounts.create_token_request("default", &PostParams::default(), &request).await?;
        Ok(made.status.context("no token")?.token)
    }

    /// The anchors, as any pod has them.
    pub(crate) async fn bundle(&self) -> anyhow::Result<TrustBundle> {
        let map = self.api::<ConfigMap>(&self.control).get(names::TRUST_ANCHORS).await?;
        let text = map.data.unwrap_or_default().remove(names::CA_CRT).context("no ca.crt")?;
        Ok(TrustBundle::from_pem(self.trust_domain.clone(), text.as_bytes())?)
    }

    /// Asks for a certificate; the request names `asks_for`.
    pub(crate) async fn certify(
        &self,
        token: String,
        asks_for: Option<&str>,
    ) -> anyhow::Result<Result<(CertifyResponse, KeyPair), Status>> {
        let (bundle, id) = (self.bundle().await?, self.id(names::IDENTITY)?);
        let config = move || anonymous_client_config(&bundle, &id, &[Alpn::Grpc]);
        let address = self.forward(IDENTITY, IDENTITY.port).await?;
        let mut client = IdentityClient::new(mtls_channel(&address, config)?);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(uri) = asks_for {
            params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        }
        let csr_der = params.serialize_request(&key)?.der().to_vec();
        let answer = client.certify(CertifyRequest { csr_der, token }).await;
        Ok(answer.map(|answer| (answer.into_inner(), key)))
    }

    /// Opens a stream to discovery with the certificate of `token`'s pod, as the workload that `hello` names.
    pub(crate) async fn subscribe(&self, token: String, hello: Hello) -> anyhow::Result<Result<(), Status>> {
        let (answer, key) = self.certify(token, None).await??;
        let svid = Svid::new(answer.chain_der, key.serialize_der())?;
        let credentials = Arc::new(Credentials { svid, bundle: self.bundle().await?, generation: 1 });
        let id = self.id(names::DISCOVERY)?;
        let config = move || client_config(&credentials, &id, &[Alpn::Grpc]);
        let address = self.forward(DISCOVERY, DISCOVERY.port).await?;
        let mut client = DiscoveryClient::new(mtls_channel(&address, config)?);
        let inbound = remora_api::v1::resource_name::Kind::Inbound(80);
        let subscription = remora_api::v1::ResourceName { kind: Some(inbound) };
        let kinds = [sync_request::Kind::Hello(hello), sync_request::Kind::Subscribe(subscription)];
        let requests = kinds.map(|kind| SyncRequest { kind: Some(kind) });
        // It stays open, as a proxy's does.
        let requests =
            futures_util::StreamExt::chain(futures_util::stream::iter(requests), futures_util::stream::pending());
        let mut stream = match client.sync(requests).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        Ok(stream.message().await.map(drop))
    }

    fn id(&self, part: &str) -> anyhow::Result<SpiffeId> {
        Ok(SpiffeId::workload(&self.trust_domain, &self.control, part)?)
    }
}
