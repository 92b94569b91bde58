//! The smallest mesh on loopback: a request through two proxies, and what the harness can do to them.

use anyhow::{Context as _, ensure};
use remora_tests::{
    local::{Mesh, Proxy},
    patience::until,
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
};

/// An application that answers every connection's first request with the head that it got.
fn echo_head(pod: &Proxy) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((pod.ip, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || -> std::io::Result<()> {
        loop {
            let (mut stream, _) = listener.accept()?;
            let mut head = Vec::new();
            let mut buffer = [0; 4096];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer)? {
                    0 => break,
                    count => head.extend_from_slice(&buffer[..count]),
                }
            }
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", head.len())?;
            stream.write_all(&head)?;
        }
    });
    Ok(address)
}

fn answered(web: &Proxy) -> anyhow::Result<String> {
    until("a request to api is answered", || {
        let answer = web.get("api:80", "/hello?a=b")?;
        ensure!(answer.status == 200, "{}{}", answer.head, answer.text());
        Ok(Some(answer.text()))
    })
    .with_context(|| web.program.log_end())
}

#[test]
fn a_request_crosses_two_proxies_by_mutual_tls() -> anyhow::Result<()> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
    mesh.service("api", 80, None, &[echo_head(&api)?])?;
    let (web, api) = (web.ready()?, api.ready()?);

    let head = answered(&web)?;
    assert!(head.starts_with("GET /hello?a=b HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("x-remora-client-id: {}\r\n", web.identity)), "{head}");
    let row = api.routes()?["routes"][0].clone();
    assert_eq!((&row["tls"], &row["direction"]), (&"mtls".into(), &"inbound".into()), "{row}");

    // The same ports, after being killed and after having been stopped.
    api.program.restart()?;
    answered(&web)?;
    api.program.stop()?;
    api.program.cont()?;
    answered(&web)?;
    mesh.identity.kill()?;
    mesh.discovery.restart()?;
    answered(&web)?;
    assert_eq!(web.program.terminate()?, Some(0), "{}", web.program.log_end());
    Ok(())
}

#[test]
fn a_request_that_fails_is_among_the_recent_errors_with_where_it_was_going() -> anyhow::Result<()> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let web = mesh.proxy("web").spawn()?;
    mesh.service("nobody", 80, Some("http"), &[])?;
    let web = web.ready()?;
    let none: serde_json::Value = serde_json::from_str(&web.admin("/errors")?)?;
    assert_eq!(none["errors"], serde_json::json!([]));
    until("the Service without endpoints is known", || {
        let answer = web.get("nobody:80", "/orders/1")?;
        ensure!(answer.status == 503, "{}", answer.head);
        Ok(Some(()))
    })?;
    let said: serde_json::Value = serde_json::from_str(&web.admin("/errors")?)?;
    let error = &said["errors"][0];
    assert_eq!((&error["reason"], &error["direction"]), (&"no_endpoints".into(), &"outbound".into()), "{said}");
    assert_eq!((&error["parent"], &error["peer"]), (&"test/nobody:80".into(), &"".into()), "{said}");
    Ok(())
}
