//! What is not known is not waved through: a capture on the wire while discovery is silent, away, killed, slow, or says what proxies
//! cannot read, and while a stranger knocks at every port. `REMORA_KNOWN_SECONDS` says for how long each.

use anyhow::{Context as _, ensure};
use remora_api::sync::Name;
use remora_model::{Parent, Target};
use remora_tests::{
    discovery::{self, Discovery, Mood},
    netns::{
        self, APP_UID, Network, Pod, Process,
        capture::Capture,
        mesh::{Mesh, Sidecar},
        visits::MARK,
    },
    patience::until,
};
use std::{
    cell::Cell,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

const PORT: u16 = 8080;
/// Services that the client's proxy knows, and as many that are new to it each time.
const KNOWN: u8 = 25;
/// Requests a second to what is known.
const RATE: u32 = 200;
/// Of the new Services, those that are answered in a way that proxies cannot read.
const UNREADABLE: u8 = 20;
/// Ports that a stranger knocks at.
const KNOCKED: usize = 9_200;

fn main() -> ExitCode {
    netns::run(&[
        ("nothing_goes_in_plaintext_while_discovery_is_silent_away_killed_slow_or_unreadable", plaintext),
        ("outside_of_the_ranges_the_setting_decides_and_inside_never", ranges),
        ("a_stranger_at_every_port_costs_no_subscription_and_no_new_target", stranger),
    ])
}

fn seconds() -> anyhow::Result<u64> {
    let text = std::env::var_os("REMORA_KNOWN_SECONDS");
    text.map_or(Ok(10), |text| text.to_string_lossy().parse().context("REMORA_KNOWN_SECONDS"))
}

struct World {
    // The programs end before the pods they run in.
    _app: Process,
    client_proxy: Sidecar,
    server_proxy: Sidecar,
    discovery: Discovery,
    capture: Arc<Capture>,
    /// What of it was in plaintext for good reason.
    heard: Cell<(usize, usize)>,
    _mesh: Mesh,
    outsider: Pod,
    client: Pod,
    server: Pod,
    _control: Pod,
    _net: Network,
}

impl World {
    /// With these settings of the client's proxy.
    fn start(name: &str, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let net = Network::new(name)?;
        let (client, server, outsider) = (net.pod("client")?, net.pod("server")?, net.pod("outsider")?);
        let control = net.pod("scripted")?;
        let mesh = Mesh::start(&net)?;
        let mut app = server.role("origin").arg(format!("[::]:{PORT}")).spawn()?;
        ensure!(app.line()? == "ready");
        let (at, issuer) = ((control.ipv4, 4181), mesh.dir().join("issuer"));
        let discovery = control.inside(|| Discovery::start(TcpListener::bind(at).context("listening")?, &issuer))?;
        discovery.says(says(server.ipv4.into(), None));
        let address = discovery.address.to_string();
        let own = ("REMORA_PROXY_DISCOVERY_ADDR", address.as_str());
        let client_proxy = mesh.join_with(&client, &[PORT], &[&[own], settings].concat())?;
        let server_proxy = mesh.join_with(&server, &[PORT], &[own])?;
        let (capture, _app, _mesh, _control, _net) = (Capture::get()?, app, mesh, control, net);
        let heard = Cell::new((capture.marked(), capture.arrived()));
        Ok(Self {
            heard,
            _app,
            client_proxy,
            server_proxy,
            discovery,
            capture,
            _mesh,
            outsider,
            client,
            server,
            _control,
            _net,
        })
    }

    /// Visits what is known, and `new` Services more: the outcomes.
    fn visit(&self, seconds: u64, rate: u32, known: u8, new: u8) -> anyhow::Result<Vec<(String, usize)>> {
        let role = self.client.role("visit").uid(APP_UID).args(&format!("{seconds} {rate} {known} {new}"));
        let said = role.patience(Duration::from_secs(seconds + 60)).output()?;
        let outcomes = said.lines().filter_map(|line| {
            let (outcome, count) = line.rsplit_once(' ')?;
            Some((outcome.to_owned(), count.parse().ok()?))
        });
        Ok(outcomes.collect())
    }

    /// Who is outside the mesh is let in, and heard: the capture hears what there is to hear.
    fn hears(&self) -> anyhow::Result<()> {
        let url = format!("http://{}:{PORT}/sink", self.server.ipv4);
        let curl = self.outsider.command("curl").uid(APP_UID).args("-sS --fail-with-body -H");
        curl.arg(format!("x-mark: {MARK}")).arg(url).output().with_context(|| self.logs())?;
        until("the capture hears plaintext", || Ok((self.capture.marked() > self.heard.get().0).then_some(())))?;
        let mut quiet = self.capture.frames();
        until("the wire is quiet", || {
            let before = std::mem::replace(&mut quiet, self.capture.frames());
            Ok((before == quiet).then_some(()))
        })?;
        self.heard.set((self.capture.marked(), self.capture.arrived()));
        Ok(())
    }

    fn nothing_in_the_clear(&self, when: &str) -> anyhow::Result<()> {
        let (marked, arrived) = self.heard.get();
        let (marked, arrived) = (self.capture.marked() - marked, self.capture.arrived() - arrived);
        let frames = self.capture.frames();
        ensure!(marked == 0 && arrived == 0, "{when}: {marked} of {frames} frames, {arrived} bytes at Services");
        Ok(())
    }

    fn logs(&self) -> String {
        format!("client: {}\nserver: {}", self.client_proxy.log(), self.server_proxy.log())
    }
}

/// Every Service leads to the server; those whose number is in `unreadable` are said so that nobody can read it.
fn says(
    server: std::net::IpAddr,
    unreadable: Option<std::ops::RangeInclusive<u8>>,
) -> impl Fn(&Name) -> Vec<remora_api::v1::sync_response::Kind> + Send + Sync {
    move |name| match name {
        Name::Outbound(target @ Target::Address(SocketAddr::V4(address))) if address.ip().octets()[..2] == [10, 96] => {
            let number = address.ip().octets()[3];
            let to = SocketAddr::new(server, PORT);
            let identity = "spiffe://cluster.local/ns/test/sa/server";
            let answer = discovery::service(target, &format!("s{number}"), to, identity, None);
            match &unreadable {
                Some(range) if range.contains(&number) => discovery::unreadable(answer),
                _ => answer,
            }
        }
        Name::Inbound(port) => discovery::port(*port),
        Name::InboundDefault => discovery::ports(&[PORT]),
        Name::Outbound(_) | Name::Backend(_) | Name::Settings | Name::Revocations => Vec::new(),
    }
}

fn count(outcomes: &[(String, usize)], which: impl Fn(&str) -> bool) -> usize {
    outcomes.iter().filter(|(outcome, _)| which(outcome)).map(|(_, count)| count).sum()
}

fn plaintext() -> anyhow::Result<()> {
    let world = World::start("known", &[])?;
    world.hears()?;
    let all = world.visit(2, RATE, KNOWN, 0)?;
    ensure!(count(&all, |outcome| outcome != "known 200") == 0, "before: {all:?}\n{}", world.logs());
    let refusals = ["503/discovery_silent", "503/unusable_config"];
    let moods = [
        ("silent", Mood::Silent),
        ("away", Mood::Away),
        ("killed", Mood::Killed),
        ("slow", Mood::Answers(Duration::from_secs(3))),
        ("unreadable", Mood::Answers(Duration::ZERO)),
    ];
    let mut first = KNOWN;
    for (when, mood) in moods {
        world.discovery.mood(mood);
        if when == "unreadable" {
            world.discovery.says(says(world.server.ipv4.into(), Some(first + 1..=first + UNREADABLE)));
        }
        let outcomes = world.visit(seconds()?, RATE, first, KNOWN)?;
        println!("{when}: {outcomes:?}");
        world.nothing_in_the_clear(when)?;
        ensure!(
            count(&outcomes, |it| it.starts_with("known ") && it != "known 200") == 0,
            "{when}: {outcomes:?}\n{}",
            world.logs()
        );
        let right = |it: &str| it == "new 200" || refusals.iter().any(|refusal| it == format!("new {refusal}"));
        ensure!(
            count(&outcomes, |it| it.starts_with("new ") && !right(it)) == 0,
            "{when}: {outcomes:?}\n{}",
            world.logs()
        );
        ensure!(
            (count(&outcomes, |it| it == "new 200") > 0) == matches!(mood, Mood::Answers(_)),
            "{when}: {outcomes:?}"
        );
        ensure!(count(&outcomes, |it| it.starts_with("new 503")) > 0 || when == "slow", "{when}: {outcomes:?}");

        // As soon as the right plan is there it is taken up: what was new is known from now on.
        world.discovery.says(says(world.server.ipv4.into(), None));
        world.discovery.mood(Mood::Answers(Duration::ZERO));
        first += KNOWN;
        until("what was new is known", || {
            let outcomes = world.visit(1, RATE, first, 0)?;
            ensure!(count(&outcomes, |it| it != "known 200") == 0, "after {when}: {outcomes:?}");
            Ok(Some(()))
        })
        .with_context(|| world.logs())?;
        world.nothing_in_the_clear(when)?;
    }
    Ok(())
}

fn stranger() -> anyhow::Result<()> {
    let world = World::start("knock", &[])?;
    world.hears()?;
    let all = world.visit(1, 20, 1, 0)?;
    ensure!(count(&all, |outcome| outcome != "known 200") == 0, "before: {all:?}\n{}", world.logs());
    let host = world.client.ipv4.to_string();
    let mut flood = world.outsider.role("flood").arg(host).arg(KNOCKED.to_string()).spawn()?;
    let open = flood.line()?;
    let open: usize = open.strip_prefix("open ").context("no count")?.parse()?;
    ensure!(open > KNOCKED / 2, "only {open} connections could be opened");
    let seen = world.discovery.seen();
    let ports: Vec<_> = seen.asked.keys().filter(|name| matches!(name, Name::Inbound(_))).collect();
    ensure!(ports.iter().all(|name| **name == Name::Inbound(PORT)), "{} ports are subscribed to", ports.len());

    let outcomes = world.visit(3, 20, 1, KNOWN)?;
    ensure!(count(&outcomes, |it| !it.ends_with(" 200")) == 0, "{open} are open: {outcomes:?}\n{}", world.logs());
    world.nothing_in_the_clear("a stranger knocks")
}

/// What one visit of a new Service, the `number`th, comes to.
fn once(world: &World, number: u8) -> anyhow::Result<String> {
    let role = world.client.role("visit").uid(APP_UID).args(&format!("0 1 {} 1", number - 1));
    let said = role.output()?;
    let outcome = said.lines().find_map(|line| line.strip_prefix("new ")).context("no outcome")?;
    Ok(outcome.trim_end_matches(" 1").to_owned())
}

fn ranges() -> anyhow::Result<()> {
    let elsewhere = ("REMORA_PROXY_CLUSTER_NETWORKS", "192.0.2.0/24,fd00:2::/64");
    for (name, unknown) in [("pass", "pass"), ("deny", "deny")] {
        let world = World::start(name, &[elsewhere, ("REMORA_PROXY_UNKNOWN", unknown)])?;
        world.hears()?;
        let outcome = |number: u8, expected: [&str; 2]| {
            let (outcome, expected) =
                (once(&world, number)?, if unknown == "pass" { expected[0] } else { expected[1] });
            ensure!(outcome == expected, "{unknown}, {number}: {outcome}\n{}", world.logs());
            Ok(())
        };
        // It is not in the ranges: silence lets it pass, and what discovery says of it holds either way.
        world.discovery.mood(Mood::Silent);
        outcome(1, ["200", "503/discovery_silent"])?;
        let arrived = world.capture.arrived();
        ensure!((arrived > world.heard.get().1) == (unknown == "pass"), "{unknown}: {arrived} bytes at Services");
        world.discovery.mood(Mood::Answers(Duration::ZERO));
        world.heard.set((world.capture.marked(), world.capture.arrived()));
        outcome(2, ["200", "200"])?;
        world.nothing_in_the_clear("what discovery knows goes over mesh TLS, wherever it is")?;
        world.discovery.says(move |name| match name {
            Name::Outbound(target) => discovery::nothing(target, Parent::Outside),
            _ => Vec::new(),
        });
        outcome(3, ["200", "502/unknown_target"])?;
        let metrics = world.client_proxy.metrics(&world.client)?;
        let passed = metrics.lines().any(|line| line.contains(r#"parent="unknown""#) && line.contains("passthrough"));
        ensure!(passed == (unknown == "pass") && !metrics.contains("10.96."), "no label is an address: {metrics}");

        // Once discovery tells that it is, nothing passes but what discovery says to be outside.
        world.discovery.networks(&["10.96.0.0/16"]);
        world.heard.set((world.capture.marked(), world.capture.arrived()));
        world.discovery.says(says(world.server.ipv4.into(), None));
        until("the ranges are told", || Ok((once(&world, 4)? == "200").then_some(())))?;
        world.discovery.mood(Mood::Silent);
        outcome(5, ["503/discovery_silent", "503/discovery_silent"])?;
        let dial = world.client.role("dial").uid(APP_UID).arg("10.96.0.6:8080").output();
        let complaint = format!("{:#}", dial.err().context("a silent client was let through")?);
        ensure!(complaint.contains("Connection reset"), "what is not HTTP is reset: {complaint}");
        world.nothing_in_the_clear("inside of the ranges")?;
    }
    Ok(())
}
