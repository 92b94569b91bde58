use super::*;
use crate::{
    account::{Account, Peer},
    telemetry::{Counters, Direction, Entry, Fault, Journal, Proto, Routes, Tls, Which},
};
use http::{Request, StatusCode};
use std::{sync::Arc, time::Duration};

const MS: Duration = Duration::from_millis(1);

/// Runs a test in time that passes when it is told to.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test);
}

async fn pass(ms: u32) {
    tokio::time::advance(MS * ms).await;
}

/// An exchange that was sent to its endpoint at once.
fn exchange(grpc: bool) -> (Arc<Routes>, Exchange) {
    let routes = Routes::new("shop/web-1".into());
    let counters = Counters::new(Journal::new(&routes), Direction::Outbound, "shop/api:80".into(), Vec::new());
    let (request, now) = (Request::get("/a").body(()).unwrap(), Instant::now());
    let begun = counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Plain), now);
    begun.record().tries(([10, 0, 0, 1], 80).into(), now);
    (routes, Exchange::of(begun, grpc))
}

fn charged(exchange: &mut Exchange, bytes: usize) -> Account {
    let account = Account::new(bytes);
    exchange.hold(account.holder(Peer::at([10, 0, 0, 9].into())).charge(10).unwrap());
    account
}

fn only(routes: &Routes) -> Entry {
    let [entry] = &routes.kept(Which::Recent)[..] else { panic!("one exchange has one record") };
    entry.clone()
}

#[test]
fn an_answer_may_stand_still_and_flow_again_and_each_time_counts() {
    run(async {
        let (routes, mut exchange) = exchange(false);
        let account = charged(&mut exchange, 1000);
        for stands in [30, 40] {
            pass(5).await;
            assert_eq!((exchange.stands_still(100), exchange.stands_still(100)), (Ok(()), Ok(())));
            pass(stands).await;
            assert_eq!(exchange.stands_still(100), Ok(()), "it does already");
            assert_eq!(account.used(), 110, "and is charged once");
            exchange.flows();
            exchange.flows();
            assert_eq!(account.used(), 10);
        }
        pass(7).await;
        exchange.ended(None);
        let entry = only(&routes);
        assert_eq!((entry.times.after, entry.times.server, entry.latency), (70 * MS, 17 * MS, 87 * MS));
    });
}

#[test]
fn nothing_stands_still_of_an_answer_that_is_empty_or_belongs_to_nobody() {
    run(async {
        for (charge, bytes) in [(true, 0), (false, 100)] {
            let (routes, mut exchange) = exchange(false);
            let _account = charge.then(|| charged(&mut exchange, 1000));
            assert_eq!(exchange.stands_still(bytes), Ok(()));
            pass(20).await;
            exchange.flows();
            exchange.ended(None);
            assert_eq!((only(&routes).times.after, only(&routes).times.server), (Duration::ZERO, 20 * MS));
        }
    });
}

#[test]
fn what_stands_still_beyond_its_callers_share_is_this_proxys_failure_with_the_servers_status() {
    run(async {
        let (routes, mut exchange) = exchange(false);
        let account = charged(&mut exchange, 1000);
        exchange.head(StatusCode::OK, None, None);
        exchange.received(8);
        assert_eq!(exchange.stands_still(900), Err(Overloaded));
        // Whatever comes of the rest, this is how it ended.
        exchange.ended(None);
        drop(exchange);
        let entry = only(&routes);
        assert_eq!((entry.reason, entry.fault), (Some(Reason::Overloaded), Some(Fault::Proxy)));
        assert_eq!((entry.status, entry.bytes_out, entry.times.after), (Some(200), 8, Duration::ZERO));
        assert_eq!(account.used(), 0);
    });
}

#[test]
fn what_the_peers_proxy_told_is_the_reason_whatever_the_status_looks_like() {
    run(async {
        for (told, outcome) in [(Some(Reason::Draining), "failure"), (None, "server_error")] {
            let (routes, mut exchange) = exchange(false);
            exchange.told(told);
            exchange.head(StatusCode::SERVICE_UNAVAILABLE, None, None);
            exchange.ended(None);
            let entry = only(&routes);
            assert_eq!((entry.outcome.as_str(), entry.reason, entry.status), (outcome, told, Some(503)));
        }
    });
}

#[test]
fn a_call_failed_by_its_trailers_alone_and_by_them_only_once() {
    run(async {
        let trailers = |status: &str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
        for (grpc, first, noted, outcome) in
            [(true, "13", Some(13), "server_error"), (true, "7", Some(7), "success"), (false, "13", None, "success")]
        {
            let (routes, mut exchange) = exchange(grpc);
            exchange.head(StatusCode::OK, None, None);
            exchange.ended(Some(&trailers(first)));
            exchange.ended(Some(&trailers("14")));
            exchange.fail(Reason::Timeout);
            let entry = only(&routes);
            assert_eq!((entry.grpc, entry.outcome.as_str(), entry.reason), (noted, outcome, None), "{grpc} {first}");
        }
    });
}

#[test]
fn an_exchange_that_is_dropped_behind_its_head_was_given_up_at_that_moment() {
    run(async {
        let (routes, mut exchange) = exchange(true);
        let _account = charged(&mut exchange, 1000);
        exchange.head(StatusCode::OK, None, None);
        pass(10).await;
        exchange.received(3);
        assert_eq!(exchange.stands_still(100), Ok(()));
        pass(50).await;
        drop(exchange);
        let entry = only(&routes);
        assert_eq!((entry.outcome.as_str(), entry.status, entry.grpc), ("cancelled", Some(200), None));
        assert_eq!((entry.times.server, entry.times.after, entry.bytes_out), (10 * MS, 50 * MS, 3));
    });
}
