//! A proxy that may have 256 descriptors open meets 400 connections: it sheds some and says why, goes on serving the
//! others, can be looked at meanwhile, and recovers by itself.

use super::{
    at_least, at_most,
    shop::{AUTHORITY, Shop},
    tell,
};
use crate::report::Report;
use remora_tests::patience::until;
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

const DESCRIPTORS: u64 = 256;
const CONNECTIONS: usize = 400;

pub(super) fn run(_time: Duration, logs: Option<&Path>, report: &mut Report) -> anyhow::Result<()> {
    let shop = Shop::open_with(1, logs, |web| web.descriptors(DESCRIPTORS))?;
    let mut held: Vec<TcpStream> =
        (0..CONNECTIONS).filter_map(|_| TcpStream::connect(shop.web.outbound).ok()).collect();
    let answered = held.iter_mut().filter_map(|stream| ask(stream).ok()).filter(|answered| *answered).count();
    tell(report, "connections", CONNECTIONS as f64, "");
    at_least(report, "of them answered", answered as f64, 50.0, "");
    at_least(report, "of them shed", (CONNECTIONS - answered) as f64, 1.0, "");

    let asked = Instant::now();
    let shed = shop.web.metric("remora_connections_refused_total", &[r#"reason="overloaded""#])?;
    at_most(report, "answer of the admin port meanwhile", asked.elapsed().as_secs_f64(), 1.0, "s");
    at_least(report, "shed by reason \"overloaded\"", shed, (CONNECTIONS - answered) as f64, "");
    at_most(report, "descriptors open meanwhile", shop.web.program.descriptors()? as f64, DESCRIPTORS as f64, "");
    let again = held.iter_mut().filter_map(|stream| ask(stream).ok()).filter(|answered| *answered).count();
    at_least(report, "answered on the same connections once more", again as f64, answered as f64, "");

    drop(held);
    let freed = Instant::now();
    until("a new connection is served", || Ok((shop.web.get(AUTHORITY, "/")?.status == 200).then_some(())))?;
    at_most(report, "recovered after they closed", freed.elapsed().as_secs_f64(), 5.0, "s");
    Ok(())
}

/// One request on this connection; whether it was answered with 200.
fn ask(stream: &mut TcpStream) -> std::io::Result<bool> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET / HTTP/1.1\r\nhost: {AUTHORITY}\r\n\r\n")?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(false);
        }
        head.push(byte[0]);
    }
    Ok(head.starts_with(b"HTTP/1.1 200"))
}
