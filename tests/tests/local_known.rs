//! What a proxy does with destinations of which discovery says nothing, says that it knows nothing, or says what cannot be
//! read; and how it comes back to a discovery that was lost.

use anyhow::{Context as _, ensure};
use remora_api::{sync::Name, v1::sync_response::Kind};
use remora_model::{Parent, Target};
use remora_tests::{
    discovery::{self, Discovery, Mood},
    local::{Mesh, Proxy, http::Answer},
    patience::until,
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// What discovery says of a name that is no Service's.
type Exception = Arc<dyn Fn(&Target, Vec<Kind>) -> Vec<Kind> + Send + Sync>;

struct Shop {
    web: Proxy,
    api: Proxy,
    app: SocketAddr,
    /// Another application of the same pod, which says `hi`.
    other: SocketAddr,
    discovery: Discovery,
    _mesh: Mesh,
}

impl Shop {
    /// Every name that begins with `s` is a Service of the pod `api`, behind its proxy.
    fn open(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let discovery = Discovery::start(listener, &mesh.dir().join("issuer"))?;
        let address = discovery.address.to_string();
        let spawn = |name: &str| {
            let spec = mesh.proxy(name).env("DISCOVERY_ADDR", &address);
            settings.iter().fold(spec, |spec, (name, value)| spec.env(name, value)).spawn()
        };
        let (web, api) = (spawn("web")?.ready()?, spawn("api")?.ready()?);
        let (app, other) = (application(&api, "ok")?, application(&api, "hi")?);
        let shop = Self { web, api, app, other, discovery, _mesh: mesh };
        shop.says(Arc::new(|_, answer| answer));
        until("a call is answered", || Ok((shop.get("s0:80")?.status == 200).then_some(())))
            .with_context(|| shop.web.program.log_end())?;
        Ok(shop)
    }

    fn says(&self, exception: Exception) {
        let (to, identity, proxy) = (self.app, self.api.identity.clone(), self.api.inbound);
        let mut declared = [to.port(), self.other.port()];
        declared.sort_unstable();
        self.discovery.says(move |name| match name {
            Name::Outbound(target) => {
                let host = target.to_string();
                let answer = match host.strip_suffix(":80") {
                    Some(host) if host.starts_with('s') => discovery::service(target, host, to, &identity, Some(proxy)),
                    _ => Vec::new(),
                };
                exception(target, answer)
            }
            Name::Inbound(port) => discovery::port(*port),
            Name::InboundDefault => discovery::ports(&declared),
            Name::Backend(_) | Name::Settings | Name::Revocations => Vec::new(),
        });
    }

    fn get(&self, authority: &str) -> anyhow::Result<Answer> {
        self.web.get(authority, "/")
    }

    /// The status and reason, and how long it took.
    fn ask(&self, authority: &str) -> anyhow::Result<(u16, String, Duration)> {
        let began = Instant::now();
        let answer = self.get(authority)?;
        Ok((answer.status, answer.header("x-remora-error").unwrap_or_default().to_owned(), began.elapsed()))
    }

    fn refused(&self, authority: &str, reason: &str) -> anyhow::Result<Duration> {
        let (status, why, took) = self.ask(authority)?;
        ensure!(status >= 500 && why == reason, "{authority}: {status} {why}; {}", self.web.program.log_end());
        Ok(took)
    }

    fn served(&self, authority: &str) -> anyhow::Result<Duration> {
        let (status, why, took) = self.ask(authority)?;
        ensure!(status == 200, "{authority}: {status} {why}; {}", self.web.program.log_end());
        Ok(took)
    }
}

/// An application that answers every request with two letters.
fn application(pod: &Proxy, says: &'static str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((pod.ip, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{says}");
                let mut head = [0; 4096];
                // A connection that breaks is the client's to report.
                while stream.read(&mut head).is_ok_and(|length| length > 0) {
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
        }
    });
    Ok(address)
}

const AT_ONCE: Mood = Mood::Answers(Duration::ZERO);

#[test]
fn silence_is_waited_for_then_refused_and_what_is_known_goes_on() -> anyhow::Result<()> {
    let shop = Shop::open(&[])?;
    shop.discovery.mood(Mood::Silent);
    let took = shop.refused("s1:80", "discovery_silent")?;
    ensure!(took >= Duration::from_secs(5), "refused after {took:?}");
    shop.served("s0:80")?;
    ensure!(shop.web.metric("remora_discovery_waits_total", &[r#"outcome="refused""#])? >= 1.0);
    ensure!(shop.web.log().contains("discovery has not said what s1:80 is"), "{}", shop.web.program.log_end());
    shop.discovery.mood(AT_ONCE);
    shop.served("s1:80").context("nothing of the silence is remembered")?;
    ensure!(shop.web.metric("remora_discovery_waiting", &[])? < 1.0, "nobody waits any more");
    Ok(())
}

#[test]
fn an_answer_that_takes_three_seconds_is_waited_for() -> anyhow::Result<()> {
    let shop = Shop::open(&[])?;
    shop.discovery.mood(Mood::Answers(Duration::from_secs(3)));
    let took = shop.served("s1:80")?;
    ensure!(took >= Duration::from_secs(3), "{took:?}");
    shop.served("s0:80").map(drop)
}

#[test]
fn who_waits_while_discovery_is_away_goes_on_when_it_is_back() -> anyhow::Result<()> {
    let shop = Shop::open(&[])?;
    for lost in [Mood::Away, Mood::Exhausted] {
        shop.discovery.mood(lost);
        until("the loss is noticed", || {
            Ok((shop.web.metric("remora_discovery_disconnects_total", &[])? >= 1.0).then_some(()))
        })?;
        shop.served("s0:80")?;
        let name = format!("s-{lost:?}:80").to_lowercase();
        shop.refused(&name, "discovery_silent")?;
        shop.discovery.mood(AT_ONCE);
        let took = shop.served(&name)?;
        ensure!(took < Duration::from_secs(5), "{lost:?}: back after {took:?}");
    }
    Ok(())
}

#[test]
fn an_answer_that_cannot_be_read_closes_its_target_alone_and_says_which() -> anyhow::Result<()> {
    let shop = Shop::open(&[])?;
    let bad = |names: &'static [&'static str]| -> Exception {
        Arc::new(move |target, answer| {
            let is_bad = names.contains(&target.to_string().as_str());
            if is_bad { discovery::unreadable(answer) } else { answer }
        })
    };
    shop.says(bad(&["s1:80"]));
    let answer = shop.get("s1:80")?;
    let why = answer.header("x-remora-error").unwrap_or_default();
    ensure!(answer.status == 503 && why == "unusable_config", "{}", answer.head);
    ensure!(answer.text().contains("outbound s1:80: outbound.parent.port"), "{}", answer.text());
    until("it is logged", || Ok(shop.web.log().contains("outbound.parent.port").then_some(())))?;
    shop.served("s2:80")?;
    shop.says(bad(&["s0:80"]));
    until("the right answer is taken up", || Ok((shop.get("s1:80")?.status == 200).then_some(())))?;
    shop.served("s0:80").context("the last good stays").map(drop)
}

#[test]
fn what_a_newer_discovery_says_closes_its_target_alone_even_where_it_was_known() -> anyhow::Result<()> {
    let shop = Shop::open(&[])?;
    shop.served("s0:80")?;
    shop.says(Arc::new(|target, answer| match target.to_string().as_str() {
        "s0:80" => discovery::newer(answer),
        _ => answer,
    }));
    until("nothing goes there", || Ok((shop.get("s0:80")?.status == 503).then_some(())))?;
    let answer = shop.get("s0:80")?;
    ensure!(answer.header("x-remora-error") == Some("unusable_config"), "{}", answer.head);
    ensure!(answer.text().contains("outbound.protocol: is unknown to this version"), "{}", answer.text());
    shop.served("s1:80")?;
    shop.says(Arc::new(|_, answer| answer));
    until("it is known again", || Ok((shop.get("s0:80")?.status == 200).then_some(())))
}

#[test]
fn what_discovery_does_not_know_is_refused_until_it_is_there() -> anyhow::Result<()> {
    let shop = Shop::open(&[])?;
    let nowhere: Exception = Arc::new(|target, answer| match target.to_string().as_str() {
        "new:80" => discovery::nothing(target, Parent::Unknown),
        "outside:80" => discovery::nothing(target, Parent::Outside),
        _ => answer,
    });
    shop.says(nowhere);
    let took = shop.refused("new:80", "unknown_target")?;
    ensure!(took >= Duration::from_secs(1), "a pod that has just been made is waited for: {took:?}");
    shop.refused("outside:80", "unknown_target").context("no name is passed through")?;
    let (to, identity, proxy) = (shop.app, shop.api.identity.clone(), shop.api.inbound);
    shop.says(Arc::new(move |target, _| discovery::service(target, "new", to, &identity, Some(proxy))));
    until("it is there", || Ok((shop.get("new:80")?.status == 200).then_some(())))
}

#[test]
fn a_proxy_that_met_more_targets_than_it_keeps_is_right_after_a_loss() -> anyhow::Result<()> {
    // Eight workers keep an eighth each of 3072.
    const MET: usize = 500;
    let shop = Shop::open(&[("WORKERS", "8")])?;
    let mut client = TcpStream::connect(shop.web.outbound)?;
    client.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut meet = |number: usize| {
        write!(client, "GET / HTTP/1.1\r\nhost: s{number}:80\r\n\r\n")?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok") {
            let mut bytes = [0; 4096];
            let length = client.read(&mut bytes)?;
            ensure!(length > 0, "s{number}: {}; {}", String::from_utf8_lossy(&answer), shop.web.program.log_end());
            answer.extend_from_slice(&bytes[..length]);
        }
        Ok(())
    };
    (1..=MET).try_for_each(&mut meet)?;
    let evicted = shop.web.metric("remora_discovery_evicted_total", &[])?;
    ensure!((MET / 8..MET).contains(&(evicted as usize)), "{evicted} of {MET} made room");
    meet(1).context("what made room is asked for again")?;
    let before = shop.discovery.seen().offered.len();
    shop.discovery.mood(Mood::Away);
    until("the loss is noticed", || {
        Ok((shop.web.metric("remora_discovery_disconnects_total", &[])? >= 1.0).then_some(()))
    })?;
    // What changed meanwhile must be known within five seconds.
    let (other, identity, proxy) = (shop.other, shop.api.identity.clone(), shop.api.inbound);
    shop.says(Arc::new(move |target, answer| match target.to_string().as_str() {
        "s1:80" => discovery::service(target, "s1", other, &identity, Some(proxy)),
        _ => answer,
    }));
    let began = Instant::now();
    shop.discovery.mood(AT_ONCE);
    let answer = until("what changed is known", || {
        let answer = shop.get("s1:80")?;
        Ok((answer.text() != "ok").then_some(answer))
    })?;
    ensure!(answer.text() == "hi", "{answer:?}; {}", shop.api.program.log_end());
    ensure!(began.elapsed() < Duration::from_secs(5), "right after {:?}", began.elapsed());
    let offered = &shop.discovery.seen().offered[before..];
    ensure!(!offered.is_empty() && offered.iter().all(|count| *count <= 2 * 4096), "{offered:?}");
    Ok(())
}
