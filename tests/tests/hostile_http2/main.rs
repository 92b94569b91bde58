//! HTTP/2 that breaks its rules, or keeps them and never ends: from clients, and from applications.
//!
//! Frames are written by hand (`wire::http2`). Each row goes to our outbound (in the mesh, and out of it) and, as a
//! certified workload without a proxy would send it, straight to our inbound; applications keep what they are asked,
//! and a bystander asks all the while.

mod answers;
mod floods;
mod frames;
mod requests;

use remora_tests::wire::Scene;

/// A scene with proxies as they are shipped.
fn scene() -> anyhow::Result<Scene> {
    Scene::start(env!("CARGO_BIN_EXE_remora-components"), &[])
}
