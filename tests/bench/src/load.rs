//! Load generators in the client pod, and what they say.

use crate::{
    contender::Contender,
    held,
    pod::Pod,
    pods::{self, BULK_PORT, HTTP_PORT},
    process::{Role, command},
    tools::output,
};
use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead, BufReader},
    net::SocketAddrV4,
    process::{Child, Command, Stdio},
};

/// What wrk found.
#[derive(Debug, PartialEq)]
pub(crate) struct Http {
    pub(crate) requests: f64,
    pub(crate) requests_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Answers that are not 2xx or 3xx, and socket errors of every kind.
    pub(crate) errors: f64,
}

/// What iperf3 found.
#[derive(Debug)]
pub(crate) struct Bulk {
    pub(crate) bytes: f64,
    pub(crate) bits_per_s: f64,
}

/// A closed loop of HTTP/1 requests over `connections`, each request on a new one if not `keep_alive`.
pub(crate) fn http(of: Contender, connections: u32, keep_alive: bool, seconds: u32) -> Result<Http> {
    let mut wrk = command(Pod::client(of), Role::Load, "wrk");
    wrk.args(["--threads", "1", "--latency", "--connections", &connections.to_string()]);
    wrk.args(["--duration", &format!("{seconds}s")]);
    if !keep_alive {
        wrk.args(["--header", "Connection: close"]);
    }
    let text = output(wrk.arg(format!("http://{}/", pods::server(HTTP_PORT))))?;
    parse_wrk(&text).with_context(|| format!("cannot read what wrk says:\n{text}"))
}

/// One TCP stream to the server, as fast as it goes.
pub(crate) fn bulk(of: Contender, seconds: u32) -> Result<Bulk> {
    let address = pods::server(BULK_PORT);
    let mut iperf = command(Pod::client(of), Role::Load, "iperf3");
    iperf.args(["--client", &address.ip().to_string(), "--port", &BULK_PORT.to_string(), "--json"]);
    let text = output(iperf.args(["--time", &seconds.to_string()]))?;
    let report: serde_json::Value = serde_json::from_str(&text).context("iperf3 says no JSON")?;
    let received = &report["end"]["sum_received"];
    let figure = |name: &str| received[name].as_f64().with_context(|| format!("iperf3 says no {name}: {text}"));
    Ok(Bulk { bytes: figure("bytes")?, bits_per_s: figure("bits_per_second")? })
}

/// Connections that stay open until dropped, each after one request.
#[derive(Debug)]
pub(crate) struct Idle(Child);

impl Idle {
    pub(crate) fn open(of: Contender, count: u32) -> Result<Self> {
        let mut hold = hold(of, pods::server(HTTP_PORT), count)?;
        hold.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut idle = Self(hold.spawn().context("start the holder of connections")?);
        let mut line = String::new();
        let stdout = idle.0.stdout.take().context("the holder has no output")?;
        BufReader::new(stdout).read_line(&mut line).context("wait for the holder of connections")?;
        if line.trim_end() != held::READY {
            bail!("could not open {count} connections");
        }
        Ok(idle)
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to stop.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends one request on a connection of its own.
pub(crate) fn probe(of: Contender, address: SocketAddrV4) -> Result<()> {
    output(&mut hold(of, address, 1)?).map(drop)
}

fn hold(of: Contender, address: SocketAddrV4, count: u32) -> Result<Command> {
    let exe = std::env::current_exe().context("find this program")?;
    let mut hold = command(Pod::client(of), Role::Load, exe);
    hold.arg("hold").arg(address.to_string()).arg(count.to_string());
    Ok(hold)
}

fn parse_wrk(text: &str) -> Option<Http> {
    let after = |name: &str| text.lines().find_map(|line| line.trim_start().strip_prefix(name)).map(str::trim);
    let requests = text.lines().find_map(|line| line.split_once(" requests in "))?.0.trim().parse().ok()?;
    let failed = after("Non-2xx or 3xx responses:").map_or(Some(0.0), |count| count.parse().ok())?;
    let broken = after("Socket errors:")
        .map_or(0.0, |errors| errors.split([' ', ',']).filter_map(|word| word.parse::<f64>().ok()).sum());
    Some(Http {
        requests,
        requests_per_s: after("Requests/sec:")?.parse().ok()?,
        p50_ms: milliseconds(after("50%")?)?,
        p99_ms: milliseconds(after("99%")?)?,
        errors: failed + broken,
    })
}

fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)];
    let (number, scale) = units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    number.parse::<f64>().ok().map(|number| number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 4s test @ http://10.77.0.2:8080/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.23ms  100.00us  10.00ms   90.00%
  Latency Distribution
     50%  850.00us
     75%    1.30ms
     90%    1.40ms
     99%    1.78ms
  210056 requests in 4.00s, 32.00MB read
  Socket errors: connect 0, read 3, write 1, timeout 0
  Non-2xx or 3xx responses: 6
Requests/sec:  52514.00
Transfer/sec:      8.00MB
";

    #[test]
    fn a_report_of_wrk_is_read_with_all_its_errors() {
        let expected = Http { requests: 210_056.0, requests_per_s: 52_514.0, p50_ms: 0.85, p99_ms: 1.78, errors: 10.0 };
        assert_eq!(parse_wrk(WRK), Some(expected));
    }

    #[test]
    fn a_cut_report_of_wrk_is_refused() {
        assert_eq!(parse_wrk(&WRK[..200]), None);
    }
}
