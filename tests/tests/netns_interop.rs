//! Foreign implementations of gRPC and HTTP/2 judge two redirected proxies: every case they know must pass.

use anyhow::ensure;
use remora_tests::netns::{self, APP_UID, apps, go, scene::Scene};
use std::{net::SocketAddr, process::ExitCode, time::Duration};

/// The load balancer that the `orca` cases need in the client.
const ORCA: &str = r#"{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}"#;
/// What grpc-go's interop client can ask of grpc-go's interop server. Of its other cases, `pick_first_unary` wants a server
/// that tells its name, which this one does not (it fails directly as well), and `compute_engine_creds`,
/// `service_account_creds`, `jwt_token_creds`, `per_rpc_creds`, `oauth2_auth_token`, `google_default_credentials` and
/// `compute_engine_channel_credentials` get credentials from Google.
const GRPC_CASES: [&str; 18] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "orca_per_rpc",
    "orca_oob",
    "rpc_soak",
    "channel_soak",
];

fn main() -> ExitCode {
    netns::run(&[
        ("every_grpc_go_interop_case_passes", grpc_go),
        ("a_silent_stream_of_a_grpc_server_is_not_pinged_to_death", silent_stream),
        ("every_strict_h2spec_case_passes_at_the_outbound_listener", h2spec),
    ])
}

fn grpc_go() -> anyhow::Result<()> {
    let program = go::program("interop/client")?;
    let scene = Scene::new(|pod, _| apps::grpc_go(pod))?;
    let meshed = scene.mesh(&[apps::GRPC_PORT])?;
    let mut failed = Vec::new();
    for ip in scene.server.addresses() {
        for case in GRPC_CASES {
            let client = scene.client.command(&program).uid(APP_UID).arg(format!("-test_case={case}"));
            let client = client.arg(format!("-server_host={ip}")).arg(format!("-server_port={}", apps::GRPC_PORT));
            let client = if case.starts_with("orca") { client.arg("-service_config_json").arg(ORCA) } else { client };
            if let Err(error) = client.output() {
                failed.push(format!("{case} over {ip}: {error:#}"));
            }
        }
    }
    let total = GRPC_CASES.len() * 2;
    println!("    {} of {total} grpc-go interop cases passed", total - failed.len());
    meshed.context(if failed.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failed.join("\n"))) })?;
    meshed.saw_mtls(&scene)
}

fn silent_stream() -> anyhow::Result<()> {
    let scene = Scene::new(|pod, _| apps::grpc_go(pod))?;
    let meshed = scene.mesh(&[apps::GRPC_PORT])?;
    let address = SocketAddr::from((scene.server.ipv4, apps::GRPC_PORT)).to_string();
    let said = scene.client.role("silent-stream").uid(APP_UID).arg(address).output();
    ensure!(meshed.context(said)?.trim() == "ended after its silence");
    meshed.saw_mtls(&scene)
}

fn h2spec() -> anyhow::Result<()> {
    let program = go::program("h2spec")?;
    let scene = Scene::new(apps::nginx)?;
    std::fs::write(scene.dir.path().join("small"), "some bytes for h2spec to ask for\n")?;
    let meshed = scene.mesh(&[apps::H2C_PORT])?;
    let address = SocketAddr::from((scene.server.ipv4, apps::H2C_PORT));
    let h2spec = scene.client.command(program).uid(APP_UID).patience(Duration::from_secs(180));
    let h2spec = h2spec.args("--strict --path /small").args(&format!("-h {} -p {}", address.ip(), address.port()));
    let said = meshed.context(h2spec.output())?;
    let summary = said.lines().rfind(|line| line.contains("tests, ")).unwrap_or_default();
    println!("    h2spec --strict: {summary}");
    ensure!(summary.contains(" 0 failed"), "{said}");
    meshed.saw_mtls(&scene)
}
