//! `remora-proxy init` against a real kernel: what it installs redirects real connections.

use anyhow::ensure;
use remora_tests::netns::{self, APP_UID, Network, PROXY_UID, Pod, Process};
use std::process::ExitCode;

fn main() -> ExitCode {
    netns::run(&[
        ("inbound_connections_reach_the_proxy_with_their_destination", inbound_connections_reach_the_proxy),
        ("outbound_connections_reach_the_proxy_with_their_destination", outbound_connections_reach_the_proxy),
        ("the_proxy_itself_and_loopback_are_let_through", the_proxy_itself_and_loopback_are_let_through),
        ("skipped_ports_and_subnets_are_let_through", skipped_ports_and_subnets_are_let_through),
        ("init_again_leaves_the_same_rules_and_undo_removes_them", init_is_idempotent_and_undone),
        ("init_without_privilege_says_what_to_do", init_without_privilege_says_what_to_do),
    ])
}

/// A listener that greets with the original destination of each connection.
fn answer(pod: &Pod, listen: &str, greeting: &str) -> anyhow::Result<Process> {
    let mut process = pod.role("answer").args(listen).arg(greeting).spawn()?;
    ensure!(process.line()? == "ready");
    Ok(process)
}

/// Dials from the pod as that user and checks who answers.
fn check(pod: &Pod, uid: u32, address: std::net::SocketAddr, expected: &str) -> anyhow::Result<()> {
    let said = pod.role("dial").uid(uid).arg(address.to_string()).output()?;
    ensure!(said.trim() == expected, "to {address} as uid {uid} came {said:?}, not {expected:?}");
    Ok(())
}

fn inbound_connections_reach_the_proxy() -> anyhow::Result<()> {
    let net = Network::new("in")?;
    let (client, server) = (net.pod("client")?, net.pod("server")?);
    server.redirect()?;
    let _proxy = answer(&server, "[::]:4143", "proxy")?;
    let _admin = answer(&server, "[::]:4191", "admin")?;
    for ip in server.addresses() {
        check(&client, APP_UID, (ip, 8080).into(), &format!("proxy {}", std::net::SocketAddr::from((ip, 8080))))?;
        check(&client, APP_UID, (ip, 4191).into(), &format!("admin {}", std::net::SocketAddr::from((ip, 4191))))?;
        check(&client, APP_UID, (ip, 4143).into(), &format!("proxy {}", std::net::SocketAddr::from((ip, 4143))))?;
    }
    Ok(())
}

fn outbound_connections_reach_the_proxy() -> anyhow::Result<()> {
    let net = Network::new("out")?;
    let (client, server) = (net.pod("client")?, net.pod("server")?);
    client.redirect()?;
    let _proxy = answer(&client, "127.0.0.1:4140 [::1]:4140", "proxy")?;
    for ip in server.addresses() {
        let address = std::net::SocketAddr::from((ip, 80));
        check(&client, APP_UID, address, &format!("proxy {address}"))?;
        check(&client, 0, address, &format!("proxy {address}"))?;
    }
    // A cluster address that no pod has.
    check(&client, APP_UID, "10.96.0.1:443".parse()?, "proxy 10.96.0.1:443")
}

fn the_proxy_itself_and_loopback_are_let_through() -> anyhow::Result<()> {
    let net = Network::new("self")?;
    let (client, server) = (net.pod("client")?, net.pod("server")?);
    client.redirect()?;
    let _proxy = answer(&client, "127.0.0.1:4140 [::1]:4140", "proxy")?;
    let _app = answer(&client, "[::]:8080", "app")?;
    let _server = answer(&server, "[::]:80", "server")?;
    for ip in server.addresses() {
        let said = client.role("dial").uid(PROXY_UID).arg(std::net::SocketAddr::from((ip, 80)).to_string()).output()?;
        ensure!(said.starts_with("server "), "uid {PROXY_UID} to {ip}: {said:?}");
    }
    let [v4, v6] = client.addresses();
    for ip in ["127.0.0.1".parse()?, "::1".parse()?, v4, v6] {
        let said = client.role("dial").uid(APP_UID).arg(std::net::SocketAddr::from((ip, 8080)).to_string()).output()?;
        ensure!(said.starts_with("app "), "to {ip} within the pod: {said:?}");
    }
    Ok(())
}

fn skipped_ports_and_subnets_are_let_through() -> anyhow::Result<()> {
    let net = Network::new("skip")?;
    let (client, server) = (net.pod("client")?, net.pod("server")?);
    server.role("init").args("--skip-inbound-ports 22,9000-9009").output()?;
    let _inbound = answer(&server, "[::]:4143", "proxy")?;
    let _direct = answer(&server, "[::]:22 [::]:9000 [::]:9009 [::]:8999 [::]:9010", "direct")?;
    let who = |port: u16, ip| -> anyhow::Result<String> {
        let said = client.role("dial").arg(std::net::SocketAddr::from((ip, port)).to_string()).output()?;
        Ok(said.split(' ').next().unwrap_or_default().to_owned())
    };
    for ip in server.addresses() {
        for (port, expected) in
            [(22, "direct"), (9000, "direct"), (9009, "direct"), (8999, "proxy"), (9010, "proxy"), (23, "proxy")]
        {
            ensure!(who(port, ip)? == expected, "{ip} port {port} is not answered by {expected}");
        }
    }
    let _outbound = answer(&client, "127.0.0.1:4140 [::1]:4140", "outbound")?;
    client.role("init").args("--skip-subnets 10.77.0.2/31,fd77::/127 --skip-outbound-ports 22").output()?;
    let [v4, v6] = server.addresses();
    // The client's pod is .2 and the server's .3: both lie in the /31; fd77::3 lies outside fd77::/127.
    ensure!(who(9000, v4)? == "direct", "a skipped IPv4 subnet is redirected");
    ensure!(who(9000, v6)? == "outbound", "an IPv6 address outside the skipped subnet is not redirected");
    ensure!(who(22, v6)? == "direct", "a skipped outbound port is redirected");
    Ok(())
}

fn init_is_idempotent_and_undone() -> anyhow::Result<()> {
    let net = Network::new("undo")?;
    let (client, server) = (net.pod("client")?, net.pod("server")?);
    let first = server.redirect()?;
    ensure!(first == server.redirect()?, "the second run says otherwise");
    let _proxy = answer(&server, "[::]:4143", "proxy")?;
    let _app = answer(&server, "[::]:8080", "app")?;
    let address = std::net::SocketAddr::from((server.ipv4, 8080));
    check(&client, APP_UID, address, &format!("proxy {address}"))?;
    ensure!(server.role("init").arg("--undo").output()?.contains("removed table inet remora"));
    let said = client.role("dial").arg(address.to_string()).output()?;
    ensure!(said.starts_with("app "), "after undo came {said:?}");
    ensure!(server.role("init").arg("--undo").output()?.contains("nothing to undo"));
    Ok(())
}

fn init_without_privilege_says_what_to_do() -> anyhow::Result<()> {
    let net = Network::new("priv")?;
    let pod = net.pod("pod")?;
    let Err(refused) = pod.role("init").uid(APP_UID).output() else { anyhow::bail!("init worked without privilege") };
    let refused = refused.to_string();
    ensure!(refused.contains("NET_ADMIN"), "{refused}");
    Ok(())
}
