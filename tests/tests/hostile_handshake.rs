//! Handshakes that are cut, stretched, too large or half meant, at a proxy's inbound listener: each either becomes a
//! connection like any other or ends in time, and leaves nothing behind. Certificates are in `hostile_tls.rs`.

use anyhow::{Context as _, ensure};
use remora_runtime::tls::Alpn;
use remora_tests::{
    patience::until,
    wire::{Ending, Line, Reply, Scene, destination, http1},
};
use rustls::{ClientConnection, StreamOwned};
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Instant,
};

/// What limits say of handshakes, and what a busy machine may add.
const IN_TIME_S: u64 = 5 + 10;
const MESH_TCP: &[u8] = b"remora/tcp";
const MESH_H2: &[u8] = b"remora/h2";

fn scene() -> anyhow::Result<Scene> {
    Scene::start(env!("CARGO_BIN_EXE_remora-components"), &[])
}

/// The ClientHello that this side of a handshake begins with.
fn hello(connection: &mut ClientConnection) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes)?;
    }
    Ok(bytes)
}

/// The same handshake message in records of `size` bytes.
fn fragmented(records: &[u8], size: usize) -> Vec<u8> {
    let (mut rest, mut message) = (records, Vec::new());
    while let [22, _, _, high, low, more @ ..] = rest {
        let (payload, next) = more.split_at(usize::from(*high) << 8 | usize::from(*low));
        message.extend_from_slice(payload);
        rest = next;
    }
    let record = |piece: &[u8]| [&[22, 3, 1, (piece.len() >> 8) as u8, piece.len() as u8][..], piece].concat();
    message.chunks(size).flat_map(record).collect()
}

/// Finishes a handshake whose hello was sent, asks for `target` through it, and expects the answer.
fn asks(scene: &Scene, connection: ClientConnection, socket: TcpStream, target: &str) -> anyhow::Result<()> {
    let mut line = Line::tls(StreamOwned::new(connection, socket))?;
    line.send(&destination(scene.app.address.port()));
    line.send(format!("GET {target} HTTP/1.1\r\nHost: api\r\n\r\n").as_bytes());
    let heard = line.hear(|bytes| !matches!(http1::response(bytes, "GET", false), http1::Read::Part));
    ensure!(heard.ending == Ending::Open && heard.bytes.starts_with(b"HTTP/1.1 200 "), "{heard:?}");
    Ok(())
}

/// Connections that a proxy refused, whatever for.
fn refused(scene: &Scene) -> anyhow::Result<f64> {
    Ok(scene.api.metric("remora_connections_refused_total", &[])?
        + scene.api.metric("remora_tls_refused_total", &[])?)
}

#[test]
fn a_hello_in_any_pieces_is_the_same_hello() -> anyhow::Result<()> {
    let scene = scene()?;
    let dial = || TcpStream::connect(scene.api.inbound).inspect(|socket| drop(socket.set_nodelay(true)));
    for (name, size, piece) in [
        ("whole", 16_384, 16_384),
        ("byte by byte", 16_384, 1),
        ("in records of 40 bytes", 40, 16_384),
        ("in records of 40 bytes, byte by byte", 40, 1),
        ("in records of 100 bytes, otherwise cut", 100, 64),
        ("in two records", 1000, 1000),
    ] {
        let mut connection = scene.mallory.handshake(&scene.api, &[MESH_TCP], |_| ())?;
        let bytes = fragmented(&hello(&mut connection)?, size);
        let mut socket = dial()?;
        for piece in bytes.chunks(piece) {
            socket.write_all(piece)?;
        }
        asks(&scene, connection, socket, "/pieces").with_context(|| name.to_owned())?;
    }
    // Names and protocols beside ours change nothing.
    let long = [b'x'; 255];
    let many: Vec<&[u8]> = std::iter::repeat_n(&long[..], 30).chain([MESH_TCP]).collect();
    let kinds: [(&str, &[&[u8]], bool); 4] = [
        ("a server name", &[MESH_TCP], true),
        ("other protocols first", &[b"h2", b"http/1.1", MESH_TCP], false),
        ("both of ours", &[MESH_TCP, MESH_H2], false),
        ("a hello of 9 KiB", &many, false),
    ];
    for (name, alpn, sni) in kinds {
        let connection = scene.mallory.handshake(&scene.api, alpn, |config| config.enable_sni = sni)?;
        if name == "both of ours" {
            // We prefer HTTP/2, whatever the order: then the bytes must be that.
            let mut line = Line::tls(StreamOwned::new(connection, dial()?))?;
            line.send(&destination(scene.app.address.port()));
            line.send(b"GET / HTTP/1.1\r\n\r\n");
            ensure!(line.hear_all().ending != Ending::Silent, "HTTP/1 where HTTP/2 was agreed on");
            continue;
        }
        asks(&scene, connection, dial()?, "/pieces").with_context(|| name.to_owned())?;
    }
    scene.close(|target| target == "/pieces")
}

#[test]
fn a_hello_that_is_none_of_ours_is_refused_at_once() -> anyhow::Result<()> {
    let scene = scene()?;
    let long = [b'x'; 255];
    let many: Vec<&[u8]> = std::iter::repeat_n(&long[..], 90).chain([MESH_TCP]).collect();
    let of =
        |alpn: &[&[u8]]| -> anyhow::Result<Vec<u8>> { hello(&mut scene.mallory.handshake(&scene.api, alpn, |_| ())?) };
    let good = of(&[MESH_TCP])?;
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("no protocol", of(&[])?),
        ("the application's protocols", of(&[b"h2", b"http/1.1"])?),
        ("a protocol almost ours", of(&[b"remora/h", b"remora/h22", b"Remora/h2", b"remora/h2\0"])?),
        ("the control plane's protocol", of(&[b"h2"])?),
        ("a hello of 23 KiB", of(&many)?),
        ("more protocols than anybody has", of(&[&[b"x" as &[u8]; 40][..], &[MESH_TCP]].concat())?),
        ("records of one byte", fragmented(&good, 1)),
        ("another content type", with(0, 23)),
        ("another version of the record", with(1, 2)),
        ("a record of nothing", [22, 3, 1, 0, 0].to_vec()),
        ("a record beyond its bound", [22, 3, 1, 0x48, 1, 1].to_vec()),
        ("another handshake message", with(5, 2)),
        ("a message of 16 MB", with(6, 0xff)),
        ("a message shorter than its record", with(8, good[8].wrapping_sub(9))),
        ("a session of 255 bytes", with(43, 0xff)),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: api\r\n\r\n".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        (
            "a PROXY header in plaintext",
            [destination(scene.app.address.port()), b"GET / HTTP/1.1\r\n\r\n".to_vec()].concat(),
        ),
        ("SSH", b"SSH-2.0-x\r\n".to_vec()),
        ("SSLv2", vec![0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10]),
        ("zeros", vec![0; 1000]),
        ("noise", (0..1000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
    ];
    for (name, bytes) in rows {
        let (before, began) = (refused(&scene)?, Instant::now());
        let mut line = Line::plain(scene.api.inbound)?;
        line.send(&bytes);
        let heard = line.hear_all();
        ensure!(heard.ending != Ending::Silent && began.elapsed().as_secs() <= IN_TIME_S, "{name}: {heard:?}");
        until(&format!("{name} is counted"), || Ok((refused(&scene)? > before).then_some(())))?;
    }
    scene.close(|_| false)
}

/// All at once, since each takes as long as it may.
#[test]
fn whoever_stops_in_a_handshake_is_left_in_time() -> anyhow::Result<()> {
    let scene = scene()?;
    let (descriptors, began) = (scene.api.program.descriptors()?, Instant::now());
    let good = hello(&mut scene.mallory.handshake(&scene.api, &[MESH_TCP], |_| ())?)?;
    let parts = [0, 1, 4, 5, 6, 100, good.len() - 1];
    let mut lines = Vec::new();
    for length in parts.iter().cycle().take(280) {
        let mut line = Line::plain(scene.api.inbound)?;
        line.send(&good[..*length]);
        lines.push((format!("{length} bytes of a hello"), line));
    }
    let mut line = Line::plain(scene.api.inbound)?;
    line.send(&good);
    lines.push(("a hello and nothing more".to_owned(), line));
    let header = destination(scene.app.address.port());
    for part in [&[][..], &header[..1], &header[..13], &header[..header.len() - 1]] {
        for alpn in [MESH_TCP, MESH_H2] {
            let mut line = scene.mallory.connect(&scene.api, &[alpn])?;
            line.send(part);
            lines.push((format!("{} bytes of a destination", part.len()), line));
        }
    }
    for (name, mut line) in lines {
        let heard = line.hear_all();
        ensure!(heard.ending != Ending::Silent, "{name}: still there after {:?}", began.elapsed());
    }
    ensure!(began.elapsed().as_secs() <= 2 * IN_TIME_S, "they are there for {:?}", began.elapsed());
    until("what they held is free", || Ok((scene.api.program.descriptors()? <= descriptors + 4).then_some(())))?;
    scene.close(|_| false)
}

#[test]
fn a_destination_that_is_none_is_refused() -> anyhow::Result<()> {
    let scene = scene()?;
    let good = destination(scene.app.address.port());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let rows = [
        ("no signature", b"GET / HTTP/1.1\r\nHost: api\r\n\r\n".to_vec()),
        ("version 1", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n".to_vec()),
        ("another version", with(12, 0x31)),
        ("no destination", with(12, 0x20)),
        ("UDP", with(13, 0x12)),
        ("a path", with(13, 0x31)),
        ("a header of 64 KB", with(14, 0xff)),
        ("a header too short for its addresses", with(15, 4)),
        ("port 0", destination(0)),
        ("the admin port", destination(scene.api.admin.port())),
        ("the inbound port", destination(scene.api.inbound.port())),
        ("the outbound port", destination(scene.api.outbound.port())),
    ];
    for (name, header) in rows {
        for alpn in [MESH_TCP, MESH_H2] {
            let mut line = scene.mallory.connect(&scene.api, &[alpn])?;
            line.send(&header);
            line.send(b"GET /config HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            let heard = line.hear_all();
            ensure!(heard.ending != Ending::Silent, "{name}: {heard:?}");
            ensure!(!heard.text().contains("200"), "{name}: {}", heard.text());
        }
    }
    scene.close(|_| false)
}

#[test]
fn a_reset_in_any_phase_leaves_nothing_behind() -> anyhow::Result<()> {
    let scene = scene()?;
    scene.app.reply("/hold", Reply::Hold);
    let endless =
        Reply::Flood(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n".to_vec(), vec![b'x'; 1 << 14]);
    scene.app.reply("/endless", endless);
    let port = scene.app.address.port();
    let descriptors = scene.api.program.descriptors()?;
    let good = hello(&mut scene.mallory.handshake(&scene.api, &[MESH_TCP], |_| ())?)?;
    for round in 0..10 {
        for length in [0, 3, 100, good.len()] {
            let mut line = Line::plain(scene.api.inbound)?;
            line.send(&good[..length]);
            if length == good.len() && round % 2 == 0 {
                line.hear(|bytes| bytes.len() > 100); // the server's part of the handshake
            }
            line.reset();
        }
        scene.mallory.connect(&scene.api, &[MESH_TCP])?.reset();
        let requests = [
            "",
            "GET /half HTTP/1.1\r\nHo",
            "POST /half HTTP/1.1\r\nHost: api\r\nContent-Length: 100\r\n\r\nhalf",
            "GET /hold HTTP/1.1\r\nHost: api\r\n\r\n",
            "GET /endless HTTP/1.1\r\nHost: api\r\n\r\n",
        ];
        for request in requests {
            let mut line = scene.mallory.dial(&scene.api, Alpn::MeshTcp, port)?;
            line.send(request.as_bytes());
            if request.contains("endless") {
                line.hear(|bytes| bytes.len() > 1000);
            }
            line.reset();
        }
    }
    until("what they held is free", || {
        let now = scene.api.program.descriptors()?;
        ensure!(now <= descriptors + 4, "{descriptors} descriptors have become {now}");
        Ok(Some(()))
    })?;
    scene.close(|target| target == "/hold" || target == "/endless")
}

/// A peer that finished its handshake may still say what TLS has no use for.
#[test]
fn keys_renewed_without_end_are_borne_or_refused() -> anyhow::Result<()> {
    let scene = scene()?;
    let mut connection = scene.mallory.handshake(&scene.api, &[MESH_TCP], |_| ())?;
    let mut socket = TcpStream::connect(scene.api.inbound)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    let before = scene.api.program.resident_bytes()?;
    socket.set_write_timeout(Some(std::time::Duration::from_secs(1)))?;
    for _ in 0..10_000 {
        if connection.refresh_traffic_keys().is_err() || connection.write_tls(&mut socket).is_err() {
            break;
        }
    }
    let _ = socket.flush();
    let grown = scene.api.program.resident_bytes()?.saturating_sub(before);
    ensure!(grown < 16 << 20, "it grew by {grown} bytes");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(8)))?;
    while matches!(socket.read(&mut [0; 4096]), Ok(count) if count > 0) {}
    scene.close(|_| false)
}
