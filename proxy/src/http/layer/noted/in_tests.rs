use super::{
    super::test::{Visited, address, open_port},
    *,
};
use crate::{
    http::inbound,
    telemetry::{Fault, Reason, Times},
};
use remora_model::Inbound;
use std::sync::Arc;

const PEER: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A peer that asks the pod, whose application is at address 1.
struct Asks {
    visited: Visited,
    stack: inbound::Connection,
}

impl Asks {
    fn at(port: Inbound, peer: &str, wire: Wire) -> Self {
        let mut visited = Visited::new(port, false, address(1));
        Rc::get_mut(&mut visited.visit).unwrap().peer_name = peer.into();
        let client = Rc::new(ClientConnection::of_peer(wire, false, 1024));
        let stack = inbound::connection(&visited.resources, &visited.visit, &client);
        Self { visited, stack }
    }

    async fn asks(&mut self, sent: &str) -> Response<ResponseBody> {
        let (request, _client) = incoming(sent.as_bytes()).await;
        let Ok(answer) = self.stack.call(request).await;
        answer
    }

    async fn record(&mut self, sent: &str) -> Entry {
        drop(self.asks(sent).await.into_body().collect().await);
        last(&self.visited.routes)
    }
}

#[test]
fn the_application_is_the_endpoint_and_its_connection_is_made_once() {
    networked(async |net| {
        let script = Script::of(&[&[(30, FINE)]]);
        script.at(&net, address(1), 40);
        let mut peer = Asks::at(open_port(), PEER, Wire::Http1);
        let began = Instant::now();
        let first = peer.record(GET).await;
        let accepted = script.asked.borrow()[0].1;
        assert!(accepted > began, "the seed has a connection that is late");
        assert_eq!(first.times.connect, accepted - began);
        let again = Instant::now();
        let second = peer.record(GET).await;
        assert_eq!(second.times, Times { server: again.elapsed(), ..Times::default() });
        for entry in [first, second] {
            assert_eq!((entry.tries, entry.endpoint, entry.status), (1, Some(address(1)), Some(200)));
            assert_eq!((entry.outcome.as_str(), entry.bytes_out, entry.refused), ("success", 5, false));
            assert_eq!(entry.head.peer(), None, "its series tells who asked");
        }
    });
}

#[test]
fn an_application_that_is_not_there_or_says_that_it_failed_is_told_apart() {
    networked(async |net| {
        let mut peer = Asks::at(open_port(), "", Wire::Http1);
        let gone = peer.record(GET).await;
        assert_eq!((gone.reason, gone.fault), (Some(Reason::ConnectRefused), Some(Fault::Application)));
        assert_eq!((gone.tries, gone.endpoint, gone.status), (1, Some(address(1)), None));
        assert_eq!(gone.times.connect, Duration::ZERO);
        Script::of(&[&[(0, BUSY)]]).at(&net, address(1), 0);
        let busy = peer.record(GET).await;
        assert_eq!((busy.outcome.as_str(), busy.status), ("server_error", Some(503)));
        assert_eq!((busy.reason, busy.fault, busy.tries), (None, None, 1), "nobody sends it again here");
    });
}

#[test]
fn what_is_refused_tells_who_asked_for_what_and_takes_no_room_of_others() {
    networked(async |_net| {
        let deny = || Inbound { default_deny: true, ..open_port() };
        for peer in [PEER, ""] {
            let mut asks = Asks::at(deny(), peer, Wire::Http1);
            let answer = asks.asks("POST /admin?token=abc HTTP/1.1\r\nhost: api\r\nx-api-key: abc\r\n\r\n").await;
            assert_eq!(answer.status(), 403);
            let routes = &asks.visited.routes;
            assert!(routes.kept(Which::Recent).is_empty());
            let [entry] = &routes.kept(Which::Failed)[..] else { panic!("one record") };
            assert!(entry.refused && entry.tries == 0 && entry.endpoint.is_none(), "{entry:?}");
            assert_eq!((entry.reason, entry.fault), (Some(Reason::Denied), Some(Fault::Client)));
            assert_eq!((entry.head.method.as_str(), entry.head.path.as_str()), ("POST", "/admin"));
            assert_eq!((entry.head.peer(), entry.status), (Some(peer), None));
            assert!(!format!("{entry:?}").contains("abc"), "{entry:?}");
        }
    });
}

#[test]
fn a_request_without_one_authority_is_refused_as_its_clients_fault_before_policy_is_asked() {
    networked(async |_net| {
        let mut asks = Asks::at(open_port(), PEER, Wire::Http1);
        let answer = asks.asks("GET /a HTTP/1.1\r\nhost: api\r\nhost: other\r\n\r\n").await;
        assert_eq!(answer.status(), 400);
        let [entry] = &asks.visited.routes.kept(Which::Failed)[..] else { panic!("one record") };
        assert_eq!((entry.reason, entry.fault), (Some(Reason::ProtocolError), Some(Fault::Client)));
        assert_eq!((entry.refused, entry.head.peer()), (true, Some(PEER)));
    });
}

#[test]
fn a_call_into_the_pod_has_its_applications_status() {
    for (said, bytes, noted, outcome) in CALLS {
        networked(async |net| {
            let mut clients = net.host(address(1), 0);
            spawn_local(async move {
                let (stream, _) = clients.recv().await.unwrap();
                call(stream, said, bytes).await;
            });
            let mut peer = Asks::at(open_port(), PEER, Wire::Http2);
            let sent = "POST /shop.Api/Get HTTP/1.1\r\nhost: api\r\ncontent-type: application/grpc\r\n\r\n";
            let entry = peer.record(sent).await;
            assert_eq!((entry.grpc, entry.outcome.as_str()), (noted, outcome), "{said:?} {bytes}");
            assert_eq!((entry.status, entry.endpoint), (Some(200), Some(address(1))));
        });
    }
}

#[test]
fn a_tunnel_into_the_pod_that_policy_ends_is_the_configurations_doing() {
    networked(async |net| {
        let mut clients = net.host(address(1), 0);
        let Asks { visited, stack } = Asks::at(open_port(), PEER, Wire::Http1);
        let (routes, stack): (Arc<Routes>, _) = (visited.routes.clone(), RefCell::new(stack));
        let mut client = connection(move |request| stack.borrow_mut().call(request));
        client.write_all(CHAT.as_bytes()).await.unwrap();
        let (mut app, _) = clients.recv().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(app.read_buf(&mut head).await.unwrap() > 0);
        }
        app.write_all(SWITCHES.as_bytes()).await.unwrap();
        app.write_all(b"welcome").await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"welcome") {
            assert!(client.read_buf(&mut read).await.unwrap() > 0);
        }
        assert!(routes.kept(Which::Recent).is_empty(), "it goes on");
        visited.visit.port.says(Inbound { default_deny: true, ..open_port() });
        sleep(MS).await;
        let entry = last(&routes);
        assert_eq!((entry.reason, entry.fault), (Some(Reason::PolicyChanged), Some(Fault::Configuration)));
        assert_eq!((entry.outcome.as_str(), entry.bytes_in, entry.bytes_out), ("failure", 0, 7));
        assert_eq!((entry.refused, entry.endpoint), (false, Some(address(1))), "it was let in once");
    });
}
