//! Envoy as a sidecar pair with the features a mesh needs: HTTP connection manager, RBAC by SPIFFE ID, retries,
//! HTTP/2 over mutual TLS 1.3 to the peer, and a TCP proxy for bytes. No access log, no tracing, no admin server:
//! nothing that would make it slower than it has to be.

use crate::{
    build::Plan,
    contender::Contender,
    pki::{PKI_DIR, spiffe_id},
    pod::{Pod, Side},
    pods::{BULK_PORT, HTTP_PORT, INBOUND_PORT, OUTBOUND_PORT, SERVER_ADDRESS},
    process::{Process, Role, command},
    tools::DIR,
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;

const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(crate) fn start(plan: &Plan) -> Result<[Process; 2]> {
    Ok([launch(plan, Side::Client, &client())?, launch(plan, Side::Server, &server())?])
}

fn launch(plan: &Plan, side: Side, config: &Value) -> Result<Process> {
    let pod = Pod { of: Contender::Envoy, side };
    let name = pod.name();
    let path = format!("{DIR}/{name}.json");
    fs::write(&path, config.to_string()).with_context(|| format!("write {path}"))?;
    let mut envoy = command(pod, Role::Proxy, &plan.envoy);
    envoy.args(["--config-path", &path, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]);
    Process::start(&name, &mut envoy)
}

/// Takes the application's connections and carries them to the peer.
fn client() -> Value {
    let retries = json!({
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "num_retries": 2
    });
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": "http", "retry_policy": retries } });
    let chains =
        [chain(HTTP_PORT, &http_filter("out", &[router()], &route), None), chain(BULK_PORT, &tcp_filter("bulk"), None)];
    let tls = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
            "common_tls_context": tls_context(Side::Client, Side::Server)
        }
    });
    let peer = SERVER_ADDRESS.to_string();
    let mut http = cluster("http", &peer, HTTP_PORT, Some(&tls));
    http["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": { "http2_protocol_options": {} }
        }
    });
    let bulk = cluster("bulk", &peer, BULK_PORT, Some(&tls));
    bootstrap("127.0.0.1", OUTBOUND_PORT, &chains, &[http, bulk])
}

/// Ends TLS, authorises the peer and hands on to the application.
fn server() -> Value {
    let rbac = json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": format!("{TYPES}.filters.http.rbac.v3.RBAC"),
            "rules": { "action": "ALLOW", "policies": { "client": {
                "permissions": [{ "any": true }],
                "principals": [{ "authenticated": { "principal_name": { "exact": spiffe_id(Side::Client) } } }]
            } } }
        }
    });
    let tls = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": tls_context(Side::Server, Side::Client)
        }
    });
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": "http" } });
    let chains = [
        chain(HTTP_PORT, &http_filter("in", &[rbac, router()], &route), Some(&tls)),
        chain(BULK_PORT, &tcp_filter("bulk"), Some(&tls)),
    ];
    let clusters = [cluster("http", "127.0.0.1", HTTP_PORT, None), cluster("bulk", "127.0.0.1", BULK_PORT, None)];
    bootstrap("0.0.0.0", INBOUND_PORT, &chains, &clusters)
}

fn bootstrap(address: &str, port: u16, chains: &[Value], clusters: &[Value]) -> Value {
    let original_destination = json!({
        "name": "envoy.filters.listener.original_dst",
        "typed_config": { "@type": format!("{TYPES}.filters.listener.original_dst.v3.OriginalDst") }
    });
    json!({ "static_resources": {
        "listeners": [{
            "name": "redirected",
            "address": socket_address(address, port),
            "listener_filters": [original_destination],
            "filter_chains": chains
        }],
        "clusters": clusters
    } })
}

/// What happens to connections whose original destination is `port`.
fn chain(port: u16, filter: &Value, tls: Option<&Value>) -> Value {
    let mut chain = json!({ "filter_chain_match": { "destination_port": port }, "filters": [filter] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls.clone();
    }
    chain
}

fn http_filter(name: &str, filters: &[Value], route: &Value) -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": name,
            "http_filters": filters,
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] }
        }
    })
}

fn router() -> Value {
    json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") }
    })
}

fn tcp_filter(cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": cluster,
            "cluster": cluster
        }
    })
}

fn cluster(name: &str, address: &str, port: u16, tls: Option<&Value>) -> Value {
    let endpoint = json!({ "endpoint": { "address": socket_address(address, port) } });
    // The defaults (1024 of each) would refuse a part of the load.
    let unlimited = json!({
        "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000, "max_retries": 100
    });
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [unlimited] },
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] }
    });
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls.clone();
    }
    cluster
}

/// Our certificate, and whom we talk to.
fn tls_context(own: Side, peer: Side) -> Value {
    let file = |name: String| json!({ "filename": format!("{PKI_DIR}/{name}") });
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": file(format!("{}.crt", own.name())),
            "private_key": file(format!("{}.key", own.name()))
        }],
        "validation_context": {
            "trusted_ca": file("ca.crt".to_owned()),
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": spiffe_id(peer) } }]
        }
    })
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}
