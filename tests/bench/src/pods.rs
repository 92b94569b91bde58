//! Each contender's two pods: network namespaces joined by a veth pair, the backends in one of them, and the redirect
//! rules.

use crate::{
    contender::Contender,
    pod::{Pod, Side},
    process::{PROXY_UID, Process, Role, command},
    tools::{DIR, output},
};
use anyhow::{Context, Result};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    process::Command,
};

/// nginx: a 12-byte answer over HTTP/1.
pub(crate) const HTTP_PORT: u16 = 8080;
/// iperf3: bytes.
pub(crate) const BULK_PORT: u16 = 5201;
pub(crate) const OUTBOUND_PORT: u16 = 4140;
pub(crate) const INBOUND_PORT: u16 = 4143;
pub(crate) const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const ANSWER: &str = "hello, pods\n";

/// The address that an application in the client pod dials.
pub(crate) fn server(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(SERVER_ADDRESS, port)
}

/// Where `pod` reaches the control plane.
pub(crate) fn control_address(side: Side) -> Ipv4Addr {
    match side {
        Side::Client => Ipv4Addr::new(10, 77, 1, 2),
        Side::Server => Ipv4Addr::new(10, 77, 2, 2),
        Side::Control => Ipv4Addr::LOCALHOST,
    }
}

/// A contender's pods with the backends running; the sandbox removes the namespaces.
#[derive(Debug)]
pub(crate) struct Pods {
    backends: [Process; 2],
}

impl Pods {
    pub(crate) fn create(of: Contender) -> Result<Self> {
        let (client, server, control) = (Pod::client(of), Pod::server(of), Pod::control(of));
        for pod in [client, server, control] {
            ip(&format!("netns add {}", pod.name()))?;
            ip(&format!("-n {} link set lo up", pod.name()))?;
            // A new connection per request takes more ports than the default range holds.
            output(command(pod, Role::Load, "sysctl").args(["-qw", "net.ipv4.ip_local_port_range=10000 65535"]))?;
        }
        link((client, "eth0", CLIENT_ADDRESS), (server, "eth0", SERVER_ADDRESS))?;
        for (pod, own) in [(client, Ipv4Addr::new(10, 77, 1, 1)), (server, Ipv4Addr::new(10, 77, 2, 1))] {
            link((pod, "control", own), (control, pod.side.name(), control_address(pod.side)))?;
        }
        let config = format!("{DIR}/nginx-{of}.conf");
        fs::write(&config, nginx_config(of)).with_context(|| format!("write {config}"))?;
        let mut nginx = command(server, Role::Load, "nginx");
        let mut iperf = command(server, Role::Load, "iperf3");
        let (nginx, iperf) = (
            nginx.args(["-e", "stderr", "-p", DIR, "-c", &config]),
            iperf.args(["--server", "--port", &BULK_PORT.to_string()]),
        );
        let backends =
            [Process::start(&format!("nginx-{of}"), nginx)?, Process::start(&format!("iperf3-server-{of}"), iperf)?];
        Ok(Self { backends })
    }

    pub(crate) fn check(&mut self) -> Result<()> {
        self.backends.iter_mut().try_for_each(Process::check)
    }
}

/// Sends the application's traffic through the proxies, as `remora-proxy init` would.
pub(crate) fn redirect(of: Contender) -> Result<()> {
    let outbound = format!(
        "table ip bench {{ chain output {{ type nat hook output priority -100; meta skuid {PROXY_UID} return; \
         oifname lo return; tcp dport {{ {HTTP_PORT}, {BULK_PORT} }} redirect to :{OUTBOUND_PORT}; }}; }}"
    );
    let inbound = format!(
        "table ip bench {{ chain prerouting {{ type nat hook prerouting priority -100; iifname lo return; \
         tcp dport {{ {HTTP_PORT}, {BULK_PORT} }} redirect to :{INBOUND_PORT}; }}; }}"
    );
    nft(Pod::client(of), &outbound)?;
    nft(Pod::server(of), &inbound)
}

/// Takes all rules out of both pods.
pub(crate) fn direct(of: Contender) -> Result<()> {
    nft(Pod::client(of), "flush ruleset")?;
    nft(Pod::server(of), "flush ruleset")
}

/// Joins two namespaces: each end is the namespace, the name of its interface and its address.
fn link(one: (Pod, &str, Ipv4Addr), other: (Pod, &str, Ipv4Addr)) -> Result<()> {
    ip(&format!("-n {} link add {} type veth peer name {} netns {}", one.0.name(), one.1, other.1, other.0.name()))?;
    for (pod, interface, address) in [one, other] {
        let pod = pod.name();
        ip(&format!("-n {pod} address add {address}/24 dev {interface}"))?;
        ip(&format!("-n {pod} link set {interface} up"))?;
    }
    Ok(())
}

fn nft(pod: Pod, rules: &str) -> Result<()> {
    output(command(pod, Role::Load, "nft").arg(rules)).map(drop)
}

fn ip(arguments: &str) -> Result<()> {
    output(Command::new("ip").args(arguments.split(' '))).map(drop)
}

fn nginx_config(of: Contender) -> String {
    let answer = ANSWER.trim_end();
    format!(
        "daemon off; master_process off; pid {DIR}/nginx-{of}.pid; user root;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n  access_log off; tcp_nodelay on; keepalive_timeout 1h; keepalive_requests 1000000000;\n  \
         client_body_temp_path {DIR}; proxy_temp_path {DIR}; fastcgi_temp_path {DIR}; uwsgi_temp_path {DIR}; \
         scgi_temp_path {DIR};\n  \
         server {{ listen {HTTP_PORT} backlog=4096; location / {{ return 200 \"{answer}\\n\"; }} }}\n}}\n"
    )
}
