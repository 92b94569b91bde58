//! What clients do with a connection: pipeline, upgrade, break off, wait, be slow.

use super::{answers::ok, arrived, scene};
use anyhow::ensure;
use remora_tests::{
    patience::until,
    wire::{Ending, Line, Reply, Road, http1},
};
use std::time::Instant;

/// Requests that end before they are whole, however they end.
#[test]
fn a_request_that_breaks_off_never_becomes_whole() -> anyhow::Result<()> {
    let scene = scene(&[])?;
    let parts = [
        "",
        "P",
        "POST ~ HTTP/1.1\r\nHo",
        "POST ~ HTTP/1.1\r\nHost: ^\r\n",
        "POST ~ HTTP/1.1\r\nHost: ^\r\nContent-Length: 9\r\n\r\n",
        "POST ~ HTTP/1.1\r\nHost: ^\r\nContent-Length: 9\r\n\r\nhello",
        "POST ~ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST ~ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
        "POST ~ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "POST ~ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n",
    ];
    for road in Road::ALL {
        for (number, part) in parts.iter().enumerate() {
            let target = format!("/{road:?}/{number}");
            let bytes = part.replace('~', &target).replace('^', road.authority());
            let mut ended = scene.line(road)?;
            ended.send(bytes.as_bytes());
            ended.end();
            let heard = ended.hear_all();
            ensure!(heard.ending != Ending::Silent, "{part:?} ({road:?}): {heard:?}");
            ensure!(!heard.text().contains(" 200 "), "{part:?} ({road:?}): {}", heard.text());
            let mut reset = scene.line(road)?;
            reset.send(bytes.as_bytes());
            reset.reset();
        }
    }
    scene.close(|_| false)
}

#[test]
fn requests_in_one_packet_are_answered_in_order_up_to_the_first_bad_one() -> anyhow::Result<()> {
    let scene = scene(&[])?;
    for road in Road::ALL {
        let get = |name: &str| format!("GET /{road:?}/{name} HTTP/1.1\r\nHost: {}\r\n\r\n", road.authority());
        for (bad, answered) in [("", 3), ("GET /bad HTTP/1.1\n\n", 3), ("\0", 3)] {
            scene.end(road).reply(&format!("/{road:?}/b"), Reply::Bytes(ok("Content-Length: 1\r\n", "b")));
            let mut line = scene.line(road)?;
            line.send(format!("{}{}{}{bad}", get("a"), get("b"), get("c")).as_bytes());
            line.end();
            let heard = line.hear_all();
            let answers = http1::responses(&heard.bytes).map_err(anyhow::Error::msg)?;
            let good = answers.iter().take_while(|answer| answer.status() == 200);
            let bodies: Vec<_> = good.map(|answer| answer.body.as_slice()).collect();
            ensure!(answers.len() <= bodies.len() + 1, "{bad:?} ({road:?}): {answers:?}");
            // One refused read takes what came with it: then nothing is answered, or all that came before.
            let all = [&b"ok"[..], b"b", b"ok"];
            ensure!(all.starts_with(&bodies), "{bad:?} ({road:?}): {answers:?}");
            ensure!(!bad.is_empty() || bodies.len() == answered, "{bad:?} ({road:?}): {answers:?}");
        }
    }
    scene.close(|target| ["/a", "/b", "/c"].iter().any(|end| target.ends_with(end)))
}

#[test]
fn a_request_cut_at_every_byte_is_the_same_request() -> anyhow::Result<()> {
    let scene = scene(&[])?;
    for road in Road::ALL {
        let target = format!("/{road:?}");
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            road.authority()
        );
        let mut line = scene.line(road)?;
        for byte in request.bytes() {
            ensure!(line.send(&[byte]), "it took no more");
        }
        arrived(&scene, road, &mut line, &target, b"hello")?;
    }
    scene.close(|target| target.len() < 10)
}

#[test]
fn what_follows_an_upgrade_waits_for_the_answer() -> anyhow::Result<()> {
    const EARLY: &str = "EARLY BYTES";
    let scene = scene(&[])?;
    for road in Road::ALL {
        let ask = |name: &str, early: &str| -> anyhow::Result<Line> {
            let mut line = scene.line(road)?;
            let (target, host) = (format!("/{road:?}/{name}"), road.authority());
            line.send(
                format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade, x-remora-client-id\r\nUpgrade: test\r\nX-Remora-Client-Id: spiffe://evil\r\n\r\n{early}").as_bytes(),
            );
            Ok(line)
        };
        // Bytes before the answer are no part of any protocol yet: they end the connection, and reach nobody.
        scene.end(road).reply(&format!("/{road:?}/hold"), Reply::Hold);
        let heard = ask("hold", &format!("{EARLY}\0\n\0\n"))?.hear_all();
        ensure!(heard.ending != Ending::Silent, "{road:?}: {heard:?}");
        // An application that does not switch: HTTP goes on.
        let mut line = ask("refused", "")?;
        arrived(&scene, road, &mut line, &format!("/{road:?}/refused"), b"")?;
        // One that does: bytes, both ways.
        let target = format!("/{road:?}/switch");
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\nhello";
        scene.end(road).reply(&target, Reply::Bytes(switch.into()));
        let mut line = ask("switch", "")?;
        let heard = line.hear(|bytes| bytes.ends_with(b"hello"));
        ensure!(heard.ending == Ending::Open && heard.text().starts_with("HTTP/1.1 101 "), "{road:?}: {heard:?}");
        line.send(format!("GET /{road:?}/inside HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let heard = line.hear(|bytes| bytes.ends_with(b"ok"));
        ensure!(heard.ending == Ending::Open, "{road:?}: {heard:?}");
        let ids = scene.end(road).requests(&target)[0].values("x-remora-client-id").concat();
        ensure!(!ids.contains("evil"), "{road:?}: {ids}");
    }
    for app in [&scene.app, &scene.outside] {
        ensure!(!String::from_utf8_lossy(&app.cut()).contains(EARLY), "early bytes reached an application");
    }
    scene.close(|target| ["/hold", "/refused", "/switch", "/inside"].iter().any(|end| target.ends_with(end)))
}

/// A client that is slower than it needs to be, at each stage.
#[test]
fn slow_clients_are_left_and_nobody_else() -> anyhow::Result<()> {
    let settings = [("HEADER_TIMEOUT", "300ms"), ("BODY_TIMEOUT", "500ms"), ("IDLE_TIMEOUT", "3s")];
    let scene = scene(&settings)?;
    let mut idle = Vec::new();
    for road in Road::ALL {
        let mut line = scene.line(road)?;
        line.send(format!("GET /idle HTTP/1.1\r\nHost: {}\r\n\r\n", road.authority()).as_bytes());
        idle.push(line);
    }
    let mut silent = scene.line(Road::Mesh)?;
    let endless = Reply::Flood(ok("Content-Length: 1000000000000\r\n", ""), vec![b'x'; 1 << 16]);
    for road in Road::ALL {
        let counted = |detail: &str| {
            scene.first(road).metric("remora_requests_refused_total", &[&format!("detail=\"{detail}\"")])
        };
        let fill = |text: &str| text.replace('^', road.authority());
        let head = fill("GET /slow HTTP/1.1\r\nHost: ^\r\nX: ");
        let mut line = scene.line(road)?;
        line.send(head.as_bytes());
        let dripped = Instant::now();
        while line.send(b"x") && dripped.elapsed().as_secs() < 20 {
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        let heard = line.hear_all();
        ensure!(dripped.elapsed().as_secs() < 20, "{road:?}: a head may drip for ever");
        ensure!(heard.ending == Ending::Reset || heard.text().starts_with("HTTP/1.1 408 "), "{road:?}: {heard:?}");
        ensure!(counted("slow_head")? >= 1.0, "{road:?}: no counter moved");

        let mut line = scene.line(road)?;
        line.send(fill("POST /slow HTTP/1.1\r\nHost: ^\r\nContent-Length: 9\r\n\r\nhello").as_bytes());
        let heard = line.hear_all();
        ensure!(heard.ending != Ending::Silent, "{road:?}: a body may stop for ever");
        ensure!(counted("slow_body")? >= 1.0, "{road:?}: no counter moved");

        scene.end(road).reply("/hold", Reply::Hold);
        let mut line = scene.line(road)?;
        line.send(fill("GET /hold HTTP/1.1\r\nHost: ^\r\n\r\n").as_bytes());
        line.end();
        ensure!(line.hear_all().ending != Ending::Silent, "{road:?}: a client that is gone is waited for for ever");

        scene.end(road).reply("/endless", endless.clone());
        let mut line = scene.line(road)?;
        line.send(fill("GET /endless HTTP/1.1\r\nHost: ^\r\n\r\n").as_bytes());
        until("a client that takes nothing is left", || Ok((counted("slow_reader")? >= 1.0).then_some(())))?;
    }
    ensure!(silent.hear_all().ending == Ending::Closed, "a client may be silent for ever");
    for mut line in idle {
        let heard = line.hear_all();
        ensure!(heard.ending == Ending::Closed && heard.bytes.ends_with(b"ok"), "{heard:?}");
    }
    scene.close(|target| ["/idle", "/endless", "/hold"].contains(&target))
}

#[test]
fn a_client_that_ends_its_side_gets_its_answer() -> anyhow::Result<()> {
    let scene = scene(&[])?;
    for road in Road::ALL {
        let mut line = scene.line(road)?;
        line.send(format!("GET /{road:?} HTTP/1.1\r\nHost: {}\r\n\r\n", road.authority()).as_bytes());
        line.end();
        let heard = line.hear_all();
        let whole = heard.ending == Ending::Closed && heard.bytes.ends_with(b"\r\n\r\nok");
        ensure!(whole, "{road:?}: {:?} {}", heard.ending, heard.text());
    }
    scene.close(|target| target.len() < 10)
}

#[test]
fn connect_reaches_what_the_mesh_knows_and_nothing_else() -> anyhow::Result<()> {
    let scene = scene(&[])?;
    let connect = |to: &str| -> anyhow::Result<Line> {
        let mut line = scene.line(Road::Mesh)?;
        line.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes());
        Ok(line)
    };
    let own = |address: std::net::SocketAddr| address.to_string();
    let unknown = ["evil:80".to_owned(), "127.0.0.1:22".to_owned(), "169.254.169.254:80".to_owned()];
    for to in unknown.into_iter().chain([scene.web.outbound, scene.web.inbound, scene.web.admin].map(own)) {
        let heard = connect(&to)?.hear(|bytes| bytes.windows(4).any(|window| window == b"\r\n\r\n"));
        let refused = [&b"HTTP/1.1 4"[..], b"HTTP/1.1 5"].iter().any(|status| heard.bytes.starts_with(status));
        ensure!(refused, "{to}: {}", heard.text());
    }
    // The other pod's proxy refuses what would be dialled from its own pod; that the way to it is open says nothing.
    for to in [scene.api.outbound, scene.api.inbound, scene.api.admin] {
        let mut line = connect(&own(to))?;
        line.send(b"GET /config HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        let heard = line.hear_all();
        ensure!(heard.ending != Ending::Silent && !heard.text().contains("outbound_listen"), "{to}: {}", heard.text());
    }
    let mut line = connect("api:80")?;
    let heard = line.hear(|bytes| bytes.ends_with(b"\r\n\r\n"));
    ensure!(heard.text().starts_with("HTTP/1.1 200 "), "{}", heard.text());
    line.send(b"GET /tunnelled HTTP/1.1\r\nHost: api\r\n\r\n");
    let heard = line.hear(|bytes| bytes.ends_with(b"ok"));
    ensure!(heard.ending == Ending::Open, "{heard:?}");
    scene.close(|target| target == "/tunnelled")
}

#[test]
fn a_body_that_waits_to_be_asked_for_is_asked_for() -> anyhow::Result<()> {
    let scene = scene(&[])?;
    for road in Road::ALL {
        let (mut line, target) = (scene.line(road)?, format!("/{road:?}"));
        let fields = "Expect: 100-continue\r\nContent-Length: 5\r\n";
        line.send(format!("POST {target} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", road.authority()).as_bytes());
        let heard = line.hear(|bytes| bytes.ends_with(b"\r\n\r\n"));
        ensure!(heard.text() == "HTTP/1.1 100 Continue\r\n\r\n", "{road:?}: {heard:?}");
        line.send(b"hello");
        arrived(&scene, road, &mut line, &target, b"hello")?;
    }
    scene.close(|target| target.len() < 10)
}
