//! Probes against applications on real sockets.

use super::*;
use remora_runtime::{
    admin::{self, Readiness},
    drain,
};
use std::sync::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// An application that answers every connection with the same text, and what it was asked.
async fn app(answer: impl Fn(&str) -> String + Send + 'static) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let heads = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && tcp.read(&mut byte).await.is_ok_and(|count| count > 0) {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let answer = answer(&head);
            heads.lock().unwrap().push(head);
            // A probe that has seen enough may be gone.
            let _ = tcp.write_all(answer.as_bytes()).await;
        }
    });
    (port, asked)
}

fn status(code: u16) -> String {
    format!("HTTP/1.1 {code} x\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecret")
}

const TOKEN: &str = "0123456789abcdef";

/// The admin server of a proxy.
struct Server {
    port: u16,
    signal: drain::Signal,
    served: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(probes: &str, token: &str) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (signal, stop) = drain::channel();
        let common = admin::Admin::new(Readiness::new()).router();
        let asked = Asked { probes: Arc::new(Probes::parse(probes).unwrap()), token: Token::parse(token).unwrap() };
        let served = tokio::spawn(admin::serve(listener, common.merge(router(asked)), stop));
        Self { port, signal, served }
    }

    /// Asks as whoever has the address `from`.
    async fn ask(&self, from: [u8; 4], path: &str, agent: &str) -> String {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut tcp = socket.connect(([127, 0, 0, 1], self.port).into()).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: {agent}\r\nconnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn end(self) {
        self.signal.drain().await;
        self.served.await.unwrap();
    }
}

const KUBELET: [u8; 4] = [127, 9, 0, 1];
const STRANGER: [u8; 4] = [127, 9, 0, 2];

/// Asks the admin server of a proxy with these probes, as the kubelet does.
async fn ask(probes: &str, path: &str) -> String {
    let server = Server::start(probes, TOKEN).await;
    let path = path.replace("/probe/", &format!("/probe/{TOKEN}/"));
    let answer = server.ask(KUBELET, &path, "kube-probe/1.35").await;
    server.end().await;
    answer
}

#[track_caller]
fn check(answer: &str, status: u16) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(!answer.contains("secret"), "nothing of the application's answer but its status: {answer}");
}

#[tokio::test]
async fn a_status_from_200_to_399_is_good_and_any_other_is_passed_on() {
    for (code, expected) in [(200, 200), (204, 200), (304, 200), (399, 200), (400, 400), (500, 500), (503, 503)] {
        let (port, _) = app(move |_| status(code)).await;
        let probes = format!(r#"{{"app/liveness":{{"httpGet":{{"port":{port},"path":"/"}},"timeoutSeconds":5}}}}"#);
        check(&ask(&probes, "/probe/app/liveness").await, expected);
    }
}

#[tokio::test]
async fn the_application_is_asked_as_the_kubelet_would_ask() {
    let (port, asked) = app(|_| status(200)).await;
    let get =
        format!(r#""port":{port},"path":"/healthz?a=b","headers":[["Host","shop.example"],["X-A","1"],["X-A","2"]]"#);
    let probes = format!(r#"{{"app/readiness":{{"httpGet":{{{get}}},"timeoutSeconds":5}}}}"#);
    check(&ask(&probes, "/probe/app/readiness").await, 200);
    let head = asked.lock().unwrap()[0].to_ascii_lowercase();
    for line in [
        "get /healthz?a=b http/1.1\r\n",
        "\r\nhost: shop.example\r\n",
        "\r\nuser-agent: kube-probe/1.35\r\n",
        "\r\naccept: */*\r\n",
        "\r\nx-a: 1\r\n",
        "\r\nx-a: 2\r\n",
        "\r\nconnection: close\r\n",
    ] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_and_no_further() {
    let to = |location: &str| format!("HTTP/1.1 302 x\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
    let (port, asked) = app(move |head| match head.split(' ').nth(1).unwrap() {
        "/a/b" => to("c"),
        "/a/c" => to("/d"),
        "/d" => status(500),
        "/elsewhere" => to("http://192.0.2.1/"),
        "/loop" => to("/loop"),
        _ => to("::"),
    })
    .await;
    let probe = |path: &str| {
        format!(r#"{{"app/liveness":{{"httpGet":{{"port":{port},"path":"{path}"}},"timeoutSeconds":5}}}}"#)
    };
    check(&ask(&probe("/a/b"), "/probe/app/liveness").await, 500);
    assert_eq!(asked.lock().unwrap().len(), 3);
    check(&ask(&probe("/elsewhere"), "/probe/app/liveness").await, 200);
    check(&ask(&probe("/loop"), "/probe/app/liveness").await, 503);
}

#[tokio::test]
async fn an_answer_counts_as_it_does_for_the_kubelet() {
    let fields: String = (0..300).map(|number| format!("x-{number}: 1\r\n")).collect();
    let large = "y".repeat(600_000);
    let empty = "content-length: 0\r\n\r\n";
    for (answer, expected) in [
        (format!("HTTP/1.1 200 OK\r\n{fields}{empty}"), 200),
        (format!("HTTP/1.1 200 OK\r\nx: {large}\r\n{empty}"), 200),
        (format!("HTTP/1.1 200 OK\r\nx : y\r\n{empty}"), 200),
        ("HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\nsecret".to_owned(), 503),
        (format!("HTTP/1.1 200 OK\r\ncontent-length: 700000\r\n\r\nsecret{large}"), 200),
    ] {
        let shown = answer.chars().take(60).collect::<String>();
        let (port, _) = app(move |_| answer.clone()).await;
        let probes = format!(r#"{{"app/liveness":{{"httpGet":{{"port":{port},"path":"/"}},"timeoutSeconds":5}}}}"#);
        println!("{shown}");
        check(&ask(&probes, "/probe/app/liveness").await, expected);
    }
}

#[tokio::test]
async fn a_redirect_may_change_the_query_alone_and_have_spaces() {
    let to = |location: &str| format!("HTTP/1.1 302 x\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
    let (port, asked) = app(move |head| match head.split(' ').nth(1).unwrap() {
        "/a/b" => to("?c d"),
        "/a/b?c%20d" => to("/e f"),
        _ => status(204),
    })
    .await;
    let probes = format!(r#"{{"app/liveness":{{"httpGet":{{"port":{port},"path":"/a/b"}},"timeoutSeconds":5}}}}"#);
    check(&ask(&probes, "/probe/app/liveness").await, 200);
    assert!(asked.lock().unwrap()[2].starts_with("GET /e%20f HTTP/1.1\r\n"));
}

#[tokio::test]
async fn only_configured_probes_are_answered_and_only_to_get() {
    let (port, asked) = app(|_| status(200)).await;
    let probes = format!(r#"{{"app/liveness":{{"tcpSocket":{{"port":{port}}},"timeoutSeconds":5}}}}"#);
    check(&ask(&probes, "/probe/app/readiness").await, 404);
    check(&ask(&probes, "/probe/other/liveness").await, 404);
    check(&ask(&probes, "/probe/app").await, 404);
    assert!(asked.lock().unwrap().is_empty());
    check(&ask(&probes, "/probe/app/liveness").await, 200);
}

#[tokio::test]
async fn an_application_that_does_not_listen_or_answer_fails_its_probe() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let of = |how: &str, port: u16| format!(r#"{{"app/liveness":{{"{how}":{{"port":{port}}},"timeoutSeconds":1}}}}"#);
    check(&ask(&of("tcpSocket", port), "/probe/app/liveness").await, 200);
    let get = format!(r#"{{"app/liveness":{{"httpGet":{{"port":{port},"path":"/"}},"timeoutSeconds":1}}}}"#);
    let answer = ask(&get, "/probe/app/liveness").await;
    check(&answer, 503);
    assert!(answer.contains("no answer in time"), "{answer}");
    drop(silent);
    for how in ["tcpSocket", "grpc"] {
        let answer = ask(&of(how, port), "/probe/app/liveness").await;
        check(&answer, 503);
        assert!(answer.contains("cannot connect to 127.0.0.1"), "{answer}");
    }
}

#[tokio::test]
async fn a_hook_succeeds_with_any_answer_and_fails_the_kubelets_request_without_one() {
    let (port, _) = app(|_| status(500)).await;
    let hook = |port: u16| format!(r#"{{"app/preStop":{{"httpGet":{{"port":{port},"path":"/"}}}}}}"#);
    check(&ask(&hook(port), "/probe/app/preStop").await, 200);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let answer = ask(&hook(free), "/probe/app/preStop").await;
    check(&answer, 302);
    assert!(answer.contains("location: :cannot connect to 127.0.0.1"), "Go's client cannot parse it: {answer}");
}

#[tokio::test]
async fn a_grpc_server_is_asked_for_its_health() {
    for (serving, expected) in [(1, 200), (2, 503)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let mut send = respond.send_response(axum::http::Response::new(()), false).unwrap();
                send.send_data(vec![0, 0, 0, 0, 2, 8, serving].into(), false).unwrap();
                send.send_trailers(
                    [("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))].into_iter().collect(),
                )
                .unwrap();
            }
        });
        let probes = format!(r#"{{"app/liveness":{{"grpc":{{"port":{port}}},"timeoutSeconds":5}}}}"#);
        check(&ask(&probes, "/probe/app/liveness").await, expected);
        server.abort();
    }
}

#[tokio::test]
async fn an_application_with_a_certificate_nobody_knows_is_asked_over_tls() {
    let made = rcgen::generate_simple_self_signed(vec!["app".to_owned()]).unwrap();
    let config = remora_runtime::tls::web::server_config(
        made.cert.pem().as_bytes(),
        made.signing_key.serialize_pem().as_bytes(),
    );
    let acceptor = tokio_rustls::TlsAcceptor::from(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = acceptor.accept(tcp).await.unwrap();
        let mut buffer = [0; 1024];
        assert!(tls.read(&mut buffer).await.unwrap() > 0);
        tls.write_all(status(200).as_bytes()).await.unwrap();
        // It says goodbye, or the probe is gone already.
        let _ = tls.shutdown().await;
    });
    let get = format!(r#""port":{port},"path":"/","https":true"#);
    let probes = format!(r#"{{"app/liveness":{{"httpGet":{{{get}}},"timeoutSeconds":5}}}}"#);
    check(&ask(&probes, "/probe/app/liveness").await, 200);
}

fn liveness(port: u16) -> String {
    format!(
        r#"{{"app/liveness":{{"httpGet":{{"port":{port},"path":"/"}},"timeoutSeconds":5}},
            "app/preStop":{{"httpGet":{{"port":{port},"path":"/shutdown"}}}}}}"#
    )
}

#[tokio::test]
async fn who_has_not_the_token_asks_nothing_of_the_application() {
    let (port, asked) = app(|_| status(200)).await;
    let server = Server::start(&liveness(port), TOKEN).await;
    let guesses =
        ["x", "0123456789abcdeX", "0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "%30123456789abcdex"];
    for kind in ["liveness", "preStop"] {
        for path in guesses.map(|token| format!("/probe/{token}/app/{kind}")) {
            check(&server.ask(STRANGER, &path, "kube-probe/1.35").await, 404);
        }
        check(&server.ask(STRANGER, &format!("/probe/app/{kind}"), "x").await, 404);
        check(&server.ask([127, 0, 0, 1], &format!("/probe/app/{kind}"), "x").await, 404);
    }
    assert!(asked.lock().unwrap().is_empty());
    check(&server.ask(KUBELET, &format!("/probe/{TOKEN}/app/preStop"), "kube-probe/1.35").await, 200);
    assert!(asked.lock().unwrap()[0].starts_with("GET /shutdown "));
    server.end().await;
}

#[tokio::test]
async fn without_a_token_there_are_probes_in_the_proxys_own_words_and_no_hooks() {
    let (port, asked) = app(|_| status(200)).await;
    let server = Server::start(&liveness(port), "").await;
    for from in [STRANGER, KUBELET, [127, 0, 0, 1]] {
        check(&server.ask(from, "/probe/app/preStop", "kube-probe/1.35").await, 403);
    }
    assert!(asked.lock().unwrap().is_empty());
    check(&server.ask(STRANGER, "/probe/app/liveness", "evil/1").await, 200);
    check(&server.ask([127, 0, 0, 1], "/probe/app/liveness", "kube-probe/1.35").await, 200);
    let asked = asked.lock().unwrap().join("").to_ascii_lowercase();
    assert!(!asked.contains("evil") && asked.contains("kube-probe/1.35"), "{asked}");
    server.end().await;
}

#[tokio::test]
async fn a_probe_under_way_is_joined_and_ends_with_the_last_who_waits() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let probes = Probes::parse(&liveness(port)).unwrap();
    let probe = probes.get("app/liveness").unwrap();
    let to: SocketAddr = ([127, 0, 0, 1], 4191).into();
    let mut first = join(probe, to, false, None);
    assert!((&mut first).now_or_never().is_none());
    let (mut tcp, _) = silent.accept().await.unwrap();
    let others: Vec<_> = (0..50).map(|_| join(probe, to, false, None)).collect();
    let kubelet = join(probe, to, true, None);
    assert_eq!(probe.runs.0.lock().unwrap().len(), 2, "one for strangers, one for who is known");
    drop(kubelet);
    let answer = async {
        let mut head = [0; 1024];
        assert!(tcp.read(&mut head).await.unwrap() > 0);
        tcp.write_all(status(204).as_bytes()).await.unwrap();
    };
    let (results, first, ()) = tokio::join!(futures_util::future::join_all(others), first, answer);
    assert!(results.iter().all(|result| Arc::ptr_eq(result, &first) && result.is_ok()));
    // What is over is not joined, and what nobody waits for does not go on.
    let next = join(probe, to, false, None);
    assert_eq!(probe.runs.0.lock().unwrap().len(), 1);
    drop(next);
    let unwanted = join(probe, to, true, None);
    assert_eq!(probe.runs.0.lock().unwrap().len(), 1);
    drop(unwanted);
}
