//! What one side sent, and how it ended, is what the other side gets: one exchange at a time through two real proxies.

#![allow(unreachable_pub, reason = "modules of one test program")]

mod breaks;
mod early;
mod scene;
mod trailers;

use anyhow::ensure;
use remora_tests::{local::Proxy, patience::until};
use scene::{End, NO_CONTENT, Scene, patient, read_head, read_out, reset};
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

#[test]
fn a_websocket_that_either_side_resets_is_reset_on_the_other_side() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    for client_breaks in [true, false] {
        let (client, server) = scene.websocket()?;
        let (breaking, mut other) = if client_breaks { (client, server) } else { (server, client) };
        reset(breaking)?;
        let got = read_out(&mut other)?;
        ensure!(got.1 == End::Reset, "client_breaks={client_breaks}: {got:?}\n{}", scene.api.program.log_end());
    }
    Ok(())
}

#[test]
fn a_websocket_half_closes_both_ways() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    for client_first in [true, false] {
        let (client, server) = scene.websocket()?;
        let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
        first.write_all(b"bye")?;
        first.shutdown(std::net::Shutdown::Write)?;
        ensure!(read_out(&mut second)? == ("bye".to_owned(), End::Orderly));
        second.write_all(b"late words")?;
        drop(second);
        ensure!(read_out(&mut first)? == ("late words".to_owned(), End::Orderly));
    }
    Ok(())
}

#[test]
fn an_answer_that_breaks_off_does_not_look_whole_to_a_client_that_reads_to_the_end() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    for (version, framing) in
        [("1.0", "content-length: 100"), ("1.0", "transfer-encoding: chunked"), ("1.1", "transfer-encoding: chunked")]
    {
        let mut client = scene.ask(&format!("GET / HTTP/{version}\r\nhost: api:80\r\nconnection: close\r\n\r\n"))?;
        let (mut server, _) = scene.asked()?;
        let half = if framing.ends_with("chunked") { "4\r\nhalf\r\n" } else { "half" };
        server.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{half}").as_bytes())?;
        let head = read_head(&mut client)?;
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        drop(server);
        let (rest, end) = read_out(&mut client)?;
        let told = head.contains("content-length: 100") || (head.contains("chunked") && !rest.ends_with("0\r\n\r\n"));
        ensure!(end == End::Reset || told, "{version}, {framing}: {head}{rest:?} {end:?}");
    }
    Ok(())
}

#[test]
fn a_client_whose_application_does_not_listen_is_reset() -> anyhow::Result<()> {
    let Scene { web, api, app, mesh: _mesh } = Scene::start()?;
    drop(app);
    let mut client = patient(TcpStream::connect(web.outbound)?)?;
    client.write_all(b"CONNECT api:80 HTTP/1.1\r\nhost: api:80\r\n\r\n")?;
    let head = read_head(&mut client)?;
    // The proxy at the application is there.
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client.write_all(b"\0\x01\x02")?;
    let end = read_out(&mut client)?;
    ensure!(end == (String::new(), End::Reset), "{end:?}\n{}", api.program.log_end());
    Ok(())
}

#[test]
fn a_refused_request_on_a_kept_connection_is_answered_with_its_reason() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for bad in ["GET /\x01 HTTP/1.1\r\nhost: api:80\r\n\r\n", "GET / HTTP/1.1\r\nhost : api:80\r\n\r\n"] {
        let mut client = scene.ask("GET / HTTP/1.1\r\nhost: api:80\r\n\r\n")?;
        let (mut server, _) = scene.asked()?;
        server.write_all(ok)?;
        read_head(&mut client)?;
        client.read_exact(&mut [0; 2])?;
        until("the answer is counted", || Ok(scene.web.routes()?["routes"][0].is_object().then_some(())))?;
        client.write_all(bad.as_bytes())?;
        let (answer, _) = read_out(&mut client)?;
        ensure!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("x-remora-error: protocol_error"),
            "{bad:?}: {answer:?}"
        );
        // One that is kept would answer the next client's.
        drop(server);
    }
    Ok(())
}

#[test]
fn the_absolute_form_that_a_client_writes_for_its_proxy_is_not_passed_on() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    for (version, host) in [("1.1", "host: api:80\r\n"), ("1.0", "host: API:80\r\n"), ("1.0", "")] {
        let mut client = scene.ask(&format!("GET http://api:80/ HTTP/{version}\r\n{host}connection: close\r\n\r\n"))?;
        let (mut server, head) = scene.asked()?;
        server.write_all(NO_CONTENT)?;
        ensure!(read_out(&mut client)?.0.contains(" 204 "));
        ensure!(head.starts_with(&format!("GET / HTTP/{version}\r\n")) && head.contains("host: api:80\r\n"), "{head}");
    }
    Ok(())
}

#[test]
fn a_server_that_demands_an_upgrade_is_heard() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let mut client = scene.ask("GET / HTTP/1.1\r\nhost: api:80\r\n\r\n")?;
    let (mut server, _) = scene.asked()?;
    server.write_all(
        b"HTTP/1.1 426 Upgrade Required\r\nupgrade: foo/2, bar\r\nconnection: upgrade\r\ncontent-length: 0\r\n\r\n",
    )?;
    let head = read_head(&mut client)?;
    ensure!(head.contains("\r\nupgrade: foo/2, bar\r\n") && head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    ensure!(!head.contains("x-remora"), "{head}");
    Ok(())
}

#[test]
fn an_old_client_is_not_told_to_keep_a_connection_that_the_answer_ends() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let mut client = scene.ask("GET / HTTP/1.0\r\nhost: api:80\r\nconnection: keep-alive\r\n\r\n")?;
    let (mut server, _) = scene.asked()?;
    server.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it")?;
    drop(server);
    let (answer, end) = read_out(&mut client)?;
    ensure!(answer.ends_with("\r\n\r\nall of it") && end == End::Orderly, "{answer:?} {end:?}");
    ensure!(!answer.to_ascii_lowercase().contains("keep-alive"), "{answer}");
    Ok(())
}

#[test]
fn a_target_reaches_the_application_or_is_refused_with_its_reason() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let odd = "\"<>\\\\^`{|}[]%;@!$&'()*+,=:";
    let mut targets: Vec<String> =
        odd.chars().flat_map(|c| [format!("/a{c}b"), format!("/a?q{c}b"), format!("//{c}")]).collect();
    targets.extend(["/caf\u{e9}".to_owned(), "/?\u{1f980}".to_owned(), "/%zz".to_owned(), "/?".to_owned()]);
    for target in targets {
        let mut client = scene.ask(&format!("GET {target} HTTP/1.1\r\nhost: api:80\r\nconnection: close\r\n\r\n"))?;
        client.shutdown(std::net::Shutdown::Write)?;
        let mut first = [0; 12];
        // Refused at once, or the application is asked.
        scene.app.set_nonblocking(true)?;
        let asked = until("the request is answered or asked", || match scene.app.accept() {
            Ok((stream, _)) => Ok(Some(Some(stream))),
            Err(_) => {
                client.set_nonblocking(true)?;
                let answered = client.peek(&mut first).is_ok_and(|count| count > 0);
                client.set_nonblocking(false)?;
                Ok(answered.then_some(None))
            }
        });
        scene.app.set_nonblocking(false)?;
        if let Some(stream) = asked? {
            stream.set_nonblocking(false)?;
            let mut server = patient(stream)?;
            let head = read_head(&mut server)?;
            ensure!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{target}: {head}");
            server.write_all(NO_CONTENT)?;
        }
        let (answer, _) = read_out(&mut client)?;
        let told = answer.starts_with("HTTP/1.1 400 ") && answer.contains("x-remora-error: protocol_error\r\n");
        ensure!(told || answer.starts_with("HTTP/1.1 204 "), "{target}: {answer}");
    }
    Ok(())
}

#[test]
fn both_proxies_count_a_failure_under_the_reason_that_the_client_is_told() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let failures =
        |proxy: &Proxy, reason: &str| proxy.metric("remora_failures_total", &[&format!("reason=\"{reason}\"")]);
    let ask =
        |scene: &Scene| scene.ask("POST / HTTP/1.1\r\nhost: api:80\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    // The application breaks off, and then it is gone.
    let mut client = ask(&scene)?;
    drop(scene.asked()?);
    let mut told = vec![read_out(&mut client)?.0];
    let Scene { web, api, app, mesh: _mesh } = scene;
    drop(app);
    let mut client = patient(TcpStream::connect(web.outbound)?)?;
    client.write_all(b"GET / HTTP/1.1\r\nhost: api:80\r\nconnection: close\r\n\r\n")?;
    told.push(read_out(&mut client)?.0);
    for (answer, reason) in told.iter().zip(["upstream_reset", "connect_refused"]) {
        ensure!(answer.contains(&format!("x-remora-error: {reason}\r\n")), "{answer}");
        for proxy in [&web, &api] {
            ensure!(failures(proxy, reason)? >= 1.0, "{reason}: {}", proxy.metrics()?);
            ensure!(failures(proxy, "status_5xx")? == 0.0, "{reason}: {}", proxy.metrics()?);
        }
    }
    Ok(())
}

/// Whether each line of `fields` is there. Fields of different names have no order (RFC 9110 §5.3).
fn has_all(head: &str, fields: &str) -> bool {
    fields.lines().all(|field| head.lines().any(|line| line == field))
}

#[test]
fn a_head_up_to_the_bound_passes_both_ways_and_one_beyond_it_is_told_and_asked_once() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let fields = |count: usize, bytes: usize| -> String {
        (0..count).map(|at| format!("x-{at:03}: {}\r\n", "v".repeat(bytes / count - 9))).collect()
    };
    for (count, bytes, passes) in [(90, 65_000, true), (1, 65_000, true), (90, 70_000, false), (1, 250_000, false)] {
        let large = fields(count, bytes);
        let mut client = scene.ask("GET / HTTP/1.1\r\nhost: api:80\r\nconnection: close\r\n\r\n")?;
        let (mut server, _) = scene.asked()?;
        // One that gives up may be gone before it has read all.
        let _given_up = server
            .write_all(format!("HTTP/1.1 200 OK\r\n{large}content-length: 0\r\nconnection: close\r\n\r\n").as_bytes());
        let (answer, _) = read_out(&mut client)?;
        match passes {
            true => ensure!(
                answer.starts_with("HTTP/1.1 200 ") && answer.contains(&large),
                "{count} of {bytes}: {answer:.200}"
            ),
            false => ensure!(
                answer.contains("x-remora-error: response_header_too_large\r\n"),
                "{count} of {bytes}: {answer:.200}"
            ),
        }
        let mut client = scene.ask(&format!("GET / HTTP/1.1\r\nhost: api:80\r\n{large}connection: close\r\n\r\n"))?;
        if passes {
            // The next that the application hears is this one: nothing was sent again.
            let (mut server, head) = scene.asked()?;
            ensure!(has_all(&head, &large), "{count} of {bytes}: {head:.200}");
            server.write_all(NO_CONTENT)?;
            ensure!(read_out(&mut client)?.0.starts_with("HTTP/1.1 204 "));
        } else {
            let (answer, _) = read_out(&mut client)?;
            ensure!(answer.contains("x-remora-error: header_too_large\r\n"), "{count} of {bytes}: {answer:.200}");
        }
    }
    scene.app.set_nonblocking(true)?;
    ensure!(scene.app.accept().is_err(), "nothing more was asked");
    Ok(())
}

#[test]
fn a_server_of_the_old_version_does_not_change_what_others_send_it() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let mut first = scene.ask("GET / HTTP/1.1\r\nhost: api:80\r\n\r\n")?;
    let (mut server, _) = scene.asked()?;
    server.write_all(b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok")?;
    read_head(&mut first)?;
    first.read_exact(&mut [0; 2])?;
    // Whoever asks next, on a connection of its own: the body arrives.
    let mut client = scene.ask("POST / HTTP/1.1\r\nhost: api:80\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n")?;
    let (mut server, head) = scene.asked()?;
    ensure!(head.starts_with("POST / HTTP/1.1\r\n") && head.contains("transfer-encoding: chunked"), "{head}");
    let mut body = [0; 15];
    server.read_exact(&mut body)?;
    ensure!(&body == b"5\r\nhello\r\n0\r\n\r\n");
    server.write_all(NO_CONTENT)?;
    ensure!(read_out(&mut client)?.0.starts_with("HTTP/1.1 204 "));
    Ok(())
}

#[test]
fn a_connection_that_brought_an_old_request_brings_no_other() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let mut first = scene.ask("GET / HTTP/1.0\r\nhost: api:80\r\n\r\n")?;
    let (mut server, head) = scene.asked()?;
    ensure!(head.starts_with("GET / HTTP/1.0\r\n"), "{head}");
    // It says nothing of it, but closes behind this answer, when it likes (RFC 9112 §9.3).
    server.write_all(NO_CONTENT)?;
    ensure!(read_out(&mut first)?.0.contains(" 204 "));
    let mut client = scene.ask("POST / HTTP/1.1\r\nhost: api:80\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    let (mut next, head) = scene.asked()?;
    ensure!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
    next.write_all(NO_CONTENT)?;
    ensure!(read_out(&mut client)?.0.starts_with("HTTP/1.1 204 "));
    Ok(())
}

#[test]
fn what_a_client_writes_inside_a_tunnel_is_not_taken_for_a_proxys_word() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let mut client = scene.ask("CONNECT api:80 HTTP/1.1\r\nhost: api:80\r\n\r\n")?;
    ensure!(read_head(&mut client)?.starts_with("HTTP/1.1 200 "));
    client.write_all(
        b"GET http://other/a HTTP/1.1\r\nhost: other\r\nx-remora-http: 1.0;no-host\r\nx-remora-caller: 7\r\n\r\n",
    )?;
    let (mut server, head) = scene.asked()?;
    server.write_all(NO_CONTENT)?;
    ensure!(head.starts_with("GET http://other/a HTTP/1.1\r\n") && head.contains("host: other\r\n"), "{head}");
    ensure!(!head.contains("x-remora-http") && !head.contains("x-remora-caller"), "{head}");
    Ok(())
}

#[test]
fn an_upgrade_that_nobody_nominates_is_an_ordinary_request_in_a_pipeline() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let one = "GET / HTTP/1.1\r\nhost: api:80\r\n";
    let mut client = scene.ask(&format!("{one}\r\n{one}upgrade: foo/2\r\nconnection: close\r\n\r\n"))?;
    for _ in 0..2 {
        let (mut server, head) = scene.asked()?;
        ensure!(!head.contains("upgrade"), "{head}");
        server.write_all(NO_CONTENT)?;
    }
    ensure!(read_out(&mut client)?.0.matches("HTTP/1.1 204 ").count() == 2);
    Ok(())
}
