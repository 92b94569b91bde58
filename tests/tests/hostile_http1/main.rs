//! HTTP/1 that wants to be read in two ways, never to end, or to be more than we hold: from clients, and from
//! applications.
//!
//! Each row is sent on every road (see [`Road`]). The application keeps every byte: it must have seen no request of a
//! refused row, exactly one of a passed row, and never one that nobody made. A bystander asks all the while.

mod answers;
mod conduct;
mod requests;

use anyhow::{Context as _, ensure};
use remora_tests::wire::{Line, Road, Scene, http1};

/// A scene with both proxies' settings.
fn scene(settings: &[(&str, &str)]) -> anyhow::Result<Scene> {
    Scene::start(env!("CARGO_BIN_EXE_remora-components"), settings)
}

/// One answer came, and the application saw one request with this body.
fn arrived(scene: &Scene, road: Road, line: &mut Line, target: &str, body: &[u8]) -> anyhow::Result<()> {
    let heard = line.hear(|bytes| match http1::response(bytes, "GET", false) {
        http1::Read::Whole(answer) => answer.status() != 100 || http1::responses(bytes).is_ok_and(|all| all.len() > 1),
        http1::Read::Part => false,
        http1::Read::Malformed(_) => true,
    });
    let answers = http1::responses(&heard.bytes).map_err(anyhow::Error::msg)?;
    let last = answers.last().context("no answer")?;
    ensure!(last.status() == 200 && last.body == b"ok", "answered {answers:?}");
    let seen = scene.end(road).requests(target);
    ensure!(seen.len() == 1, "the application saw {} requests", seen.len());
    ensure!(seen[0].body == body, "the body is {:?}", String::from_utf8_lossy(&seen[0].body));
    let id = seen[0].values("x-remora-client-id");
    ensure!(!id.iter().any(|id| id.contains("evil")), "the application was told {id:?}");
    let foreign = ["x-one", "keep-alive", "proxy-connection", "x_remora_client_id", "x-remora-hops", "x-remora-http"];
    ensure!(!seen[0].fields.iter().any(|(name, _)| foreign.contains(&name.as_str())), "{:?}", seen[0].fields);
    Ok(())
}
