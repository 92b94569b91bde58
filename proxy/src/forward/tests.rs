//! How the end of one connection is told on the other, over real sockets.

use super::*;
use crate::{
    policy,
    telemetry::{Direction, Proto, RouteKey, Routes, Tls},
};
use socket2::SockRef;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A connection's two ends.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (dialled, listener.accept().await.unwrap().0)
}

/// What a client reads through a relay from a server that says `half` and then ends as it likes.
async fn read_through(end: impl FnOnce(TcpStream)) -> (String, io::Result<()>, io::Result<()>) {
    let ((mut client, mut down), (mut up, mut server)) = (pair().await, pair().await);
    let stats = Routes::new("shop/web-1".into()).stats(RouteKey {
        direction: Direction::Outbound,
        parent: "shop/db:5432".into(),
        route: "tcp".into(),
        peer: "".into(),
        tls: Tls::Plain,
        protocol: Proto::Tcp,
    });
    let relay = async {
        let outcome = bytes(policy::outbound(), &mut down, &mut up, &stats).await;
        drop((down, up));
        outcome
    };
    let talk = async {
        server.write_all(b"half").await.unwrap();
        let mut said = vec![0; 4];
        client.read_exact(&mut said).await.unwrap();
        end(server);
        let rest = client.read_to_end(&mut said).await.map(drop);
        drop(client);
        (String::from_utf8(said).unwrap(), rest)
    };
    let (relayed, (said, rest)) = tokio::join!(relay, talk);
    (said, rest, relayed)
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let (said, rest, relayed) = read_through(|server| {
        SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    assert_eq!(said, "half");
    assert_eq!(rest.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(relayed.is_err());
}

#[tokio::test]
async fn a_proper_end_on_one_side_is_a_proper_end_on_the_other() {
    let (said, rest, relayed) = read_through(drop).await;
    assert_eq!(said, "half");
    assert!(rest.is_ok() && relayed.is_ok(), "{rest:?} {relayed:?}");
}
