//! What this program does inside a pod when told `--role NAME`. In: arguments. Out: an exit code, lines on stdout.
//!
//! A process that enters another network namespace must have one thread; so instead of test threads in pods there
//! are copies of the test program that play a role.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn play(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let role = args.next().unwrap_or_default();
    if role == "init" {
        return remora_proxy::init::main(args);
    }
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let outcome = match (role.to_str(), args.as_slice()) {
        (Some("answer"), [listen @ .., greeting]) => answer(listen, greeting),
        (Some("dial"), [address]) => dial(address),
        (Some("first-byte"), [address]) => first_byte(address),
        (Some("sink"), [listen]) => sink(listen),
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
                let (mut connection, _) = listener.accept()?;
                let original = match remora_proxy::sys::original_destination(&connection) {
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

/// An HTTP/1.1 server that swallows bodies and answers with the count of their bytes.
fn sink(listen: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listening on {listen}"))?;
    println!("ready");
    loop {
        let (connection, _) = listener.accept()?;
        std::thread::spawn(move || swallow(connection));
    }
}

fn swallow(connection: TcpStream) -> anyhow::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, connection.try_clone()?);
    let mut writer = connection;
    loop {
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse::<u64>()?;
            }
        }
        let swallowed = std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?.to_string();
        write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{swallowed}", swallowed.len())?;
    }
}
