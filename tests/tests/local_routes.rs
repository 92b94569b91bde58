//! Gateway API routes as callers meet them: over real processes, by the names that they use.

use anyhow::{Context as _, ensure};
use remora_tests::{
    local::{
        Mesh, Proxy,
        http::{Answer, exchange},
    },
    patience::until,
};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// An application that answers every connection once, with its name.
fn application(ip: IpAddr, name: &'static str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((ip, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A connection that breaks is the client's to report.
            let _ = stream.read(&mut [0; 4096]);
            let length = name.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{name}");
        }
    });
    Ok(address)
}

/// An application that answers with a body that never ends, and tells which requests it got.
fn endless(ip: IpAddr) -> anyhow::Result<(SocketAddr, mpsc::Receiver<String>)> {
    let listener = TcpListener::bind((ip, 0))?;
    let address = listener.local_addr()?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let length = stream.read(&mut head).unwrap_or(0);
            // Who does not ask needs not be told.
            let _ = tell.send(String::from_utf8_lossy(&head[..length]).into_owned());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun");
            held.push(stream);
        }
    });
    Ok((address, told))
}

/// An application that sends without end as fast as it is read, and tells when a connection has ended.
fn gushing(ip: IpAddr) -> anyhow::Result<(SocketAddr, mpsc::Receiver<()>)> {
    let listener = TcpListener::bind((ip, 0))?;
    let address = listener.local_addr()?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let tell = tell.clone();
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n");
                while stream.write_all(&[b'x'; 65_536]).is_ok() {}
                // The test may be over.
                let _ = tell.send(());
            });
        }
    });
    Ok((address, told))
}

/// `web` of the namespace `test` and `guest` of another, and what they call.
struct Shop {
    web: Proxy,
    guest: Proxy,
    api: Proxy,
    mesh: Mesh,
}

impl Shop {
    fn open() -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let web = mesh.proxy("web").spawn()?;
        let guest = mesh.proxy("guest").namespace("other").spawn()?;
        let pod = mesh.proxy("api").spawn()?.ready()?;
        let (old, new) = (application(pod.ip, "old")?, application(pod.ip, "new")?);
        mesh.service("api", 80, None, &[old])?;
        mesh.service("next", 80, None, &[new])?;
        mesh.manifest(
            "address",
            &format!(
                "apiVersion: v1
kind: Service
metadata: {{ name: addressed, namespace: test }}
spec: {{ clusterIP: 10.99.0.1, selector: {{ app: api }}, ports: [{{ port: 80, targetPort: {} }}] }}
",
                old.port()
            ),
        )?;
        let shop = Self { web: web.ready()?, guest: guest.ready()?, api: pod, mesh };
        shop.answers(&shop.web, "api:80", "old")?;
        Ok(shop)
    }

    /// A route of `namespace` on `test/api`.
    fn route(&self, namespace: &str, rule: &str) -> anyhow::Result<()> {
        self.mesh.manifest(
            &format!("route-{namespace}"),
            &format!(
                "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: api, namespace: {namespace} }}
spec:
  parentRefs: [{{ group: '', kind: Service, name: api, namespace: test }}]
  rules: [{rule}]
"
            ),
        )
    }

    fn answers(&self, client: &Proxy, authority: &str, name: &str) -> anyhow::Result<()> {
        self.meets(client, authority, |answer| answer.status == 200 && answer.text() == name)
            .with_context(|| format!("{authority} answers {name}"))
    }

    fn meets(&self, client: &Proxy, authority: &str, right: impl Fn(&Answer) -> bool) -> anyhow::Result<()> {
        until("a call is answered as it should be", || {
            let answer = client.get(authority, "/")?;
            ensure!(right(&answer), "{}{}", answer.head, answer.text());
            Ok(Some(()))
        })
    }
}

#[test]
fn a_service_is_called_by_every_name_that_it_has() -> anyhow::Result<()> {
    let shop = Shop::open()?;
    for name in ["api:80", "api.test:80", "api.test.svc:80", "api.test.svc.cluster.local.:80", "API:80"] {
        shop.answers(&shop.web, name, "old")?;
    }
    shop.answers(&shop.guest, "api.test:80", "old")?;
    shop.answers(&shop.web, "addressed", "old")?;
    shop.answers(&shop.web, "10.99.0.1", "old")?;
    for nobody in ["api:81", "gone:80", "10.99.0.1:81"] {
        let answer = shop.web.get(nobody, "/")?;
        assert_eq!((answer.status, answer.header("x-remora-error")), (502, Some("unknown_target")), "{nobody}");
    }
    let answer = shop.guest.get("api:80", "/")?;
    assert_eq!(answer.status, 502, "a bare name is of the caller's own namespace");
    Ok(())
}

#[test]
fn a_consumers_route_is_for_its_own_callers_alone() -> anyhow::Result<()> {
    let shop = Shop::open()?;
    shop.route("other", "{ backendRefs: [{ name: next, namespace: test, port: 80 }] }")?;
    shop.answers(&shop.guest, "api.test:80", "new")?;
    shop.answers(&shop.web, "api:80", "old")?;
    shop.route("test", "{ filters: [{ type: RequestRedirect, requestRedirect: { hostname: there } }] }")?;
    shop.meets(&shop.web, "api:80", |answer| answer.header("location") == Some("http://there/"))?;
    shop.answers(&shop.guest, "api.test:80", "new").context("the consumer's stands in the producer's place")
}

#[test]
fn a_missing_backend_takes_its_share_and_no_more() -> anyhow::Result<()> {
    let shop = Shop::open()?;
    let backends = "[{ name: next, port: 80, weight: 3 }, { name: gone, port: 80, weight: 1 }, { name: api, port: 80, weight: 0 }]";
    shop.route("test", &format!("{{ backendRefs: {backends} }}"))?;
    shop.answers(&shop.web, "api:80", "new")?;
    let mut invalid = 0;
    for _ in 0..200 {
        let answer = shop.web.get("api:80", "/")?;
        match (answer.status, answer.header("x-remora-error")) {
            (200, None) => assert_eq!(answer.text(), "new", "a weight of 0 takes nothing"),
            (500, Some("invalid_backend")) => invalid += 1,
            _ => anyhow::bail!("{}", answer.head),
        }
    }
    // A quarter of 200; a fair draw is outside of these bounds once in a billion times.
    assert!((15..=90).contains(&invalid), "{invalid} of 200");
    Ok(())
}

#[test]
fn a_request_that_no_rule_matches_is_not_let_around_the_route() -> anyhow::Result<()> {
    let shop = Shop::open()?;
    let missed = |answer: &Answer| (answer.status, answer.header("x-remora-error")) == (404, Some("no_route"));
    shop.route("test", "{ matches: [{ path: { value: /other } }], backendRefs: [{ name: api, port: 80 }] }")?;
    shop.meets(&shop.web, "api:80", missed)?;
    shop.route("test", "{ backendRefs: [{ name: next, port: 80 }] }")?;
    shop.answers(&shop.web, "api:80", "new")?;
    let unreadable =
        "{ matches: [{ path: { type: RegularExpression, value: '(' } }], backendRefs: [{ name: api, port: 80 }] }";
    shop.route("test", unreadable)?;
    shop.meets(&shop.web, "api:80", missed).context("a route of which no match can be read matches nothing")
}

#[test]
fn a_timeout_covers_the_body_of_an_answer() -> anyhow::Result<()> {
    let shop = Shop::open()?;
    let (slow, _asked) = endless(shop.api.ip)?;
    shop.mesh.service("slow", 80, None, &[slow])?;
    for timeouts in ["request: 500ms", "backendRequest: 500ms"] {
        shop.route("test", &format!("{{ timeouts: {{ {timeouts} }}, backendRefs: [{{ name: slow, port: 80 }}] }}"))?;
        let timed_out = || shop.web.metric("remora_failures_total", &["reason=\"timeout\""]);
        let before = timed_out()?;
        // Once the route is there, an answer ends, and not well.
        let request = b"GET / HTTP/1.1\r\nhost: api:80\r\nconnection: close\r\n\r\n";
        until("an answer that does not end is ended", || {
            let began = Instant::now();
            let answer = exchange(shop.web.outbound, request)?;
            let text = String::from_utf8_lossy(&answer);
            ensure!(text.contains("begun"), "{text}");
            ensure!(began.elapsed() >= Duration::from_millis(450), "{timeouts}: it ended after {:?}", began.elapsed());
            Ok(Some(()))
        })?;
        ensure!(timed_out()? > before, "{timeouts}: no timeout was counted");
    }
    Ok(())
}

#[test]
fn a_timeout_holds_while_the_client_reads_nothing() -> anyhow::Result<()> {
    let shop = Shop::open()?;
    let (slow, ended) = gushing(shop.api.ip)?;
    shop.mesh.service("slow", 80, None, &[slow])?;
    shop.route("test", "{ timeouts: { request: 500ms }, backendRefs: [{ name: slow, port: 80 }] }")?;
    let mut silent = Vec::new();
    until("the application is let go", || {
        let mut client = TcpStream::connect(shop.web.outbound)?;
        client.write_all(b"GET / HTTP/1.1\r\nhost: api:80\r\n\r\n")?;
        silent.push(client);
        Ok(ended.recv_timeout(Duration::from_secs(2)).ok())
    })?;
    let timeouts = shop.web.metric("remora_failures_total", &["reason=\"timeout\""])?;
    ensure!(timeouts > 0.0, "no timeout was counted");
    Ok(())
}

#[test]
fn a_mirror_gets_a_copy_and_its_answer_is_nobodys() -> anyhow::Result<()> {
    let shop = Shop::open()?;
    let (mirror, copies) = endless(shop.api.ip)?;
    shop.mesh.service("mirror", 80, None, &[mirror])?;
    let filter = "{ type: RequestMirror, requestMirror: { backendRef: { name: mirror, port: 80 } } }";
    shop.route("test", &format!("{{ filters: [{filter}], backendRefs: [{{ name: next, port: 80 }}] }}"))?;
    shop.answers(&shop.web, "api:80", "new")?;
    let copy = copies.recv_timeout(Duration::from_secs(10)).context("no copy came")?;
    ensure!(copy.starts_with("GET / HTTP/1.1\r\n"), "{copy}");
    Ok(())
}

#[test]
fn a_backends_filters_are_for_its_requests_alone() -> anyhow::Result<()> {
    let shop = Shop::open()?;
    let (seen, requests) = endless(shop.api.ip)?;
    shop.mesh.service("seen", 80, None, &[seen])?;
    let filter = "{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-branch, value: seen }] } }";
    let backends =
        format!("{{ name: seen, port: 80, weight: 1, filters: [{filter}] }}, {{ name: next, port: 80, weight: 1 }}");
    shop.route("test", &format!("{{ timeouts: {{ backendRequest: 100ms }}, backendRefs: [{backends}] }}"))?;
    shop.answers(&shop.web, "api:80", "new")?;
    let request = b"GET / HTTP/1.1\r\nhost: api:80\r\nconnection: close\r\n\r\n";
    let got = until("a request meets the backend with filters", || {
        exchange(shop.web.outbound, request)?;
        Ok(requests.try_recv().ok())
    })?;
    ensure!(got.contains("x-branch: seen\r\n"), "{got}");
    Ok(())
}

#[test]
fn a_browser_asks_the_proxy_what_a_script_may_and_reads_what_is_marked_for_it() -> anyhow::Result<()> {
    let shop = Shop::open()?;
    let (asked, requests) = endless(shop.api.ip)?;
    shop.mesh.service("asked", 80, None, &[asked])?;
    let cors = "{ allowOrigins: ['https://*.foo.com'], allowMethods: [PUT], allowHeaders: [x-a], allowCredentials: true, maxAge: 60 }";
    let rule = |backend: &str| {
        format!("{{ filters: [{{ type: CORS, cors: {cors} }}], backendRefs: [{{ name: {backend}, port: 80 }}] }}")
    };
    let ask = |method: &str, origin: &str| {
        let fields = format!("origin: {origin}\r\naccess-control-request-method: PUT\r\n");
        let request = format!("{method} / HTTP/1.1\r\nhost: api:80\r\nconnection: close\r\n{fields}\r\n");
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&exchange(shop.web.outbound, request.as_bytes())?).into_owned())
    };
    shop.route("test", &rule("asked"))?;
    let allowed = until("a preflight is answered", || {
        let answer = ask("OPTIONS", "https://a.foo.com")?;
        Ok(answer.starts_with("HTTP/1.1 204 ").then_some(answer))
    })?;
    for field in [
        "access-control-allow-origin: https://a.foo.com\r\n",
        "access-control-allow-methods: PUT\r\n",
        "access-control-allow-headers: x-a\r\n",
        "access-control-allow-credentials: true\r\n",
        "access-control-max-age: 60\r\n",
        "vary: origin\r\n",
    ] {
        ensure!(allowed.contains(field), "{field}: {allowed}");
    }
    let refused = ask("OPTIONS", "https://foo.com.evil.com")?;
    ensure!(refused.starts_with("HTTP/1.1 403 ") && !refused.contains("access-control-"), "{refused}");
    ensure!(requests.try_recv().is_err(), "the application was asked");
    shop.route("test", &rule("next"))?;
    let marked = until("the next application answers", || {
        let answer = ask("PUT", "https://a.foo.com")?;
        Ok(answer.ends_with("new").then_some(answer))
    })?;
    ensure!(marked.contains("access-control-allow-origin: https://a.foo.com\r\n"), "{marked}");
    let foreign = ask("PUT", "https://evil.com")?;
    ensure!(foreign.ends_with("new") && !foreign.contains("access-control-"), "{foreign}");
    Ok(())
}
