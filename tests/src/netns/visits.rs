//! Clients that visit many Services, some known to their proxy and some new to it. In: how long, how often, which. Out: how
//! often each outcome was met. Does not: judge.

use anyhow::{Context as _, bail, ensure};
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// What every request says, and no wire between pods should.
pub const MARK: &str = "never-in-the-clear";
/// Threads that visit what is known.
const REGULARS: usize = 4;
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

type Outcomes = BTreeMap<String, usize>;

/// Visits the addresses `10.96.0.N:8080`: those from 1 to `known` at `rate` a second, on kept and on new connections by
/// turns; each of the `new` ones after them again and again. Prints `known OUTCOME COUNT` and `new OUTCOME COUNT`.
pub(super) fn visit(args: &[String]) -> anyhow::Result<()> {
    let [seconds, rate, known, new] = args else { bail!("visit SECONDS RATE KNOWN NEW") };
    let (known, new): (u8, u8) = (known.parse()?, new.parse()?);
    let until = Instant::now() + Duration::from_secs(seconds.parse()?);
    let pause = Duration::from_secs(1) * u32::try_from(REGULARS)? / rate.parse::<u32>()?;
    let regular = |first: usize| std::thread::spawn(move || regulars(first, known, pause, until));
    let regulars: Vec<_> = (0..REGULARS).map(regular).collect();
    let newcomer = |number: u8| std::thread::spawn(move || newcomer(number, until));
    let newcomers: Vec<_> = (known + 1..=known + new).map(newcomer).collect();
    for (what, threads) in [("known", regulars), ("new", newcomers)] {
        let mut all = Outcomes::new();
        for thread in threads {
            let Ok(outcomes) = thread.join() else { bail!("a client panicked") };
            outcomes.into_iter().for_each(|(outcome, count)| *all.entry(outcome).or_default() += count);
        }
        all.iter().for_each(|(outcome, count)| println!("{what} {outcome} {count}"));
    }
    Ok(())
}

fn service(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, number], 8080))
}

fn regulars(first: usize, known: u8, pause: Duration, until: Instant) -> Outcomes {
    let (mut outcomes, mut kept) = (Outcomes::new(), BTreeMap::new());
    let mut due = Instant::now();
    for turn in first.. {
        if Instant::now() >= until {
            break;
        }
        let number = 1 + u8::try_from(turn % usize::from(known)).unwrap_or_default();
        // A kept connection on one round, a new one on the next.
        let connection = if turn / usize::from(known) % 2 == 0 { kept.remove(&number) } else { None };
        match request(connection, service(number)) {
            Ok((outcome, connection)) => {
                *outcomes.entry(outcome).or_default() += 1;
                connection.and_then(|connection| kept.insert(number, connection));
            }
            Err(error) => *outcomes.entry(format!("{error:#}").replace(' ', "_")).or_default() += 1,
        }
        due += pause;
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
    }
    outcomes
}

fn newcomer(number: u8, until: Instant) -> Outcomes {
    let mut outcomes = Outcomes::new();
    loop {
        let outcome = match request(None, service(number)) {
            Ok((outcome, _)) => outcome,
            Err(error) => format!("{error:#}").replace(' ', "_"),
        };
        *outcomes.entry(outcome).or_default() += 1;
        if Instant::now() >= until {
            return outcomes;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// One GET: `200` or `STATUS/REASON`, and the connection if it stays.
fn request(
    kept: Option<BufReader<TcpStream>>,
    address: SocketAddr,
) -> anyhow::Result<(String, Option<BufReader<TcpStream>>)> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => {
            let connection = TcpStream::connect_timeout(&address, PATIENCE).context("connecting")?;
            connection.set_read_timeout(Some(PATIENCE))?;
            connection.set_nodelay(true)?;
            BufReader::new(connection)
        }
    };
    let head = format!("GET /sink HTTP/1.1\r\nhost: {address}\r\nx-mark: {MARK}\r\n\r\n");
    connection.get_mut().write_all(head.as_bytes()).context("writing")?;
    let (mut line, mut length, mut close, mut reason) = (String::new(), 0, false, None);
    ensure!(connection.read_line(&mut line).context("reading")? > 0, "closed before an answer");
    let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while line != "\r\n" {
        line.clear();
        ensure!(connection.read_line(&mut line)? > 0, "closed within a head");
        let lower = line.trim_end().to_ascii_lowercase();
        close |= lower == "connection: close";
        if let Some(value) = lower.strip_prefix("content-length: ") {
            length = value.parse()?;
        }
        if let Some(value) = lower.strip_prefix("x-remora-error: ") {
            reason = Some(value.to_owned());
        }
    }
    std::io::copy(&mut (&mut connection).take(length), &mut std::io::sink())?;
    let outcome = reason.map_or_else(|| status.clone(), |reason| format!("{status}/{reason}"));
    Ok((outcome, (!close).then_some(connection)))
}

/// Opens a connection to each of so many ports of `host` from 10 000 on, sends one byte on each, says `open COUNT` and
/// holds them until it is killed.
pub(super) fn flood(host: &str, count: &str) -> anyhow::Result<()> {
    let host: std::net::IpAddr = host.parse()?;
    remora_proxy::raise_limit().context("raising the limit of open files")?;
    let mut open = Vec::new();
    for port in (10_000..).take(count.parse()?) {
        let Ok(mut connection) = TcpStream::connect_timeout(&SocketAddr::new(host, port), PATIENCE) else { continue };
        connection.set_nodelay(true)?;
        if connection.write_all(b"G").is_ok() {
            open.push(connection);
        }
    }
    println!("open {}", open.len());
    std::thread::park();
    Ok(())
}
