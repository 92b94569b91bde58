//! Trailers that are more than is passed on.

use crate::scene::Scene;
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use remora_tests::{local::Proxy, patience::until};
use std::net::TcpListener;
use tokio::{net::TcpStream, sync::oneshot};

/// Answers one HTTP/2 request with more trailers than the bound, once its client `has` the rest.
async fn answer(app: &TcpListener, has: oneshot::Receiver<()>) -> anyhow::Result<()> {
    let (stream, _) = app.accept()?;
    stream.set_nonblocking(true)?;
    let mut connection = h2::server::handshake(TcpStream::from_std(stream)?).await?;
    let (_, mut respond) = connection.accept().await.context("no request")??;
    let mut body = respond.send_response(Response::new(()), false)?;
    body.send_data(Bytes::from_static(b"data"), false)?;
    // It has to be sent meanwhile.
    tokio::select! {
        told = has => told?,
        next = connection.accept() => anyhow::bail!("another request, or the end: {}", next.is_some()),
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-much", HeaderValue::from_str(&"x".repeat(70 << 10))?);
    body.send_trailers(trailers)?;
    while connection.accept().await.is_some() {}
    Ok(())
}

#[test]
fn trailers_over_the_bound_have_the_same_reason_at_both_proxies() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let app = scene.app.try_clone()?;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (tell, has) = oneshot::channel();
    // It ends with its connection.
    let server = std::thread::spawn(move || runtime()?.block_on(answer(&app, has)));
    runtime()?.block_on(async {
        let stream = TcpStream::connect(scene.web.outbound).await?;
        let (client, connection) = h2::client::handshake(stream).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get("http://api:80/").header("te", "trailers").body(())?;
        let (answer, _) = client.ready().await?.send_request(request, true)?;
        let answer = answer.await?;
        ensure!(answer.status() == 200, "{answer:?}");
        let mut body = answer.into_body();
        let data = body.data().await.context("no data")??;
        ensure!(data == "data", "{data:?}");
        ensure!(tell.send(()).is_ok(), "the server has gone");
        let told = match body.data().await {
            Some(told) => told.map(drop),
            None => body.trailers().await.map(drop),
        };
        let code = told.err().and_then(|error| error.reason());
        ensure!(code == Some(h2::Reason::ENHANCE_YOUR_CALM), "{code:?}");
        connection.abort();
        anyhow::Ok(())
    })?;
    let failures = |proxy: &Proxy, labels: &[&str]| proxy.metric("remora_failures_total", labels);
    for proxy in [&scene.web, &scene.api] {
        let counted = || failures(proxy, &["reason=\"response_header_too_large\"", "fault=\"application\""]);
        until("the failure is counted", || Ok((counted()? == 1.0).then_some(())))
            .with_context(|| proxy.metrics().unwrap_or_default())?;
        ensure!(failures(proxy, &[])? == 1.0, "{}", proxy.metrics()?);
    }
    drop(scene);
    server.join().expect("the server does not panic")
}
