//! Against a server of TLS that answers as it is told.

use super::*;
use crate::index::Mesh;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use remora_runtime::tls::web;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

const KEYS: &str = include_str!("../../../fuzz/corpus/key_sets/cluster.json");

fn useful() -> Arc<str> {
    crate::objects::jwks::useful(KEYS).unwrap()
}

/// An authority of the operator's own, and a server that it vouches for under the name `localhost`.
struct Issuer {
    authority: String,
    url: JwksUrl,
    asked: Arc<std::sync::Mutex<String>>,
}

async fn issuer(answers: &'static [&'static str]) -> Issuer {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let config = web::server_config(leaf.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/keys?v=1", listener.local_addr().unwrap().port());
    let asked = Arc::new(std::sync::Mutex::new(String::new()));
    let heard = asked.clone();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        for answer in answers.iter().chain(std::iter::repeat(answers.last().unwrap())) {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let mut head = vec![0; 4096];
            let length = tls.read(&mut head).await.unwrap();
            *heard.lock().unwrap() = String::from_utf8_lossy(&head[..length]).into_owned();
            drop(tls.write_all(answer.replace("{KEYS}", KEYS).as_bytes()).await);
            drop(tls.shutdown().await);
        }
    });
    Issuer { authority: authority.pem(), url: JwksUrl::parse(&url).unwrap(), asked }
}

#[tokio::test]
async fn keys_come_from_a_server_that_the_operators_authority_vouches_for_with_how_long_they_are_good() {
    let issuer = issuer(&["HTTP/1.1 200 OK\r\nCache-Control: public, max-age=120\r\n\r\n{KEYS}"]).await;
    let fetched = Fetcher::new(issuer.authority.as_bytes()).unwrap().fetch(&issuer.url).await.unwrap();
    assert_eq!((&fetched.keys, fetched.fresh), (&useful(), Some(Duration::from_secs(120))));
    let head = issuer.asked.lock().unwrap().clone();
    assert!(head.starts_with("GET /keys?v=1 HTTP/1.1\r\nhost: localhost:"), "{head}");
    let other = Fetcher::new(b"").unwrap().fetch(&issuer.url).await.unwrap_err();
    assert!(format!("{other:#}").starts_with("TLS: invalid peer certificate: UnknownIssuer"), "{other:#}");
    let by_address = JwksUrl { host: "127.0.0.1".to_owned(), ..issuer.url };
    let refused = Fetcher::new(issuer.authority.as_bytes()).unwrap().fetch(&by_address).await.unwrap_err();
    assert!(format!("{refused:#}").contains("not valid for name"), "{refused:#}");
}

#[tokio::test]
async fn what_is_no_set_of_keys_is_refused_with_its_reason() {
    let long = Box::leak(format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(300 * 1024)).into_boxed_str());
    for (answer, why) in [
        (
            "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
            "redirects are not followed",
        ),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "answers 503"),
        ("HTTP/1.1 200 OK\r\n\r\n<html>", "no JWKS"),
        ("HTTP/1.1 200 OK\r\n\r\n{\"keys\": []}", "no key that checks signatures"),
        (
            "HTTP/1.1 200 OK\r\n\r\n{\"keys\": [{\"kty\": \"oct\", \"k\": \"c2VjcmV0\"}]}",
            "no key that checks signatures",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{\"keys\":", "the answer is cut"),
        (long, "the answer is cut, or longer"),
        ("junk", "no answer"),
    ] {
        let issuer = issuer(Box::leak(Box::new([answer]))).await;
        let told = Fetcher::new(issuer.authority.as_bytes()).unwrap().fetch(&issuer.url).await.unwrap_err();
        assert!(format!("{told:#}").contains(why), "{why}: {told:#}");
    }
    let nobody = JwksUrl::parse("https://localhost:1/").unwrap();
    let told = Fetcher::new(b"").unwrap().fetch(&nobody).await.unwrap_err();
    assert!(format!("{told:#}").contains("cannot connect"), "{told:#}");
    assert!(Fetcher::new(b"junk").is_err());
}

#[tokio::test]
async fn keys_that_were_fetched_stay_whatever_comes_of_the_next_fetch() {
    let answers = &["HTTP/1.1 200 OK\r\n\r\n{KEYS}", "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"];
    let issuer = issuer(answers).await;
    let hub = Hub::new(Mesh::default());
    let fetcher = Arc::new(Fetcher::new(issuer.authority.as_bytes()).unwrap());
    let mut following = Following::new(issuer.url.clone(), hub.clone(), fetcher);
    assert!(following.fetch().await >= Duration::from_secs(50));
    assert_eq!(hub.held_keys(&issuer.url), Some(Ok(useful())));
    assert!(following.fetch().await <= Duration::from_secs(1));
    assert_eq!(hub.held_keys(&issuer.url), Some(Ok(useful())));
}
