//! HTTP/1 that wants to be read in two ways, never to end, or to be more than we hold: from clients, and from
//! applications.
//!
//! Each row is sent on every road (see [`Road`]). The application keeps every byte: it must have seen no request of a
//! refused row, exactly one of a passed row, and never one that nobody made. A bystander asks all the while.

mod answers;
mod conduct;
mod requests;

use remora_tests::wire::{Line, Road, Scene, rows};

/// A scene with both proxies' settings.
fn scene(settings: &[(&str, &str)]) -> anyhow::Result<Scene> {
    Scene::start(env!("CARGO_BIN_EXE_remora-components"), settings)
}

/// One answer came, and the application saw one request with this body.
fn arrived(scene: &Scene, road: Road, line: &mut Line, target: &str, body: &[u8]) -> anyhow::Result<()> {
    rows::arrived(scene.end(road), line, target, body)
}
