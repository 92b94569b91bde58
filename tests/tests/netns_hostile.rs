//! The rows of hostile HTTP/1 in plaintext, from outside the mesh, at a pod in permissive mode: redirected straight to
//! its inbound proxy, which must be as strict with a stranger as with a peer.

use anyhow::{Context as _, ensure};
use remora_tests::{
    netns::{
        self, Network, Pod,
        mesh::{Mesh, Sidecar},
    },
    wire::{
        Line, Recorder,
        rows::{self, Way},
    },
};
use std::{
    net::{Ipv6Addr, SocketAddr},
    process::ExitCode,
};

fn main() -> ExitCode {
    netns::run(&[("plaintext_from_strangers_is_read_as_strictly_as_a_peer", plaintext)])
}

/// From the test's own network, by the bridge, to a pod.
struct Stranger<'a> {
    pod: &'a Pod,
    sidecar: &'a Sidecar,
    to: SocketAddr,
    authority: String,
    app: &'a Recorder,
}

impl Way for Stranger<'_> {
    fn line(&self) -> anyhow::Result<Line> {
        Line::plain(self.to)
    }

    fn authority(&self) -> &str {
        &self.authority
    }

    fn app(&self) -> &Recorder {
        self.app
    }

    fn refusals(&self) -> anyhow::Result<f64> {
        let metrics = self.sidecar.metrics(self.pod)?;
        let lines = metrics.lines().filter(|line| line.starts_with("remora_requests_refused_total{"));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

fn plaintext() -> anyhow::Result<()> {
    let net = Network::new("plain")?;
    let pod = net.pod("server")?;
    let app = pod.inside(|| Recorder::start(Ipv6Addr::UNSPECIFIED.into()))?;
    let port = app.address.port();
    let mesh = Mesh::start(&net)?;
    let sidecar = mesh.join(&pod, &[port])?;
    let mut wrong = Vec::new();
    let tables = [rows::lengths(), rows::good_lengths(), rows::heads(), rows::sizes(), rows::chunks()].concat();
    for (family, ip) in ["IPv4", "IPv6"].into_iter().zip(pod.addresses()) {
        let to = SocketAddr::new(ip, port);
        let way = Stranger { pod: &pod, sidecar: &sidecar, to, authority: to.to_string(), app: &app };
        // The gate knows nothing of families: one of them sees every row, the other a few.
        let rows = tables.iter().enumerate().filter(|(number, _)| family == "IPv4" || number % 10 == 0);
        for (number, (name, bytes, fate)) in rows {
            let target = format!("/{family}/{number}");
            if let Err(error) = rows::check(&way, &target, bytes, *fate) {
                wrong.push(format!("{name} ({family}, {fate:?}): {error:#}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), tables.len(), wrong.join("\n"));
    let surprises = app.surprises(|target| target.starts_with("/IPv"));
    ensure!(surprises.is_empty(), "the application saw what nobody asked for: {surprises:?}");
    ensure!(!sidecar.log().contains("panicked"), "{}", sidecar.log());
    let seen = (0..tables.len()).flat_map(|number| app.requests(&format!("/IPv4/{number}")));
    let mut named = seen.filter(|request| !request.values("x-remora-client-id").is_empty());
    ensure!(named.next().is_none(), "a stranger has an identity");
    sidecar.routes(&pod).map(drop).context("the proxy answers")
}
