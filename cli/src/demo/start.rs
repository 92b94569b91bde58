//! Brings the demo up in its order: files, identity, discovery, then every application with its proxy, `web` last.

use super::{
    breaks,
    children::{Children, Spec},
    layout::{
        ADMIN_PORT, CONTROL_NAMESPACE, INBOUND_PORT, LEAF_LIFETIME, Layout, NAMESPACE, OUTBOUND_PORT, Pod, Role,
        TRUST_DOMAIN,
    },
    manifests,
    tokens::TokenKey,
};
use crate::{admin, components::Component};
use anyhow::{Context, anyhow, bail};
use std::{
    ffi::OsString,
    fs, io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ChildStdout,
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a component may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
/// How often it is asked.
const READY_PERIOD: Duration = Duration::from_millis(50);

/// A demo that runs. Its parts end in this order: processes, then their directory.
pub(super) struct Running {
    pub(super) children: Children,
    pub(super) layout: Layout,
    /// What `web` says, a line per second.
    pub(super) web: ChildStdout,
    pub(super) files: Files,
    /// Keeps other demos from our addresses.
    pub(super) claim: TcpListener,
}

/// Where everything lies.
pub(super) struct Files {
    dir: TempDir,
}

impl Files {
    fn new(keep: bool) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("remora-demo-").tempdir();
        let mut dir = dir.context("cannot make the demo's directory (TMPDIR names the place)")?;
        dir.disable_cleanup(keep);
        let files = Self { dir };
        for sub in [files.manifests(), files.logs(), files.issuer(), files.tokens()] {
            fs::create_dir(&sub).with_context(|| format!("cannot make {}", sub.display()))?;
        }
        Ok(files)
    }

    pub(super) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn manifests(&self) -> PathBuf {
        self.root().join("manifests")
    }

    fn logs(&self) -> PathBuf {
        self.root().join("logs")
    }

    fn issuer(&self) -> PathBuf {
        self.root().join("issuer")
    }

    fn tokens(&self) -> PathBuf {
        self.root().join("tokens")
    }

    fn jwks(&self) -> PathBuf {
        self.root().join("jwks.json")
    }

    fn anchors(&self) -> PathBuf {
        self.issuer().join("ca.crt")
    }
}

/// Starts everything and waits until it is ready.
pub(super) async fn start(keep: bool, rate: u32, log: &str) -> anyhow::Result<Running> {
    let (layout, claim) = free_layout()?;
    let files = Files::new(keep)?;
    manifests::write(&files.manifests(), layout)
        .with_context(|| format!("cannot write {}", files.manifests().display()))?;
    write_tokens(&files, layout)?;

    let mut children = Children::new(files.logs());
    children.start(identity(&files, layout, log))?;
    ready(&mut children, &[("identity".to_owned(), layout.identity().1)]).await?;
    children.start(discovery(&files, layout, log))?;
    let mut waiting = vec![("discovery".to_owned(), layout.discovery().1)];
    for pod in layout.pods() {
        children.start(proxy(&files, layout, pod, log))?;
        waiting.push((breaks::proxy(pod.name), layout.at(pod, ADMIN_PORT)));
        if pod.role != Role::Web {
            children.start(application(layout, pod, rate))?;
        }
    }
    ready(&mut children, &waiting).await?;
    let web = layout.pods().iter().find(|pod| pod.role == Role::Web).context("the layout has no web")?;
    let web = children.start(application(layout, web, rate))?.context("the output of web is not piped")?;
    Ok(Running { children, layout, web, files, claim })
}

/// The first block of addresses on which nothing listens, and what keeps it ours.
fn free_layout() -> anyhow::Result<(Layout, TcpListener)> {
    let mut first_taken = None;
    for layout in Layout::candidates() {
        match claim(layout) {
            Ok(claim) => return Ok((layout, claim)),
            Err(taken) => first_taken = first_taken.or(Some(taken)),
        }
    }
    let (address, error) = first_taken.ok_or_else(|| anyhow!("there is no block of addresses to try"))?;
    let error = anyhow!(error);
    Err(error.context(format!(
        "cannot listen on {address}, nor in any other block of 127.0.0.0/8; \
         does a program listen on port {} of all addresses (`ss -ltnp`)? End it and try again",
        address.port()
    )))
}

/// Takes a block, unless something listens on one of its addresses.
fn claim(layout: Layout) -> Result<TcpListener, (SocketAddr, io::Error)> {
    let bind = |address| TcpListener::bind(address).map_err(|error| (address, error));
    let claim = bind(layout.claim())?;
    layout.listeners().into_iter().try_for_each(|address| bind(address).map(drop))?;
    Ok(claim)
}

fn write_tokens(files: &Files, layout: Layout) -> anyhow::Result<()> {
    let key = TokenKey::new()?;
    key.write_jwks(&files.jwks())?;
    key.write_token(&files.tokens().join("discovery"), CONTROL_NAMESPACE, "remora-discovery", "discovery-1")?;
    for pod in layout.pods() {
        key.write_token(&files.tokens().join(pod.name), NAMESPACE, pod.role.name(), pod.name)?;
    }
    Ok(())
}

fn component(component: Component, name: String, log: &str) -> Spec {
    let (log_name, format_name) = match component {
        Component::Proxy => ("REMORA_PROXY_LOG", "REMORA_PROXY_LOG_FORMAT"),
        Component::Identity => ("REMORA_IDENTITY_LOG", "REMORA_IDENTITY_LOG_FORMAT"),
        Component::Discovery => ("REMORA_DISCOVERY_LOG", "REMORA_DISCOVERY_LOG_FORMAT"),
        Component::Injector => ("REMORA_INJECTOR_LOG", "REMORA_INJECTOR_LOG_FORMAT"),
    };
    let env = vec![(log_name, log.into()), (format_name, "text".into())];
    Spec { name, program: Some(component.program()), env, ..Spec::default() }
}

fn flags<const N: usize>(flags: [(&str, OsString); N]) -> Vec<OsString> {
    flags.into_iter().flat_map(|(name, value)| [OsString::from(format!("--{name}")), value]).collect()
}

fn text(value: impl ToString) -> OsString {
    value.to_string().into()
}

fn identity(files: &Files, layout: Layout, log: &str) -> Spec {
    let (listen, admin) = layout.identity();
    let mut spec = component(Component::Identity, "identity".to_owned(), log);
    spec.args = flags([
        ("listen", text(listen)),
        ("admin", text(admin)),
        ("trust-domain", TRUST_DOMAIN.into()),
        ("leaf-lifetime", text(format_args!("{}s", LEAF_LIFETIME.as_secs()))),
        ("issuer-dir", files.issuer().into()),
        ("jwks", files.jwks().into()),
    ]);
    spec
}

fn discovery(files: &Files, layout: Layout, log: &str) -> Spec {
    let (listen, admin) = layout.discovery();
    let mut spec = component(Component::Discovery, "discovery".to_owned(), log);
    spec.args = flags([
        ("listen", text(listen)),
        ("admin", text(admin)),
        ("manifests", files.manifests().into()),
        ("trust-domain", TRUST_DOMAIN.into()),
        ("identity-addr", text(layout.identity().0)),
        ("trust-anchors", files.anchors().into()),
        ("token", files.tokens().join("discovery").into()),
    ]);
    spec
}

fn proxy(files: &Files, layout: Layout, pod: &Pod, log: &str) -> Spec {
    let mut spec = component(Component::Proxy, breaks::proxy(pod.name), log);
    spec.env.extend([
        ("REMORA_PROXY_MODE", "explicit".into()),
        ("REMORA_PROXY_OUTBOUND_LISTEN", text(layout.at(pod, OUTBOUND_PORT))),
        ("REMORA_PROXY_INBOUND_LISTEN", text(layout.at(pod, INBOUND_PORT))),
        ("REMORA_PROXY_ADMIN_LISTEN", text(layout.at(pod, ADMIN_PORT))),
        ("REMORA_PROXY_NAMESPACE", NAMESPACE.into()),
        ("REMORA_PROXY_POD", pod.name.into()),
        ("REMORA_PROXY_SERVICE_ACCOUNT", pod.role.name().into()),
        ("REMORA_PROXY_ZONE", pod.zone.into()),
        ("REMORA_PROXY_TRUST_DOMAIN", TRUST_DOMAIN.into()),
        ("REMORA_PROXY_TRUST_ANCHORS", files.anchors().into()),
        ("REMORA_PROXY_TOKEN", files.tokens().join(pod.name).into()),
        ("REMORA_PROXY_IDENTITY_ADDR", text(layout.identity().0)),
        ("REMORA_PROXY_DISCOVERY_ADDR", text(layout.discovery().0)),
        ("REMORA_PROXY_APP_HOST", text(layout.ip(pod))),
        ("REMORA_PROXY_WORKERS", "1".into()),
    ]);
    spec
}

fn application(layout: Layout, pod: &Pod, rate: u32) -> Spec {
    let mut args: Vec<OsString> = vec!["demo-app".into(), pod.role.name().into()];
    args.extend(flags([
        ("pod", pod.name.into()),
        ("proxy", text(layout.at(pod, OUTBOUND_PORT))),
        ("rate", text(rate)),
    ]));
    if let Some(port) = pod.role.port() {
        args.extend(flags([("listen", text(layout.at(pod, port)))]));
    }
    Spec { name: breaks::app(pod.name), args, piped: pod.role == Role::Web, ..Spec::default() }
}

/// Waits until all are ready; says which one is not, and what it logged last.
async fn ready(children: &mut Children, waiting: &[(String, SocketAddr)]) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    for (name, address) in waiting {
        loop {
            if let Some((name, status)) = children.unexpected_end() {
                return Err(children.obituary(&name, status));
            }
            let answer = admin::get(*address, "/ready").await;
            if answer.as_ref().is_ok_and(|answer| answer.status.is_success()) {
                break;
            }
            if Instant::now() > deadline {
                let why = answer.map_or_else(
                    |error| crate::chain(&error),
                    |answer| String::from_utf8_lossy(&answer.body).trim().replace('\n', "; "),
                );
                let seconds = READY_TIMEOUT.as_secs();
                bail!("{name} is not ready after {seconds} s: {why} (its log ends: {})", children.log_tail(name));
            }
            sleep(READY_PERIOD).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_demos_never_share_a_block() {
        let (first, _held) = free_layout().expect("a free block");
        let (second, _held) = free_layout().expect("another free block");
        assert_ne!(first.claim(), second.claim());
    }
}
