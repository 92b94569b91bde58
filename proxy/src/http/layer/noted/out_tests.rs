use super::{
    super::test::{address, generous},
    *,
};
use crate::telemetry::{Fault, Reason, Times};
use remora_model::BackendSettings;

const SAID: &str = "HTTP/1.1 200 Fine\r\ngrpc-status: 13\r\ncontent-length: 0\r\n\r\n";

#[test]
fn a_new_connection_takes_its_time_and_a_kept_one_none() {
    networked(async |net| {
        let script = Script::of(&[&[(30, FINE)]]);
        script.at(&net, address(1), 40);
        let mut out = Out::of(&[address(1)], &rule(0, &[]));
        let began = Instant::now();
        let first = out.record(GET).await;
        let took = began.elapsed();
        let (_, accepted, _) = script.asked.borrow()[0];
        assert!(accepted > began, "the seed has a connection that is late");
        assert_eq!((first.times.connect, first.latency), (accepted - began, took));
        assert_eq!((first.times.before, first.times.after), (Duration::ZERO, Duration::ZERO));
        let again = Instant::now();
        let second = out.record(GET).await;
        assert_eq!(script.asked.borrow()[1].1, accepted, "it is the same connection");
        assert_eq!(second.times, Times { server: again.elapsed(), ..Times::default() });
        for entry in [first, second] {
            assert_eq!((entry.tries, entry.endpoint, entry.status), (1, Some(address(1)), Some(200)));
            assert_eq!((entry.outcome.as_str(), entry.reason, entry.grpc), ("success", None, None));
            assert_eq!((entry.head.method.as_str(), entry.head.path.as_str()), ("GET", "/items/7"));
        }
    });
}

#[test]
fn the_endpoint_is_the_last_trys_and_what_was_before_it_is_no_answers_time() {
    networked(async |net| {
        let script = Script::of(&[&[(20, BUSY)], &[(30, FINE)]]);
        for last in [1, 2] {
            script.at(&net, address(last), 0);
        }
        let mut out = Out::of(&[address(1), address(2)], &rule(3, &[503]));
        let began = Instant::now();
        let entry = out.record(GET).await;
        let asked = script.asked.borrow();
        let [(first, ..), (second, _, read)] = asked[..] else { panic!("{asked:?}") };
        assert_ne!(first, second);
        assert_eq!((entry.tries, entry.endpoint, entry.status), (2, Some(second), Some(200)));
        assert_eq!((entry.times.before, entry.times.server), (read - began, 30 * MS));
        assert!(read - began > 20 * MS, "the first try, and a pause");
        assert_eq!((entry.outcome.as_str(), out.world.counted("retries")), ("success", 1));
    });
}

#[test]
fn tries_are_counted_to_the_last_whatever_comes_of_it() {
    for attempts in 0..=4 {
        networked(async |net| {
            let script = Script::of(&[&[(1, BUSY)]]);
            script.at(&net, address(1), 0);
            let entry = Out::of(&[address(1)], &rule(attempts, &[503])).record(GET).await;
            assert_eq!(u32::from(entry.tries), attempts + 1);
            assert_eq!(script.asked.borrow().len(), usize::from(entry.tries));
            assert_eq!((entry.outcome.as_str(), entry.status, entry.reason), ("server_error", Some(503), None));
        });
    }
}

#[test]
fn where_nobody_is_no_time_went_into_a_connection() {
    networked(async |_net| {
        let addresses = [address(1), address(2), address(3)];
        let mut out = Out::of(&addresses, &rule(2, &[]));
        let began = Instant::now();
        let entry = out.record(GET).await;
        assert_eq!((entry.reason, entry.fault), (Some(Reason::ConnectRefused), Some(Fault::Application)));
        assert_eq!((entry.outcome.as_str(), entry.status, entry.bytes_out), ("failure", None, 0));
        assert!(entry.endpoint.is_some_and(|endpoint| addresses.contains(&endpoint)), "{entry:?}");
        assert_eq!(u64::from(entry.tries), 1 + out.world.counted("retries"));
        assert_eq!((entry.times.connect, entry.latency), (Duration::ZERO, began.elapsed()));
    });
}

#[test]
fn a_deadline_names_whom_it_waited_for_and_how_long() {
    networked(async |net| {
        let script = Script::of(&[&[(900, FINE)]]);
        script.at(&net, address(1), 0);
        let _nobody = net.silent(address(2));
        for (at, heard) in [(1, 1), (2, 0)] {
            script.asked.borrow_mut().clear();
            let mut out = Out::of(&[address(at)], &within(200 * MS));
            let entry = out.record(GET).await;
            assert_eq!((entry.reason, entry.fault), (Some(Reason::Timeout), Some(Fault::Application)));
            assert_eq!((entry.tries, entry.endpoint, entry.status), (1, Some(address(at)), None));
            assert_eq!((script.asked.borrow().len(), entry.times.connect), (heard, Duration::ZERO));
            assert!(entry.latency >= 200 * MS && entry.latency <= 202 * MS, "{entry:?}");
        }
    });
}

#[test]
fn what_never_was_tried_has_no_endpoint_and_no_connection() {
    networked(async |net| {
        Script::of(&[&[(0, FINE)]]).at(&net, address(1), 0);
        let full = World::new(&[address(1)]);
        full.settings(BackendSettings { pending_max: 0, ..generous() }, &[address(1)]);
        let rows = [
            (Out::over(full, None, true), Reason::QueueFull, Fault::Application),
            (Out::over(World::new(&[address(1)]), None, false), Reason::InvalidBackend, Fault::Configuration),
            (Out::over(World::new(&[]), None, true), Reason::NoEndpoints, Fault::Application),
        ];
        for (mut out, reason, fault) in rows {
            let entry = out.record(GET).await;
            assert_eq!((entry.outcome.as_str(), entry.reason, entry.fault), ("failure", Some(reason), Some(fault)));
            assert_eq!((entry.tries, entry.endpoint, entry.status), (0, None, None), "{reason:?}");
            assert_eq!(entry.times, Times { before: entry.latency, ..Times::default() });
            assert_eq!(entry.head.path, "/items/7", "it is told what was asked for");
        }
    });
}

#[test]
fn an_answer_that_its_client_does_not_take_waits_here_and_not_at_the_server() {
    networked(async |net| {
        Script::of(&[&[(20, HALF), (500, "world")]]).at(&net, address(1), 0);
        let mut out = Out::of(&[address(1)], &rule(0, &[]));
        let (answer, _client) = out.ask(GET).await;
        let mut body = answer.into_body();
        sleep(300 * MS).await;
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        // It waits for the server now, which has 200 ms left to think.
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "world");
        let entry = last(&out.world.routes);
        assert_eq!((entry.times.after, entry.latency), (300 * MS, 520 * MS));
        assert_eq!((entry.times.server, entry.bytes_out), (220 * MS, 10));
    });
}

#[test]
fn a_deadline_that_passes_while_nobody_takes_the_answer_is_told_apart_from_a_slow_server() {
    networked(async |net| {
        Script::of(&[&[(20, HALF), (2000, "world")]]).at(&net, address(1), 0);
        for (takes, after) in [(false, 180), (true, 0)] {
            let mut out = Out::of(&[address(1)], &within(200 * MS));
            let (answer, _client) = out.ask(GET).await;
            let mut body = answer.into_body();
            if takes {
                assert!(body.frame().await.unwrap().is_ok());
                assert!(body.frame().await.unwrap().is_err(), "the time is over");
            } else {
                sleep(300 * MS).await;
            }
            let entry = last(&out.world.routes);
            assert_eq!((entry.reason, entry.status), (Some(Reason::Timeout), Some(200)));
            let late = entry.times.after.abs_diff(MS * after);
            assert!(late <= 2 * MS && entry.latency <= 202 * MS, "{takes}: {entry:?}");
            assert_eq!(entry.bytes_out, if takes { 5 } else { 0 });
        }
    });
}

#[test]
fn bytes_are_counted_once_however_often_they_are_sent() {
    networked(async |net| {
        let script = Script::of(&[&[(1, BUSY)], &[(1, BUSY)], &[(1, FINE)]]);
        script.at(&net, address(1), 0);
        let mut out = Out::of(&[address(1)], &rule(2, &[503]));
        let sent = format!("PUT /a HTTP/1.1\r\nhost: api\r\ncontent-length: 30000\r\n\r\n{}", "x".repeat(30_000));
        let entry = out.record(&sent).await;
        assert_eq!((script.asked.borrow().len(), entry.tries), (3, 3));
        assert_eq!((entry.bytes_in, entry.bytes_out, entry.status), (30_000, 5, Some(200)));
        assert_eq!((out.world.counted("bytes_in"), out.world.counted("bytes_out")), (30_000, 5));
        let next = out.record(GET).await;
        assert_eq!((next.bytes_in, next.tries), (0, 1), "a record that is used again is another one");
    });
}

#[test]
fn a_client_that_stops_in_the_middle_of_its_upload_is_whose_fault_it_is() {
    networked(async |net| {
        Script::of(&[&[(0, FINE)]]).at(&net, address(1), 0);
        let mut out = Out::of(&[address(1)], &rule(2, &[]));
        let (request, client) = incoming(b"PUT /a HTTP/1.1\r\nhost: api\r\ncontent-length: 10\r\n\r\n0123").await;
        let asked = out.answer(request);
        let (answer, ()) = tokio::join!(asked, async {
            sleep(5 * MS).await;
            drop(client);
        });
        drop(answer);
        let entry = last(&out.world.routes);
        assert_eq!((entry.reason, entry.fault), (Some(Reason::BodyAborted), Some(Fault::Client)));
        assert_eq!((entry.bytes_in, entry.status, entry.endpoint), (4, None, Some(address(1))));
    });
}

#[test]
fn a_server_that_breaks_off_has_failed_before_its_answer_and_in_the_middle_of_it() {
    networked(async |net| {
        for (said, status, bytes) in [(&[(5, CUT)][..], None, 0), (&[(5, HALF), (5, CUT)], Some(200), 5)] {
            Script::of(&[said]).at(&net, address(1), 0);
            let entry = Out::of(&[address(1)], &rule(0, &[])).record(GET).await;
            assert_eq!((entry.reason, entry.fault), (Some(Reason::UpstreamReset), Some(Fault::Application)));
            assert_eq!((entry.outcome.as_str(), entry.status, entry.bytes_out), ("failure", status, bytes));
            assert_eq!((entry.tries, entry.endpoint), (1, Some(address(1))));
        }
    });
}

#[test]
fn a_calls_status_is_the_one_in_its_trailers_or_in_a_head_that_is_all_there_is() {
    for (said, bytes, noted, outcome) in CALLS {
        networked(async |net| {
            let mut clients = net.host(address(1), 0);
            spawn_local(async move {
                let (stream, _) = clients.recv().await.unwrap();
                call(stream, said, bytes).await;
            });
            let mut out = Out::of(&[address(1)], &rule(0, &[]));
            out.client = ClientConnection::of_application(Wire::Http2, true);
            let sent = "POST /shop.Api/Get HTTP/1.1\r\nhost: api\r\ncontent-type: application/grpc\r\n\r\n";
            let entry = out.record(sent).await;
            assert_eq!((entry.grpc, entry.outcome.as_str(), entry.reason), (noted, outcome, None), "{said:?} {bytes}");
            assert_eq!((entry.status, entry.bytes_out), (Some(200), if bytes { 5 } else { 0 }));
        });
    }
}

#[test]
fn what_is_no_call_has_no_grpc_status_whatever_its_answer_says() {
    networked(async |net| {
        Script::of(&[&[(0, SAID)]]).at(&net, address(1), 0);
        let entry = Out::of(&[address(1)], &rule(0, &[])).record(GET).await;
        assert_eq!((entry.grpc, entry.outcome.as_str()), (None, "success"));
    });
}
