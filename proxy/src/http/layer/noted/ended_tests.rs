use super::{super::test::address, *};
use crate::telemetry::{Fault, Reason};
use std::{pin::pin, task::Poll};

/// The record of a request that is given up after so many polls; `None` if its head was there before.
fn given_up(polls: usize) -> Option<Entry> {
    let mut entry = None;
    networked(async |net| {
        let script = Script::of(&[&[(20, BUSY)], &[(20, HALF), (20, "world")]]);
        for last in [1, 2] {
            script.at(&net, address(last), 10);
        }
        let mut out = Out::of(&[address(1), address(2)], &rule(2, &[503]));
        let (request, _client) = incoming(GET.as_bytes()).await;
        let began = Instant::now();
        let gone = {
            let mut asked = pin!(out.answer(request));
            let mut made = 0;
            std::future::poll_fn(|cx| {
                made += 1;
                match asked.as_mut().poll(cx) {
                    Poll::Ready(_) => Poll::Ready(false),
                    Poll::Pending if made == polls => Poll::Ready(true),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        };
        let kept = last(&out.world.routes);
        assert_eq!(kept.latency, began.elapsed(), "all time is accounted for: {kept:?}");
        assert_eq!(out.world.counted("cancelled"), 1, "an answer that nobody takes is given up too");
        entry = gone.then_some(kept);
    });
    entry
}

#[test]
fn a_request_that_is_given_up_wherever_it_waits_tells_how_far_it_came() {
    let mut before: Option<Entry> = None;
    let mut tries = Vec::new();
    for polls in 1.. {
        let Some(entry) = given_up(polls) else { break };
        assert_eq!((entry.outcome.as_str(), entry.reason, entry.fault), ("cancelled", None, None));
        assert_eq!((entry.status, entry.bytes_out), (None, 0), "no answer was passed on");
        assert!(entry.endpoint.is_some() && entry.tries > 0, "{entry:?}");
        if let Some(before) = before {
            assert!(entry.tries >= before.tries && entry.latency >= before.latency, "{before:?}, then {entry:?}");
            assert_eq!(entry.tries == before.tries, entry.endpoint == before.endpoint, "the second try goes elsewhere");
        }
        tries.push(entry.tries);
        before = Some(entry);
    }
    tries.dedup();
    assert_eq!(tries, [1, 2], "both tries were given up somewhere");
}

#[test]
fn the_time_of_a_try_that_was_never_connected_went_into_connecting() {
    networked(async |net| {
        let _nobody_answers = net.silent(address(1));
        let mut out = Out::of(&[address(1)], &rule(0, &[]));
        let (answer, _client) = out.ask(GET).await;
        assert_eq!(answer.status(), 504);
        drop(answer);
        let entry = last(&out.world.routes);
        assert_eq!(entry.reason, Some(Reason::ConnectTimeout));
        assert!(entry.times.connect >= 500 * MS, "{entry:?}");
        assert_eq!((entry.times.connect, entry.times.server), (entry.latency, Duration::ZERO), "{entry:?}");
    });
}

#[test]
fn an_answer_that_is_given_up_in_the_middle_tells_what_went_to_its_client() {
    for (frames, bytes) in [(0, 0), (1, 5)] {
        networked(async |net| {
            Script::of(&[&[(0, HALF), (20, "world")]]).at(&net, address(1), 0);
            let mut out = Out::of(&[address(1)], &rule(0, &[]));
            let (answer, _client) = out.ask(GET).await;
            let mut body = answer.into_body();
            for _ in 0..frames {
                assert!(body.frame().await.unwrap().is_ok());
            }
            drop(body);
            let entry = last(&out.world.routes);
            assert_eq!((entry.outcome.as_str(), entry.status), ("cancelled", Some(200)));
            assert_eq!((entry.bytes_out, entry.reason), (bytes, None));
        });
    }
}

/// A client of what leaves HTTP through the stack, and the server behind it.
async fn left(net: &Net) -> (std::sync::Arc<Routes>, DuplexStream, TcpStream) {
    let mut clients = net.host(address(1), 0);
    let out = Out::of(&[address(1)], &rule(0, &[]));
    let (routes, out) = (out.world.routes.clone(), RefCell::new(out));
    let mut client = connection(move |request| out.borrow_mut().answer(request));
    client.write_all(CHAT.as_bytes()).await.unwrap();
    let (mut server, _) = clients.recv().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(server.read_buf(&mut head).await.unwrap() > 0);
    }
    sleep(50 * MS).await;
    server.write_all(SWITCHES.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(client.read_buf(&mut head).await.unwrap() > 0);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    (routes, client, server)
}

#[test]
fn a_tunnel_has_one_record_from_its_request_to_the_last_of_its_bytes() {
    networked(async |net| {
        let began = Instant::now();
        let (routes, mut client, mut server) = left(&net).await;
        client.write_all(b"ping!").await.unwrap();
        heard(&mut server, "ping!").await;
        sleep(500 * MS).await;
        server.write_all(b"pong pong").await.unwrap();
        heard(&mut client, "pong pong").await;
        assert!(routes.kept(Which::Recent).is_empty(), "it goes on");
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
        sleep(MS).await;
        let entry = last(&routes);
        assert_eq!((entry.outcome.as_str(), entry.bytes_in, entry.bytes_out), ("success", 5, 9));
        assert_eq!((entry.tries, entry.endpoint), (1, Some(address(1))));
        assert_eq!((entry.head.path.as_str(), entry.status), ("/chat", Some(101)), "what its client was told");
        assert_eq!(entry.latency, began.elapsed() - MS);
        assert_eq!(routes.kept(Which::Recent).len(), 1);
    });
}

#[test]
fn a_tunnel_that_breaks_tells_which_side_did() {
    for (upstream, reason, fault) in
        [(true, Reason::UpstreamReset, Fault::Application), (false, Reason::DownstreamReset, Fault::Client)]
    {
        networked(async |net| {
            let (routes, mut client, mut server) = left(&net).await;
            client.write_all(b"ping!").await.unwrap();
            heard(&mut server, "ping!").await;
            match upstream {
                true => crate::io::Abort::abort(&server),
                false => drop(client),
            }
            // What goes to a client that is gone finds that out.
            drop(server.write_all(b"pong").await);
            drop(server);
            sleep(MS).await;
            let entry = last(&routes);
            assert_eq!((entry.outcome.as_str(), entry.bytes_in), ("failure", 5), "{entry:?}");
            assert_eq!((entry.reason, entry.fault), (Some(reason), Some(fault)));
        });
    }
}
