//! What this program does inside a pod when told `--role NAME`. In: arguments. Out: an exit code, lines on stdout.
//!
//! A process that enters another network namespace must have one thread; so instead of test threads in pods there
//! are copies of the test program that play a role.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

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
