//! A proxy whose identity service is away: for less than a certificate's life nobody notices, for more it says so and
//! refuses, and it recovers by itself.

use anyhow::{Context as _, ensure};
use remora_tests::{
    forge::presented,
    local::{Mesh, Proxy},
    patience::until,
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// An application that answers every connection once.
fn application(pod: &Proxy) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((pod.ip, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A connection that breaks is the client's to report.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    });
    Ok(address)
}

#[test]
fn an_outage_longer_than_a_certificates_life_is_told_and_survived() -> anyhow::Result<()> {
    let builder = Mesh::builder(env!("CARGO_BIN_EXE_remora-components"));
    let mesh = builder.identity("--leaf-lifetime", "5s").start()?;
    let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
    mesh.service("api", 80, None, &[application(&api)?])?;
    let (web, api) = (web.ready()?, api.ready()?);
    let answered = || {
        until("a request is answered", || {
            let answer = web.get("api:80", "/")?;
            ensure!(answer.status == 200, "{}", answer.head);
            Ok(Some(()))
        })
        .with_context(|| web.program.log_end())
    };
    answered()?;

    mesh.identity.kill()?;
    until("the proxy says that its certificate has ended", || {
        let admin = web.admin;
        let answer = remora_tests::local::http::get(admin, &admin.to_string(), "/ready")?;
        Ok((answer.status == 503 && answer.text().contains("certificate: it has ended")).then_some(()))
    })?;
    let refused = web.get("api:80", "/")?;
    assert_eq!((refused.status, refused.header("x-remora-error")), (502, Some("tls_refused")), "{}", refused.head);
    ensure!(presented(api.inbound).is_err(), "a certificate that has ended is still shown");

    mesh.identity.restart()?;
    web.await_ready()?;
    api.await_ready()?;
    answered()
}

#[test]
fn each_renewal_brings_a_fresh_key() -> anyhow::Result<()> {
    let builder = Mesh::builder(env!("CARGO_BIN_EXE_remora-components"));
    let mesh = builder.identity("--leaf-lifetime", "5s").start()?;
    let api = mesh.proxy("api").spawn()?.ready()?;
    let mut shown: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    while shown.len() < 3 {
        let (serial, key) = until("another certificate is shown", || {
            let chain = presented(api.inbound)?;
            let (_, leaf) = X509Certificate::from_der(chain.first().context("no certificate")?)?;
            let (serial, key) = (leaf.raw_serial().to_vec(), leaf.public_key().raw.to_vec());
            Ok((shown.last().map(|(last, _)| last) != Some(&serial)).then_some((serial, key)))
        })?;
        ensure!(shown.iter().all(|(_, known)| *known != key), "a key is used again");
        shown.push((serial, key));
    }
    Ok(())
}
