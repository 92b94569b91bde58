//! Who broke a connection, and who is left with it.

use crate::scene::{End, Scene, read_head, read_out, reset};
use anyhow::{Context as _, ensure};
use remora_tests::patience::until;
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// Makes a connection through both proxies: its client and its server.
type Makes = fn(&Scene) -> anyhow::Result<(TcpStream, TcpStream)>;

/// Both ends of a tunnel to the Service, which has carried a word.
fn tunnel(scene: &Scene) -> anyhow::Result<(TcpStream, TcpStream)> {
    let mut client = scene.ask("CONNECT api:80 HTTP/1.1\r\nhost: api:80\r\n\r\n")?;
    let head = read_head(&mut client)?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client.write_all(b"\0word")?;
    let (mut server, _) = scene.app.accept()?;
    server.read_exact(&mut [0; 5])?;
    Ok((client, server))
}

#[test]
fn a_reset_counts_against_whoever_made_it_at_both_proxies() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let made: [Makes; 2] = [Scene::websocket, tunnel];
    for (make, times) in made.into_iter().zip(1..) {
        for (client_breaks, labels) in [
            (true, ["reason=\"downstream_reset\"", "fault=\"client\""]),
            (false, ["reason=\"upstream_reset\"", "fault=\"application\""]),
        ] {
            let (client, server) = make(&scene)?;
            let (breaking, mut other) = if client_breaks { (client, server) } else { (server, client) };
            reset(breaking)?;
            let got = read_out(&mut other)?;
            ensure!(got.1 == End::Reset, "client_breaks={client_breaks}: {got:?}");
            for proxy in [&scene.web, &scene.api] {
                let counted = || proxy.metric("remora_failures_total", &labels);
                until("the reset is counted", || Ok((counted()? >= f64::from(times)).then_some(()))).with_context(
                    || format!("client_breaks={client_breaks}: {}", proxy.metrics().unwrap_or_default()),
                )?;
                let all = proxy.metric("remora_failures_total", &[labels[0]])?;
                ensure!(all == f64::from(times), "{labels:?} {times}: {}", proxy.metrics()?);
            }
        }
    }
    Ok(())
}

/// A request with a body that never ends, which offers to leave HTTP or not; its server has not answered.
fn upload(scene: &Scene, offer: &str) -> anyhow::Result<(TcpStream, TcpStream)> {
    let head = format!("POST / HTTP/1.1\r\nhost: api:80\r\n{offer}content-length: 1000000000\r\n\r\n");
    let client = scene.ask(&head)?;
    let (server, _) = scene.asked()?;
    Ok((client, server))
}

/// Writes until nobody takes more.
fn fill(client: &mut TcpStream) -> anyhow::Result<()> {
    client.set_write_timeout(Some(Duration::from_secs(1)))?;
    loop {
        match client.write(&[7; 64 << 10]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn an_upload_that_its_server_does_not_read_ends_with_its_client() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let made: [(&str, Makes); 4] = [
        ("request", |scene| upload(scene, "")),
        ("request that offers an upgrade", |scene| upload(scene, "connection: upgrade\r\nupgrade: chat\r\n")),
        ("websocket", Scene::websocket),
        ("tunnel", tunnel),
    ];
    for (what, make) in made {
        let (mut client, mut server) = make(&scene).context(what)?;
        fill(&mut client).context(what)?;
        if !what.starts_with("request") {
            server.write_all(b"ok")?;
            client.read_exact(&mut [0; 2]).context(what)?;
        }
        reset(client)?;
        until("the server's connection is reset", || Ok(server.take_error()?)).context(what)?;
    }
    Ok(())
}
