//! The spines of both directions, one connection at a time: where each leads that goes well, and how its client is told where it leads
//! nowhere. Over the same pipes and the same proxies as the simulation, in fine weather.

use super::{
    Net,
    mesh::{backend, policy, service},
    net::{Host, Incoming},
    pipe::Weather,
    proxy::Proxy,
    simulation,
};
use crate::{account::Peer, config, inbound, io::TcpStream, outbound};
use remora_api::sync::Resource;
use remora_model::{
    Backend, BackendRef, BackendRefState, BackendSettings, Endpoint, HostPattern, Inbound, InboundDefault, MtlsMode,
    Outbound, Parent, Protocol, Target, TcpRule, TlsRule,
};
use std::{
    cell::Cell,
    io::{self, ErrorKind::ConnectionReset},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

/// The first words of something that is no protocol that a proxy knows.
const BYTES: &[u8] = b"\0\x01hello";
const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nhost: api.shop\r\nconnection: close\r\n\r\n";
/// Longer than any wait of a proxy.
const LONG: Duration = Duration::from_secs(4_000);

/// A proxy in a network.
struct Scene {
    net: Rc<Net>,
    proxy: Proxy,
    /// Where the next redirected connection is caught.
    next: Cell<u16>,
}

impl Scene {
    /// Something redirects a connection for `to` to the proxy's listener of that direction.
    async fn dial(&self, to: SocketAddr, outbound: bool) -> TcpStream {
        let caught = SocketAddr::from(([10, 7, 0, 1], self.next.replace(self.next.get() + 1)));
        let incoming = self.net.listen(caught, Some(to), |_| Weather::FINE);
        match outbound {
            true => self.proxy.listen(incoming, |_| Peer::Pod, outbound::serve),
            false => self.proxy.listen(incoming, |from| Peer::at(from.ip()), inbound::serve),
        }
        self.net.dial(caught, ([10, 2, 0, 1], 0).into()).await.unwrap()
    }

    fn server(&self, at: SocketAddr) -> Incoming {
        self.net.listen(at, None, |_| Weather::FINE)
    }

    /// Discovery says what the Service is, and that these are its endpoints.
    fn says(&self, outbound: Outbound, name: &str, addresses: &[SocketAddr]) {
        let endpoint = |address: &SocketAddr| Endpoint {
            address: *address,
            identity: None,
            proxy: None,
            weight: 1,
            zone: "".into(),
            pod: "".into(),
            node: None,
        };
        self.proxy.control.say(Resource::Backend(Backend {
            id: backend(name),
            protocol: Protocol::Detect,
            settings: BackendSettings::default(),
            endpoints: addresses.iter().map(endpoint).collect(),
        }));
        self.proxy.control.say(Resource::Outbound(outbound));
    }

    /// Discovery says what holds for a port of the pod.
    fn port(&self, inbound: Inbound) {
        let (default, declared) = (policy(0, false), vec![inbound.port]);
        self.proxy.control.say(Resource::InboundDefault(InboundDefault { inbound: default, declared }));
        self.proxy.control.say(Resource::Inbound(inbound));
    }

    /// What was counted, and the failures among it.
    fn counted(&self) -> (u64, String) {
        assert_eq!(self.proxy.counted("requests"), self.proxy.ended(), "each has one record");
        let failures = self.proxy.failures();
        (self.proxy.ended(), failures.into_iter().map(|(reason, count)| format!("{reason} {count}")).collect())
    }
}

fn scene(test: impl AsyncFnOnce(Scene)) {
    let (trace, wrong) = simulation(7, false, async |_, net| {
        let proxy = Proxy::new(config::tests::least(), None, 7);
        test(Scene { net, proxy, next: Cell::new(1) }).await;
    });
    assert!(wrong.is_empty(), "{wrong:?} {trace:?}");
}

fn to_service() -> Outbound {
    Outbound::bare(Target::Address(service()), Parent::Backend(backend("api")))
}

fn address(last: u8) -> SocketAddr {
    ([10, 9, 0, last], 8080).into()
}

/// What a client hears that says `said`, to the end; or how it broke.
async fn ask(client: &mut TcpStream, said: &[u8]) -> Result<String, io::ErrorKind> {
    client.write_all(said).await.map_err(|error| error.kind())?;
    let mut heard = Vec::new();
    let read = timeout(LONG, client.read_to_end(&mut heard)).await.expect("an end");
    read.map(|_| String::from_utf8_lossy(&heard).into_owned()).map_err(|error| error.kind())
}

/// The first words that come to a server.
async fn first_words(server: &mut Incoming) -> (Vec<u8>, TcpStream) {
    let (mut stream, _) = timeout(LONG, server.recv()).await.expect("a connection").unwrap();
    let mut words = vec![0; 256];
    let count = timeout(LONG, stream.read(&mut words)).await.expect("words").unwrap();
    words.truncate(count);
    (words, stream)
}

#[test]
fn what_discovery_says_is_outside_is_passed_through_untouched() {
    for said in [BYTES, REQUEST] {
        scene(async |scene| {
            let to = address(1);
            scene.proxy.control.say(Resource::Outbound(Outbound::bare(Target::Address(to), Parent::Outside)));
            let (mut server, mut client) = (scene.server(to), scene.dial(to, true).await);
            client.write_all(said).await.unwrap();
            let (words, mut far) = first_words(&mut server).await;
            assert_eq!(words, said, "no byte of it is another's");
            far.write_all(b"bye").await.unwrap();
            drop(far);
            client.shutdown().await.unwrap();
            assert_eq!(ask(&mut client, b"").await.as_deref(), Ok("bye"));
            sleep(LONG).await;
            assert_eq!(scene.counted(), (1, String::new()));
        });
    }
}

#[test]
fn what_is_outside_and_does_not_listen_resets_its_client() {
    scene(async |scene| {
        let to = address(1);
        scene.proxy.control.say(Resource::Outbound(Outbound::bare(Target::Address(to), Parent::Outside)));
        let mut client = scene.dial(to, true).await;
        assert_eq!(ask(&mut client, b"").await, Err(ConnectionReset));
        assert_eq!(scene.counted(), (1, "connect_refused 1".into()));
    });
}

#[test]
fn a_connection_to_the_proxy_itself_goes_nowhere() {
    scene(async |scene| {
        let own = config::tests::least().outbound_listen[0];
        let mut client = scene.dial(([127, 0, 0, 1], own.port()).into(), true).await;
        let heard = ask(&mut client, b"").await;
        assert!(matches!(heard.as_deref(), Ok("") | Err(_)), "{heard:?}");
        assert_eq!(scene.counted().0, 0);
    });
}

#[test]
fn what_nobody_knows_is_answered_with_its_reason_or_reset() {
    scene(async |scene| {
        scene.proxy.control.say(Resource::Outbound(Outbound::bare(Target::Address(service()), Parent::Unknown)));
        let answer = ask(&mut scene.dial(service(), true).await, REQUEST).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains("x-remora-error: unknown_target\r\n"),
            "{answer}"
        );
        for said in [BYTES, b"", b"GE"] {
            assert_eq!(ask(&mut scene.dial(service(), true).await, said).await, Err(ConnectionReset), "{said:?}");
        }
        assert_eq!(scene.counted().0, 0, "there is no route that could count it");
    });
}

#[test]
fn a_service_that_has_nobody_says_so_in_the_clients_protocol() {
    for (up, reason) in
        [(None, "no_endpoints"), (Some(Host::Refuses), "connect_refused"), (Some(Host::Silent), "connect_timeout")]
    {
        scene(async |scene| {
            let at: Vec<SocketAddr> = up.map(|_| address(1)).into_iter().collect();
            let _server = scene.server(address(1));
            if let Some(host) = up {
                scene.net.set(address(1), host);
            }
            scene.says(to_service(), "api", &at);
            let answer = ask(&mut scene.dial(service(), true).await, REQUEST).await.unwrap();
            assert!(answer.contains(&format!("x-remora-error: {reason}\r\n")), "{answer}");
            assert_eq!(ask(&mut scene.dial(service(), true).await, BYTES).await, Err(ConnectionReset), "{reason}");
            sleep(LONG).await;
            let (count, failures) = scene.counted();
            assert_eq!(count, 2);
            assert!(failures.starts_with(reason), "{failures}");
        });
    }
}

#[test]
fn a_service_of_bytes_gets_even_a_request_as_it_is() {
    for said in [Protocol::Opaque, Protocol::Detect] {
        scene(async |scene| {
            let mut server = scene.server(address(1));
            scene.says(Outbound { protocol: said, ..to_service() }, "api", &[address(1)]);
            let mut client = scene.dial(service(), true).await;
            client.write_all(REQUEST).await.unwrap();
            let (words, _far) = first_words(&mut server).await;
            assert_eq!(words == REQUEST, said == Protocol::Opaque, "{}", String::from_utf8_lossy(&words));
        });
    }
}

#[test]
fn connections_go_where_the_rule_for_bytes_says_and_requests_do_not() {
    let to = |name: &str, weight, state| BackendRef { backend: backend(name), weight, state, filters: Vec::new() };
    let rule = |backends| Some(TcpRule { label: "TCPRoute/shop/api rule 0".into(), backends });
    scene(async |scene| {
        let mut servers = [scene.server(address(1)), scene.server(address(2))];
        let valid = vec![to("api", 0, BackendRefState::Valid), to("other", 1, BackendRefState::Valid)];
        scene.says(to_service(), "other", &[address(2)]);
        scene.says(Outbound { tcp: rule(valid), ..to_service() }, "api", &[address(1)]);
        for (said, server) in [(BYTES, 1), (REQUEST, 0)] {
            let mut client = scene.dial(service(), true).await;
            client.write_all(said).await.unwrap();
            let (words, _far) = first_words(&mut servers[server]).await;
            assert!(words.starts_with(&said[..4]), "{words:?}");
        }
    });
    scene(async |scene| {
        let _server = scene.server(address(1));
        for backends in [Vec::new(), vec![to("gone", 1, BackendRefState::Invalid)]] {
            scene.says(Outbound { tcp: rule(backends), ..to_service() }, "api", &[address(1)]);
            assert_eq!(ask(&mut scene.dial(service(), true).await, BYTES).await, Err(ConnectionReset));
        }
        assert_eq!(scene.counted(), (2, "invalid_backend 2".into()));
    });
}

#[test]
fn plaintext_comes_in_where_it_may_and_is_reset_where_it_may_not() {
    let [open, strict, closed] = [MtlsMode::Permissive, MtlsMode::Strict, MtlsMode::Permissive]
        .map(|mtls| Inbound { mtls, ..policy(8080, false) });
    for (port, comes_in) in [(open, true), (strict, false), (Inbound { default_deny: true, ..closed }, false)] {
        for said in [BYTES, REQUEST] {
            scene(async |scene| {
                let mut server = scene.server(address(1));
                scene.port(port.clone());
                let mut client = scene.dial(address(1), false).await;
                if comes_in {
                    client.write_all(said).await.unwrap();
                    let (words, _far) = first_words(&mut server).await;
                    assert!(words.starts_with(&said[..4]), "{words:?}");
                    return;
                }
                match ask(&mut client, said).await {
                    Ok(answer) => assert!(answer.starts_with("HTTP/1.1 403 ") && said == REQUEST, "{answer}"),
                    Err(error) => assert_eq!(error, ConnectionReset),
                }
                sleep(LONG).await;
                assert_eq!(scene.counted(), (1, "denied 1".into()), "{said:?}");
                assert!(server.try_recv().is_err(), "the application has heard of nobody");
            });
        }
    }
}

#[test]
fn a_caller_of_an_application_that_does_not_listen_is_told() {
    scene(async |scene| {
        scene.port(policy(8080, false));
        assert_eq!(ask(&mut scene.dial(address(1), false).await, BYTES).await, Err(ConnectionReset));
        let answer = ask(&mut scene.dial(address(1), false).await, REQUEST).await.unwrap();
        assert!(answer.contains("x-remora-error: connect_refused\r\n"), "{answer}");
        sleep(LONG).await;
        assert_eq!(scene.counted(), (2, "connect_refused 2".into()));
    });
}

#[test]
fn who_has_no_business_with_a_listener_is_closed_without_a_word() {
    scene(async |scene| {
        let own = config::tests::least().inbound_listen[0].port();
        // The pod's own address, from another host; and a port of which discovery says nothing.
        for to in [SocketAddr::from(([10, 7, 0, 1], own)), address(1)] {
            let heard = ask(&mut scene.dial(to, false).await, REQUEST).await;
            assert!(matches!(heard.as_deref(), Ok("") | Err(ConnectionReset)), "{to}: {heard:?}");
        }
        assert_eq!(scene.counted().0, 0);
    });
}

/// A record with a ClientHello that asks for `name`.
fn hello(name: &str) -> Vec<u8> {
    let length = |bytes: usize| (bytes as u16).to_be_bytes();
    let names = [&[0][..], &length(name.len()), name.as_bytes()].concat();
    let list = [&length(names.len())[..], &names].concat();
    let extensions = [&[0, 0][..], &length(list.len()), &list].concat();
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &length(extensions.len()), &extensions].concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[0x16, 3, 1][..], &length(message.len()), &message].concat()
}

#[test]
fn tls_of_the_applications_goes_by_the_name_that_it_asks_for_and_all_else_by_the_service() {
    let rule = |host: &str, name: &str| TlsRule {
        label: format!("TLSRoute/shop/{name} rule 0").into(),
        hostnames: vec![HostPattern::parse(host).unwrap()],
        backends: vec![BackendRef {
            backend: backend(name),
            weight: 1,
            state: BackendRefState::Valid,
            filters: Vec::new(),
        }],
    };
    scene(async |scene| {
        let mut servers = [scene.server(address(1)), scene.server(address(2))];
        scene.says(to_service(), "other", &[address(2)]);
        let tls = vec![rule("*.example.com", "other"), rule("api.example.com", "api")];
        scene.says(Outbound { tls, ..to_service() }, "api", &[address(1)]);
        for (said, server) in [(hello("api.example.com"), 0), (hello("www.example.com"), 1), (BYTES.to_vec(), 0)] {
            // In two packets, the second late.
            let mut client = scene.dial(service(), true).await;
            client.write_all(&said[..said.len() / 2]).await.unwrap();
            sleep(Duration::from_millis(300)).await;
            client.write_all(&said[said.len() / 2..]).await.unwrap();
            sleep(Duration::from_millis(300)).await;
            let (words, _far) = first_words(&mut servers[server]).await;
            assert_eq!(words, said, "whole, and not ended by anybody");
        }
        // A name of which no rule speaks.
        assert_eq!(ask(&mut scene.dial(service(), true).await, &hello("example.org")).await, Err(ConnectionReset));
        assert!(servers.iter_mut().all(|server| server.try_recv().is_err()), "nobody has heard of it");
    });
}

/// A proxy whose listeners are dialled themselves.
fn explicit(test: impl AsyncFnOnce(Scene)) {
    let (trace, wrong) = simulation(7, false, async |_, net| {
        let mut config = config::tests::least();
        config.mode = config::Mode::Explicit;
        test(Scene { net, proxy: Proxy::new(config, None, 7), next: Cell::new(1) }).await;
    });
    assert!(wrong.is_empty(), "{wrong:?} {trace:?}");
}

#[test]
fn who_speaks_no_http_to_the_listener_itself_is_closed_in_time() {
    for said in [BYTES, b"", b"GE", b"\x16\x03\x01\x00"] {
        explicit(async |scene| {
            let heard = ask(&mut scene.dial(service(), true).await, said).await;
            assert!(matches!(heard.as_deref(), Ok("") | Err(ConnectionReset)), "{said:?}: {heard:?}");
            assert_eq!(scene.counted().0, 0);
        });
    }
}

#[test]
fn a_request_to_the_listener_itself_goes_where_it_says() {
    explicit(async |scene| {
        let mut server = scene.server(address(1));
        let target = Target::Authority("api.shop".into(), 80);
        scene.says(Outbound::bare(target, Parent::Backend(backend("api"))), "api", &[address(1)]);
        for line in ["GET /a HTTP/1.1\r\nhost: API.shop.", "GET http://api.shop/a HTTP/1.1\r\nhost: api.shop"] {
            let mut client = scene.dial(service(), true).await;
            client.write_all(format!("{line}\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
            let (words, mut far) = first_words(&mut server).await;
            let words = String::from_utf8_lossy(&words).into_owned();
            assert!(words.starts_with("GET /a HTTP/1.1\r\n"), "{words}");
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await.unwrap();
            drop(far);
            let answer = ask(&mut client, b"").await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok"), "{answer}");
        }
        // What names nothing, or nothing that is known.
        for (line, reason) in
            [("GET /a HTTP/1.0", "protocol_error"), ("GET /a HTTP/1.1\r\nhost: a b", "protocol_error")]
        {
            let answer =
                ask(&mut scene.dial(service(), true).await, format!("{line}\r\n\r\n").as_bytes()).await.unwrap();
            assert!(answer.contains(&format!("x-remora-error: {reason}\r\n")), "{line}: {answer}");
        }
    });
}

#[test]
fn only_mesh_tls_comes_in_where_nothing_redirects() {
    for said in [BYTES, REQUEST, b"", b"\x16\x03\x01\x00\xff"] {
        explicit(async |scene| {
            scene.port(policy(8080, false));
            let mut server = scene.server(address(1));
            let heard = ask(&mut scene.dial(address(1), false).await, said).await;
            assert!(matches!(heard.as_deref(), Ok("") | Err(ConnectionReset)), "{said:?}: {heard:?}");
            assert!(server.try_recv().is_err(), "the application has heard of nobody");
        });
    }
}
