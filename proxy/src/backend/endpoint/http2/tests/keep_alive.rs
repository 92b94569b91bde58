//! Whether a peer is there: PING, and what else shows it.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_ping_is_given_up_and_one_without_streams_is_not_asked() {
    run(async {
        let (net, streams) = (Net::default(), streams(Kind::Mesh));
        let (first, mut server) = tokio::join!(answered(&streams, &net), async {
            let mut server = net.accept(None).await;
            let stream = server.next(HEADERS).await.stream;
            server.send(HEADERS, END_HEADERS, stream, OK).await;
            server
        });
        drop(first);
        pass(limits::KEEP_ALIVE_INTERVAL * 10).await;
        assert_eq!(streams.len(), 1, "nobody waits for it");
        let began = tokio::time::Instant::now();
        let lost = reason(ask(&streams, &net).await);
        let most = limits::KEEP_ALIVE_INTERVAL + limits::KEEP_ALIVE_TIMEOUT + Duration::from_millis(10);
        assert!(lost == Reason::ConnectTimeout && began.elapsed() <= most, "{lost:?} after {:?}", began.elapsed());
        assert!(server.frame().await.is_some() && streams.is_away());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_bytes_come_slowly_is_there_although_its_answer_to_a_ping_stands_behind_them() {
    run(async {
        let (net, streams) = (Net::default(), streams(Kind::Mesh));
        let (body, (mut server, stream)) = tokio::join!(answered(&streams, &net), async {
            let mut server = net.accept(None).await;
            let stream = server.next(HEADERS).await.stream;
            server.send(HEADERS, END_HEADERS, stream, OK).await;
            (server, stream)
        });
        for _ in 0..20 {
            pass(limits::KEEP_ALIVE_TIMEOUT / 2).await;
            server.send(DATA, 0, stream, b"slow").await;
        }
        server.send(DATA, END_STREAM, stream, b"").await;
        let whole = body.collect().await.expect("the connection was given up").to_bytes();
        assert_eq!(whole, b"slow".repeat(20));
        assert!(!streams.is_away());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_this_process_is_no_fault_of_its_peers() {
    run(async {
        let (net, streams) = (Net::default(), streams(Kind::Mesh));
        let (body, mut server) = tokio::join!(answered(&streams, &net), async {
            let mut server = net.accept(None).await;
            let stream = server.next(HEADERS).await.stream;
            server.send(HEADERS, END_HEADERS, stream, OK).await;
            server
        });
        pass(limits::KEEP_ALIVE_INTERVAL + Duration::from_millis(1)).await;
        // Nothing runs meanwhile, here or there.
        tokio::time::advance(limits::KEEP_ALIVE_TIMEOUT * 4).await;
        settle().await;
        assert!(!streams.is_away(), "its answer is on the way");
        let asked = server.next(PING).await;
        assert_eq!(asked.stream, 0);
        pass(limits::KEEP_ALIVE_TIMEOUT / 2).await;
        assert!(!streams.is_away());
        drop(body);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_application_is_asked_whether_it_is_there_only_where_a_policy_says_so() {
    let interval = Duration::from_secs(9);
    for asked in [None, Some(interval)] {
        run(async {
            let settings = ConnectionSettings { keep_alive_interval: asked, ..ConnectionSettings::default() };
            let streams = Streams::new(Kind::Other, Keep::of(Kind::Other, &settings));
            let net = Net::default();
            let (body, mut server) = tokio::join!(answered(&streams, &net), async {
                let mut server = net.accept(None).await;
                let stream = server.next(HEADERS).await.stream;
                server.send(HEADERS, END_HEADERS, stream, OK).await;
                server
            });
            pass(interval + Duration::from_millis(1)).await;
            if asked.is_some() {
                server.next(PING).await;
            }
            // That one is answered, and no further one.
            pass(interval + limits::KEEP_ALIVE_TIMEOUT * 2).await;
            assert_eq!(streams.is_away(), asked.is_some());
            drop(body);
        })
        .await;
    }
}
