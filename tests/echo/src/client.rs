//! Asks, and prints what came back, one fact a line; a blank line between two answers. The form is the one that the
//! Gateway API's conformance suite reads (`utils/echo/parse.go`). Redirects are told, not followed.

use crate::{
    body::whole,
    dial::{self, Sender, Target},
    grpc, text, websocket,
};
use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::header;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use std::{fmt::Write as _, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// http, https, h2c (HTTP/2 without TLS), grpc, ws or tcp
    url: String,
    #[arg(long, default_value = "GET")]
    method: String,
    /// NAME:VALUE, repeatable; Host replaces the URL's
    #[arg(short = 'H', long = "header", value_parser = text::header, allow_hyphen_values = true)]
    headers: Vec<(String, String)>,
    /// How many times to ask
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// Body, gRPC or WebSocket message, bytes to a TCP port
    #[arg(long, default_value = "")]
    body: String,
    /// For each time
    #[arg(long, default_value = "10s", value_parser = text::duration)]
    timeout: Duration,
    /// Ask over the same connection as far as the server lets
    #[arg(long)]
    keep_alive: bool,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let target = Target::parse(&args.url)?;
    let mut kept = None;
    for number in 0..args.count.max(1) {
        let began = Instant::now();
        let asked = timeout(args.timeout, ask(args, &target, &mut kept, number)).await;
        let mut answer = asked.with_context(|| format!("no answer within {:?}", args.timeout))??;
        writeln!(answer, "[{number}] Latency={:?}", began.elapsed())?;
        println!("{}{answer}", if number > 0 { "\n" } else { "" });
    }
    Ok(())
}

async fn ask(args: &Args, target: &Target, kept: &mut Option<Sender>, number: usize) -> anyhow::Result<String> {
    let mut told = format!("[{number}] Url={}\n", args.url);
    match &*target.scheme {
        "tcp" => {
            let said = tcp(args, target).await?;
            lines(&mut told, number, &said)?;
        }
        "ws" => {
            let said = web_socket(args, target).await?;
            writeln!(told, "[{number}] StatusCode=101")?;
            lines(&mut told, number, &said)?;
        }
        "http" | "https" | "h2c" | "grpc" => {
            let mut sender = match kept.take().filter(Sender::is_open) {
                Some(sender) => sender,
                None => dial::http(target).await?,
            };
            if target.scheme == "grpc" {
                call(args, target, &mut sender, number, &mut told).await?;
            } else {
                exchange(args, target, &mut sender, number, &mut told).await?;
            }
            *kept = Some(sender).filter(|_| args.keep_alive);
        }
        other => bail!("scheme {other} is none of http, https, h2c, grpc, ws, tcp"),
    }
    Ok(told)
}

async fn exchange(
    args: &Args,
    target: &Target,
    sender: &mut Sender,
    number: usize,
    told: &mut String,
) -> anyhow::Result<()> {
    let request = dial::request(target, &args.method, &args.headers, whole(args.body.clone()))?;
    let response = sender.send(request).await?;
    head(told, number, response.status().as_u16(), response.headers())?;
    let body = response.into_body().collect().await.context("the body ended early")?.to_bytes();
    lines(told, number, &body)
}

/// A gRPC call. Its status is told as HTTP's 200 if it is 0, as the suite wants it, and else as it is.
async fn call(
    args: &Args,
    target: &Target,
    sender: &mut Sender,
    number: usize,
    told: &mut String,
) -> anyhow::Result<()> {
    let mut target = target.clone();
    if target.path == "/" {
        grpc::METHOD.clone_into(&mut target.path);
    }
    let mut headers = args.headers.clone();
    headers.push(("content-type".into(), "application/grpc".into()));
    headers.push(("te".into(), "trailers".into()));
    let response = sender.send(dial::request(&target, "POST", &headers, whole(grpc::encode(&args.body)))?).await?;
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.context("the body ended early")?;
    let status =
        collected.trailers().and_then(|trailers| trailers.get("grpc-status")).or(parts.headers.get("grpc-status"));
    let status: u16 = match status {
        Some(status) => status.to_str()?.parse()?,
        None if parts.status == http::StatusCode::OK => bail!("the answer has no grpc-status"),
        None => parts.status.as_u16(),
    };
    head(told, number, if status == 0 { 200 } else { status }, &parts.headers)?;
    if status == 0 {
        lines(told, number, grpc::decode(&collected.to_bytes())?.as_bytes())?;
    }
    Ok(())
}

async fn web_socket(args: &Args, target: &Target) -> anyhow::Result<Bytes> {
    let Sender::Http1(mut sender) = dial::http(target).await? else { bail!("WebSocket needs HTTP/1") };
    let mut headers = args.headers.clone();
    let key = websocket::base64(b"sixteen bytes ok");
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", &key),
    ] {
        headers.push((name.into(), value.into()));
    }
    let response = sender.send_request(dial::request(target, "GET", &headers, whole(""))?).await?;
    ensure!(response.status() == http::StatusCode::SWITCHING_PROTOCOLS, "answered {}", response.status());
    let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT).context("no Sec-WebSocket-Accept")?;
    ensure!(accepted.to_str()? == websocket::accept(&key), "a wrong Sec-WebSocket-Accept");
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await?);
    websocket::ask(&mut stream, &args.body).await
}

/// Sends the body, if there is one, and returns the first bytes that come; the server may speak first.
async fn tcp(args: &Args, target: &Target) -> anyhow::Result<Bytes> {
    let mut stream = dial::connect(target).await?;
    if !args.body.is_empty() {
        stream.write_all(args.body.as_bytes()).await?;
    }
    let mut said = vec![0; 4096];
    let length = stream.read(&mut said).await?;
    ensure!(length > 0, "the server closed without a word");
    said.truncate(length);
    Ok(said.into())
}

fn head(told: &mut String, number: usize, status: u16, headers: &http::HeaderMap) -> anyhow::Result<()> {
    writeln!(told, "[{number}] StatusCode={status}")?;
    for (name, value) in headers {
        writeln!(told, "[{number}] ResponseHeader={name}:{}", String::from_utf8_lossy(value.as_bytes()))?;
    }
    Ok(())
}

fn lines(told: &mut String, number: usize, body: &[u8]) -> anyhow::Result<()> {
    for line in String::from_utf8_lossy(body).lines().filter(|line| !line.is_empty()) {
        writeln!(told, "[{number} body] {line}")?;
    }
    Ok(())
}
