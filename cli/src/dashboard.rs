//! `remora dashboard`: the page of the mesh, or of one pod, in a browser on this machine.
//!
//! In: nothing, for the page that discovery serves, or a pod. Out: a port of this machine's loopback that is forwarded through the API server to
//! the admin port, until it is interrupted. Who may see the page is who may forward to that pod: RBAC says.

use crate::{
    Look,
    admin::{self, Place},
    block_on,
    cluster::{
        self, Cluster, ControlPlane,
        forward::PodPort,
        scope::Scope,
        target::{self, Target},
    },
    finish,
    text::{self, Line, Style},
};
use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use remora_kube::{client, names};
use remora_runtime::drain;
use std::{
    net::{Ipv4Addr, SocketAddr},
    process::{Command, ExitCode, Stdio},
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// Connections that are forwarded at once: a browser opens six to one address.
const CONNECTIONS_MAX: usize = 32;

/// What `remora dashboard` is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Whose page: pod/NAME, deploy/NAME, sts/NAME, ds/NAME, job/NAME, svc/NAME (of several pods the first), or HOST:PORT of an admin port.
    /// Without it, the page of the mesh
    #[arg(value_name = "TARGET", value_parser = target::parse)]
    target: Option<Target>,
    /// The namespace of the pod; the kubeconfig's if not given
    #[arg(short, long, value_name = "NAME", value_parser = target::name, requires = "target")]
    namespace: Option<String>,
    /// The port on this machine; any that is free if not given
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    port: u16,
    /// Print the address and open no browser
    #[arg(long)]
    no_browser: bool,
    #[command(flatten)]
    control_plane: ControlPlane,
    #[command(flatten)]
    cluster: cluster::Args,
}

/// `remora dashboard`.
pub(crate) fn main(args: &Args, look: Look) -> ExitCode {
    finish(block_on(run(args, look)).map(|()| (String::new(), true)))
}

async fn run(args: &Args, look: Look) -> anyhow::Result<()> {
    if let Some(Target::Address(address)) = args.target {
        // It can be reached from here.
        return tell(&url(address, "/"), "the admin port itself", args, look);
    }
    let (place, path): (Place, _) = match &args.target {
        Some(target) => {
            let scope = Scope {
                targets: vec![target.clone()],
                namespace: args.namespace.clone(),
                cluster: args.cluster.clone(),
                ..Scope::default()
            };
            let found = scope.open().await?.find().await?;
            (found.into_iter().next().context("no pod was found")?.admin, "/")
        }
        None => {
            let cluster = Cluster::connect(&args.cluster).await?;
            (Place::Pod(discovery(&cluster, &args.control_plane.namespace).await?), "/mesh")
        }
    };
    // Whatever is wrong is said now, and not in a browser.
    let answer = admin::get(place.clone(), path).await?;
    if answer.status == http::StatusCode::NOT_FOUND {
        bail!("{place} has no {path}: it is of an older version; `remora upgrade` prints the manifests of this one");
    }
    if !answer.status.is_success() {
        bail!("{place} answered {path} with {}", answer.status);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).await;
    let listener = listener.with_context(|| format!("cannot listen on 127.0.0.1:{}; say another --port", args.port))?;
    tell(&url(listener.local_addr()?, path), &place.to_string(), args, look)?;
    eprintln!("remora: forwards until it is interrupted (Ctrl-C)");
    tokio::select! {
        never = forward(listener, async move || open(&place).await) => match never? {},
        signal = drain::terminated() => drop(signal?),
    }
    Ok(())
}

fn url(address: SocketAddr, path: &str) -> String {
    format!("http://{address}{path}")
}

/// Says where the page is, and opens it if there is a browser.
fn tell(url: &str, whose: &str, args: &Args, look: Look) -> anyhow::Result<()> {
    let line = Line::of(Style::Strong, url).and(Style::Faint, format!("  {whose}"));
    text::print(&text::render(&[line], look.coloured))?;
    if !args.no_browser
        && let Some(mut command) = browser(url, |name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    {
        // Without one the address is enough.
        drop(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn());
    }
    Ok(())
}

/// What opens an address, if this machine has a screen.
fn browser(url: &str, is_set: impl Fn(&str) -> bool) -> Option<Command> {
    let program = match () {
        () if cfg!(target_os = "macos") => "open",
        () if is_set("DISPLAY") || is_set("WAYLAND_DISPLAY") => "xdg-open",
        () => return None,
    };
    let mut command = Command::new(program);
    command.arg(url);
    Some(command)
}

/// The admin port of a discovery that is ready.
async fn discovery(cluster: &Cluster, namespace: &str) -> anyhow::Result<PodPort> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let labels = format!("{}={}", names::PART, names::DISCOVERY);
    let all = client::call(pods.list(&ListParams::default().labels(&labels))).await?;
    let ready = all.iter().filter(|pod| is_ready(pod)).map(ResourceExt::name_any).min();
    let Some(pod) = ready else {
        bail!(
            "no pod of remora-discovery is ready in namespace {namespace} ({} there): `remora check` says why, \
             --control-plane-namespace names another namespace",
            all.items.len()
        );
    };
    let port = names::DISCOVERY_ADMIN_PORT;
    Ok(PodPort { client: cluster.client.clone(), namespace: namespace.to_owned(), pod, port })
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    let ready = conditions.filter(|one| one.type_ == "Ready").any(|one| one.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// A stream to the pod, and what ends the forwarding when it is dropped.
async fn open(place: &Place) -> anyhow::Result<(tokio::io::DuplexStream, cluster::forward::Forwarded)> {
    let Place::Pod(pod) = place else { bail!("{place} needs no forwarding") };
    let mut forwarded = pod.open().await?;
    Ok((forwarded.stream()?, forwarded))
}

/// Forwards what connects to streams that `open` gives, for ever. What is held beside a stream lives as long as it.
async fn forward<S, H>(
    listener: TcpListener,
    open: impl AsyncFn() -> anyhow::Result<(S, H)> + 'static,
) -> anyhow::Result<std::convert::Infallible>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: 'static,
{
    let (open, room) = (std::rc::Rc::new(open), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            loop {
                let place = room.clone().acquire_owned().await?;
                let (stream, _) = listener.accept().await.context("cannot take connections any more")?;
                let open = open.clone();
                tokio::task::spawn_local(async move {
                    if let Err(error) = relay(stream, &*open).await {
                        eprintln!("remora: {}", crate::chain(&*error));
                    }
                    drop(place);
                });
            }
        })
        .await
}

async fn relay<S, H>(mut stream: TcpStream, open: &impl AsyncFn() -> anyhow::Result<(S, H)>) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut far, _held) = open().await?;
    // How a browser ends its connection is no news.
    drop(copy_bidirectional(&mut stream, &mut far).await);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test]
    async fn what_connects_reaches_the_pod_and_one_that_cannot_be_reached_ends_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let count = std::rc::Rc::new(std::cell::Cell::new(0));
        let opens = async move || {
            count.set(count.get() + 1);
            anyhow::ensure!(count.get() != 2, "the second fails");
            let (near, mut far) = duplex(64);
            let echo = tokio::spawn(async move {
                let mut bytes = [0; 4];
                far.read_exact(&mut bytes).await.unwrap();
                far.write_all(&bytes).await.unwrap();
            });
            Ok((near, echo))
        };
        let talk = async {
            for answer in ["ping", "", "ping"] {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"ping").await.unwrap();
                let mut read = String::new();
                // The one that is dropped may be reset.
                let _ = stream.read_to_string(&mut read).await;
                assert_eq!(read, answer);
            }
        };
        tokio::select! {
            never = forward(listener, opens) => panic!("{never:?}"),
            () = talk => {}
        }
    }

    #[test]
    fn a_browser_is_opened_where_there_is_a_screen() {
        let program = |set: &[&str]| {
            browser("http://127.0.0.1:1/mesh", |name| set.contains(&name)).map(|it| it.get_program().to_owned())
        };
        if cfg!(target_os = "linux") {
            assert_eq!(program(&[]), None);
            assert_eq!(program(&["DISPLAY"]), Some("xdg-open".into()));
            assert_eq!(program(&["WAYLAND_DISPLAY"]), Some("xdg-open".into()));
        }
    }

    #[test]
    fn a_pod_that_is_going_or_not_ready_is_not_asked() {
        let pod = |status: &str, deleted: Option<&str>| -> Pod {
            serde_json::from_value(serde_json::json!({
                "metadata": { "name": "a", "deletionTimestamp": deleted },
                "status": { "conditions": [{ "type": "Ready", "status": status }] },
            }))
            .unwrap()
        };
        assert!(is_ready(&pod("True", None)));
        assert!(!is_ready(&pod("False", None)) && !is_ready(&pod("True", Some("2026-01-01T00:00:00Z"))));
        assert!(!is_ready(&Pod::default()));
    }
}
