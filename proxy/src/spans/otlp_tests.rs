//! What a record becomes as a span.

use super::otlp::{resource, span, workload};
use crate::telemetry::{Counters, Direction, Ended, Journal, Proto, Reason, Routes, Span, Tls};
use http::{Request, StatusCode};
use remora_api::otlp::{self, Kind, Value};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

/// How a request ends.
enum End {
    Answered(u16, Option<u32>),
    Failed(Reason),
    Cancelled,
}

/// The span of one request of a sampled caller, and its attributes as text.
fn ended(
    direction: Direction,
    (method, path, proto): (&str, &str, Proto),
    end: &End,
) -> (otlp::Span, BTreeMap<&'static str, String>) {
    let routes = Routes::new("shop/web-1".into());
    let (mut follow, start) = (routes.follow_spans(), Instant::now());
    let labels: Vec<Arc<str>> = vec!["checkout/0".into()];
    let counters = Counters::new(Journal::new(&routes), direction, "shop/api:80".into(), labels);
    let request = Request::builder().method(method).uri(path).header("host", "api.shop:8080");
    let request = request.header("user-agent", "curl/8").body(()).unwrap();
    let rule = path.starts_with("/ruled").then_some(0);
    let mut begun = counters.request(rule, &request, proto, (&"spiffe://a/ns/shop/sa/b".into(), Tls::Mtls), start);
    let record = begun.record().clone();
    record.traced(Span { trace: 7, id: 8, parent: Some(9) });
    record.tries("10.1.2.3:8080".parse().unwrap(), start + MS);
    record.sent(start + 3 * MS);
    let now = start + 10 * MS;
    match *end {
        End::Answered(status, grpc) => {
            record.answered(StatusCode::from_u16(status).unwrap());
            record.answered_grpc(grpc);
            let failed = status >= 500 || grpc.is_some_and(|code| matches!(code, 2 | 4 | 12..=15));
            if failed { begun.server_error(now) } else { begun.success(now) }
        }
        End::Failed(reason) => begun.failure(reason, now),
        End::Cancelled => {}
    }
    drop(begun);
    let (all, missed) = follow.next();
    let [one] = &all[..] else { panic!("{all:?}") };
    assert_eq!(missed, 0);
    let made = made(one);
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
    };
    let attributes = made.attributes.iter().map(|(name, value)| (*name, text(value))).collect();
    (made, attributes)
}

fn made(ended: &Ended) -> otlp::Span {
    span(ended).expect("it is sampled")
}

#[test]
fn a_call_is_told_by_the_conventions_for_http_and_by_what_the_mesh_knows() {
    let (span, attributes) =
        ended(Direction::Outbound, ("GET", "/orders/7?secret=1", Proto::Http1), &End::Answered(200, None));
    assert_eq!((span.trace, span.id, span.parent), (7, 8, Some(9)));
    assert_eq!((span.name.as_str(), span.kind, &span.error), ("GET /orders/:id", Kind::Client, &None));
    assert_eq!(span.ended_ns - span.began_ns, 10_000_000);
    let expected = BTreeMap::from([
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/orders/:id"),
        ("http.request.body.size", "0"),
        ("http.response.body.size", "0"),
        ("url.scheme", "http"),
        ("url.path", "/orders/7"),
        ("server.address", "api.shop"),
        ("server.port", "8080"),
        ("network.peer.address", "10.1.2.3"),
        ("network.peer.port", "8080"),
        ("network.protocol.version", "1.1"),
        ("remora.direction", "outbound"),
        ("remora.parent", "shop/api:80"),
        ("remora.route", "GET /orders/:id"),
        ("remora.peer", "spiffe://a/ns/shop/sa/b"),
        ("remora.tls", "mtls"),
        ("remora.outcome", "success"),
        ("remora.tries", "1"),
        ("remora.before_ms", "1"),
        ("remora.connect_ms", "2"),
        ("remora.server_ms", "7"),
        ("remora.after_ms", "0"),
    ]);
    let shown: BTreeMap<_, _> = attributes.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(shown, expected);
    let (span, attributes) = ended(Direction::Inbound, ("GET", "/orders/7", Proto::Http2), &End::Answered(200, None));
    assert_eq!((span.kind, attributes["user_agent.original"].as_str()), (Kind::Server, "curl/8"));
    assert!(!attributes.contains_key("network.peer.address"), "the record has the application's");
}

#[test]
fn a_call_of_grpc_is_told_by_the_conventions_for_rpc() {
    let call = ("POST", "/shop.Orders/Get", Proto::Grpc);
    let (span, attributes) = ended(Direction::Outbound, call, &End::Answered(200, Some(0)));
    assert_eq!((span.name.as_str(), &span.error), ("shop.Orders/Get", &None));
    let rpc = ["rpc.system.name", "rpc.method", "rpc.response.status_code"].map(|name| attributes[name].as_str());
    assert_eq!(rpc, ["grpc", "shop.Orders/Get", "OK"]);
    assert!(!attributes.contains_key("http.route"));
    for (direction, code, error) in [
        (Direction::Outbound, 5, Some("NOT_FOUND")),
        (Direction::Inbound, 5, None),
        (Direction::Outbound, 14, Some("UNAVAILABLE")),
        (Direction::Inbound, 14, Some("UNAVAILABLE")),
        (Direction::Inbound, 99, None),
    ] {
        let (span, attributes) = ended(direction, call, &End::Answered(200, Some(code)));
        assert_eq!(attributes.get("error.type").map(String::as_str), error, "{direction:?} {code}");
        assert_eq!(span.error.is_some(), error.is_some(), "{direction:?} {code}");
    }
    let (_, attributes) = ended(Direction::Inbound, call, &End::Failed(Reason::Timeout));
    assert_eq!(
        (&*attributes["rpc.response.status_code"], &*attributes["error.type"]),
        ("DEADLINE_EXCEEDED", "timeout")
    );
}

#[test]
fn what_failed_is_an_error_of_the_end_that_it_is_one_for() {
    let get = ("GET", "/a", Proto::Http1);
    for (direction, end, status, error) in [
        (Direction::Outbound, End::Answered(302, None), "302", None),
        (Direction::Outbound, End::Answered(404, None), "404", Some(("404", ""))),
        (Direction::Inbound, End::Answered(404, None), "404", None),
        (Direction::Outbound, End::Answered(503, None), "503", Some(("503", ""))),
        (Direction::Inbound, End::Answered(500, None), "500", Some(("500", ""))),
        (Direction::Outbound, End::Failed(Reason::Timeout), "504", Some(("timeout", "timeout"))),
        (Direction::Inbound, End::Failed(Reason::ConnectRefused), "502", Some(("connect_refused", "connect_refused"))),
        (Direction::Inbound, End::Cancelled, "", None),
    ] {
        let (span, attributes) = ended(direction, get, &end);
        let told = |name: &str| attributes.get(name).map_or("", String::as_str);
        assert_eq!(told("http.response.status_code"), status, "{direction:?} {status}");
        let (kind, message) = error.unzip();
        assert_eq!(
            (told("error.type"), span.error.as_deref()),
            (kind.unwrap_or(""), message),
            "{direction:?} {status}"
        );
    }
    let (_, attributes) = ended(Direction::Outbound, get, &End::Failed(Reason::Timeout));
    assert_eq!([&*attributes["remora.reason"], &*attributes["remora.fault"]], ["timeout", "application"]);
    let (_, attributes) = ended(Direction::Inbound, get, &End::Cancelled);
    assert_eq!(attributes["remora.outcome"], "cancelled");
}

#[test]
fn a_name_has_few_values_whatever_clients_send() {
    for (method, path, proto, name, sent) in [
        ("GET", "/ruled/7", Proto::Http1, "GET checkout/0", "GET"),
        ("PURGE", "/ruled", Proto::Http1, "HTTP checkout/0", "_OTHER"),
        ("POST", "/ruled", Proto::Grpc, "checkout/0", "POST"),
    ] {
        let (span, attributes) = ended(Direction::Inbound, (method, path, proto), &End::Answered(200, None));
        assert_eq!((span.name.as_str(), attributes["http.request.method"].as_str()), (name, sent));
        let original = attributes.get("http.request.method_original").map(String::as_str);
        assert_eq!(original, Some(method).filter(|_| sent == "_OTHER"));
    }
}

#[test]
fn a_service_is_named_by_its_account_or_by_what_made_its_pods() {
    let name = |pod, account| match resource("shop", pod, account, "node-1").swap_remove(0) {
        ("service.name", Value::Text(name)) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(name("web-7d9c6b5d4f-x2x4z", "checkout"), "checkout");
    assert_eq!(name("web-7d9c6b5d4f-x2x4z", "default"), "web");
    for (pod, expected) in [
        ("web-5d4c6b5d4f-x2x4z", "web"),
        ("web-v2-5d4c6b5d4f-x2x4z", "web-v2"),
        ("agent-x2x4z", "agent"),
        ("db-0", "db"),
        ("db-12", "db"),
        ("web", "web"),
        ("web-1a", "web-1a"),
        ("my-store", "my-store"),
        ("-x2x4z", "-x2x4z"),
        ("", ""),
    ] {
        assert_eq!(workload(pod), expected, "{pod}");
    }
}
