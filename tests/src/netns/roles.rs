//! What this program does inside a pod when told `--role NAME`. In: arguments. Out: an exit code, lines on stdout.
//!
//! A process that enters another network namespace must have one thread; so instead of test threads in pods there
//! are copies of the test program that play a role.

use super::{load, origin, visits};
use anyhow::{Context as _, bail};
use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn play(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let role = args.next().unwrap_or_default();
    if role == "init" {
        return remora_proxy::init(args);
    }
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let outcome = match (role.to_str(), args.as_slice()) {
        (Some("answer"), [listen @ .., greeting]) => answer(listen, greeting),
        (Some("dial"), [address]) => dial(address),
        (Some("first-byte"), [address]) => first_byte(address),
        (Some("late-hello"), [address]) => late_hello(address),
        (Some("origin"), [listen]) => origin::serve(listen),
        (Some("events"), [address]) => origin::events(address),
        (Some("load"), [address, seconds]) => load::load(address, seconds),
        (Some("visit"), args) => visits::visit(args),
        (Some("flood"), [host, count]) => visits::flood(host, count),
        (Some("slow-http2"), [address, path]) => load::slow_http2(address, path),
        (Some("silent-stream"), [address]) => load::silent_stream(address),
        _ => Err(anyhow::anyhow!("no role {role:?} with the arguments {args:?}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells everyone who connects to one of the addresses `GREETING ORIGINAL-DESTINATION`.
fn answer(listen: &[String], greeting: &str) -> anyhow::Result<()> {
    let mut threads = Vec::new();
    for address in listen {
        let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
        let greeting = greeting.to_owned();
        threads.push(std::thread::spawn(move || -> std::io::Result<()> {
            loop {
                let (mut connection, peer) = listener.accept()?;
                let original = match remora_proxy::original_destination(&connection, peer) {
                    Ok(original) => original.to_string(),
                    Err(error) => error.to_string(),
                };
                writeln!(connection, "{greeting} {original}")?;
            }
        }));
    }
    println!("ready");
    for thread in threads {
        if thread.join().is_err() {
            bail!("a listener panicked");
        }
    }
    Ok(())
}

/// Prints what the server at the address says until it closes.
fn dial(address: &str) -> anyhow::Result<()> {
    let address: SocketAddr = address.parse().with_context(|| format!("{address:?} is no address"))?;
    let mut connection =
        TcpStream::connect_timeout(&address, DIAL_TIMEOUT).with_context(|| format!("connecting to {address}"))?;
    let mut said = String::new();
    connection.read_to_string(&mut said).with_context(|| format!("reading from {address}"))?;
    print!("{said}");
    Ok(())
}

/// Prints after how many microseconds the server at the address sends its first byte, unasked.
fn first_byte(address: &str) -> anyhow::Result<()> {
    let address: SocketAddr = address.parse().with_context(|| format!("{address:?} is no address"))?;
    let start = Instant::now();
    let mut connection = TcpStream::connect_timeout(&address, DIAL_TIMEOUT)?;
    connection.read_exact(&mut [0])?;
    println!("{}", start.elapsed().as_micros());
    Ok(())
}

/// Is silent for a while, then sends a ClientHello of the mesh, and prints what kind of TLS record comes back.
fn late_hello(address: &str) -> anyhow::Result<()> {
    const SILENCE: Duration = Duration::from_millis(200);
    // Nobody gets as far as to verify against this root.
    let own = rcgen::generate_simple_self_signed(["nobody.test".to_owned()])?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone())?;
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"remora/h2".to_vec()];
    let mut tls = rustls::ClientConnection::new(std::sync::Arc::new(config), "nobody.test".try_into()?)?;
    let mut connection = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    connection.set_read_timeout(Some(DIAL_TIMEOUT))?;
    std::thread::park_timeout(SILENCE);
    tls.write_tls(&mut connection)?;
    let mut record = [0; 6];
    connection.read_exact(&mut record).context("reading an answer to the ClientHello")?;
    let [0x16, .., 0x02] = record else { bail!("no ServerHello: {record:x?}") };
    println!("ServerHello");
    Ok(())
}
