//! Everybody who is refused, each with its reason: to the caller, in the log and in the metrics.

use super::caller::{Caller, DISCOVERY, IDENTITY, Part};
use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use remora_api::v1::Hello;
use remora_kube::names;
use remora_tests::cluster::{Cluster, NotTried, POD_PATIENCE};
use serde_json::{Value, json};
use std::time::SystemTime;
use tonic::Code;

/// The audience of the token that every pod has for the API server.
const DEFAULT_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// Fails unless `doing` is counted and logged under `reason` by `part`.
fn told<T>(
    caller: &Caller,
    part: Part,
    (metric, reason): (&str, &str),
    doing: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let sample = format!("{metric}{{reason=\"{reason}\"}}");
    let (since, before) = (SystemTime::now(), caller.wait(caller.metric(part, &sample))?);
    let done = doing()?;
    let after = caller.wait(caller.metric(part, &sample))?;
    ensure!(after > before, "{sample} is {after}, and was {before}");
    let lines = caller.wait(caller.logged(part, since, &[&format!("reason=\"{reason}\"")]))?;
    println!("    {}", lines.last().with_context(|| format!("no log line says {reason}"))?);
    Ok(done)
}

fn refused(caller: &Caller, token: String, reason: &str) -> anyhow::Result<()> {
    let metric = ("remora_identity_refused_total", reason);
    let answer = told(caller, IDENTITY, metric, || caller.wait(caller.certify(token, None)))?;
    let status = answer.err().with_context(|| format!("a certificate, rather than {reason}"))?;
    ensure!(status.code() == Code::Unauthenticated, "{status}");
    Ok(())
}

pub(crate) fn tokens(cluster: &Cluster) -> anyhow::Result<()> {
    let (caller, scope) = (Caller::new(cluster)?, cluster.bare_scope("tokens")?);
    let namespace = &scope.namespace;
    let (stays, goes) = (scope.client("stays")?, scope.client("goes")?);
    let token = |audience: &str, pod: Option<&str>| caller.wait(caller.token(namespace, audience, pod));

    let good = token(names::AUDIENCE, Some(&stays))?;
    ensure!(caller.wait(caller.certify(good.clone(), None))?.is_ok(), "a good token is refused");
    let of_gone = token(names::AUDIENCE, Some(&goes))?;
    caller.wait(async {
        let pods = caller.api::<Pod>(namespace);
        Ok(pods.delete(&goes, &DeleteParams::default().grace_period(0)).await?)
    })?;
    cluster.until(POD_PATIENCE, "the pod is gone", || {
        caller.wait(async { Ok(caller.api::<Pod>(namespace).get_opt(&goes).await?.is_none().then_some(())) })
    })?;

    refused(&caller, token("other.example", Some(&stays))?, "token_audience")?;
    refused(&caller, token(DEFAULT_AUDIENCE, Some(&stays))?, "token_audience")?;
    refused(&caller, token(names::AUDIENCE, None)?, "token_no_pod")?;
    refused(&caller, of_gone, "token_gone")?;
    refused(&caller, of_another_cluster(&good, true)?, "token_unknown_key")?;
    refused(&caller, of_another_cluster(&good, false)?, "token_signature")?;
    refused(&caller, "junk".into(), "token_malformed")?;
    match token_key(cluster) {
        Some(key) => refused(&caller, expired(&good, &key)?, "token_expired"),
        None => bail!(NotTried("but for an expired token: the key of this cluster's tokens is not at hand")),
    }
}

/// The claims of `token`, signed by another cluster's API server, which may name its key as ours does or not.
fn of_another_cluster(token: &str, names_its_key: bool) -> anyhow::Result<String> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let key = jsonwebtoken::EncodingKey::from_ec_pem(key.serialize_pem().as_bytes())?;
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    header.kid = if names_its_key { Some("another".into()) } else { jsonwebtoken::decode_header(token)?.kid };
    Ok(jsonwebtoken::encode(&header, &claims(token)?, &key)?)
}

/// The key that signs this cluster's tokens, if the cluster is the project's own.
fn token_key(cluster: &Cluster) -> Option<String> {
    let kubeconfig = std::env::var_os("KUBECONFIG").filter(|_| cluster.is_own())?;
    std::fs::read_to_string(std::path::Path::new(&kubeconfig).with_file_name("sa.key")).ok()
}

/// `token`, a day too late, signed by the cluster's own key.
fn expired(token: &str, key: &str) -> anyhow::Result<String> {
    let mut claims = claims(token)?;
    for name in ["exp", "iat", "nbf"] {
        let at = claims[name].as_i64().context("no time in the token")?;
        claims[name] = json!(at - 24 * 3600);
    }
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(key.as_bytes())?;
    Ok(jsonwebtoken::encode(&jsonwebtoken::decode_header(token)?, &claims, &key)?)
}

fn claims(token: &str) -> anyhow::Result<Value> {
    Ok(jsonwebtoken::dangerous::insecure_decode_claims(token)?)
}

pub(crate) fn request(cluster: &Cluster) -> anyhow::Result<()> {
    let (caller, scope) = (Caller::new(cluster)?, cluster.bare_scope("request")?);
    let pod = scope.client("web")?;
    let token = caller.wait(caller.token(&scope.namespace, names::AUDIENCE, Some(&pod)))?;
    let own = format!("spiffe://cluster.local/ns/{}/sa/default", scope.namespace);
    ensure!(caller.wait(caller.certify(token.clone(), Some(&own)))?.is_ok(), "its own identity is refused");
    let other = format!("spiffe://cluster.local/ns/{}/sa/{}", caller.control, names::DISCOVERY);
    let metric = ("remora_identity_refused_total", "csr_identity");
    let answer = told(&caller, IDENTITY, metric, || caller.wait(caller.certify(token, Some(&other))))?;
    let status = answer.err().context("a certificate of discovery for a pod of somebody else")?;
    ensure!(status.code() == Code::InvalidArgument && status.message().contains(&other), "{status}");
    Ok(())
}

pub(crate) fn plaintext(cluster: &Cluster) -> anyhow::Result<()> {
    let caller = Caller::new(cluster)?;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let metric = ("remora_control_handshake_failures_total", "handshake_failed");
    let answer = told(&caller, IDENTITY, metric, || caller.wait(caller.say(IDENTITY, preface)))?;
    ensure!(!answer.windows(3).any(|window| window == b"\0\0\x04"), "it answers in HTTP/2: {answer:?}");
    Ok(())
}

pub(crate) fn subscription(cluster: &Cluster) -> anyhow::Result<()> {
    let (caller, scope) = (Caller::new(cluster)?, cluster.bare_scope("subscription")?);
    let pod = scope.client("web")?;
    let token = || caller.wait(caller.token(&scope.namespace, names::AUDIENCE, Some(&pod)));
    let hello = |service_account: &str| Hello {
        namespace: scope.namespace.clone(),
        pod: pod.clone(),
        service_account: service_account.into(),
        ..Hello::default()
    };
    caller.wait(caller.subscribe(token()?, hello("default")))?.context("its own are refused")?;
    let metric = ("remora_discovery_refused_total", "identity");
    let answer = told(&caller, DISCOVERY, metric, || caller.wait(caller.subscribe(token()?, hello("admin"))))?;
    let status = answer.err().context("another's subscriptions are served")?;
    ensure!(status.code() == Code::PermissionDenied, "{status}");
    Ok(())
}

pub(crate) fn admin_port(cluster: &Cluster) -> anyhow::Result<()> {
    if !cluster.is_meshed() {
        return Ok(());
    }
    let scope = cluster.scope("admin")?;
    let (asker, asked) = (scope.client("asker")?, scope.client("asked")?);
    let address = scope.object("v1/pods", &asked)?;
    let address = address["status"]["podIP"].as_str().context("no address")?;
    for path in ["/config", "/routes", "/log-level"] {
        let said = scope.get(&asker, &format!("http://{address}:4191{path}"))?;
        ensure!(said.status() == Some(403), "{path}: {said:?}");
    }
    let counted = scope.admin(&asked, "echo", "/metrics")?;
    let counted = counted.lines().find(|line| line.contains("remora_admin_refused_total{reason=\"not_local\"}"));
    println!("    {}", counted.context("it is not counted")?);
    let log = scope.logs(&asked, names::PROXY_CONTAINER)?;
    println!("    {}", log.lines().find(|line| line.contains("reason=\"not_local\"")).context("it is not logged")?);
    ensure!(scope.admin(&asked, "echo", "/config").is_ok(), "the pod itself is refused");
    Ok(())
}
